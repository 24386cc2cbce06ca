"""Tiles: layout and weights against nnU-Net's, and sums against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.inference.tiles import Accumulator, Start, TileGrid
from MoBUncertaintyLib.network.moments import Moments

sizes = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile, more = draw(sizes), draw(st.tuples(*[st.integers(0, 8)] * 3))
    return TileGrid([a + b for a, b in zip(tile, more, strict=True)], tile, draw(st.floats(0, 0.9)))


@settings(max_examples=30, deadline=None)
@given(grids())
def test_tiles_cover_every_voxel_with_the_fewest_too(grid: TileGrid) -> None:
    needed = [math.ceil(size / n) for size, n in zip(grid.shape, grid.tile, strict=True)]
    assert len(grid.fewest()) == math.prod(needed) <= len(grid.all())
    for tiles in (grid.all(), grid.fewest()):
        assert (times_covered(grid, tiles) > 0).all()
    for starts in map(sorted, map(set, zip(*grid.fewest(), strict=True))):
        assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 1 else starts == [0], "not evenly spread"


def times_covered(grid: TileGrid, tiles: list[Start]) -> np.ndarray:
    count = np.zeros(grid.shape, int)
    for start in tiles:
        part = count[grid.box(start)]
        assert part.shape == grid.tile
        part += 1
    return count


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_every_voxel_of_a_mask_lies_in_the_core_of_a_centred_tile(grid: TileGrid, seed: int, fraction: float) -> None:
    mask = np.random.default_rng(seed).random(grid.shape) < fraction
    left, tiles = mask.copy(), grid.centred(mask)
    for start in tiles:
        assert mask[grid.core(start)].any(), "a tile for nothing"
        left[grid.core(start)] = False
    assert not left.any()
    assert len(set(tiles)) == len(tiles) and (times_covered(grid, tiles)[mask] > 0).all()


@settings(max_examples=30, deadline=None)
@given(grids())
def test_in_its_core_a_tile_has_the_weight_of_the_cores_edge_or_the_largest_that_a_tile_can_have(
    grid: TileGrid,
) -> None:
    for axis, (size, n, weights) in enumerate(zip(grid.shape, grid.tile, grid.weights, strict=True)):
        starts = range(size - n + 1)
        largest = torch.stack([torch.nn.functional.pad(weights, (s, size - n - s)) for s in starts]).amax(dim=0)
        width = max(round(n * (1 - grid.overlap)), 1)
        middle = weights[(n - width) // 2 :][:width]
        for start in starts:
            core = grid.core(tuple(start if each == axis else 0 for each in range(3)))[axis]
            assert core.stop - core.start >= width
            own = weights[core.start - start : core.stop - start]
            assert (own >= largest[core].clamp_max(middle.min())).all()


def test_what_fits_a_core_needs_one_tile_in_whose_middle_it_lies() -> None:
    grid = TileGrid((60, 60, 60), (20, 20, 20), 0.5)
    mask = np.zeros(grid.shape, bool)
    mask[22:32, 31:33, 40] = True
    (start,) = grid.centred(mask)
    assert start == (17, 22, 31)
    assert grid.core(start) == (slice(22, 32), slice(27, 37), slice(36, 46))


def test_at_the_faces_of_the_volume_the_outermost_tiles_are_enough() -> None:
    grid = TileGrid((60, 60, 60), (20, 20, 20), 0.5)
    mask = np.zeros(grid.shape, bool)
    mask[:14, 50:, -1] = True
    assert grid.centred(mask) == [(0, 40, 40)]


def test_an_organ_longer_than_a_core_is_divided_along_it_alone() -> None:
    grid = TileGrid((60, 60, 120), (20, 20, 20), 0.5)
    mask = np.zeros(grid.shape, bool)
    mask[25:32, 25:32, 30:58] = True
    mask[28, 28, 100] = True
    assert [start[2] for start in grid.centred(mask)] == [25, 35, 44, 91]
    assert {start[:2] for start in grid.centred(mask)} == {(19, 19)}


@pytest.mark.parametrize("tile", [(32, 32, 32), (17, 24, 40)])
def test_weights_are_those_of_nnunet(tile: tuple[int, ...]) -> None:
    theirs = compute_gaussian(tile, dtype=torch.float64, device=torch.device("cpu"))
    torch.testing.assert_close(TileGrid(tile, tile).weight().double(), theirs, rtol=1e-5, atol=0)


def test_layout_of_nnunets_own_example() -> None:
    # nnU-Net's comment on compute_steps_for_sliding_window: 110 voxels, patch 64, step 0.5 -> 0, 23, 46.
    assert TileGrid((110, 64, 64), (64, 64, 64), 0.5).all() == [(0, 0, 0), (23, 0, 0), (46, 0, 0)]


def test_volume_smaller_than_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than a tile"):
        TileGrid((8, 7, 8), (8, 8, 8))


def boxes(grid: TileGrid) -> list[Box]:
    return [grid.box(start) for start in grid.all()]


def random_moments(grid: TileGrid, classes: int, generator: torch.Generator) -> Moments:
    mean = torch.rand((1, classes, *grid.tile), generator=generator) / classes
    return Moments(mean, torch.rand(mean.shape, generator=generator) * mean * (1 - mean))


@pytest.mark.parametrize("classes", [1, 3])
def test_blending_is_the_weighted_mean_of_the_moments_and_its_variance_the_mixtures(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = TileGrid((9, 11, 13), (6, 5, 7))
    sums = Accumulator(grid, classes)
    # The definition, in float64: sum g m / sum g, variance = E[p^2] - E[p]^2.
    weight, expected = np.zeros(grid.shape), np.zeros((2, classes, *grid.shape))
    for tile in boxes(grid) * 2:  # two passes, as with two folds
        found = random_moments(grid, classes, generator)
        sums.add(tile, found)
        weight[tile] += grid.weight().numpy()
        mean, variance = (values[0].double().numpy() for values in (found.mean, found.variance))
        for i, moment in enumerate((mean, variance + mean**2)):
            expected[(i, slice(None), *tile)] += grid.weight().double().numpy() * moment
    expected /= weight
    probability, variance = sums.result()
    np.testing.assert_allclose(probability, expected[0], atol=1e-6)
    np.testing.assert_allclose(variance, expected[1] - expected[0] ** 2, atol=1e-6)


def test_tiles_that_were_not_added_have_no_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = TileGrid((16, 20, 12), (8, 8, 8))
    sums = Accumulator(grid, 2)
    weight, expected = torch.zeros(grid.shape), torch.zeros((2, *grid.shape))
    for start in [*grid.fewest(), (3, 5, 1), (3, 5, 1)]:
        tile, found = grid.box(start), random_moments(grid, 2, generator)
        sums.add(tile, found)
        weight[tile] += grid.weight()
        expected[(slice(None), *tile)] += grid.weight() * found.mean[0]
    expected /= weight
    assert torch.equal(sums.foreground(0.3), (expected >= 0.3).any(dim=0))
    torch.testing.assert_close(sums.result()[0], expected)


def test_two_passes_that_are_sure_but_disagree_leave_the_variance_of_a_coin() -> None:
    grid = TileGrid((4, 4, 4), (4, 4, 4))
    sums = Accumulator(grid, 1)
    for value in (0.0, 1.0):
        p = torch.full((1, 1, 4, 4, 4), value)
        sums.add(grid.box((0, 0, 0)), Moments(p, torch.zeros_like(p)))
    probability, variance = sums.result()
    torch.testing.assert_close(probability, torch.full_like(probability, 0.5))
    torch.testing.assert_close(variance, torch.full_like(variance, 0.25))


def test_corners_of_the_volume_keep_fp32_accuracy_though_their_weight_is_least() -> None:
    grid = TileGrid((64, 64, 64), (64, 64, 64))
    sums = Accumulator(grid, 1)
    p = torch.full((1, 1, 64, 64, 64), 0.3)
    sums.add(grid.box((0, 0, 0)), Moments(p, torch.full_like(p, 0.05)))
    probability, variance = sums.result()
    torch.testing.assert_close(probability, torch.full_like(probability, 0.3))
    torch.testing.assert_close(variance, torch.full_like(variance, 0.05), atol=1e-6, rtol=0)


def test_small_variances_survive_blending_near_zero_and_near_one() -> None:
    """Of 8 tiles at a voxel; fp32's E[p^2] - E[p]^2 would be off by 1e-7."""
    grid = TileGrid((12, 12, 12), (8, 8, 8))
    generator = torch.Generator().manual_seed(0)
    for near in (1e-6, 1 - 2**-12):
        sums = Accumulator(grid, 1)
        weight, expected = np.zeros(grid.shape), np.zeros((2, *grid.shape))
        for tile in boxes(grid):
            variance = 1e-12 * (1 + torch.rand((1, 1, *grid.tile), generator=generator))
            sums.add(tile, Moments(torch.full_like(variance, near), variance))
            weight[tile] += grid.weight().double().numpy()
            expected[1][tile] += grid.weight().double().numpy() * variance[0, 0].double().numpy()
        probability, found = sums.result()
        np.testing.assert_allclose(probability[0], np.float32(near), rtol=1e-6)
        np.testing.assert_allclose(found[0], expected[1] / weight, rtol=1e-4)


def test_two_classes_need_two_fp32_volumes_and_no_third_to_finish() -> None:
    grid = TileGrid((40, 50, 60), (8, 8, 8))
    voxels = math.prod(grid.shape)
    sums = Accumulator(grid, 1)
    assert sums.mean.nbytes + sums.variance.nbytes == 2 * 4 * voxels
    generator = torch.Generator().manual_seed(0)
    for tile in boxes(grid):
        sums.add(tile, random_moments(grid, 1, generator))
    with torch.profiler.profile(profile_memory=True) as profile:
        known = sums.foreground()
        probability, variance = sums.result()
    assert known.any() and probability.isfinite().all() and variance.isfinite().all()
    # The largest that is made on the way is the mask, of a byte per voxel.
    assert max(event.self_cpu_memory_usage for event in profile.events()) <= voxels
    assert probability.data_ptr() == sums.mean.data_ptr()
    assert variance.data_ptr() == sums.variance.data_ptr()


def test_a_tile_that_runs_out_of_memory_while_added_leaves_the_sums_as_they_were() -> None:
    grid = TileGrid((4, 4, 4), (4, 4, 4))
    sums = Accumulator(grid, 1)

    class Exhausted(torch.Tensor):
        def to(self, *args: object, **options: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("out of memory")

    found = Moments(torch.ones(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4).as_subclass(Exhausted))
    with pytest.raises(torch.OutOfMemoryError):
        sums.add(grid.box((0, 0, 0)), found)
    assert not sums.mean.any()
    assert not sums.variance.any()
