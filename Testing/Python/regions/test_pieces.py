"""Blocks of voxels keep every sum; shapes grow, are measured and cut in millimetres."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.regions.pieces import compact_pieces, diameter, grow
from MoBUncertaintyLib.regions.uncertainty import BlockGrid
from support.probability_images import farthest_corners


def test_pieces_are_cut_between_clumps():
    z, y, x = np.mgrid[:20, :20, :60]
    dumbbell = ((z - 10) ** 2 + (y - 10) ** 2 + (x - 13) ** 2 < 81) | (
        (z - 10) ** 2 + (y - 10) ** 2 + (x - 41) ** 2 < 144
    )
    dumbbell |= (np.abs(z - 10) < 3) & (np.abs(y - 10) < 3) & (x > 13) & (x < 41)
    pieces = compact_pieces(dumbbell, np.ones(dumbbell.shape), np.ones(3), 36.0)
    assert pieces.max() == 2
    small, large = pieces[10, 10, 13], pieces[10, 10, 41]
    assert (pieces[dumbbell & (x < 21)] == small).all()
    assert (pieces[dumbbell & (x > 30)] == large).all()


@given(seed=st.integers(0, 10_000), length=st.floats(10, 40), steps=st.tuples(*[st.floats(0.7, 5)] * 3))
@settings(max_examples=15, deadline=None)
def test_pieces_share_out_the_mask_and_none_is_too_long(seed, length, steps):
    rng = np.random.default_rng(seed)
    spacing = np.array(steps)
    mask = grow(rng.random((12, 14, 16)) > 0.998, spacing, 6.0)
    pieces = compact_pieces(mask, rng.random(mask.shape) + 0.1, spacing, length)
    assert ((pieces > 0) == mask).all()
    for piece in range(1, pieces.max() + 1):
        index = np.argwhere(pieces == piece)
        assert len(index) == 1 or diameter(index, spacing) <= length


@given(seed=st.integers(0, 10_000), count=st.integers(1, 200), steps=st.tuples(*[st.floats(0.5, 5)] * 3))
@settings(max_examples=40, deadline=None)
def test_diameter_is_that_of_the_farthest_corners(seed, count, steps):
    spacing = np.array(steps)
    index = np.unique(np.random.default_rng(seed).integers(0, 12, (count, 3)), axis=0)
    exact = farthest_corners(index * spacing, spacing)
    assert exact * 0.995 <= diameter(index, spacing) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("radius", [0.0, 1.9, 3.0, 7.1])
def test_growing_reaches_as_far_as_the_distance_map(radius):
    spacing = np.array([3.0, 1.0, 1.5])
    mask = np.random.default_rng(1).random((9, 20, 15)) > 0.995
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing((1.5, 1.0, 3.0))
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    assert (grow(mask, spacing, radius) == (mask | (sitk.GetArrayFromImage(distance) <= radius + 1e-4))).all()


@given(seed=st.integers(0, 10_000), steps=st.tuples(*[st.floats(0.3, 3)] * 3))
@settings(max_examples=20, deadline=None)
def test_blocks_keep_every_sum(seed, steps):
    rng = np.random.default_rng(seed)
    voxels = rng.random((7, 11, 13), np.float32)
    box = (slice(1, 7), slice(0, 10), slice(2, 13))
    grid = BlockGrid(box, np.array(steps))
    everything = whole(grid.shape)
    counts = grid.voxels(everything)
    merged = grid.means(everything, lambda part: voxels[part]) * counts
    peaks = grid.maxima(everything, lambda part: voxels[part])
    assert merged.shape == grid.shape == counts.shape
    assert merged.sum() == pytest.approx(voxels[box].sum())
    assert counts.sum() == voxels[box].size
    some = tuple(slice(n // 3, n // 3 + (n + 1) // 2) for n in grid.shape)
    assert np.array_equal(grid.means(some, lambda part: voxels[part]) * counts[some], merged[some])
    assert np.array_equal(grid.maxima(some, lambda part: voxels[part]), peaks[some])
    assert grid.covering(grid.voxel_box(some)) == some
    assert sum(grid.means(layer, lambda part: voxels[part]).size for layer in grid.layers()) == merged.size
    for block in np.argwhere(merged)[rng.integers(0, merged.size, 5)]:
        painted = np.zeros(voxels.shape, bool)
        only = tuple(slice(b, b + 1) for b in block)
        where, mask = grid.expand(only, np.ones((1, 1, 1), bool))
        painted[where] = mask
        assert painted.sum() == counts[tuple(block)]
        assert voxels[painted].sum() == pytest.approx(merged[tuple(block)])
        assert voxels[painted].max() == peaks[tuple(block)]
        assert grid.centres(block[None])[0] == pytest.approx(np.argwhere(painted).mean(axis=0))
