"""Locked labels, and outlines beside them: what stays, what gives way, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.regions.measure import VoxelMaps
from MoBUncertaintyLib.review.refinement.clicks import CONDITIONED, Click, Extent
from MoBUncertaintyLib.review.refinement.locks import LockingRefiner
from MoBUncertaintyLib.review.refinement.refiner import Refiner
from MoBUncertaintyLib.review.review import Review
from support.clicked_cases import clicked_prediction, clicked_review, everything, place
from support.clicks import click_at
from support.fake_case import LEFT_KIDNEY, PANCREAS

LABELS = PANCREAS, LEFT_KIDNEY
PREDICTION = clicked_prediction(LABELS)
REFINER = LockingRefiner(PREDICTION)
VOXEL = st.tuples(st.integers(6, 21), st.integers(10, 25), st.integers(12, 28))
"""About the ball, whose halves the labels are."""


@st.composite
def click_sets(draw) -> list[Click]:
    """Clicks, outlines of squares and locks, in order of time."""
    clicks = []
    for number in range(1, draw(st.integers(2, 8))):
        extent, (z, y, x), label = draw(st.sampled_from(Extent)), draw(VOXEL), draw(st.integers(0, 2))
        corners = [(z, y - 2.5, x - 2.5), (z, y - 2.5, x + 2.5), (z, y + 2.5, x + 2.5), (z, y + 2.5, x - 2.5)]
        made = click_at(PREDICTION, number, label, *map(np.array, corners))
        points = {Extent.STROKE: made.points_ras[:1], Extent.OUTLINE: made.points_ras, Extent.LOCK: ()}[extent]
        label = max(label, 1) if extent is Extent.LOCK else label
        clicks.append(replace(made, points_ras=points, label=label, extent=extent))
    return clicks


def all_maps(refiner: Refiner, clicks: list[Click]) -> VoxelMaps:
    return refiner.refine(clicks, whole(PREDICTION.shape))


def same(a: VoxelMaps, b: VoxelMaps) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


@settings(deadline=None, max_examples=25)
@given(clicks=click_sets(), random=st.randoms())
def test_what_is_locked_stays_whatever_follows_and_the_rest_is_as_without_the_lock(clicks: list, random) -> None:
    now = all_maps(REFINER, clicks)
    for number, lock in enumerate(clicks, 1):
        if lock.extent is Extent.LOCK:
            then = all_maps(REFINER, clicks[:number])
            was = then.segmentation == lock.label
            assert np.array_equal(now.segmentation == lock.label, was)
            for mine, its in zip(now[:2], then[:2], strict=True):
                assert np.array_equal(mine[:, was], its[:, was])
    shuffled = random.sample(clicks, len(clicks))
    assert same(now, all_maps(LockingRefiner(PREDICTION), shuffled))
    if not any(click.extent is Extent.LOCK for click in clicks):
        assert same(now, all_maps(Refiner(PREDICTION), clicks))


@settings(deadline=None, max_examples=25)
@given(clicks=click_sets(), left=st.lists(st.booleans(), min_size=8, max_size=8))
def test_outside_of_what_has_changed_two_sets_give_the_same_bits(clicks: list, left: list) -> None:
    others = [click for click, kept in zip(clicks, left, strict=False) if kept]
    before, after = all_maps(REFINER, others), all_maps(REFINER, clicks)
    for box in REFINER.changed(others, clicks):
        for mine, now in zip(before, after, strict=True):
            mine[(..., *box)] = now[(..., *box)]
    assert same(before, after)
    reach = REFINER.reach(clicks)
    predicted = all_maps(REFINER, [])
    for mine, now in zip(predicted, after, strict=True):
        mine[(..., *reach)] = now[(..., *reach)]
    assert same(predicted, after)


def square(review: Review, label: int, half_mm: float, **changes: object) -> dict:
    """An outline about the middle of the ball, in its axial slice."""
    r, a, s = review.prediction.grid.to_ras(np.array([14, 18, 20])).tolist()
    corners = [(r + half_mm * x, a + half_mm * y, s) for x, y in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    return {"points_ras": corners, "label": label, "extent": Extent.OUTLINE} | changes


@pytest.fixture
def review() -> Review:
    return clicked_review(PREDICTION, LABELS)


def test_all_inside_an_outline_has_its_label_and_few_voxels_are_conditioned_on(review: Review) -> None:
    before = everything(review)
    review.click(**square(review, 2, 17.0))
    (click,) = review.clicks
    voxels = review.refiner.voxels_of(click)
    assert len(voxels) == pytest.approx(34**2 / 4, rel=0.1)
    assert (review.corrected()[tuple(voxels.T)] == 2).all()
    assert len(np.unique(voxels[:, 0])) == 1
    assert len(review.refiner._read(review.clicks).clicked.points) <= CONDITIONED
    after = everything(review)
    review.undo()
    assert everything(review) == before
    review.redo()
    assert everything(review) == after


def test_an_outline_is_contradicted_by_a_click_that_means_otherwise_and_not_by_its_size(review: Review) -> None:
    review.click(**square(review, 0, 4.0))
    assert not review.conflicts
    for shift in ((-2, -2), (-2, 2), (2, -2), (2, 2), (0, 0)):
        for layer in (-1, 1):
            at = review.prediction.grid.to_ras(np.array([14 + layer, 18 + shift[0], 20 + shift[1]]))
            review.click([tuple(at.tolist())], 1)
    assert "c1" in review.conflicts


def test_an_outline_takes_from_neighbours_what_is_not_locked(review: Review) -> None:
    review.lock(1)
    was = review.corrected() == 1
    review.click(**square(review, 2, 17.0))
    voxels = tuple(review.refiner.voxels_of(review.clicks[-1]).T)
    now = review.corrected()
    assert was[voxels].any() and not was[voxels].all()
    assert np.array_equal(now == 1, was)
    assert (now[voxels][~was[voxels]] == 2).all()
    review.lock(1, False)
    assert (review.corrected()[voxels] == 2).all()
    review.undo()
    assert np.array_equal(review.corrected(), now)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_what_would_change_nothing_but_what_is_locked_is_refused(review: Review, label: int) -> None:
    point = place(review, "1")
    review.click([point], 1)
    review.lock(1)
    before = everything(review)
    with pytest.raises(ReviewError, match="pancreas"):
        review.click([point], label)
    with pytest.raises(ReviewError, match="pancreas"):
        review.remove_click("c1")
    with pytest.raises(ReviewError):
        review.lock(3)
    assert everything(review) == before
    review.undo()
    review.click([point], label)
    assert review.corrected()[tuple(review.refiner.voxels_of(review.clicks[-1]).T)] == label


def test_verdicts_leave_what_is_locked(review: Review) -> None:
    review.lock(1)
    was = review.corrected() == 1
    for region in ("1", "2"):
        for verdict, label in (("exclude", None), ("include", 2), ("include", 1)):
            review.decide(region, verdict, label)
            assert np.array_equal(review.corrected() == 1, was)
    drawn = np.full(review.prediction.shape, 2, np.uint8)
    review.edit("1", drawn)
    assert np.array_equal(review.corrected() == 1, was)


def test_exclude_takes_the_named_organ_only(review: Review) -> None:
    region = review.region("2")
    before = review.labels_in(region.box)
    assert {1, 2} <= set(before[region.mask])
    review.decide("2", "exclude")
    after = review.labels_in(region.box)
    assert np.count_nonzero(after == 1) < np.count_nonzero(before == 1)
    assert np.array_equal(after == 2, before == 2)


def test_a_lock_is_one_step_and_locks_nothing_twice(review: Review) -> None:
    assert review.lock(2, False) == () and not review.can_undo
    review.lock(2)
    review.lock(2)
    assert list(review.locks) == [2] and review.drawn == () and len(review.clicks) == 1
    review.undo()
    assert not review.locks and not review.can_undo
