"""What is plainly wrong with a segmentation, by its label map and by where the model itself sees the organs.

No probability is needed for it. Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from math import dist
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, Grid, hull, nested, occupied, widened
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.regions.pieces import CONNECTIVITY

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction

ELSEWHERE = 0.2
"""Below this overlap with the model's own segmentation, a label does not lie where the model sees it."""
NOWHERE = 0.1
"""The same of one label alone."""
SAME = 0.4
"""Above this overlap, what was drawn is what the model sees, whatever it was called."""
CLEARER = 0.015
"""By so much must the expected overlap grow by a move of the whole, for this to be reported."""
EXPLAINED = 0.3
"""Of one label alone the move must also mend this fraction of what the overlap lacks to that of the model's own: an
outline that is out on one side would be better off elsewhere, too, but hardly moves several labels together. Both were
chosen on validation contours (Testing/Benchmarks/second_reader.py)."""
FARTHEST_MM = 12.0
"""Moves of the whole are tried up to this distance."""
SMALLEST_MM3 = 20.0
"""Smaller parts and holes are not reported."""
COARSE = 0.97
"""This fraction of a label map's steps lies on every second, third or fourth voxel if it was drawn on coarser ones."""
_COARSEST, _FEWEST_PLACES = 4, 5
CUT = 0.1
"""Of the largest section: with more than this at the edge of the image a label is cut there, and a slice is missed."""
_AT_ONCE = 2**16  # voxels that moves are tried on; of more, some are left out

_ENDS = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Finding:
    """Something that is plainly wrong, or that a reader should know.

    Attributes:
        label: Name of the label; empty if it is about all of the segmentation.
        sentence: What it is.
        centroid_ras: Where, mm.
        volume_mm3: How much of the segmentation, or of what it lacks, it is about.
    """

    label: str
    sentence: str
    centroid_ras: tuple[float, float, float]
    volume_mm3: float


@dataclass(frozen=True)
class Second:
    """Another segmentation of the image that is compared with the one that is checked.

    Attributes:
        name: Of its file or folder.
        sha256: Of what was read there.
        overlap: Dice of both, of each label that both have, by name.
    """

    name: str
    sha256: str
    overlap: Mapping[str, float]


@dataclass(frozen=True)
class Checked:
    """A segmentation that was not predicted but drawn by others, and is held against a model.

    Attributes:
        name: Of its file or folder.
        sha256: Of what was read there.
        labels: What its structures are called there, by the names of the model's labels.
        unmatched: Its structures for which the model has no label; they are left out.
        overlap: Dice of each label with the model's own segmentation, by name.
        findings: What is plainly wrong.
        mapped: The model's labels by the names of structures, as far as the user has said so.
        second: Another segmentation with which it is compared. Default: with none.
    """

    name: str
    sha256: str
    labels: Mapping[str, str]
    unmatched: tuple[str, ...] = ()
    overlap: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    mapped: Mapping[str, str] = field(default_factory=dict)
    second: Second | None = None


def plain_findings(drawn: np.ndarray, prediction: Prediction, labels: Sequence[Label]) -> tuple[Finding, ...]:
    """Look for what is plainly wrong with a label map of the image that a model has predicted.

    Args:
        drawn: The segmentation, with the model's values of `labels`.
        prediction: The model's own, of all its labels.
        labels: Those that are checked.

    Returns:
        First what is about all of it, then about each label in turn.
    """
    whole = _Whole(drawn, prediction, labels)
    boxes = ndimage.find_objects(drawn, max_label=255)
    organs = [
        _Organ(label, drawn[box] == label.value, prediction.segmentation[box] == label.value, drawn[box], box, whole)
        for label in labels
        if (box := boxes[label.value - 1])
    ]
    return (
        *whole.findings(),
        *whole.misplaced(),
        *(each for organ in organs for check in _CHECKS for each in check(organ)),
    )


@dataclass(frozen=True, eq=False)
class _Placed:
    """Voxels that a label was drawn on, one in `every`: their flat indices in a map of its probability."""

    probability: np.ndarray
    index: np.ndarray
    every: int

    def expected(self, move: tuple[int, ...]) -> float:
        """Count how many of all the voxels would be right if they moved."""
        (_, height, width), (z, y, x) = self.probability.shape, move
        moved = self.index + (z * height + y) * width + x
        return self.every * float(self.probability.take(moved).sum(dtype=float))


class _Whole:
    """A segmentation and the model's own."""

    def __init__(self, drawn: np.ndarray, prediction: Prediction, labels: Sequence[Label]) -> None:
        self._labels, self._all_labels, self.grid = labels, prediction.labels, prediction.grid
        values = (label.value for label in prediction.labels)
        self._probability = dict(zip(values, prediction.probability, strict=True))
        self.shape = drawn.shape
        self._box = hull([occupied(drawn), prediction.segmented_box])
        self._drawn, self._predicted = drawn[self._box], prediction.segmentation[self._box]

    @cached_property
    def _counts(self) -> np.ndarray:
        """Voxels by their value as drawn and as predicted, (256, 256)."""
        counts = np.zeros(2**16, np.int64)
        for drawn, predicted in zip(self._drawn, self._predicted, strict=True):
            counts += np.bincount((drawn.astype(np.uint16) * 256 + predicted).ravel(), minlength=2**16)
        return counts.reshape(256, 256)

    def _size(self, drawn: Sequence[Label], predicted: Sequence[Label]) -> int:
        """Count the voxels of labels as drawn, and those of others as predicted."""
        mine, own = ([label.value for label in labels] for labels in (drawn, predicted))
        return int(self._counts[mine].sum() + self._counts[:, own].sum())

    def _overlap(self, drawn: Sequence[Label], predicted: Sequence[Label]) -> float:
        """Compute the Dice overlap of labels as drawn, and others in their order as predicted; 0 if all are empty."""
        mine, own = ([label.value for label in labels] for labels in (drawn, predicted))
        return 2 * float(self._counts[mine, own].sum()) / max(self._size(drawn, predicted), 1)

    @cached_property
    def _agreement(self) -> float:
        return self._overlap(self._labels, self._labels)

    @cached_property
    def _seen_as(self) -> dict[str, Label]:
        """What the model sees where a label was drawn that does not lie where the model sees that one itself."""
        return {
            label.name: other
            for label in self._labels
            if self._overlap([label], [label]) < NOWHERE
            for other in self._all_labels
            if self._overlap([label], [other]) > SAME
        }

    @cached_property
    def _swapped(self) -> list[tuple[Label, Label]]:
        return [
            (one, other)
            for one, other in combinations(self._labels, 2)
            if self._seen_as.get(one.name) == other and self._seen_as.get(other.name) == one
        ]

    def _moved(self) -> tuple[float, float, str]:
        """Find the overlap that the model expects of the whole as it is, and of its best move, and say which that is.

        The best move is looked for along one axis after another.
        """
        farthest = np.maximum(1, FARTHEST_MM // self.grid.spacing).astype(int) + 1  # a best move is not at the end
        placed, size = self._placed(farthest), self._size(self._labels, self._labels)

        def overlap(move: tuple[int, ...]) -> float:
            return 2 * sum(each.expected(move) for each in placed) / size

        best: tuple[int, ...] = (0, 0, 0)
        before: tuple[int, ...] | None = None
        overlaps = {best: overlap(best)}
        while best != before:
            before = best
            for axis, most in enumerate(farthest.tolist()):
                for by in range(-most, most + 1):
                    move = (*before[:axis], by, *before[axis + 1 :])
                    if move not in overlaps:
                        overlaps[move] = overlap(move)
            best = max(overlaps, key=overlaps.__getitem__)
        way = "" if np.any(np.abs(best) == farthest) else self._way(best)
        return overlaps[0, 0, 0], overlaps[best], way

    def _own_overlap(self) -> float:
        """Find the overlap that the model expects of its own segmentation."""
        masks = ((self._predicted == label.value, self._probability[label.value]) for label in self._labels)
        right = sum(float(p[self._box][mask].sum(dtype=float)) for mask, p in masks)
        return right / self._size([], self._labels)

    def _placed(self, margin: np.ndarray) -> list[_Placed]:
        """Place the drawn voxels of each label, or some of many, in its probability and a margin around them."""
        boxes, counts = ndimage.find_objects(self._drawn, max_label=255), self._counts.sum(axis=1)
        every = int(counts[1:].sum()) // _AT_ONCE + 1
        placed = []
        for label in self._labels:
            if box := boxes[label.value - 1]:
                own = nested(self._box, box)
                near = widened(own, margin.tolist(), self.shape)
                beyond = [
                    (int(more) - (o.start - n.start), int(more) - (n.stop - o.stop))
                    for more, o, n in zip(margin, own, near, strict=True)
                ]
                p = np.pad(self._probability[label.value][near], beyond)
                voxels = np.argwhere(self._drawn[box] == label.value)[::every] + margin
                placed.append(_Placed(p, np.ravel_multi_index(tuple(voxels.T), p.shape), every))
        return placed

    def _way(self, move: Sequence[int]) -> str:
        """Say where a move leads."""
        steps = [
            f"{abs(by)} voxel{'s' if abs(by) > 1 else ''} ({abs(by) * spacing:.3g} mm) further "
            + _directions(self.grid, axis)[by < 0]
            for axis, (by, spacing) in enumerate(zip(move, self.grid.spacing, strict=True))
            if by
        ]
        return f"The whole fits better {' and '.join(steps)}: it may be shifted." if steps else ""

    def _mirrored(self) -> tuple[float, str]:
        """Find the overlap of the whole if it is mirrored in the middle of the image, and say how."""
        best, text, total = 0.0, "", self._size(self._labels, self._labels)
        for axis, (size, side) in enumerate(zip(self.shape, self._box, strict=True)):
            mine, own = (np.moveaxis(each, axis, 0) for each in (self._drawn, self._predicted))
            if (overlap := 2 * _same(mine[::-1], own, size - side.start - side.stop) / total) > best:
                one, other = sorted(_directions(self.grid, axis), reverse=True)
                best, text = overlap, f"The whole is mirrored: {one} and {other} are exchanged."
        return best, text

    def findings(self) -> Iterator[Finding]:
        """Find what is wrong with all of it at once."""
        if not (self._size(self._labels, []) and self._size([], self._labels)):
            return
        for one, other in self._swapped:
            sentence = f"{_title(one)} and {_text(other)} are swapped: each lies where the model sees the other."
            yield self.finding(np.isin(self._drawn, (one.value, other.value)), sentence, self._box)
        if self._seen_as:
            return
        strange, (still, moved, where) = self._agreement < ELSEWHERE, self._moved()
        several = not strange and sum(self._size([label], []) > 0 for label in self._labels) > 1
        enough = 0.0 if several else EXPLAINED * (self._own_overlap() - still)
        mirrored, how = self._mirrored() if strange else (0.0, "")
        if mirrored > max(SAME, moved):
            sentence = how
        elif where and moved - still > max(CLEARER, enough):
            sentence = where
        elif strange:
            sentence = "Almost nothing lies where the model sees it: it may be of another patient or another image."
        else:
            return
        yield self.finding(self._drawn > 0, sentence, self._box)

    def misplaced(self) -> Iterator[Finding]:
        """Find labels that are empty, or lie elsewhere than the model sees them."""
        swapped = [label for pair in self._swapped for label in pair]
        for label in self._labels:
            is_seen = self._size([], [label]) > 0
            if not self._size([label], []):
                if is_seen:
                    own = self._predicted == label.value
                    seen = _volume(own, self.grid)
                    yield self.finding(own, f"{_title(label)} is empty; the model sees {seen} of it.", self._box, label)
            elif label not in swapped and self._overlap([label], [label]) < NOWHERE:
                mine, own = (each == label.value for each in (self._drawn, self._predicted))
                if label.name in self._seen_as:
                    where = f"lies where the model sees {_text(self._seen_as[label.name])}"
                elif self._agreement < ELSEWHERE:
                    continue  # as all of it
                elif is_seen:
                    one, other = (self.finding(each, "", self._box).centroid_ras for each in (mine, own))
                    where = f"lies {dist(one, other):.0f} mm from where the model sees it"
                else:
                    where = "is not seen by the model"
                yield self.finding(mine, f"{_title(label)} {where}.", self._box, label)

    def finding(self, mask: np.ndarray, sentence: str, box: Box, label: Label | None = None) -> Finding:
        """Make a finding about a mask, True somewhere, that fills a box of the image."""
        counts = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        middle = [
            count @ np.arange(len(count)) / count.sum() + side.start for count, side in zip(counts, box, strict=True)
        ]
        r, a, s = (float(mm) for mm in self.grid.to_ras(np.array(middle)))
        return Finding(label.name if label else "", sentence, (r, a, s), int(mask.sum()) * self.grid.voxel_mm3)


@dataclass(frozen=True, eq=False)
class _Organ:
    """One label in its box: the masks as drawn and as predicted, and what else was drawn there."""

    label: Label
    mask: np.ndarray
    predicted: np.ndarray
    drawn: np.ndarray
    box: Box
    whole: _Whole

    def finding(self, mask: np.ndarray, sentence: str) -> Finding:
        """Make a finding about a mask that fills the box."""
        return self.whole.finding(mask, f"{_title(self.label)} {sentence}.", self.box, self.label)

    def volume(self, mask: np.ndarray) -> str:
        return _volume(mask, self.whole.grid)


def _missing_slices(organ: _Organ) -> Iterator[Finding]:
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        areas = organ.predicted.sum(axis=others, keepdims=True)
        missing = ~organ.mask.any(axis=others, keepdims=True) & (areas > CUT * areas.max())
        count = int(missing.sum())
        if count:
            plane = _PLANES[_patient_axis(organ.whole.grid, axis)]
            slices = f"{count} {plane} slice{'s' if count > 1 else ''}"
            yield organ.finding(missing & organ.predicted, f"is missing in {slices} between others")


def _coarse(organ: _Organ) -> Iterator[Finding]:
    steps = [_coarseness(organ.mask, axis) for axis in range(3)]
    if any(step > 1 and step != _coarseness(organ.predicted, axis) for axis, step in enumerate(steps)):
        every = " x ".join(map(str, reversed(steps)))
        yield organ.finding(organ.mask, f"was drawn on coarser voxels: its outline changes only every {every} voxels")


def _coarseness(mask: np.ndarray, axis: int) -> int:
    """Find the largest step, in voxels, in which alone a mask changes along an axis; 1 if there is none."""
    changes = np.array([np.count_nonzero(one != other) for one, other in pairwise(np.moveaxis(mask, axis, 0))])
    if np.count_nonzero(changes) < _FEWEST_PLACES:
        return 1
    for step in range(_COARSEST, 1, -1):
        if max(changes[phase::step].sum() for phase in range(step)) >= COARSE * changes.sum():
            return step
    return 1


def _stray_parts(organ: _Organ) -> Iterator[Finding]:
    """Find parts beside the largest one in which the model does not see the organ."""
    parts, count = ndimage.label(organ.mask, CONNECTIVITY)
    size, agreed = (np.bincount(each, minlength=count + 1) for each in (parts.ravel(), parts[organ.predicted]))
    stray = (size * organ.whole.grid.voxel_mm3 >= SMALLEST_MM3) & (2 * agreed < size)
    stray[[0, int(size[1:].argmax()) + 1]] = False
    if stray.any():
        largest, number = parts == np.where(stray, size, 0).argmax(), int(stray.sum())
        what = "a stray part" if number == 1 else f"{number} stray parts, the largest"
        yield organ.finding(largest, f"has {what} of {organ.volume(largest)} apart from it")


def _holes(organ: _Organ) -> Iterator[Finding]:
    """Find what is enclosed in a slice, was left out, and is the organ for the model."""
    outside = np.pad(~organ.mask, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[[0, 2]] = False  # a hole may be open to the next slice
    parts, count = ndimage.label(outside, in_plane)
    is_around = np.zeros(count + 1, bool)
    is_around[parts[:, 0, 0]] = True
    around = is_around[parts[:, 1:-1, 1:-1]]
    parts, count = ndimage.label(~organ.mask & ~around & organ.predicted & (organ.drawn == 0), CONNECTIVITY)
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else parts > 0
    if largest.sum() * organ.whole.grid.voxel_mm3 >= SMALLEST_MM3:
        yield organ.finding(largest, f"has a hole of {organ.volume(largest)}")


def _cut(organ: _Organ) -> Iterator[Finding]:
    for axis, (side, size) in enumerate(zip(organ.box, organ.whole.shape, strict=True)):
        areas = organ.mask.sum(axis=tuple({0, 1, 2} - {axis}))
        for end, at_edge in ((0, side.start == 0), (-1, side.stop == size)):
            if at_edge and areas[end] > CUT * areas.max():
                section = np.zeros_like(organ.mask)
                np.moveaxis(section, axis, 0)[end] = np.moveaxis(organ.mask, axis, 0)[end]
                edge = _directions(organ.whole.grid, axis)[end == 0]
                yield organ.finding(section, f"is cut at the {edge} edge of the image: the rest is not in it")


_CHECKS = (_missing_slices, _coarse, _stray_parts, _holes, _cut)


def _same(mine: np.ndarray, own: np.ndarray, by: int) -> int:
    """Count the labelled voxels that are the same if the first of two label maps moves along its first axis."""
    size = len(mine) - abs(by)
    if size <= 0:
        return 0
    one, other = mine[max(-by, 0) :][:size], own[max(by, 0) :][:size]
    return int(np.count_nonzero((one == other) & (one > 0)))


def _patient_axis(grid: Grid, axis: int) -> int:
    """Return which of R, A and S an array's axis runs along most."""
    return int(np.abs(grid.rotation[:, axis]).argmax())


def _directions(grid: Grid, axis: int) -> tuple[str, str]:
    """Name where an array's axis leads, and where it comes from."""
    along = _patient_axis(grid, axis)
    one, other = _ENDS[along]
    return (one, other) if grid.rotation[along, axis] > 0 else (other, one)


def _text(label: Label) -> str:
    return readable(label.name)


def _title(label: Label) -> str:
    text = _text(label)
    return text[:1].upper() + text[1:]


def _volume(mask: np.ndarray, grid: Grid) -> str:
    return volume_text(int(mask.sum()) * grid.voxel_mm3 / 1000)
