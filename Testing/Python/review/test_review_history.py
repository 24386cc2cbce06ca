"""Properties of a review: what differs from the prediction, and any steps in any order with their undo and redo."""

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from MoBUncertaintyLib.review.review import Review
from support.review_cases import LEFT, MIDDLE, RIGHT, SHAPE, found, label_map, predicted_as, state


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, n - 1) for n in SHAPE)), min_size=1, max_size=30), st.data())
def test_corrected_differs_from_predicted_exactly_inside_what_was_decided_otherwise(voxels, data):
    labels = np.zeros(SHAPE, np.uint16)
    for voxel in voxels:
        labels[voxel] = data.draw(st.integers(1, 4))
    predicted = np.random.default_rng(len(voxels)).integers(0, 2, SHAPE).astype(np.uint8)
    review = Review(predicted_as(predicted), found(labels))
    expected = np.zeros(SHAPE, bool)
    for each in review.regions:
        verdict = data.draw(st.sampled_from(["pending", "accept", "include", "exclude", "edit"]))
        mask = labels == each.number
        if verdict == "edit":
            review.edit(each.region_id, 1 - predicted)
            expected |= mask
        else:
            review.decide(each.region_id, verdict, label=1 if verdict == "include" else None)
            expected |= mask & {"include": predicted == 0, "exclude": predicted == 1}.get(verdict, False)
    assert np.array_equal(review.corrected() != predicted, expected)


class History(RuleBasedStateMachine):
    """Any steps in any order: undo is the inverse of the last one, redo of undo, and what is decided stays decided."""

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed):
        self.predicted = np.random.default_rng(seed).integers(0, 2, SHAPE).astype(np.uint8)
        self.review = Review(predicted_as(self.predicted), found(label_map(LEFT, MIDDLE, RIGHT)))
        self.shown = self.review.corrected()  # what a display shows that draws only the boxes it is told

    def step(self, act) -> None:
        before, could_undo = state(self.review), self.review.can_undo
        boxes = act()
        after = state(self.review)
        self.redraw(boxes)
        if after == before:
            return
        self.redraw(self.review.undo())
        assert state(self.review) == before
        assert self.review.can_undo == could_undo
        self.redraw(self.review.redo())
        assert state(self.review) == after

    def redraw(self, boxes) -> None:
        for box in boxes or ():
            self.shown[box] = self.review.labels_in(box)

    def some(self, number: int) -> str:
        return self.review.regions[number % len(self.review.regions)].region_id

    def open(self) -> bool:
        return hasattr(self, "review") and self.review.signature is None

    @precondition(lambda self: self.open() and self.review.regions)
    @rule(number=st.integers(0, 5), verdict=st.sampled_from(["pending", "accept", "include", "exclude"]))
    def decide(self, number, verdict):
        self.step(lambda: self.review.decide(self.some(number), verdict))

    @precondition(lambda self: self.open() and self.review.regions)
    @rule(number=st.integers(0, 5), seed=st.integers(0, 99))
    def edit(self, number, seed):
        drawn = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)
        self.step(lambda: self.review.edit(self.some(number), drawn))

    @precondition(lambda self: self.open() and self.review.regions)
    @rule(number=st.integers(0, 5), text=st.text(max_size=3))
    def comment(self, number, text):
        self.step(lambda: self.review.comment(self.some(number), text))

    @precondition(lambda self: self.open())
    @rule(seed=st.integers(0, 99))
    def threshold(self, seed):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 4, SHAPE) * (random.random(SHAPE) < 0.4)
        touched = {each.region_id: each for each in self.review.regions if each.touched}
        corrected = self.review.corrected()
        self.redraw(self.review.update_regions(found(labels)))
        assert np.array_equal(self.review.corrected(), corrected)
        for name, before in touched.items():
            after = self.review.region(name)
            assert (after.verdict, after.comment, after.box) == (before.verdict, before.comment, before.box)
            assert np.array_equal(after.mask, before.mask)
            assert (self.review.listed().whole_map() == after.number).sum() == before.mask.sum()

    @precondition(lambda self: self.open() and self.review.reviewed[0] == self.review.reviewed[1])
    @rule()
    def sign(self):
        self.step(lambda: self.review.sign("A. Reader", datetime(2026, 1, 1, tzinfo=UTC)))

    @rule(back=st.booleans())
    def walk(self, back):
        self.redraw(self.review.undo() if back else self.review.redo())

    @invariant()
    def display_is_right(self):
        if hasattr(self, "review"):
            assert np.array_equal(self.shown, self.review.corrected())

    @invariant()
    def regions_are_apart(self):
        if hasattr(self, "review"):
            total = sum(int(each.mask.sum()) for each in self.review.regions)
            assert total == np.count_nonzero(self.review.listed().whole_map())
            assert [each.region.rank for each in self.review.regions] == list(range(1, len(self.review.regions) + 1))


TestHistoryOfAnySteps = History.TestCase
TestHistoryOfAnySteps.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
