"""Tiles: layout and weights against nnU-Net's, and sums against their definition."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from MoBUncertaintyLib.gaussian.probability import Moments
from MoBUncertaintyLib.inference.tiles import Accumulator, Start, TileGrid

sizes = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile, more = draw(sizes), draw(st.tuples(*[st.integers(0, 8)] * 3))
    return TileGrid([a + b for a, b in zip(tile, more, strict=True)], tile, draw(st.floats(0, 0.9)))


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


@given(grids(), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_every_voxel_of_a_mask_lies_in_the_core_of_a_centred_tile(grid: TileGrid, seed: int, fraction: float) -> None:
    mask = np.random.default_rng(seed).random(grid.shape) < fraction
    left, tiles = mask.copy(), grid.centred(mask)
    for start in tiles:
        assert mask[grid.core(start)].any(), "a tile for nothing"
        left[grid.core(start)] = False
    assert not left.any()
    assert len(set(tiles)) == len(tiles) and (times_covered(grid, tiles)[mask] > 0).all()


@pytest.mark.parametrize(
    ("shape", "marked", "starts"),
    [
        ((60, 60, 60), [np.s_[22:32, 31:33, 40]], [(17, 22, 31)]),  # it fits a core, and lies in the tile's middle
        ((60, 60, 60), [np.s_[:14, 50:, -1]], [(0, 40, 40)]),  # at the faces the outermost tiles are enough
        ((60, 60, 120), [np.s_[25:32, 25:32, 30:58], (28, 28, 100)], [(19, 19, x) for x in (25, 35, 44, 91)]),
    ],
    ids=["one tile", "faces", "divided along it alone"],
)
def test_an_organ_gets_few_tiles(shape: tuple[int, ...], marked: list, starts: list[Start]) -> None:
    grid, mask = TileGrid(shape, (20, 20, 20), 0.5), np.zeros(shape, bool)
    for part in marked:
        mask[part] = True
    assert grid.centred(mask) == starts


@pytest.mark.parametrize("tile", [(32, 32, 32), (17, 24, 40)])
def test_weights_are_those_of_nnunet(tile: tuple[int, ...]) -> None:
    theirs = compute_gaussian(tile, dtype=torch.float64, device=torch.device("cpu"))
    np.testing.assert_allclose(TileGrid(tile, tile).weight(), theirs, rtol=1e-5)


@given(grids())
def test_the_grid_is_nnunets(grid: TileGrid) -> None:
    theirs = compute_steps_for_sliding_window(grid.shape, grid.tile, 1 - grid.overlap)
    assert grid.all() == list(itertools.product(*(sorted(set(along)) for along in theirs)))


def random_moments(grid: TileGrid, classes: int, generator: np.random.Generator) -> Moments:
    mean = generator.random((1, classes, *grid.tile), np.float32) / classes
    return Moments(mean, generator.random(mean.shape, np.float32) * mean * (1 - mean))


@pytest.mark.parametrize("classes", [1, 3])
def test_blending_is_the_weighted_mean_of_the_moments_and_its_variance_the_mixtures(classes: int) -> None:
    generator = np.random.default_rng(0)
    grid = TileGrid((9, 11, 13), (6, 5, 7))
    sums = Accumulator(grid, classes)
    # The definition, in float64: sum g m / sum g, variance = E[p^2] - E[p]^2.
    weight, expected = np.zeros(grid.shape), np.zeros((2, classes, *grid.shape))
    for tile in list(map(grid.box, grid.all())) * 2:  # two passes, as with two folds
        found = random_moments(grid, classes, generator)
        sums.add(tile, found)
        weight[tile] += grid.weight()
        mean, variance = (values[0].astype(float) for values in (found.mean, found.variance))
        for i, moment in enumerate((mean, variance + mean**2)):
            expected[(i, slice(None), *tile)] += grid.weight().astype(float) * moment
    expected /= weight
    probability, variance = sums.result()
    np.testing.assert_allclose(probability, expected[0], atol=1e-6)
    np.testing.assert_allclose(variance, expected[1] - expected[0] ** 2, atol=1e-6)


def test_corners_of_the_volume_keep_fp32_accuracy_though_their_weight_is_least() -> None:
    grid = TileGrid((64, 64, 64), (64, 64, 64))
    sums = Accumulator(grid, 1)
    p = np.full((1, 1, 64, 64, 64), 0.3, np.float32)
    sums.add(grid.box((0, 0, 0)), Moments(p, np.full_like(p, 0.05)))
    probability, variance = sums.result()
    np.testing.assert_allclose(probability, p[0], rtol=1e-6)
    np.testing.assert_allclose(variance, 0.05, rtol=0, atol=1e-6)


def test_small_variances_survive_blending_near_zero_and_near_one() -> None:
    """Of 8 tiles at a voxel; fp32's E[p^2] - E[p]^2 would be off by 1e-7."""
    grid = TileGrid((12, 12, 12), (8, 8, 8))
    generator = np.random.default_rng(0)
    for near in (1e-6, 1 - 2**-12):
        sums = Accumulator(grid, 1)
        weight, expected = np.zeros(grid.shape), np.zeros((2, *grid.shape))
        for tile in map(grid.box, grid.all()):
            variance = 1e-12 * (1 + generator.random((1, 1, *grid.tile), np.float32))
            sums.add(tile, Moments(np.full_like(variance, near), variance))
            weight[tile] += grid.weight().astype(float)
            expected[1][tile] += grid.weight().astype(float) * variance[0, 0].astype(float)
        probability, found = sums.result()
        np.testing.assert_allclose(probability[0], np.float32(near), rtol=1e-6)
        np.testing.assert_allclose(found[0], expected[1] / weight, rtol=1e-4)


def test_two_classes_need_two_fp32_volumes_and_no_third_to_finish() -> None:
    grid = TileGrid((24, 30, 36), (8, 8, 8))
    voxels = math.prod(grid.shape)
    sums = Accumulator(grid, 1)
    assert sums.mean.nbytes + sums.variance.nbytes == 2 * 4 * voxels
    generator = np.random.default_rng(0)
    for tile in map(grid.box, grid.all()):
        sums.add(tile, random_moments(grid, 1, generator))
    tracemalloc.start()
    known = sums.foreground()
    probability, variance = sums.result()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert known.any() and np.isfinite(probability).all() and np.isfinite(variance).all()
    assert most <= 2 * voxels, "the mask, of a byte per voxel, is the largest that is made on the way"
    assert probability is sums.mean and variance is sums.variance
