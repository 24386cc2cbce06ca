"""How far the error that a click corrects reaches, as a model has learned it from simulated readers.

Conditioning (`conditioning`) knows the distance to a click and how sure the network was. Trees (`model.click_trees`)
add what else says how far a clicked label goes: direction and slope of the outline, whether the click contradicts the
network, where other clicks are. They tell how probable it is that a voxel has the label of the nearest click, starting
from what conditioning says. The other labels share the rest as before: one answer for any number of labels.

It is a function of the set of clicks, and of what lies within fixed distances of a voxel: the same bits come out in
whatever box they are computed. Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import expit, logit

from MoBUncertaintyLib.base.geometry import Box, hull, shape_of, widened, within
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.model.click_trees import FEATURES
from MoBUncertaintyLib.regions.measure import VoxelMaps, values_in
from MoBUncertaintyLib.regions.prediction import Prediction

FINE, COARSE = 0.3, 0.9
"""Sigma of the windows that smooth a logit, in lengths of the kernel."""
TRUNCATE = 2.5  # a window, in sigmas
SURE = float(expit(8.0))  # probabilities that are higher count as this
BAND = 6.0  # voxels with a larger logit are left as conditioning leaves them
FAR_MM = 1e3  # the distance to a click that does not exist
LEAST = np.float32(1e-6)  # probability of a label that shares what another leaves
AT_ODDS = 1e-3  # by so much, in logits, a label that a voxel keeps is more probable than the next
KEPT_NUMBERS = 20_000_000  # of landscapes

WRONG = FEATURES.index("wrong")
LANDSCAPE = 6
"""The landscape of a label is its logit against all others, `FINE` and `COARSE`, and the slope of the former (3)."""


class Points(NamedTuple):
    """Clicked voxels (P, 3), their labels (P,), whether the network has others (P,), and the landscape (6, P)."""

    voxels: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray
    landscape: np.ndarray


class Described(NamedTuple):
    """Some of N voxels: their places among these (n,), the label of the nearest click (n,), `FEATURES` (F, n)."""

    at: np.ndarray
    labels: np.ndarray
    features: np.ndarray


class Extent:
    """Describes the voxels around clicks in one prediction, for a kernel of some length."""

    def __init__(self, prediction: Prediction, length_mm: float) -> None:
        self._prediction, self._spacing = prediction, prediction.grid.spacing.astype(np.float32)
        self._values = np.array([0, *(label.value for label in prediction.labels)])
        self._fine, self._coarse = (factor * length_mm / prediction.grid.spacing for factor in (FINE, COARSE))
        self._landscapes: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}

    def points(self, voxels: np.ndarray, labels: np.ndarray) -> Points:
        """Describe clicked voxels."""
        pairs = zip(map(tuple, voxels.tolist()), labels.tolist(), strict=True)
        landscape = np.array([self._landscape_at(*pair) for pair in pairs], np.float32)
        wrong = self._prediction.segmentation[tuple(voxels.T)] != labels
        return Points(voxels, labels, wrong, landscape.reshape(-1, LANDSCAPE).T)

    def prepare(self, boxes: Iterable[tuple[Box, Iterable[int]]]) -> None:
        """Compute the landscapes of labels in boxes, where possible together: what surrounds the boxes overlaps."""
        if sum(landscape.size for landscape in self._landscapes.values()) > KEPT_NUMBERS:
            self._landscapes.clear()
        lacking: dict[int, list[Box]] = {}
        for box, labels in boxes:
            for label in labels:
                if (label, _ends(box)) not in self._landscapes:
                    lacking.setdefault(label, []).append(box)
        for label, own in lacking.items():
            everything = hull(own)
            parts = [everything] if prod(shape_of(everything)) < 4 * sum(prod(shape_of(box)) for box in own) else own
            for part in parts:
                landscape = self._landscape(label, part)
                for box in own if part is everything else [part]:
                    self._landscapes[label, _ends(box)] = landscape[:, *within(box, part)].copy()

    def describe(
        self, box: Box, voxels: np.ndarray, correlation: np.ndarray, points: Points, probability: np.ndarray
    ) -> Described:
        """Describe those voxels of a box of whose label the network was not sure.

        Args:
            box: One that was prepared for the labels of all points.
            voxels: Flat indices (N,) of the voxels that points reach.
            correlation: Of the points with them, (P, N).
            points: The points.
            probability: What conditioning makes of that of the labels, (L, N).
        """
        nearest = correlation.argmax(0)
        labels, landscape = points.labels[nearest], np.empty((LANDSCAPE, len(voxels)), np.float32)
        for label in np.unique(labels).tolist():
            own = labels == label
            landscape[:, own] = self._landscapes[label, _ends(box)].reshape(LANDSCAPE, -1)[:, voxels[own]]
        at = np.flatnonzero(np.abs(landscape[0]) < BAND)
        correlation, nearest, labels, landscape = correlation[:, at], nearest[at], labels[at], landscape[:, at]
        places = np.array(np.unravel_index(voxels[at], shape_of(box))) + np.array([[part.start] for part in box])

        def offset(point: np.ndarray) -> np.ndarray:
            return np.asarray((places - points.voxels[point].T) * self._spacing[:, None])

        def best(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Find the nearest of some points: which, how far it is, and whether there is one."""
            point, exists = correlation.argmax(0), correlation.max(0, initial=0) > 0
            return point, np.where(exists, np.sqrt(np.square(offset(point)).sum(0)), FAR_MM), exists

        others = correlation.copy()
        others[nearest, np.arange(len(at))] = 0
        second, second_mm, has_second = best(others)
        _, rival_mm, _ = best(np.where(points.labels[:, None] != labels, correlation, 0))
        away, clicked = offset(nearest), points.landscape[:, nearest]
        value, fine, coarse, slope = landscape[0], landscape[1], landscape[2], landscape[3:]
        steepness, steepness_there = (np.sqrt(np.square(each).sum(0)) + 1e-3 for each in (slope, clicked[3:]))
        inwards = (away * clicked[3:]).sum(0) / steepness_there
        squares = np.square(away).sum(0)
        named = {
            "logit": value,
            "conditioned": _logit(self._own(probability[:, at], labels)),
            "fine": fine,
            "coarse": coarse,
            "slope": steepness,
            "outline_mm": np.clip(fine / steepness, -FAR_MM, FAR_MM),
            "distance_mm": np.sqrt(squares),
            "inwards_mm": inwards,
            "across_mm": np.sqrt(np.maximum(squares - inwards**2, 0)),
            "facing": (slope * clicked[3:]).sum(0) / (steepness * steepness_there),
            "wrong": points.wrong[nearest],
            "background": labels == 0,
            "clicked_logit": clicked[0],
            "logit_difference": clicked[0] - value,
            "second_mm": second_mm,
            "second_same": has_second * np.where(points.labels[second] == labels, 1, -1),
            "second_wrong": has_second * points.wrong[second],
            "rival_mm": rival_mm,
            "clicks": np.count_nonzero(correlation, axis=0),
        }
        return Described(at, labels, np.array([named[name] for name in FEATURES], np.float32))

    def correct(
        self, maps: VoxelMaps, described: Described, score: np.ndarray, predicted: np.ndarray, caution: float
    ) -> None:
        """Let voxels have the label of the nearest click with the probability of a score, in place.

        The variance stays the fraction of p (1 - p) that it is.

        Args:
            maps: Probability and variance (L, N) and label (N,), as conditioning leaves them.
            described: Some of their voxels.
            score: The logit of the label of the nearest click, (n,).
            predicted: The label by the network, (N,).
            caution: No voxel gets or loses that label unless it is more, or less, probable than the next one by more
                than this, in logits; and none does where the click agrees with the network.
        """
        at, labels = described.at, described.labels
        p, v = maps.probability[:, at], maps.variance[:, at]
        fraction = np.clip(v / np.maximum(p * (1 - p), np.float32(1e-12)), 0, 1)
        others = np.maximum(np.concatenate([1 - p.sum(0, keepdims=True), p]), LEAST)
        own = self._values[:, None] == labels
        others[own] = 0
        others /= others.sum(0)
        even = np.log(others.max(0))  # the score at which the next one is as probable
        side = np.where(predicted[at] == labels, 1, -1)
        margin = side * (score - even)  # in favour of the label that the network has
        limit = np.where(described.features[WRONG], caution, np.inf)
        margin = np.where(margin < -limit, margin, np.maximum(margin, AT_ODDS))
        q = expit((even + side * margin).astype(np.float32))
        p = np.where(own, q, others * (1 - q))[1:]
        maps.probability[:, at], maps.variance[:, at] = p, fraction * p * (1 - p)
        maps.segmentation[at] = most_probable(p, self._values[1:])

    def _own(self, probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the probability of each voxel's own label, (N,)."""
        everything = np.concatenate([1 - probability.sum(0, keepdims=True), probability])
        return everything[np.searchsorted(self._values, labels), np.arange(len(labels))]

    @cached_method(4096)
    def _landscape_at(self, voxel: tuple[int, ...], label: int) -> np.ndarray:
        return self._landscape(label, tuple(slice(place, place + 1) for place in voxel)).ravel()

    def _landscape(self, label: int, box: Box) -> np.ndarray:
        """Compute the landscape of a label in a box, (6, *box)."""
        margin = np.floor(TRUNCATE * self._coarse + 0.5)  # scipy's window
        near = widened(box, np.maximum(margin, np.floor(TRUNCATE * self._fine + 0.5) + 1), self._prediction.shape)
        maps = values_in(near, self._prediction.probability)
        own = maps[np.flatnonzero(self._values == label)[0] - 1] if label else 1 - sum(maps[1:], maps[0])
        value = _logit(np.asarray(own, np.float32))
        fine, coarse = (
            ndimage.gaussian_filter(value, sigma, mode="nearest", truncate=TRUNCATE)
            for sigma in (self._fine, self._coarse)
        )
        slope = [
            ndimage.correlate1d(fine, [-0.5, 0, 0.5], axis, mode="nearest") / step
            for axis, step in enumerate(self._spacing)
        ]
        return np.array([value, fine, coarse, *slope], np.float32)[:, *within(box, near)]


def most_probable(probability: np.ndarray, values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the label (N,) with the highest probability (L, N), of background and labels with these values."""
    best, labels = 1 - probability.sum(0), np.zeros(probability.shape[1:], np.uint8)
    for value, own in zip(values, probability, strict=True):
        labels[own > best] = value
        best = np.maximum(best, own)
    return labels


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probability, 1 - SURE, SURE).astype(np.float32)))


def _ends(box: Box) -> tuple[int, ...]:
    return tuple(end for part in box for end in (part.start, part.stop))
