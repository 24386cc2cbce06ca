"""Clicks in a review: what follows them, what they leave as it is, and what undoes them."""

import gc
import json
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.measure import expected_error, with_maps
from MoBUncertaintyLib.regions.region import Effect
from MoBUncertaintyLib.review import suggestion as suggestions
from MoBUncertaintyLib.review.refinement.refiner import Refiner
from MoBUncertaintyLib.review.region import Verdict, follow
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.suggestion import suggest
from support.clicked_cases import (
    CLICKS,
    clicked_prediction,
    clicked_review,
    everything,
    place,
    region_at,
    resolve,
    sides_of,
    whole_box,
)
from support.fake_case import LEFT_KIDNEY, PANCREAS

NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)


@pytest.fixture
def review() -> Review:
    return clicked_review()


def outer(review: Review, region_id: str, label: int) -> tuple[float, float, float]:
    """A voxel of a region that is predicted as a label, but only just."""
    points = (place(review, region_id, number) for number in count())
    return next(each for each in points if review.prediction.segmentation[voxel_of(review, each)] == label)


def voxel_of(review: Review, point: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(np.rint(review.prediction.grid.to_index(np.array(point))).astype(int).tolist())


class TestClick:
    def test_clicked_voxel_has_its_label_and_the_maps_are_the_refiners(self, review):
        at = place(review, "1")
        review.click([at], 1, when=NOON)
        refiner = Refiner(review.prediction)
        expected = with_maps(review.prediction, refiner.reach(review.clicks), refiner.refine(review.clicks))
        p, v = review.maps_in(whole_box(review))
        assert np.array_equal(p, np.array(expected.probability))
        assert np.array_equal(v, np.array(expected.variance))
        assert np.array_equal(review.corrected(), expected.segmentation)
        voxel = voxel_of(review, at)
        assert (review.corrected()[voxel], p[0][voxel], v[0][voxel]) == (1, 1, 0)

    def test_what_is_recorded_of_it(self, review):
        r, a, s = place(review, "1")
        assert region_at(review, (r, a, s)).region_id == "1" and region_at(review, (r - 20, a, s)) is None
        at = place(review, "2")
        review.click([at], 0, when=datetime(2026, 5, 31, 14, tzinfo=timezone(timedelta(hours=2))))
        (click,) = review.clicks
        assert (click.click_id, click.points_ras, click.label, click.region_id) == ("c1", (at,), 0, "2")
        assert click.time == NOON
        review.click([at], 1)
        assert review.clicks[-1].time.tzinfo is not None
        review.click([(r - 20, a, s)], 1)
        assert [(each.click_id, each.region_id) for each in review.clicks] == [("c1", "2"), ("c2", "2"), ("c3", None)]

    def test_removing_is_as_if_it_had_never_been_given(self, review):
        first, second = place(review, "1"), place(review, "2")
        review.click([first], 1, when=NOON)
        alone = everything(review)[1:6]
        review.click([second], 0, when=NOON)
        assert everything(review)[1:6] != alone
        review.remove_click("c2")
        assert everything(review)[1:6] == alone
        review.click([second], 0)
        assert review.clicks[-1].click_id == "c3"

    @pytest.mark.parametrize(
        "step",
        [
            lambda r: r.click([(9999.0, 0.0, 0.0)], 1),
            lambda r: r.click([place(r, "1")], 7),
            lambda r: r.click([], 1),
            lambda r: r.click([(0.0, np.nan, 0.0)], 1),
            lambda r: r.click([place(r, "1")], 1, "9"),
            lambda r: r.remove_click("c1"),
            lambda r: r.decide("1", "accept", clicks=["c1"]),
        ],
    )
    def test_impossible_step_is_refused_and_changes_nothing(self, review, step):
        before = everything(review)
        with pytest.raises(ReviewError):
            step(review)
        assert everything(review) == before
        assert not review.can_undo
        review.click([place(review, "1")], 1)
        assert review.clicks[0].click_id == "c1"

    @pytest.mark.parametrize("step", ["click", "remove_click", "take_clicks"])
    def test_signed_review_does_not_change(self, review, step):
        review.click([place(review, "1")], 1)
        for region in review.regions:
            review.decide(region.region_id, "accept")
        review.sign("A. Reader", NOON)
        before = everything(review)
        given = {"click": ([place(review, "2")], 1), "remove_click": ("c1",), "take_clicks": ([],)}[step]
        with pytest.raises(ReviewError):
            getattr(review, step)(*given)
        assert everything(review) == before


class TestRegions:
    def test_far_from_a_click_they_are_the_same_objects(self, review):
        other = review.region("2")
        review.click([place(review, "1")], 1)
        after = review.region("2")
        assert (after.found, after.mask is other.mask) == (other.found, True)
        assert replace(after.region, rank=1) == replace(other.region, rank=1)

    def test_shrink_keep_their_identity_and_are_described_anew(self, review):
        before = review.region("1")
        review.comment("1", "tail")
        review.click([place(review, "1")], 1)
        after = review.region("1")
        assert (after.number, after.comment, after.verdict, after.resolved) == (1, "tail", Verdict.PENDING, False)
        assert 0 < after.mask.sum() < before.mask.sum()
        assert not (after.mask & ~before.mask).any()
        error = np.minimum(*sides_of(review, after.box))[after.mask].sum() * review.prediction.grid.voxel_mm3
        assert after.region.expected_error_mm3 == pytest.approx(error, rel=1e-5)
        assert after.region.expected_error_mm3 < before.region.expected_error_mm3
        assert (review.listed().whole_map() == 1).sum() == after.mask.sum()

    def test_what_leaves_a_region_is_certain_and_far_from_what_is_not(self, review):
        review.click([place(review, "1")], 1)
        region = review.region("1")
        gone = region.found.mask & ~region.mask
        uncertain = (review.maps_in(region.box)[1][0] > region.found.settings.level) & region.found.mask
        assert gone.any()
        spacing = review.prediction.grid.spacing
        distances = np.linalg.norm((np.argwhere(gone)[:, None] - np.argwhere(uncertain)) * spacing, axis=2)
        assert distances.min() > region.found.settings.grow_mm

    def test_vanish_when_they_are_resolved_and_count_as_decided(self, review):
        assert resolve(review, "1") > 0
        region = review.region("1")
        assert (region.verdict, region.decided, region.labels) == (Verdict.PENDING, True, None)
        assert np.array_equal(region.mask, region.found.mask)
        assert review.reviewed == (1, 2)
        review.undo()
        assert review.reviewed == (0, 2)
        review.redo()
        review.decide("2", "accept")
        review.sign("A. Reader")

    def test_ranks_follow_the_expected_error(self, review):
        assert [each.region_id for each in review.regions] == ["1", "2"]
        resolve(review, "1")
        assert [each.region_id for each in review.regions] == ["2", "1"]
        assert [each.region.rank for each in review.regions] == [1, 2]

    def test_depend_on_the_clicks_alone_not_on_the_way_to_them(self, review):
        for number in (0, 7, 12):
            review.click([place(review, "1", number)], 1)
        review.remove_click("c2")
        other = clicked_review()
        for number in (12, 0):
            other.click([place(other, "1", number)], 1)
        for mine, theirs in zip(review.regions, other.regions, strict=True):
            assert mine.region == theirs.region
            assert np.array_equal(mine.mask, theirs.mask)
        fresh = clicked_review().region("1")
        assert replace(follow(review.region("1"), (), review.refiner).region, rank=1) == fresh.region


class TestVerdicts:
    def test_a_click_inside_reopens(self, review):
        review.decide("1", "exclude")
        review.decide("2", "accept")
        review.click([place(review, "1")], 1)
        assert [review.region(name).verdict for name in "12"] == [Verdict.PENDING, Verdict.ACCEPT]
        review.decide("1", "exclude")
        review.remove_click("c1")
        assert review.region("1").verdict is Verdict.PENDING
        for _ in range(3):
            review.undo()
        assert review.region("1").verdict is Verdict.EXCLUDE
        assert not review.clicks

    @pytest.mark.parametrize(("verdict", "label"), [("include", 1), ("exclude", 0)])
    def test_include_and_exclude_act_on_the_doubtful_core(self, review, verdict, label):
        region = review.region("1")
        core = region.mask & (review.prediction.variance[0][region.box] > region.found.settings.level)
        assert 0 < core.sum() < region.mask.sum()
        wanted = review.prediction.segmentation[region.box].copy()
        wanted[core] = label
        review.decide("1", verdict)
        assert np.array_equal(review.labels_in(region.box), wanted)

    def test_include_leaves_what_clicks_made_certain(self, review):
        review.click([place(review, "1")], 0)
        before = review.labels_in(review.region("1").box)
        region = review.region("1")
        certain = region.found.mask & ~(review.maps_in(region.box)[1][0] > region.found.settings.level)
        review.decide("1", "include")
        assert np.array_equal(review.labels_in(region.box)[certain], before[certain])

    def test_another_verdict_later_goes_on_with_the_clicks_of_the_first(self, review):
        review.click([place(review, "1", 5)], 1)
        review.decide("1", "include")
        clicks, (r, a, s) = review.clicks, place(review, "1", 5)
        review.click([(r - 12, a, s)], 0)
        review.decide("1", "accept")
        assert review.region("1").clicks == clicks
        review.decide("1", "pending")
        review.decide("1", "accept")
        assert review.region("1").clicks == review.clicks


class TestExpectedError:
    def test_is_that_of_the_maps_as_they_are(self, review):
        assert review.expected_error_mm3 == (review.prediction.expected_error_mm3,) * 2
        for number in range(4):
            review.click([place(review, "12"[number % 2], 3 * number)], 1)
            if number == 1:
                review.decide("1", "include")
            before, now = review.expected_error_mm3
            assert before == review.prediction.expected_error_mm3
            left = expected_error(np.asarray(review.current().probability))
            for region in review.regions:
                if region.frozen:
                    left[region.box][region.mask] = 0
            assert now == pytest.approx(review.prediction.grid.voxel_mm3 * left.sum(dtype=float), rel=1e-6)

    def test_current_is_the_prediction_itself_without_clicks_and_has_all_maps_with_them(self, review):
        assert review.current() is review.prediction
        review.click([place(review, "1")], 1)
        current, maps = review.current(), review.maps_in(whole_box(review))
        for mine, theirs in zip((current.probability, current.variance), maps, strict=True):
            assert np.array_equal(np.array(mine), theirs)
        assert np.array_equal(current.segmentation, review.corrected())
        outside = np.ones(review.prediction.shape, bool)
        outside[review.changed_box] = False
        assert np.array_equal(current.probability[0][outside], review.prediction.probability[0][outside])

    def test_effects_are_measured_against_the_same_set_without_the_click(self, review):
        review.click([outer(review, "1", 0)], 1)
        review.click([outer(review, "2", 1)], 0)
        both = review.corrected()
        effects = {click.click_id: review.refiner.effect(click, review.clicks) for click in review.clicks}
        for click_id in ("c1", "c2"):
            review.remove_click(click_id)
            without = review.corrected()
            review.undo()
            voxel = review.prediction.grid.voxel_mm3
            assert effects[click_id].net_mm3 == ((both > 0).sum() - (without > 0).sum()) * voxel
            assert effects[click_id].changed_mm3 == (both != without).sum() * voxel
        assert effects["c1"].net_mm3 > 0 > effects["c2"].net_mm3


class TestSuggestion:
    def test_lies_in_an_undecided_region_and_gains_what_its_answers_are_expected_to(self, review):
        suggestion = suggest(review)
        assert region_at(review, suggestion.point_ras).region_id == suggestion.region_id
        voxel = voxel_of(review, suggestion.point_ras)
        p, before = float(review.prediction.probability[0][voxel]), review.corrected()
        gain = 0.0
        for label, weight in ((0, 1 - p), (1, p)):
            review.click([suggestion.point_ras], label)
            after, now = review.corrected(), review.maps_in(whole(review.prediction.shape))[0][0]
            better = np.where(after > 0, now - (1 - now), (1 - now) - now)[after != before].sum()
            gain += weight * better * review.prediction.grid.voxel_mm3
            review.undo()
        assert suggestion.gain_mm3 == pytest.approx(gain, rel=0.05)
        assert gain > 0

    def test_a_place_whose_answer_may_harm_is_none(self, review, monkeypatch):
        assert suggest(review) is not None
        monkeypatch.setattr(suggestions, "HARM", 0.0)
        assert suggest(review) is None

    def test_nothing_that_is_locked_is_expected_to_change(self, review):
        before = suggest(review)
        review.lock(1)
        after = suggest(review)
        assert before is not None
        assert after is None or after.gain_mm3 < before.gain_mm3

    def test_goes_where_there_is_most_to_gain_and_ends_when_all_is_decided(self, review):
        first = suggest(review)
        review.decide(first.region_id, "accept")
        second = suggest(review)
        assert second.region_id != first.region_id
        assert second.gain_mm3 < first.gain_mm3
        review.decide(second.region_id, "accept")
        assert suggest(review) is None

    def test_goes_down_a_list_that_is_ranked_by_a_measurement(self, review):
        first = suggest(review)
        effects = {each.region_id: float(each.region_id != first.region_id) for each in review.regions}
        review.rank({region: Effect("volume:organ", fraction) for region, fraction in effects.items()})
        other = suggest(review)
        assert other.region_id == review.regions[0].region_id != first.region_id
        assert other.gain_mm3 < first.gain_mm3
        review.decide(other.region_id, "accept")
        assert suggest(review) == first


class TestOtherThreshold:
    def test_regions_are_found_on_the_maps_as_they_are_and_clicked_ones_stay(self, review):
        review.click([place(review, "1")], 1)
        kept = review.region("1")
        regions = find_regions(review.current(), replace(kept.found.settings, minimum_mm3=1.0, depth_mm=0.0))
        review.update_regions(regions)
        before, now = kept.found, review.region("1").found
        assert now.mask is before.mask
        assert (now.region, now.settings, now.clicks) == (before.region, before.settings, before.clicks)
        assert review.clicks[0].region_id == "1"
        new = [each for each in review.regions if each.region_id not in "12"]
        assert new
        assert all(each.found.clicks == review.clicks for each in new)
        listed = review.listed().whole_map()
        assert sum((listed == each.number).sum() for each in review.regions) == np.count_nonzero(listed)

    def test_a_region_found_under_clicks_starts_from_these(self, review):
        review.click([place(review, "1")], 1)
        resolve(review, "1")
        review.update_regions(find_regions(review.current(), replace(review.settings, minimum_mm3=1.0, depth_mm=0.0)))
        new = next(each for each in review.regions if each.region_id not in "12")
        assert not new.resolved
        followed = follow(new, review.clicks, review.refiner)
        assert (followed.region, followed.box, followed.resolved) == (new.region, new.box, False)
        assert np.array_equal(followed.mask, new.mask)


class TestSeveralLabels:
    def test_each_click_gives_its_label(self):
        review = clicked_review(labels=(PANCREAS, LEFT_KIDNEY))
        at = place(review, "2")
        for label in (2, 1, 0):
            review.click([at], label)
            voxel = voxel_of(review, at)
            assert review.corrected()[voxel] == label
        p, _ = review.maps_in(whole_box(review))
        assert p.sum(axis=0).max() <= 1 + 1e-6


class TestRecord:
    def reviewed(self, review: Review) -> Review:
        review.click([place(review, "1")], 1)
        review.decide("1", "include")
        r, a, s = place(review, "1", 5)
        review.click([(r - 12, a, s), (r - 14, a, s)], 0)
        review.click([place(review, "2", 4)], 0)
        review.update_regions(find_regions(review.current(), replace(review.settings, minimum_mm3=1.0, depth_mm=0.0)))
        review.remove_click("c2")
        review.click([(r - 11, a, s)], 0)
        return review

    def test_settings_of_clicks_are_those_it_was_made_with(self, review):
        self.reviewed(review)
        other = replace(clicked_prediction(), click_settings=replace(review.prediction.click_settings, length_mm=9.0))
        again = Review.from_dict(review.to_dict(), other)
        assert np.array_equal(again.corrected(), review.corrected())
        again.click([place(again, "1", 9)], 1)
        assert again.clicks[-1].click_id == "c5"

    def test_the_length_by_the_organs_size_is_that_before_any_click(self):
        unsized = replace(clicked_prediction(), click_settings=replace(CLICKS, length_mm=None))
        prediction = unsized.with_click_length()
        review = self.reviewed(clicked_review(prediction))
        assert review.current().volumes_ml() != prediction.volumes_ml()
        again = Review.from_dict(json.loads(json.dumps(review.to_dict())), unsized)
        for each in (review.current(), again.current(), again.current().with_click_length()):
            assert each.click_settings == prediction.click_settings != unsized.click_settings
        assert np.array_equal(again.corrected(), review.corrected())

    @pytest.mark.parametrize(
        "damage",
        [
            lambda d: d.pop("clicks"),
            lambda d: d.pop("earlier_clicks"),
            lambda d: d.pop("click_settings"),
            lambda d: d["click_settings"].update(length_mm=0),
            lambda d: d["clicks"][0].pop("label"),
            lambda d: d["clicks"][0].update(id="1"),
            lambda d: d["clicks"][0].update(id=d["clicks"][1]["id"]),
            lambda d: d["clicks"][0].update(label=3),
            lambda d: d["clicks"][0].update(label="pancreas"),
            lambda d: d["clicks"][0].update(points_ras=[]),
            lambda d: d["clicks"][0].update(points_ras=[[1, 2]]),
            lambda d: d["clicks"][0].update(points_ras=[[1e9, 2, 3]]),
            lambda d: d["clicks"][0].update(points_ras=[[1, 2, 3]] * 100_001),
            lambda d: d["clicks"][0].update(time="2026-05-31T12:00:00"),
            lambda d: d["clicks"][0].update(time="9000-05-31T12:00:00+00:00"),
            lambda d: d["clicks"][0].update(region="77"),
            lambda d: d["clicks"][0].update(region=1),
            lambda d: d["earlier_clicks"][0].update(points_ras=[[1e9, 2, 3]]),
            lambda d: d["regions"][0].update(found_with_clicks=[99]),
            lambda d: d["regions"][0].update(decided_with_clicks=[-1], verdict="accept"),
            lambda d: d["regions"][0].update(found_with_settings={"threshold": -1}),
        ],
    )
    def test_damage_is_refused(self, review, damage):
        data = json.loads(json.dumps(self.reviewed(review).to_dict()))
        damage(data)
        with pytest.raises(ReviewError):
            Review.from_dict(seal(data), review.prediction)


def test_without_regions_clicks_still_act():
    prediction = clicked_prediction()
    regions = find_regions(prediction, RegionSettings(threshold=0.2, depth_mm=100.0))
    assert not regions.ranked
    review = Review(prediction, regions)
    assert suggest(review) is None
    review.click([place(clicked_review(), "1")], 1)
    assert review.clicks[0].region_id is None
    assert review.expected_error_mm3[1] < review.expected_error_mm3[0]
    assert review.reviewed == (0, 0)
    review.sign("A. Reader")


def test_volumes_go_with_the_review():
    gc.disable()
    try:
        review = clicked_review()
        review.click([place(review, "1")], 1)
        assert review.refiner.effect(review.clicks[0], review.clicks) and review.corrected().any()
        alive = weakref.ref(review)
        del review
        assert alive() is None
    finally:
        gc.enable()
