"""Resampling against nnU-Net's own."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

from MoBUncertaintyLib.inference import resampling
from MoBUncertaintyLib.inference.resampling import NEGLIGIBLE, Resampling, planes, spline_matrix

CUBIC = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
SPLINES = "resample_data_or_seg_to_shape"
shapes = st.tuples(*[st.integers(1, 12)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 6.0])] * 3)


def volume(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(shapes, shapes, spacings, spacings, st.sampled_from([None, True, False]))
def test_any_grid_gives_nnunets_values(
    old: tuple[int, ...],
    new: tuple[int, ...],
    spacing: tuple[float, ...],
    new_spacing: tuple[float, ...],
    separate: bool | None,
) -> None:
    data, options = volume(old), CUBIC | {"force_separate_z": separate}
    found = Resampling(SPLINES, options).resample(data.copy(), new, spacing, new_spacing)
    assert found.dtype == np.float32
    wanted = resample_data_or_seg_to_shape(data[None], new, spacing, new_spacing, **options)[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 40, 64), (64, 30, 40), (24, 90, 35)])
@pytest.mark.parametrize("separate", [None, True])
def test_slab_by_slab_values_are_those_of_the_whole(
    shape: tuple[int, ...], separate: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resample = Resampling(SPLINES, CUBIC | {"force_separate_z": separate}).resample
    data, grids = (1000 * volume(shape)).astype(np.int16), ((20, 22, 31), (1.0, 0.7, 0.6), (1.7, 1.0, 1.0))
    whole = resample(_normalised(data), *grids)
    for numbers in (2**10, 2**13, 2**15):
        monkeypatch.setattr(resampling, "_AT_ONCE", numbers)
        found = resample(
            data, *grids, _normalised
        )  # sums of products of another number of columns are rounded otherwise
        np.testing.assert_allclose(found, whole, rtol=0, atol=2e-6)


def _normalised(voxels: np.ndarray) -> np.ndarray:
    return (np.clip(voxels, -900, 900).astype(np.float32) - 30) / 250


def test_overshoot_is_cut_as_in_nnunet() -> None:
    """Splines overshoot beside an edge, here by a tenth; nnU-Net holds the result within the image's values."""
    step = np.zeros((4, 4, 40), np.float32)
    step[..., 20:] = 1
    found = Resampling(SPLINES, CUBIC).resample(step, (4, 4, 97), (1, 1, 1), (1, 1, 0.41))
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize(
    "function",
    [
        partial(resample_data_or_seg_to_shape, **CUBIC | {"order": 1}),
        partial(resample_data_or_seg_to_shape, **CUBIC | {"order_z": 1}),
        partial(resample_torch_fornnunet, is_seg=False, force_separate_z=False, memefficient_seg_resampling=False),
    ],
)
def test_whatever_else_the_plans_call_for_is_called(function: partial) -> None:
    data = volume((6, 20, 22))
    expected = function(data[None].copy(), np.array((9, 10, 11)), (6, 1, 1), (4, 2, 2))
    resampling = Resampling(function.func.__name__, function.keywords)
    assert np.array_equal(resampling.resample(data, (9, 10, 11), (6, 1, 1), (4, 2, 2)), np.asarray(expected)[0])


def test_it_needs_less_memory_than_the_image_itself() -> None:
    data = volume((60, 128, 128))
    tracemalloc.start()
    Resampling(SPLINES, CUBIC).resample(data, (40, 50, 50), (2, 1, 1), (3, 2.5, 2.5))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < data.nbytes


@given(shapes, shapes, st.data())
def test_planes_are_those_of_the_interpolated_volume(old: tuple[int, ...], new: tuple[int, ...], data: st.DataObject):
    volumes = volume((2, *old))
    starts = [data.draw(st.integers(0, n - 1)) for n in new]
    wanted = tuple(slice(start, data.draw(st.integers(start + 1, n))) for start, n in zip(starts, new, strict=True))
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(volumes)[None], size=new, mode="trilinear", align_corners=False
    )[0]
    found = np.stack(list(planes(volumes, new, wanted)), axis=1)
    np.testing.assert_allclose(found, whole[(slice(None), *wanted)], rtol=0, atol=5e-6)


def test_planes_need_no_volume_of_their_own():
    volumes = volume((2, 90, 40, 40))
    tracemalloc.start()
    count = sum(1 for _ in planes(volumes, (300, 200, 200)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert most < 2 * 4 * 300 * 200 * 200 / 30


def test_no_weight_is_so_small_that_it_slows_the_processor() -> None:
    """Subnormal numbers made preprocessing of a CT ten times as slow."""
    matrix = spline_matrix(400, 107)
    assert np.abs(matrix[matrix != 0]).min() >= NEGLIGIBLE > 1e6 * np.finfo(np.float32).tiny
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)
