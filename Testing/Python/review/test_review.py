"""The review: verdicts, corrections, undo and redo, other thresholds, sign-off, and what is stored of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.regions.region import Regions
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review
from support.fake_case import fake_case, regions_of
from support.review_cases import (
    GRID,
    LEFT,
    MIDDLE,
    RIGHT,
    SHAPE,
    found,
    label_map,
    predicted_as,
    region,
    state,
    stored_again,
)

VOXEL_MM3 = GRID.voxel_mm3


@pytest.fixture
def predicted() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:6] = 1
    return labels


@pytest.fixture
def review(predicted) -> Review:
    return Review(predicted_as(predicted), found(label_map(LEFT, MIDDLE, RIGHT)))


class TestVerdicts:
    def test_nothing_is_decided_at_first(self, review, predicted):
        assert [each.verdict for each in review.regions] == [Verdict.PENDING] * 3
        assert review.reviewed == (0, 3)
        assert np.array_equal(review.corrected(), predicted)

    def test_accept_counts_as_decided_and_changes_no_voxel(self, review, predicted):
        review.decide("1", "accept")
        assert review.reviewed == (1, 3)
        assert np.array_equal(review.corrected(), predicted)

    def test_pending_takes_a_verdict_back(self, review, predicted):
        review.decide("1", "exclude")
        review.decide("1", "pending")
        assert np.array_equal(review.corrected(), predicted)
        assert review.reviewed == (0, 3)

    def test_edit_of_the_box_alone(self, review):
        box = review.region("3").box
        drawn = np.arange(np.prod([s.stop - s.start for s in box])).reshape([s.stop - s.start for s in box]) % 2
        review.edit("3", drawn.astype(np.uint8))
        assert np.array_equal(review.corrected()[RIGHT], drawn)

    def test_second_edit_replaces_the_first(self, review):
        review.edit("3", np.full(SHAPE, 1, np.uint8))
        review.edit("3", np.zeros(SHAPE, np.uint8))
        assert not review.corrected()[RIGHT].any()
        review.undo()
        assert review.corrected()[RIGHT].all()

    def test_edit_is_kept_as_it_was_drawn(self, review):
        drawn = np.ones(SHAPE, np.uint8)
        review.edit("1", drawn)
        drawn[:] = 0
        assert review.corrected()[LEFT].all()

    def test_label_of_an_included_region_is_the_one_it_mostly_belongs_to(self, predicted):
        predicted[predicted == 1] = 2
        predicted[1, 1, 2] = 1
        review = Review(predicted_as(predicted), found(label_map(LEFT, MIDDLE)))
        review.decide("2", "include")
        assert review.region("2").label == 2
        review.decide("2", "include", label=1)
        assert (review.corrected()[MIDDLE] == 1).all()

    def test_listed_holds_the_part_of_the_map_in_which_regions_lie(self, review):
        listed = review.listed()
        assert listed.box == np.s_[1:5, 1:6, 0:7]
        assert np.array_equal(listed.map, label_map(LEFT, MIDDLE, RIGHT)[listed.box])
        assert np.array_equal(review.listed().whole_map(), label_map(LEFT, MIDDLE, RIGHT))

    def test_regions_may_come_with_a_label_map_of_their_box_alone(self, predicted, review):
        whole = found(label_map(LEFT, MIDDLE, RIGHT))
        box = np.s_[1:5, 1:6, 0:7]
        cut = Review(predicted_as(predicted), replace(whole, map=whole.map[box], box=box))
        assert np.array_equal(cut.listed().whole_map(), review.listed().whole_map())
        assert [each.box for each in cut.regions] == [each.box for each in review.regions]

    def test_steps_tell_where_something_changed(self, review):
        (box,) = review.decide("1", "include")
        assert box == LEFT
        assert review.comment("1", "seen") == ()
        assert review.undo() == ()
        assert review.undo() == (LEFT,)
        assert review.redo() == (LEFT,)

    def test_regions_keep_the_ranks_they_come_with_and_others_are_ranked_by_expected_error(self, predicted):
        regions = found(label_map(LEFT, MIDDLE, RIGHT), errors={1: 1, 2: 3, 3: 2})
        review = Review(predicted_as(predicted), regions)
        assert [(each.number, each.region.rank) for each in review.regions] == [(1, 1), (2, 2), (3, 3)]
        review.update_regions(regions)
        assert [(each.number, each.region.rank) for each in review.regions] == [(2, 1), (3, 2), (1, 3)]

    def test_prediction_is_never_touched(self, review, predicted):
        before = predicted.copy()
        review.decide("1", "include")
        review.edit("2", np.ones(SHAPE, np.uint8))
        review.corrected()[:] = 9
        assert np.array_equal(predicted, before)

    @pytest.mark.parametrize(
        "step",
        [
            lambda r: r.decide("9", "accept"),
            lambda r: r.decide("1", "edit"),
            lambda r: r.decide("1", "include", label=300),
            lambda r: r.edit("1", np.zeros((2, 2, 2), np.uint8)),
            lambda r: r.update_regions(found(np.ones((2, 2, 2)))),
        ],
        ids=["no such region", "edit without labels", "label", "shape", "other grid"],
    )
    def test_impossible_step_is_refused_and_changes_nothing(self, review, step):
        before = state(review)
        with pytest.raises(ReviewError):
            step(review)
        assert state(review) == before
        assert not review.can_undo

    def test_label_map_without_a_region_that_is_listed(self, predicted):
        regions = found(label_map(LEFT))
        regions = replace(regions, ranked=(*regions.ranked, region(2)))
        with pytest.raises(ReviewError):
            Review(predicted_as(predicted), regions)


class TestHistory:
    def test_a_step_that_changes_nothing_is_no_step(self, review):
        review.decide("1", "include")
        for nothing in (lambda: review.decide("1", "include"), lambda: review.comment("1", "  ")):
            nothing()
        review.undo()
        assert not review.can_undo

    def test_undo_and_redo_at_the_ends_do_nothing(self, review):
        before = state(review)
        assert review.undo() == review.redo() == ()
        assert state(review) == before

    def test_new_step_forgets_what_was_taken_back(self, review):
        review.decide("1", "include")
        review.undo()
        review.decide("1", "exclude")
        assert not review.can_redo


class TestOtherThreshold:
    def test_decided_regions_survive_with_voxels_verdict_and_comment(self, review, predicted):
        review.decide("1", "exclude")
        review.comment("1", "stomach")
        corrected = review.corrected()
        review.update_regions(found(label_map(RIGHT)))
        kept = review.region("1")
        assert (kept.verdict, kept.comment) == (Verdict.EXCLUDE, "stomach")
        assert np.array_equal(review.corrected(), corrected)
        assert review.reviewed == (1, 2)

    def test_control_characters_stay_out_of_comments(self, review):
        review.comment("1", " a\x00b\x1b[2J\r\n\tc\ud800 ")
        assert review.region("1").comment == "ab[2J\n\tc?"
        json.dumps(review.to_dict(), ensure_ascii=False).encode()

    def test_comment_alone_keeps_a_region(self, review):
        review.comment("2", "look again")
        review.update_regions(found(label_map(RIGHT)))
        assert review.region("2").comment == "look again"

    def test_new_regions_lose_what_is_decided(self, review):
        review.decide("2", "include")
        review.update_regions(found(label_map(np.s_[1:3, 1:4, 0:4])))
        (new,) = [each for each in review.regions if not each.decided]
        assert np.array_equal(review.listed().whole_map() == new.number, label_map(LEFT) == 1)
        assert new.region.volume_mm3 == 12 * VOXEL_MM3
        assert new.region.expected_error_mm3 == pytest.approx(999 / 2)

    def test_centroid_of_what_is_left_is_measured_anew(self, predicted):
        case = fake_case()
        labels = case.regions.whole_map()
        review = Review(replace(case.prediction, segmentation=np.zeros_like(labels, np.uint8)), case.regions)
        half = (labels == 1) & (np.indices(labels.shape)[2] > 27)
        review.update_regions(found(half))
        review.decide(review.regions[0].region_id, "accept")
        review.update_regions(case.regions)
        rest = min(review.regions, key=lambda each: abs(each.region.volume_mm3 - 12 * ((labels == 1) & ~half).sum()))
        index = np.argwhere((labels == 1) & ~half).mean(axis=0)[::-1]
        expected = np.array(case.image.TransformContinuousIndexToPhysicalPoint(index.tolist())) * (-1, -1, 1)
        assert np.allclose(rest.region.centroid_ras, expected)

    def test_too_little_left_is_dropped(self, review):
        review.decide("2", "include")
        most = np.s_[1:3, 1:4, 1:4]
        review.update_regions(found(label_map(most), minimum_mm3=7 * VOXEL_MM3))
        assert review.reviewed == (1, 1)
        review.update_regions(found(label_map(most), minimum_mm3=6 * VOXEL_MM3))
        assert review.reviewed == (1, 2)

    def test_ids_are_never_given_twice(self, review):
        review.update_regions(found(label_map(LEFT, RIGHT)))
        assert {each.region_id for each in review.regions}.isdisjoint({"1", "2", "3"})

    def test_dragging_a_slider_is_one_step(self, review):
        review.decide("1", "accept")
        before = state(review)
        for _ in range(5):
            review.update_regions(found(label_map(RIGHT)))
        review.undo()
        assert state(review) == before

    def test_undo_takes_the_settings_back_too(self, review):
        review.update_regions(replace_settings(found(label_map(RIGHT)), threshold=0.1))
        assert review.settings.threshold == 0.1
        review.undo()
        assert review.settings.threshold is None

    def test_ranks_are_renewed(self, review):
        review.decide("2", "accept")
        review.update_regions(found(label_map(LEFT, RIGHT), errors={1: 5000, 2: 1}))
        assert [each.region.rank for each in review.regions] == [1, 2, 3]
        assert review.regions[1].region_id == "2"


def replace_settings(regions: Regions, **values) -> Regions:
    return replace(regions, settings=replace(regions.settings, **values))


class TestSignature:
    @pytest.fixture
    def decided(self, review) -> Review:
        for each in review.regions:
            review.decide(each.region_id, "accept")
        return review

    def test_only_when_all_is_decided(self, review):
        review.decide("1", "accept")
        with pytest.raises(ReviewError):
            review.sign("A. Reader")

    def test_name_and_time(self, decided):
        when = datetime(2026, 5, 31, 14, 30, tzinfo=timezone(timedelta(hours=2)))
        decided.sign("  Ada  Müller ", when)
        assert decided.signature.name == "Ada Müller"
        assert decided.signature.time == when

    def test_needs_a_name(self, decided):
        with pytest.raises(ReviewError):
            decided.sign("  ")

    def test_without_regions_there_is_nothing_left_to_decide(self, predicted):
        review = Review(predicted_as(predicted), found(np.zeros(SHAPE)))
        review.sign("A. Reader")
        assert review.signature

    @pytest.mark.parametrize(
        "step",
        [
            lambda r: r.decide("1", "exclude"),
            lambda r: r.comment("1", "no"),
            lambda r: r.edit("1", np.ones(SHAPE, np.uint8)),
            lambda r: r.update_regions(found(label_map(RIGHT))),
            lambda r: r.sign("B. Reader"),
        ],
        ids=["decide", "comment", "edit", "threshold", "sign"],
    )
    def test_signed_review_does_not_change(self, decided, step):
        decided.sign("A. Reader", datetime(2026, 1, 1, tzinfo=UTC))
        before = state(decided)
        with pytest.raises(ReviewError):
            step(decided)
        assert state(decided) == before

    @pytest.mark.parametrize("step", [Review.undo, Review.withdraw], ids=["undo", "withdraw"])
    def test_is_withdrawn(self, decided, step):
        decided.sign("A. Reader")
        step(decided)
        assert decided.signature is None
        decided.decide("1", "exclude")

    @pytest.mark.parametrize("stored", [False, True])
    def test_undo_after_a_withdrawn_signature_reaches_the_verdicts_and_never_signs(self, decided, stored):
        before = state(decided)
        decided.sign("A. Reader")
        if stored:
            decided = stored_again(decided)
        decided.withdraw()
        assert state(decided) == before
        assert not decided.can_redo
        assert decided.can_undo is not stored
        decided.undo()
        assert decided.signature is None
        assert (state(decided) == before) is stored


def test_new_threshold_on_a_large_ct_takes_a_fraction_of_a_second():
    labels = np.zeros((300, 512, 512), np.uint16)
    for n in range(1, 31):
        labels[5 * n : 5 * n + 20, 200:230, 10 * n : 10 * n + 25] = n
    predicted = np.zeros(labels.shape, np.uint8)
    regions = found_quickly(labels, 30)
    review = Review(predicted_as(predicted, Grid.from_matrix(np.eye(4))), regions)
    review.decide("4", "include")
    start = time.process_time()
    review.update_regions(regions)
    assert time.process_time() - start < 0.15


def found_quickly(labels: np.ndarray, count: int) -> Regions:
    return regions_of(labels, [region(n, 100.0 - n) for n in range(1, count + 1)])
