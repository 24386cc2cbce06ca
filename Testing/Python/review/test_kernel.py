"""A correlation that is one: positive definite, of compact support, as long as it says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM, ClickSettings
from MoBUncertaintyLib.model.covariance import REACH, correlation
from MoBUncertaintyLib.review.refinement.conditioning import Spline, Wendland, kernel_of, offsets_mm, pairs_mm
from support.probability_images import prediction


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.floats(0.5, 60), length=st.floats(0.5, 12))
def test_it_is_positive_definite(seed: int, count: int, size: float, length: float) -> None:
    points = np.random.default_rng(seed).uniform(0, size, (count, 3))
    matrix = Wendland(length)(np.linalg.norm(points[:, None] - points, axis=-1))
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * count


def test_a_gaussian_cut_off_at_the_same_reach_is_not() -> None:
    points = np.stack(np.meshgrid(*[np.arange(7) * 4.0] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    cut = np.exp(-((distance / 4) ** 2) / 2) * (distance < 8)
    assert np.linalg.eigvalsh(cut).min() < -0.01
    assert np.linalg.eigvalsh(Wendland(4.0)(distance)).min() > 0


@pytest.mark.parametrize("length", [0.7, 4.0, 12.0])
def test_it_is_as_wide_as_a_gaussian_of_its_length_and_ends(length: float) -> None:
    kernel = Wendland(length)
    half = length * np.sqrt(2 * np.log(2))
    assert kernel(np.array([0.0, half])) == pytest.approx([1, 0.5], abs=1e-12)
    assert kernel.reach_mm == pytest.approx(3.752 * length, rel=1e-3)
    assert (kernel(np.array([kernel.reach_mm, kernel.reach_mm * 1.01, 1e9])) == 0).all()
    distances = np.linspace(0, kernel.reach_mm, 1000)
    assert (np.diff(kernel(distances)) < 0).all()
    gaussian = np.exp(-((distances / length) ** 2) / 2)
    assert np.abs(kernel(distances) - gaussian).max() < 0.06
    assert kernel(distances.astype(np.float32)).dtype == np.float32


def test_a_local_models_correlation_is_the_one_that_its_noise_has() -> None:
    lengths, random = (4.0, 1.5, 2.5), np.random.default_rng(0)
    places, others = random.uniform(0, 9, (2, 30, 3))
    kernel = Spline(lengths)
    expected = correlation(places[:, None] - others, lengths)
    assert 0.1 < (expected > 0).mean() < 0.9
    np.testing.assert_allclose(kernel.between(pairs_mm(places, others)), expected, rtol=1e-12)
    assert kernel.box_mm == pytest.approx(np.multiply(lengths, REACH))
    assert kernel.length_mm == pytest.approx(15 ** (1 / 3))


def test_the_models_own_correlation_is_taken_where_it_has_one_and_no_length_is_stated() -> None:
    zeros = np.zeros((1, 2, 2, 2), np.float32)
    plain = prediction(zeros, zeros, np.zeros((2, 2, 2), np.uint8))
    local = replace(plain, correlation_mm=(4.0, 1.5, 2.5))
    assert kernel_of(local, ClickSettings()) == Spline((4.0, 1.5, 2.5))
    assert all(kernel_of(each, ClickSettings(length_mm=3.5)) == Wendland(3.5) for each in (local, plain))
    assert kernel_of(plain, ClickSettings()) == Wendland(DEFAULT_LENGTH_MM)


@pytest.mark.parametrize("kernel", [Spline((4.0, 1.5, 2.5)), Wendland(1.5)], ids=["spline", "wendland"])
def test_what_is_reached_is_what_is_correlated(kernel: Spline | Wendland) -> None:
    """On a grid, whose axes broadcast, and voxel by voxel; 0 from the box's sides on, and not before."""
    points, spacing = np.array([[3, 4, 5], [9, 9, 9]]), np.array([2.0, 1.0, 0.5], np.float32)
    shape = (12, 13, 14)
    grid = offsets_mm(points, np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True), spacing)
    voxels, found = kernel.reached(grid)
    everything = kernel.between(grid).reshape(2, -1)
    assert found.dtype == np.float32
    assert np.array_equal(found, everything[:, voxels])
    assert np.array_equal(voxels, np.flatnonzero(everything.max(0) > 0))
    where = np.stack(np.indices(shape), -1).reshape(-1, 3)
    np.testing.assert_allclose(
        everything, kernel.between(pairs_mm(points * spacing, where * spacing)), atol=1e-6, rtol=1e-5
    )
    for axis in range(3):
        line = np.zeros((2, 3))
        line[:, axis] = kernel.box_mm[axis] * np.array([0.99, 1.0])
        assert (kernel.between(pairs_mm(np.zeros((1, 3)), line)) > 0).tolist() == [[True, False]]
