"""Which voxels a click means, and which of a stroke's count as a decision of their own."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.review.refinement.clicks import (
    CONDITIONED,
    MAX_CORNERS,
    Click,
    Extent,
    gather,
    thinned,
    voxels_of,
)

SHAPE = (12, 14, 16)
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def oblique_grid() -> Grid:
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return Grid(
        np.array([3.0, 0.7, 0.9]), turn @ np.array([[0, 0, -1], [0, 1, 0], [1.0, 0, 0]]), np.array([5.0, -8, 2])
    )


GRID = oblique_grid()
voxels = st.tuples(*(st.integers(0, size - 1) for size in SHAPE))


def click(*indices: tuple[float, ...], **changes: object) -> Click:
    return replace(Click("c1", tuple(tuple(GRID.to_ras(np.array(i)).tolist()) for i in indices), 1, NOW), **changes)


@given(voxel=voxels, offset=st.tuples(*[st.floats(-0.49, 0.49)] * 3))
def test_a_click_anywhere_in_a_voxel_of_an_oblique_image_means_that_voxel(voxel: tuple, offset: tuple) -> None:
    assert voxels_of(click(np.add(voxel, offset)), GRID, SHAPE).tolist() == [list(voxel)]


@given(corners=st.lists(voxels, min_size=2, max_size=5))
def test_a_stroke_goes_through_its_points_without_gaps(corners: list) -> None:
    found = voxels_of(click(*corners), GRID, SHAPE)
    assert found[0].tolist() == list(corners[0])
    assert {tuple(corner) for corner in corners} <= {tuple(voxel) for voxel in found.tolist()}
    assert len(np.unique(found, axis=0)) == len(found)
    joined = {tuple(voxel) for voxel in found.tolist()}
    left = [found[0]]
    joined.discard(tuple(found[0].tolist()))
    while left:
        here = left.pop()
        near = {voxel for voxel in joined if np.abs(here - voxel).max() <= 1}
        joined -= near
        left += map(np.array, near)
    assert not joined  # all of it hangs together


@pytest.mark.parametrize("outside", [(-0.6, 3, 3), (11.6, 3, 3), (3, 14, 3), (3, 3, 1e9)])
def test_a_click_outside_of_the_image_is_refused(outside: tuple[float, ...]) -> None:
    with pytest.raises(ReviewError):
        voxels_of(click((3, 3, 3), outside), GRID, SHAPE)


def test_a_click_outside_of_what_was_predicted_is_refused() -> None:
    processed = (slice(0, 12), slice(2, 10), slice(0, 16))
    assert len(voxels_of(click((3, 2, 3), (3, 9, 3)), GRID, SHAPE, processed)) == 8
    with pytest.raises(ReviewError):
        voxels_of(click((3, 2, 3), (3, 10, 3)), GRID, SHAPE, processed)


@given(corners=st.lists(voxels, min_size=1, max_size=4), apart=st.floats(0.5, 20))
def test_what_is_left_of_a_stroke_is_apart_and_near_all_of_it(corners: list, apart: float) -> None:
    stroke = voxels_of(click(*corners), GRID, SHAPE)
    kept = thinned(stroke, GRID.spacing, apart)
    assert kept[0].tolist() == stroke[0].tolist()
    between = np.linalg.norm((kept[:, None] - kept) * GRID.spacing, axis=-1) + 1e9 * np.eye(len(kept))
    assert between.min() > apart - 1e-9  # mm: what is just so far apart is rounded
    assert np.linalg.norm((stroke[:, None] - kept) * GRID.spacing, axis=-1).min(1).max() < apart + 1e-9


def outline(*corners: tuple[float, ...]) -> Click:
    return click(*corners, extent=Extent.OUTLINE)


@given(across=st.integers(0, 2), layer=st.floats(0, 11), seed=st.integers(0, 999), corners=st.integers(3, 9))
def test_an_outline_encloses_what_the_even_odd_rule_says(across: int, layer: float, seed: int, corners: int) -> None:
    """Matplotlib's paths are filled so; the line may cross itself, and leave the image."""
    axes = [axis for axis in range(3) if axis != across]
    line = np.empty((corners, 3))
    line[:, axes], line[:, across] = np.random.default_rng(seed).uniform(-5, 20, (corners, 2)), layer
    centres = np.argwhere(np.ones([SHAPE[axis] for axis in axes]))
    expected = centres[Path(line[:, axes]).contains_points(centres)]
    if not len(expected):
        with pytest.raises(ReviewError):
            voxels_of(outline(*line), GRID, SHAPE)
        return
    enclosed = voxels_of(outline(*line), GRID, SHAPE)
    assert sorted(map(tuple, enclosed[:, axes].tolist())) == sorted(map(tuple, expected.tolist()))
    assert (enclosed[:, across] == round(layer)).all()


def test_an_outline_in_an_oblique_slice_is_one_layer_of_voxels() -> None:
    corners = [(2, 1.5, 1.5), (2, 10.5, 1.5), (9, 10.5, 11.5), (9, 1.5, 11.5)]
    enclosed = voxels_of(outline(*corners), GRID, SHAPE)
    assert len(np.unique(enclosed[:, 1:], axis=0)) == len(enclosed) == 9 * 10
    assert np.abs(enclosed[:, 0] - (2 + (enclosed[:, 2] - 1.5) * 0.7)).max() <= 0.5


@pytest.mark.parametrize(
    "corners",
    [
        [(3, 3, 3), (3, 9, 3)],
        [(3, 3, 3), (3, 9, 3), (3, 6, 3)],
        [(3, 3, 3), (3, 9, 3), (3, 9, 9), (6, 3, 9)],
        [(3, 3.2, 3.2), (3, 3.2, 3.8), (3, 3.8, 3.5)],
        [(3, 3, 3), (3, 1e200, 3), (3, 9, 9)],
        [(3, y, 9 + 5 * (y % 2)) for y in np.linspace(2, 9, MAX_CORNERS + 1)],
    ],
    ids=["two points", "a line", "out of plane", "nothing in it", "far away", "too many corners"],
)
def test_what_is_no_outline_is_refused(corners: list) -> None:
    with pytest.raises(ReviewError):
        voxels_of(outline(*corners), GRID, SHAPE)


def test_of_an_outline_a_few_voxels_deep_inside_count() -> None:
    corners = [(3, 1.5, 1.5), (3, 1.5, 12.5), (3, 10.5, 12.5), (3, 10.5, 1.5)]
    large = Grid(np.array([3.0, 20, 20]), GRID.rotation, GRID.origin)
    for grid in (GRID, large):
        way = tuple(tuple(grid.to_ras(np.array(corner)).tolist()) for corner in corners)
        every = replace(click((0, 0, 0)), points_ras=way, extent=Extent.OUTLINE)
        voxels = voxels_of(every, grid, SHAPE)
        gathered = gather([every], [voxels], grid, SHAPE, 1.0)
        assert len(gathered.voxels) == len(voxels) == 9 * 11
        assert CONDITIONED / 2 <= len(gathered.points) <= CONDITIONED
        inside = np.zeros(SHAPE[1:])
        inside[tuple(voxels[:, 1:].T)] = 1
        depth = ndimage.distance_transform_edt(inside, sampling=grid.spacing[1:])
        assert depth[tuple(voxels[0, 1:])] == depth.max()


def test_on_one_voxel_the_latest_click_counts_and_a_stroke_keeps_the_rest() -> None:
    stroke = np.array([(5, 5, x) for x in range(10)])
    clicks = [click((5, 5, 0), (5, 5, 9)), click((5, 5, 0), label=0)]
    said = gather(clicks, [stroke, np.array([(5, 5, 0)])], GRID, SHAPE, 2.0)
    assert dict(zip(map(tuple, said.voxels.tolist()), said.labels.tolist(), strict=True)) == {
        (5, 5, x): int(x > 0) for x in range(10)
    }
    assert said.points.tolist() == [[5, 5, 0], [5, 5, 1], [5, 5, 4], [5, 5, 7]]
    assert said.point_labels.tolist() == [0, 1, 1, 1]
    assert said.owners.tolist() == [1, 0, 0, 0]


def test_nothing_said_is_no_voxels() -> None:
    said = gather([], [], GRID, SHAPE, 2.0)
    assert [len(each) for each in (said.voxels, said.labels, said.owners, said.points, said.point_labels)] == [0] * 5
