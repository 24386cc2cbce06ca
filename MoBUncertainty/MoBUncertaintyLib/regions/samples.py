"""Coherent samples of the segmentation from the maps of a prediction, as predicted or under a reader's clicks.

A voxel takes the more or the less probable of its two most probable labels. Which one, a smooth Gaussian field of unit
variance decides, by a threshold at the quantile of the probability: so each voxel has a label in the fraction of the
samples that its probability states, and neighbours change together, over the model's own correlation length. Each label
has a field of its own; between two of them their difference decides. No network is needed, nor torch.

`inference.draws` samples the network's own Gaussian, without what the label is still uncertain of given its logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtri

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.model.covariance import REACH
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of

POSSIBLE = 1e-3
"""A voxel keeps its label if that is less probable to change."""
AT_ONCE = 8  # samples


@dataclass(frozen=True, eq=False)
class ChangingVoxels:
    """The N voxels of a prediction whose label can change from sample to sample.

    Attributes:
        places: Their indices, (3, N).
        labels: Values of the most probable and the next label, (2, N) uint8.
        thresholds: In deviations of the field, how far the first is from giving way, (N,) float32.
        lengths: Correlation length along each axis, in voxels.
        shared_fraction: Fraction of a field's variance that all voxels share.
    """

    places: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray
    lengths: tuple[float, ...]
    shared_fraction: float = 0.0

    @classmethod
    def of(cls, prediction: Prediction, labels: Sequence[Label]) -> ChangingVoxels:
        """Find the voxels where one of these labels may come or go."""
        prediction = prediction.exclusive()
        values = np.array([0, *(label.value for label in prediction.labels)], np.uint8)
        wanted = sorted({channel for label in labels for channel in channels_of(prediction, label)})
        box, nothing = prediction.processed_box, np.empty((3, 0), np.intp)
        parts = [(nothing, np.empty((2, 0), np.uint8), np.empty(0, np.float32))]
        for z in range(box[0].start, box[0].stop):
            maps = [one[z, box[1], box[2]] for one in prediction.probability]
            doubtful = (np.abs(maps[channel] - np.float32(0.5)) < 0.5 - POSSIBLE for channel in wanted)
            y, x = np.nonzero(reduce(np.logical_or, doubtful, np.zeros(maps[0].shape, bool)))
            p = np.array([one[y, x] for one in maps], np.float32)
            p = np.concatenate([np.maximum(1 - p.sum(axis=0, keepdims=True), 0), p])
            order = np.argsort(p, axis=0, kind="stable")[:-3:-1]
            first, second = np.take_along_axis(p, order, axis=0)
            place = np.array([np.full(len(y), z), y + box[1].start, x + box[2].start])
            # What is otherwise decided than by its probability, by a reader say, stays.
            open_ = (values[order[0]] == prediction.segmentation[tuple(place)]) & (second > POSSIBLE * (first + second))
            threshold = ndtri((first / (first + second)).astype(float))
            parts.append((place[:, open_], values[order][:, open_], threshold[open_].astype(np.float32)))
        places, pairs, thresholds = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        lengths_mm = prediction.correlation_mm or (prediction.click_settings.length_mm or DEFAULT_LENGTH_MM,) * 3
        lengths = tuple((np.array(lengths_mm) / prediction.grid.spacing).tolist())
        return cls(places, pairs, thresholds, lengths, prediction.shared_fraction)

    def samples(self, count: int, seed: int = 0) -> Iterator[np.ndarray]:
        """Draw labels of the voxels, (N,) uint8, again and again; a sample depends on the seed and its number alone."""
        field = self._field
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            generators = [np.random.default_rng((seed, number)) for number in numbers]
            white = [each.standard_normal(field.shape[1], np.float32) for each in generators]
            for drawn in (field @ np.stack(white, axis=1)).T:
                yield np.where(drawn < self.thresholds, *self.labels)

    @cached_property
    def _field(self) -> csr_array:
        """Make the matrix (N, nodes) that turns white noise at nodes into a field that pushes to the second label.

        Each label has nodes of its own, the last of which all its voxels share. A row has the norm 1, and so the field
        unit variance.
        """
        first, second = self.labels
        between = (first > 0) & (second > 0)
        entries = [(np.zeros(0, np.float32), np.zeros(0, np.intp), np.zeros(0, np.intp))]
        nodes = 0
        for value in np.unique(self.labels[self.labels > 0]):
            rows = np.flatnonzero((self.labels == value).any(axis=0))
            weights, columns, count = _moving_average(self.places[:, rows], self.lengths)
            shared = np.full((1, len(rows)), math.sqrt(self.shared_fraction), np.float32)
            weights = np.concatenate([weights * np.float32(math.sqrt(1 - self.shared_fraction)), shared])
            columns = nodes + np.concatenate([columns, np.full((1, len(rows)), count)])
            weights *= np.where(second[rows] == value, 1, -1) * np.where(between[rows], math.sqrt(0.5), 1)
            used = weights != 0
            entries.append((weights[used], np.broadcast_to(rows, weights.shape)[used], columns[used]))
            nodes += count + 1
        weights, rows, columns = (np.concatenate(each) for each in zip(*entries, strict=True))
        return csr_array((weights, (rows, columns)), shape=(len(first), nodes))


def _moving_average(places: np.ndarray, lengths: Sequence[float]) -> tuple[np.ndarray, np.ndarray, int]:
    """Average white noise at the nodes around N voxels (3, N), so that its correlation becomes that of the model.

    The spline of `model.covariance` is what a triangle makes of white noise, along each axis. Four nodes lie in it.

    Returns:
        Weights of norm 1 and flat indices of nodes, (64, N) each, and the number of nodes.
    """
    weights, columns, count = np.ones((1, places.shape[1]), np.float32), np.zeros((1, places.shape[1]), np.intp), 1
    for place, length in zip(places, lengths, strict=True):
        half = length * REACH / 2
        step = max(half / 2, 1.0)
        at = (place - place.min()) / step
        nodes = np.floor(at).astype(np.intp) + np.arange(-1, 3)[:, None]
        triangle = np.maximum(1 - np.abs(at - nodes) * step / half, 0).astype(np.float32)
        triangle /= np.sqrt((triangle**2).sum(axis=0))
        size = int(nodes.max()) + 2
        weights = (weights[:, None] * triangle).reshape(-1, places.shape[1])
        columns = (columns[:, None] * size + nodes + 1).reshape(-1, places.shape[1])
        count *= size
    return weights, columns, count
