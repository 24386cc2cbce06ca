"""The review: verdicts, corrections, undo and redo, other thresholds, sign-off, and what is stored of it."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.review.review import Review
from support.fake_case import fake_case, regions_of
from support.review_cases import (
    GRID,
    LEFT,
    MIDDLE,
    RIGHT,
    SHAPE,
    describe_as_in,
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
    def test_edit_of_the_box_alone(self, review):
        box = review.region("3").box
        drawn = np.arange(np.prod([s.stop - s.start for s in box])).reshape([s.stop - s.start for s in box]) % 2
        review.edit("3", drawn.astype(np.uint8))
        assert np.array_equal(review.corrected()[RIGHT], drawn)

    def test_edit_is_kept_as_it_was_drawn_and_the_prediction_is_never_touched(self, review, predicted):
        before, drawn = predicted.copy(), np.ones(SHAPE, np.uint8)
        review.edit("1", drawn)
        drawn[:] = 0
        assert review.corrected()[LEFT].all()
        review.corrected()[:] = 9
        assert np.array_equal(predicted, before)

    def test_label_of_an_included_region_is_the_one_it_mostly_belongs_to(self, predicted):
        predicted[predicted == 1] = 2
        predicted[1, 1, 2] = 1
        review = Review(predicted_as(predicted), found(label_map(LEFT, MIDDLE)))
        review.decide("2", "include")
        assert review.region("2").label == 2
        review.decide("2", "include", label=1)
        assert (review.corrected()[MIDDLE] == 1).all()

    def test_regions_come_and_go_with_the_part_of_the_map_in_which_they_lie(self, predicted, review):
        listed, box = review.listed(), np.s_[1:5, 1:6, 0:7]
        assert listed.box == box
        assert np.array_equal(listed.map, label_map(LEFT, MIDDLE, RIGHT)[box])
        assert np.array_equal(listed.whole_map(), label_map(LEFT, MIDDLE, RIGHT))
        cut = Review(predicted_as(predicted), listed)
        assert np.array_equal(cut.listed().whole_map(), listed.whole_map())
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

    def test_new_step_forgets_what_was_taken_back(self, review):
        review.decide("1", "include")
        review.undo()
        review.decide("1", "exclude")
        assert not review.can_redo


class TestOtherThreshold:
    def test_control_characters_stay_out_of_comments(self, review):
        review.comment("1", " a\x00b\x1b[2J\r\n\tc\ud800 ")
        assert review.region("1").comment == "ab[2J\n\tc?"
        json.dumps(review.to_dict(), ensure_ascii=False).encode()

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
        regions = found(label_map(RIGHT))
        review.update_regions(replace(regions, settings=replace(regions.settings, threshold=0.1)))
        assert review.settings.threshold == 0.1
        review.undo()
        assert review.settings.threshold is None


class TestSignature:
    @pytest.fixture
    def decided(self, review) -> Review:
        for each in review.regions:
            review.decide(each.region_id, "accept")
        return review

    def test_name_and_time(self, decided):
        with pytest.raises(ReviewError):
            decided.sign("  ")
        when = datetime(2026, 5, 31, 14, 30, tzinfo=timezone(timedelta(hours=2)))
        decided.sign("  Ada  Müller ", when)
        assert decided.signature.name == "Ada Müller"
        assert decided.signature.time == when

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

    def test_too_early_names_the_regions_that_are_left(self, review):
        first, *others = review.regions
        review.decide(first.region_id, "accept")
        with pytest.raises(ReviewError) as error:
            review.sign("A. Reader")
        assert ", ".join(str(other.region.rank) for other in others) in str(error.value)
        assert review.signature is None

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


class TestStoring:
    """Whole, sealed, and believed only as far as the prediction does not say it."""

    def reviewed(self, review: Review) -> Review:
        review.decide("1", "include", label=2)
        review.edit("2", np.full(SHAPE, 3, np.uint8))
        review.decide("3", "exclude")
        review.comment("3", "Größe? „=1+1“")
        review.sign("A. Reader", datetime(2026, 5, 31, 14, 30, tzinfo=UTC))
        return review

    def test_comes_back_through_json(self, review):
        self.reviewed(review)
        data = json.loads(json.dumps(review.to_dict()))
        again = Review.from_dict(data, review.prediction, describe_as_in(review))
        assert state(again) == state(review)
        assert again.settings == review.settings
        assert again.settings.measure is Measure.VARIANCE
        assert not again.can_undo

    def test_goes_on_where_it_stopped(self, review):
        review.decide("1", "include")
        again = stored_again(review)
        again.update_regions(found(label_map(RIGHT)))
        assert len({each.region_id for each in again.regions}) == 2
        again.decide("1", "pending")
        assert np.array_equal(again.corrected(), review.prediction.segmentation)

    def test_another_prediction_place_or_version_is_refused(self, review):
        other = review.prediction.segmentation.copy()
        other[0, 0, 0] = 1
        elsewhere = replace(review.prediction, grid=Grid.from_matrix(2 * GRID.matrix()))
        versions = [({"schema_version": version}, review.prediction) for version in (0, 99, None)]
        for change, prediction in [({}, predicted_as(other)), ({}, elsewhere), *versions]:
            with pytest.raises(ReviewError):
                Review.from_dict(review.to_dict() | change, prediction, describe_as_in(review))

    @pytest.mark.parametrize(
        "damage",
        [
            lambda d: d.pop("regions"),
            lambda d: d["regions"][0].update(verdict="perhaps"),
            lambda d: d["regions"][0].update(verdict="include", label=None),
            lambda d: d["regions"][0].pop("voxels"),
            lambda d: d["regions"][0].update(voxels=d["regions"][2]["voxels"][:-8]),
            lambda d: d["regions"][0].update(first_voxel=[0, 0, 9]),
            lambda d: d["regions"][0].update(first_voxel=d["regions"][1]["first_voxel"]),
            lambda d: d["regions"][0].update(rank=2),
            lambda d: d["regions"][1].update(id=d["regions"][0]["id"]),
            lambda d: d["regions"][1].update(number=d["regions"][0]["number"]),
            lambda d: d["regions"][1].update(comment="\x1b[2J"),
            lambda d: d.update(signature={"name": "A", "time": "noon"}),
            lambda d: d.update(signature={"name": "A", "time": "9999-12-31T23:59:59+00:00"}),
            lambda d: d.update(settings={"measure": "mood"}),
            lambda d: d.update(settings={"threshold": -1}),
        ],
    )
    def test_damage_is_refused_though_it_is_sealed_anew(self, review, damage):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        damage(data)
        with pytest.raises(ReviewError):
            Review.from_dict(seal(data), review.prediction, describe_as_in(review))

    @pytest.mark.parametrize(
        "edit", [lambda d: d["regions"][0]["region"].update(location="right"), lambda d: d.pop("sha256")]
    )
    def test_a_careless_edit_is_refused(self, review, edit):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        edit(data)
        with pytest.raises(ReviewError):
            Review.from_dict(data, review.prediction, describe_as_in(review))

    def test_numbers_are_those_of_the_prediction_whatever_was_stored(self, review):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        data["regions"][0]["region"] |= {"volume_mm3": 852000.0, "location": "right", "centroid_ras": [0, 0, 0]}
        again = Review.from_dict(seal(data), review.prediction, describe_as_in(review))
        assert [each.region for each in again.regions] == [each.region for each in review.regions]

    @pytest.mark.parametrize("name", ["", " \n", "A" * 101, "A\x00B", "A. Reader"])
    def test_a_signature_is_restored_only_where_it_could_have_been_given(self, review, name):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        data["signature"]["name"] = name
        if name == "A. Reader":
            assert Review.from_dict(seal(data), review.prediction, describe_as_in(review)).signature
            data["regions"][0]["verdict"] = "pending"
        with pytest.raises(ReviewError):
            Review.from_dict(seal(data), review.prediction, describe_as_in(review))


def test_new_threshold_on_a_large_ct_takes_a_fraction_of_a_second():
    labels = np.zeros((300, 512, 512), np.uint16)
    for n in range(1, 31):
        labels[5 * n : 5 * n + 20, 200:230, 10 * n : 10 * n + 25] = n
    predicted = np.zeros(labels.shape, np.uint8)
    regions = regions_of(labels, [region(n, 100.0 - n) for n in range(1, 31)])
    review = Review(predicted_as(predicted, Grid.from_matrix(np.eye(4))), regions)
    review.decide("4", "include")
    start = time.process_time()
    review.update_regions(regions)
    assert time.process_time() - start < 0.15
