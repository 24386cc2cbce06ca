"""Simulated readers: where each acts next, and what the prediction is after each action.

All know the truth; they differ in what they may do, and one makes mistakes. A reader is an iterator over what is left
after 1, 2, ... actions, and ends when nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, repeat

import numpy as np
from scipy import ndimage

from mob_training.evaluation.case_scores import only
from mob_training.evaluation.readers.cases import ReadCase
from MoBUncertaintyLib.base.geometry import bounding_box, shadows, whole
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.regions.measure import with_maps
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.refinement.extent import Described, most_probable
from MoBUncertaintyLib.review.refinement.refiner import Refiner
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review, preview
from MoBUncertaintyLib.review.suggestion import suggest

Voxel = tuple[int, int, int]
VoxelClick = tuple[Voxel, int]
"""A voxel (z, y, x) and the label that a reader gives to it."""
Correct = Callable[[Sequence[VoxelClick]], Prediction]
"""What makes of all clicks of a reader the prediction after them."""

BESIDE, WRONG = 2.0, 0.1
"""A reader who errs clicks so many voxels beside the place, and so often with another label."""
TOUCHING = np.ones((3, 3, 3), bool)
_START = datetime(2000, 1, 1, tzinfo=UTC)


class Refined:
    """A prediction, never changed, that a reader's clicks correct: conditioned on them, as the product does it."""

    def __init__(self, prediction: Prediction, settings: ClickSettings) -> None:
        self._refiner = Refiner(prediction, settings)

    def __call__(self, clicks: Sequence[VoxelClick]) -> Prediction:
        """Return the prediction after a reader's clicks."""
        prediction, labelled = self._refiner.prediction, self._labelled(clicks)
        if not clicks:
            return prediction
        return with_maps(prediction, self._refiner.reach(labelled), self._refiner.refine(labelled))

    def describe(self, clicks: Sequence[VoxelClick]) -> tuple[np.ndarray, Described]:
        """Return what trees can learn of clicks, as `Refiner.describe`."""
        return self._refiner.describe(self._labelled(clicks))

    def _labelled(self, clicks: Sequence[VoxelClick]) -> list[Click]:
        return [
            Click(f"c{n}", (point_of(self._refiner.prediction, voxel),), label, _START + timedelta(seconds=n))
            for n, (voxel, label) in enumerate(clicks, start=1)
        ]


@dataclass(frozen=True, eq=False)
class Step:
    """What is left after an action, and the clicks so far."""

    prediction: Prediction
    clicks: tuple[VoxelClick, ...] = ()

    @property
    def clicked(self) -> np.ndarray:
        """Mark the voxels that were clicked."""
        mask = np.zeros(self.prediction.shape, bool)
        for voxel, _ in self.clicks:
            mask[voxel] = True
        return mask


def click_at_errors(case: ReadCase, correct: Correct) -> Iterator[Step]:
    """Click in the middle of the largest error, again and again."""
    yield from _click(case, correct, repeat(None))


def click_with_mistakes(case: ReadCase, correct: Correct, random: np.random.Generator) -> Iterator[Step]:
    """Click at the largest error, but beside its middle, in any direction, and at times with another label."""
    values, shape = [0, *(label.value for label in case.prediction.labels)], np.array(case.truth.shape)

    def err(voxel: Voxel, label: int) -> VoxelClick:
        shift = random.normal(size=3)
        beside = np.rint(np.array(voxel) + BESIDE * shift / np.linalg.norm(shift))
        others = [value for value in values if value != label]
        wrong = random.random() < WRONG
        return _voxel(np.clip(beside, 0, shape - 1)), int(random.choice(others)) if wrong else label

    yield from _click(case, correct, repeat(None), err)


def click_in_regions(case: ReadCase, correct: Correct, each: int = 2) -> Iterator[Step]:
    """Go through the list of regions and click, at most so many times in each, in the middle of its largest error."""
    region_map = case.regions.whole_map()
    places = [region_map == region.number for region in case.regions.ranked]
    yield from _click(case, correct, [place for place in places for _ in range(each)])


def click_each_label(case: ReadCase, correct: Correct) -> Iterator[Step]:
    """Click in the middle of the largest error of each label, all labels at a time, as in `simulation.CHALLENGE`.

    There an error is a group of voxels that have the label and should not, or should and have not, and its middle the
    voxel that is most voxels deep, one of several at random; here it is the one nearest to the centroid. A click says
    the true label of its voxel; there it says only whether it is this one.
    """
    now, clicks = case.prediction, tuple[VoxelClick, ...]()
    while True:
        before = len(clicks)
        for label in case.prediction.labels:
            wrong = (now.segmentation == label.value) != (case.truth == label.value)
            if wrong.any():
                voxel = _middle(_largest_group(wrong)[0], np.zeros(3, int), np.ones(3))
                clicks = tuple(dict.fromkeys((*clicks, (voxel, int(case.truth[voxel])))))
        if len(clicks) == before:
            return
        now = correct(clicks)
        yield Step(now, clicks)


def correct_in_turn(case: ReadCase, lock: bool, each: int) -> Iterator[Step]:
    """Correct one label after another by clicks at its largest errors, at most so many, and lock it, or do not.

    What would change a locked label is not clicked.
    """
    review, everywhere = Review(case.prediction, case.regions), whole(case.truth.shape)
    clicks, locked = tuple[VoxelClick, ...](), list[int]()
    for label in case.prediction.labels:
        for _ in range(each):
            labels = review.labels_in(everywhere)
            own = (labels == label.value) | (case.truth == label.value)
            voxel = largest_error(case, labels, own & ~np.isin(labels, locked) & ~np.isin(case.truth, locked))
            if voxel is None:
                break
            clicks = (*clicks, (voxel, int(case.truth[voxel])))
            review.click([point_of(case.prediction, voxel)], clicks[-1][1])
        if lock:
            review.lock(label.value)
            locked.append(label.value)
        yield Step(_refined(case, review), clicks)


def correct_apart(case: ReadCase, each: int) -> Iterator[Step]:
    """Correct each label as if there were no others, by at most so many clicks; at last the most probable one counts.

    Until then the segmentation is what is made of the labels so far.
    """
    maps, clicks = np.array(case.prediction.probability), tuple[VoxelClick, ...]()
    values = [label.value for label in case.prediction.labels]
    for channel, value in enumerate(values):
        single = only(case.prediction, frozenset(values) - {value})
        own = replace(case, prediction=single, truth=np.where(case.truth == value, case.truth, 0))
        step = Step(single)
        for step in islice(click_at_errors(own, Refined(single, single.click_settings)), each):
            maps[channel] = step.prediction.probability[0]
        clicks = (*clicks, *step.clicks)
        together = maps / np.maximum(maps.sum(0), 1)
        labels = most_probable(together, values)
        yield Step(replace(case.prediction, segmentation=labels, probability=together), clicks)


def click_as_suggested(case: ReadCase) -> Iterator[Step]:
    """Click where the review suggests it, whether anything is wrong there or not."""
    review = Review(case.prediction, case.regions)
    labels: dict[Voxel, int] = {}
    while (suggestion := suggest(review)) is not None:
        voxel = _voxel(np.rint(case.prediction.grid.to_index(np.array(suggestion.point_ras))))
        if voxel in labels:
            return
        labels[voxel] = int(case.truth[voxel])
        review.click((suggestion.point_ras,), labels[voxel], suggestion.region_id)
        yield Step(_refined(case, review), tuple(labels.items()))


def decide_regions(case: ReadCase, each: int = 2) -> Iterator[Review]:
    """Go through the list of regions, click at most so many times in each, and accept what the clicks make of it.

    Yield the review, which goes on, after each region.
    """
    review, everywhere = Review(case.prediction, case.regions), whole(case.truth.shape)
    for region_id in [region.region_id for region in review.regions]:
        place = np.zeros(case.truth.shape, bool)
        place[review.region(region_id).box] = review.region(region_id).found.mask
        for _ in range(each):
            voxel = largest_error(case, review.labels_in(everywhere), place)
            if voxel is None:
                break
            review.click([point_of(case.prediction, voxel)], int(case.truth[voxel]), region_id)
        review.decide(region_id, Verdict.ACCEPT)
        yield review


def press_buttons(case: ReadCase) -> Iterator[Step]:
    """Go through the list of regions and give each the verdict that leaves the highest Dice."""
    review = Review(case.prediction, case.regions)
    everywhere = whole(case.truth.shape)
    choices = [(Verdict.ACCEPT, None), (Verdict.EXCLUDE, None)]
    choices += [(Verdict.INCLUDE, label.value) for label in case.prediction.labels]
    for region in review.regions:
        left = []
        for choice in choices:
            box, labels = preview(review, region.region_id, *choice)
            segmentation = review.labels_in(everywhere)
            segmentation[box] = labels
            left.append(case.dice(segmentation))
        review.decide(region.region_id, *choices[int(np.argmax(left))])
        segmentation = review.corrected()
        yield _drawn(case, segmentation, segmentation != case.prediction.segmentation)


def paint(case: ReadCase) -> Iterator[Step]:
    """Go through the list of regions and give every voxel its true label."""
    region_map = case.regions.whole_map()
    painted = np.zeros(region_map.shape, bool)
    for region in case.regions.ranked:
        painted |= region_map == region.number
        yield _drawn(case, np.where(painted, case.truth, case.prediction.segmentation), painted)


def largest_error(case: ReadCase, segmentation: np.ndarray, place: np.ndarray | None = None) -> Voxel | None:
    """Find the middle of the largest error, everywhere or in the mask of a place; None if nothing is wrong.

    It is the voxel deepest in the largest connected group of voxels that all have one wrong label and one true label;
    of several, the one nearest to the group's centroid.
    """
    box = whole(case.truth.shape) if place is None else bounding_box(shadows(place))
    segmentation, truth = segmentation[box], case.truth[box]
    wrong = segmentation != truth
    if place is not None:
        wrong &= place[box]
    start = np.array([part.start for part in box])
    voxels = np.argwhere(wrong) + start
    kinds = segmentation[wrong].astype(int) * 256 + truth[wrong]
    most, largest = 0, None  # voxels, middle
    for kind in np.unique(kinds):
        own = voxels[kinds == kind]
        if len(own) <= most:
            continue
        low = own.min(0)
        mask = np.zeros(own.max(0) - low + 1, bool)
        mask[tuple((own - low).T)] = True
        group, size = _largest_group(mask)
        if size > most:
            most, largest = size, _middle(group, low, case.prediction.grid.spacing)
    return largest


def _click(
    case: ReadCase,
    correct: Correct,
    places: Iterable[np.ndarray | None],
    err: Callable[[Voxel, int], VoxelClick] = lambda voxel, label: (voxel, label),
) -> Iterator[Step]:
    """Click the largest error in each place in turn, or what `err` makes of it; a place without error has no click."""
    now = case.prediction
    clicks: tuple[VoxelClick, ...] = ()
    for place in places:
        voxel = largest_error(case, now.segmentation, place)
        if voxel is None and place is None:
            return
        if voxel is not None:
            clicks = (*clicks, err(voxel, int(case.truth[voxel])))
            now = correct(clicks)
            yield Step(now, clicks)


def _refined(case: ReadCase, review: Review) -> Prediction:
    """Return the prediction as the clicks of a review leave it."""
    everywhere = whole(case.truth.shape)
    probability, variance = review.maps_in(everywhere)
    labels = review.labels_in(everywhere)
    return replace(case.prediction, segmentation=labels, probability=probability, variance=variance)


def _drawn(case: ReadCase, segmentation: np.ndarray, said: np.ndarray) -> Step:
    """Make the step of a reader who vouches for the labels of some voxels."""
    probability = np.array(case.prediction.probability)
    for channel, label in zip(probability, case.prediction.labels, strict=True):
        channel[said] = segmentation[said] == label.value
    return Step(replace(case.prediction, segmentation=segmentation, probability=probability))


def point_of(prediction: Prediction, voxel: Voxel) -> tuple[float, float, float]:
    """Return the RAS mm of a voxel's centre."""
    r, a, s = prediction.grid.to_ras(np.array(voxel)).tolist()
    return r, a, s


def _largest_group(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Find the largest group of voxels that touch each other, at corners too, and how many they are."""
    labelled, count = ndimage.label(mask, TOUCHING)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    return labelled == sizes.argmax() + 1, int(sizes.max())


def _middle(mask: np.ndarray, low: np.ndarray, spacing: np.ndarray) -> Voxel:
    """Find the voxel deepest in a mask, whose first voxel is `low`."""
    inner = bounding_box(shadows(mask))
    depth = ndimage.distance_transform_edt(np.pad(mask[inner], 1), spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth > depth.max() - 1e-6)
    offset = (deepest - np.argwhere(mask[inner]).mean(axis=0)) * spacing
    at = deepest[(offset**2).sum(axis=1).argmin()]
    return _voxel(at + low + [part.start for part in inner])


def _voxel(index: np.ndarray) -> Voxel:
    z, y, x = (int(coordinate) for coordinate in index)
    return z, y, x
