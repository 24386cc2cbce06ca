"""Properties of a review with clicks: undo and redo bit for bit, the record; what is decided or locked stays."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review, preview
from support.clicked_cases import clicked_prediction, clicked_review, place, region_at, whole_box
from support.fake_case import LEFT_KIDNEY, PANCREAS

NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)
VERDICTS = st.sampled_from(["pending", "accept", "include", "exclude"])
LABELS = PANCREAS, LEFT_KIDNEY
PREDICTION = clicked_prediction(LABELS)
FIRST = clicked_review(PREDICTION, LABELS)


def seen(review: Review) -> tuple:
    """All that can be seen of a review, but for what each click changed."""
    maps = tuple(each.tobytes() for each in review.maps_in(whole_box(review)))
    return json.dumps(review.to_dict()), review.corrected().tobytes(), *maps, review.expected_error_mm3


def inside(review: Review, region: ReviewRegion) -> list[bytes]:
    """What a region's voxels are and say."""
    mask = region.found.mask
    maps = [np.ascontiguousarray(each[:, mask]).tobytes() for each in review.maps_in(region.box)]
    return [np.ascontiguousarray(review.labels_in(region.box)[mask]).tobytes(), *maps]


class ClickHistory(RuleBasedStateMachine):
    """Clicks, verdicts, edits and thresholds in any order."""

    @initialize()
    def begin(self):
        self.review = clicked_review(PREDICTION, LABELS)
        self.time = NOON
        self.shown = self.review.corrected()
        self.maps = self.review.maps_in(whole_box(self.review))

    def step(self, act, *hit: tuple[float, float, float], voxels=(), joins: bool = False) -> bool:
        """Take a step, back and again; what is decided stays as it is, unless what is `hit` lies in it.

        What is locked stays in any case: a step that would change it is refused. An update of the regions `joins` the
        last one: undo takes both back. Returns whether the step was taken.
        """
        review = self.review
        reopened = {region.region_id for point in hit if (region := region_at(review, point))}
        reopened |= {region.region_id for region in review.state.regions_at(np.reshape(voxels, (-1, 3)).astype(int))}
        kept = {each.region_id: inside(review, each) for each in review.regions if each.frozen}
        before = seen(review)
        locked, taken = self.locked(), True
        try:
            self.redraw(act())
        except ReviewError as error:
            assert locked and "locked" in str(error)
            taken = False
        after = seen(review)
        assert taken or after == before
        assert all(np.array_equal(locked[label], now) for label, now in self.locked().items() if label in locked)
        for region in review.regions:
            if region.frozen and region.region_id in kept.keys() - reopened:
                assert inside(review, region) == kept[region.region_id]
        if after != before and not joins:
            self.redraw(review.undo())
            assert seen(review) == before
            self.redraw(review.redo())
            assert seen(review) == after
        return taken

    def locked(self) -> dict[int, np.ndarray]:
        """Where the labels are that are locked."""
        return {label: self.review.corrected() == label for label in self.review.locks}

    def redraw(self, boxes) -> None:
        for box in boxes or ():
            self.shown[box] = self.review.labels_in(box)
            for mine, now in zip(self.maps, self.review.maps_in(box), strict=True):
                mine[:, *box] = now

    def point(self, region: int, number: int) -> tuple[float, float, float]:
        """A voxel of a region as it was found first, or one that is moved out of it."""
        r, a, s = place(FIRST, "12"[region], number % 60)
        return (r, a, s) if number < 60 else (r - 10, a, s)

    def later(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def some(self, number: int) -> str:
        return self.review.regions[number % len(self.review.regions)].region_id

    @rule(region=st.integers(0, 1), number=st.integers(0, 119), label=st.integers(0, 2))
    def click(self, region, number, label):
        at = self.point(region, number)
        self.step(lambda: self.review.click([at], label, when=self.later()), at)

    @rule(region=st.integers(0, 1), number=st.integers(0, 59), label=st.integers(0, 2), size=st.integers(2, 20))
    def outline(self, region, number, label, size):
        r, a, s = self.point(region, number)
        corners = tuple((r + size * right, a + size * front, s) for right, front in ((-1, 0), (0, -1), (1, 0), (0, 1)))
        made = Click("", corners, label, self.later(), extent=Extent.OUTLINE)
        voxels = self.review.refiner.voxels_of(made)
        self.step(lambda: self.review.click(corners, label, None, made.time, made.extent), voxels=voxels)

    @rule(label=st.integers(1, 2), locked=st.booleans())
    def lock(self, label, locked):
        self.step(lambda: self.review.lock(label, locked))
        assert (label in self.review.locks) is locked

    @precondition(lambda self: self.review.clicks)
    @rule(which=st.integers(0, 9))
    def remove(self, which):
        click = self.review.clicks[which % len(self.review.clicks)]
        voxels = self.review.refiner.voxels_of(click)
        self.step(lambda: self.review.remove_click(click.click_id), voxels=voxels)

    @rule(number=st.integers(0, 5), verdict=VERDICTS)
    def decide(self, number, verdict):
        region = self.review.region(self.some(number))
        _, labels = preview(self.review, region.region_id, verdict)
        hit = region.region.centroid_ras, *self.of(region)
        if self.step(lambda: self.review.decide(region.region_id, verdict), *hit):
            assert np.array_equal(self.review.labels_in(region.box), labels)

    @rule(number=st.integers(0, 5), seed=st.integers(0, 9))
    def edit(self, number, seed):
        region = self.review.region(self.some(number))
        drawn = np.random.default_rng(seed).integers(0, 2, region.mask.shape).astype(np.uint8)
        self.step(lambda: self.review.edit(region.region_id, drawn), *self.of(region))

    @rule(threshold=st.sampled_from([0.05, 0.1, 0.15]))
    def threshold(self, threshold):
        settings = replace(self.review.settings, threshold=threshold, depth_mm=0.0, minimum_mm3=50.0)
        self.step(lambda: self.review.update_regions(find_regions(self.review.current(), settings)), joins=True)

    @rule(back=st.booleans())
    def walk(self, back):
        self.redraw(self.review.undo() if back else self.review.redo())

    def of(self, region: ReviewRegion) -> list[tuple[float, float, float]]:
        """A place in a region."""
        index = np.argwhere(region.found.mask)[0] + [part.start for part in region.box]
        return [tuple(self.review.prediction.grid.to_ras(index).tolist())]

    @invariant()
    def display_is_right(self):
        assert np.array_equal(self.shown, self.review.corrected())
        for mine, now in zip(self.maps, self.review.maps_in(whole_box(self.review)), strict=True):
            assert np.array_equal(mine, now)

    @invariant()
    def record_holds_all_of_it(self):
        stored = json.loads(json.dumps(self.review.to_dict()))
        again = Review.from_dict(stored, PREDICTION)
        assert seen(again)[1:] == seen(self.review)[1:]
        once_more = json.dumps(again.to_dict())
        assert json.dumps(Review.from_dict(json.loads(once_more), PREDICTION).to_dict()) == once_more

    @invariant()
    def regions_are_apart_and_ranked(self):
        total = sum(int(each.mask.sum()) for each in self.review.regions)
        assert total == np.count_nonzero(self.review.listed().whole_map())
        assert [each.region.rank for each in self.review.regions] == list(range(1, len(self.review.regions) + 1))
        ids = {each.region_id for each in self.review.regions}
        assert {click.region_id for click in self.review.clicks} <= {None, *ids}


TestClickHistoryOfAnySteps = ClickHistory.TestCase
TestClickHistoryOfAnySteps.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
