"""Where a drawn segmentation, by whatever tool or hand, is improbable under a model: a ranked list of regions.

For each label against the rest, `gaussian.explanation` first finds the smooth noise that explains the drawn labels
best: a reader's habit, such as a margin, and deviations over millimetres. Under that noise a voxel whose drawn label is
on the wrong side of its logit t gains |t| of log likelihood if it takes the model's label. Regions are where the mean
logit clearly contradicts the drawn label and noise does not explain it. The *discrepancy* of a region is that gain, in
nats: at least so much does the joint likelihood of the drawn labels gain if those of the region are the model's own and
the rest stays, since the noise may then fit better still. A voxel counts by its volume, in the network's voxels: that
of a finer image says no more of an organ.

A discrepancy is compared with those on clinicians' own contours (`measurements.drawn`), so that numbers of different
labels and cases compare, and regions such as an ordinary contour has are not listed.

Two drawn segmentations of an image are compared in the same way (`find_differences`): regions are where they differ,
under the noise that explains best what both agree on, so that neither is preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import (
    Box,
    hull,
    intersection,
    nested,
    occupied,
    shape_of,
    widened,
    within,
)
from MoBUncertaintyLib.gaussian.explanation import explain
from MoBUncertaintyLib.gaussian.logits import logits_of, movable
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.agreement import check_shapes
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.measure import error_of_any, views_in
from MoBUncertaintyLib.regions.pieces import compact_pieces
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of, drawn_bounds
from MoBUncertaintyLib.regions.region import Discrepancy, Region, Regions

FALSE_ALARMS = 1.0
"""Regions of an ordinary contour, a case on average, that a list may hold."""
MOST = 10
"""Regions of a label, and of all labels together where the model has no calibration cases."""
POSSIBLE = 1e-3
"""A voxel of less probability counts only where the drawn segmentation has the label."""
MARGIN = 2
"""Voxels around those."""
LEAST = 1e-3
"""Nats that a voxel counts at least in the middle of a difference."""
CLEAR = 2.0
"""Where the mean logit contradicts the drawn label by less, nothing is part of a region."""
SLACK = 0.25
"""Of a voxel: of four that are 4 % larger than a quarter of the network's, one is taken all the same."""
NOISE = 2.0
"""Clinicians' contours deviate by so many of the network's deviations,"""
REACH = 3.0
"""and over so many of its correlation lengths: chosen on validation cases (Testing/Benchmarks/second_reader.py)."""


def settings_of(settings: RegionSettings) -> RegionSettings:
    """Return settings of doubtful regions as those of improbable ones."""
    return replace(settings, measure=Measure.ERROR, threshold=None)


@dataclass(frozen=True, eq=False)
class Piece:
    """Connected voxels of one label: `mask` fills `box`, a box of the image."""

    label: Label
    box: Box
    mask: np.ndarray
    missing: bool
    discrepancy: float


def find_discrepancies(
    prediction: Prediction, drawn: np.ndarray, labels: Sequence[Label] | None = None, most: float = FALSE_ALARMS
) -> Regions:
    """Find the places where a drawn segmentation is improbable, ranked; all are `Discrepancy`.

    Args:
        prediction: Of the image, by the model that checks.
        drawn: Label map (z, y, x) on the prediction's grid, with the values of its labels.
        labels: Those that are checked. Default: those that the segmentation has.
        most: How many regions an ordinary contour may have on the list, on average (`FALSE_ALARMS`); without
            calibration cases the `MOST` discrepant ones are listed.

    Raises:
        ImageError: The shapes differ.
    """
    check_shapes(prediction.segmentation, drawn)
    chosen = [label for label in prediction.labels if label.mask(drawn).any()] if labels is None else labels
    settings = prediction.region_settings
    listed: list[tuple[float | None, Piece]] = []
    for label in chosen:
        calibration = drawn_bounds(prediction, label)
        for rank, piece in enumerate(improbable_pieces(prediction, drawn, label), start=1):
            alarms = len(chosen) * calibration.false_alarms(piece.discrepancy, rank) if calibration else None
            large = piece.mask.sum() * prediction.grid.voxel_mm3 >= settings.minimum_mm3
            if large and (alarms is None or alarms <= most):
                listed.append((alarms, piece))
    listed.sort(key=lambda each: (most if each[0] is None else each[0], -each[1].discrepancy))
    calibrated = all(alarms is not None for alarms, _ in listed)
    return _regions(prediction, drawn, listed[: settings.max_regions if calibrated else MOST])


def find_differences(prediction: Prediction) -> Regions:
    """Find where the second segmentation of a prediction differs from the first, in the labels that it has.

    Those that most speak for the second come first, those that most speak for the first last. Of too many, the ones in
    which the model sees the least difference are left out. All are `Discrepancy`, and compared.
    """
    first, second, settings = prediction.segmentation, prediction.second, prediction.region_settings
    if second is None:
        raise ValueError("the prediction has no second segmentation to compare with")
    check_shapes(first, second)
    pieces = []
    for label in prediction.labels:
        mine, other = label.mask(first), label.mask(second)
        if not other.any():
            continue
        maps = _LabelMaps.of(prediction, label, mine | other)
        box, mine, other = maps.box, mine[maps.box], other[maps.box]
        moved = maps.weight * maps.logits(mine, REACH, counted=mine == other)[1]
        # A region has one label in the second: where that is another one, it is that label's.
        for where, gain in ((other & ~mine, moved), (mine & (second[box] == 0), -moved)):
            weight = np.where(where, np.maximum(np.abs(gain), LEAST), 0)
            of_label = pieces_of(prediction, label, box, mine, weight)
            pieces += [replace(piece, discrepancy=_sum(gain, box, piece)) for piece in of_label]
    large = [piece for piece in pieces if piece.mask.sum() * prediction.grid.voxel_mm3 >= settings.minimum_mm3]
    large.sort(key=lambda piece: -abs(piece.discrepancy))
    listed = sorted(large[: settings.max_regions], key=lambda piece: -piece.discrepancy)
    regions = _regions(prediction, first, [(None, piece) for piece in listed])
    ranked = (replace(region, compared=True) for region in regions.ranked if isinstance(region, Discrepancy))
    return replace(regions, ranked=tuple(ranked))


def _sum(values: np.ndarray, box: Box, piece: Piece) -> float:
    return float(values[within(piece.box, box)][piece.mask].sum(dtype=float))


def improbable_pieces(prediction: Prediction, drawn: np.ndarray, label: Label, reach: float = REACH) -> list[Piece]:
    """Find the regions of one label, most discrepant first, `MOST` at most.

    `reach` is that of the noise, in correlation lengths of the model; 0 for voxels that deviate each for itself.
    """
    labelled = label.mask(drawn)
    maps = _LabelMaps.of(prediction, label, labelled)
    labelled = labelled[maps.box]
    sign = np.where(labelled, -1, 1)
    if not (sign * (maps.probability - 0.5) > 0).any():
        return []
    mean, moved = maps.logits(labelled, reach)
    gain = maps.weight * np.where(sign * mean > CLEAR, np.maximum(sign * moved, 0), 0)
    return pieces_of(prediction, label, maps.box, labelled, gain)


@dataclass(frozen=True, eq=False)
class _LabelMaps:
    """Mean and variance of a label's probability, in the box where it is `possible` near what is probable or drawn."""

    prediction: Prediction
    box: Box
    possible: np.ndarray
    probability: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction, label: Label, drawn: np.ndarray) -> Self:
        maps = channels_of(prediction, label)
        own = occupied(drawn)
        probable, possible = (
            hull([own, *(occupied(prediction.probability[n], above) for n in maps)])
            for above in (0.5 / len(maps), POSSIBLE)
        )
        # What is possible may be anywhere in the image; noise does not reach from there.
        near = widened(probable, REACH * np.array(_lengths_mm(prediction)) / prediction.grid.spacing, drawn.shape)
        box = intersection(near, widened(possible, [MARGIN] * 3, drawn.shape)) or own
        probability, variance = (
            np.asarray(sum(np.asarray(values[n][box], np.float32) for n in maps))
            for values in (prediction.probability, prediction.variance)
        )
        return cls(prediction, box, drawn[box] | (probability > POSSIBLE), probability, variance)

    @property
    def weight(self) -> float:
        """How many of the network's voxels one of the image's is."""
        network = self.prediction.network_mm
        return self.prediction.grid.voxel_mm3 / float(np.prod(network)) if network else 1.0

    def logits(
        self, labelled: np.ndarray, reach: float, counted: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the mean logit, and that under the noise which explains the label best, where it is counted."""
        if not reach:
            mean = logits_of(self.probability, np.zeros_like(self.variance))[0]
            return mean, mean
        mean, square = logits_of(self.probability, self.variance, rough=~self.possible)
        spacing = self.prediction.grid.spacing
        lengths = reach * np.array(_lengths_mm(self.prediction)) / spacing
        every = np.maximum(np.array(self.prediction.network_mm or spacing) / spacing + SLACK, 1).astype(int)
        # No noise explains what a network with a variance is certain of: far from an organ, say.
        deviation = np.sqrt(square) if self.prediction.has_variance else movable(square, None)
        weight = self.weight * float(every.prod())
        return mean, mean + explain(mean, NOISE * deviation, labelled, lengths, counted, every.tolist(), weight)


def pieces_of(prediction: Prediction, label: Label, box: Box, labelled: np.ndarray, weight: np.ndarray) -> list[Piece]:
    """Cut what has a weight, in a box, into compact pieces; those of the largest sums of it, `MOST` at most."""
    spacing, length_mm = prediction.grid.spacing, prediction.region_settings.length_mm
    pieces = compact_pieces(weight > 0, weight, spacing, length_mm)
    sums = np.bincount(pieces.ravel(), weight.ravel())
    boxes = ndimage.find_objects(pieces)
    largest = []
    for number in sorted(range(1, len(sums)), key=lambda piece: -sums[piece])[:MOST]:
        place = boxes[number - 1]
        mask = pieces[place] == number
        missing = 2 * int(labelled[place][mask].sum()) < int(mask.sum())
        largest.append(Piece(label, nested(box, place), mask, missing, float(sums[number])))
    return largest


def _lengths_mm(prediction: Prediction) -> tuple[float, float, float]:
    return prediction.correlation_mm or (prediction.click_settings.length_mm or DEFAULT_LENGTH_MM,) * 3


def _regions(prediction: Prediction, drawn: np.ndarray, listed: list[tuple[float | None, Piece]]) -> Regions:
    """Describe pieces in their order, but for one most of which belongs to others of a higher rank."""
    box = hull(piece.box for _, piece in listed)
    numbers = np.zeros(shape_of(box), np.uint16)
    regions: list[Region] = []
    own = replace(prediction.exclusive(), segmentation=drawn.astype(np.uint8))
    describe = RegionDescriber(own)
    for alarms, piece in listed:
        place = numbers[within(piece.box, box)]
        mask = piece.mask & (place == 0)
        if 2 * mask.sum() <= piece.mask.sum():
            continue
        number = len(regions) + 1
        place[mask] = number
        error = error_of_any(views_in(piece.box, own), own.labels)[mask].sum(dtype=float)
        described = describe(piece.box, mask) | {"expected_error_mm3": float(error * own.grid.voxel_mm3)}
        described |= {"label": piece.label.name, "missing": piece.missing}
        described |= {"discrepancy": piece.discrepancy, "false_alarms": alarms}
        regions.append(Discrepancy(rank=number, number=number, **described))
    return Regions(tuple(regions), numbers, box, prediction.shape, prediction.region_settings)
