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

from MoBUncertaintyLib.gaussian.correlation import smooth
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.model.covariance import axis_correlation
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of

POSSIBLE = 1e-3
"""A voxel keeps its label if that is less probable to change."""
NODES = 2
"""Of a field, in each of its correlation lengths: between them it is interpolated."""
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
            y, x = np.nonzero(reduce(np.logical_or, doubtful))
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
        interpolation, shapes = self._field
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            nodes = [self._nodes(shapes, np.random.default_rng((seed, number))) for number in numbers]
            fields = interpolation @ np.stack(nodes, axis=1)
            for field in fields.T:
                yield np.where(field < self.thresholds, *self.labels)

    @cached_property
    def _field(self) -> tuple[csr_array, dict[int, tuple[int, ...]]]:
        """Make the matrix (N, nodes) that interpolates all labels' fields, and the shape of each label's nodes.

        The last node of a label is what all its voxels share. The field pushes towards the second label; it has unit
        variance at each voxel.
        """
        (first, second), between = self.labels, (self.labels > 0).all(axis=0)
        entries, shapes, start = [], {}, 0
        for value in np.unique(self.labels[self.labels > 0]).tolist():
            rows = np.flatnonzero((self.labels == value).any(axis=0))
            weights, columns, shapes[value] = _between_nodes(self.places[:, rows], self.lengths)
            end = math.prod(shapes[value])
            shared = np.full((1, len(rows)), math.sqrt(self.shared_fraction))
            weights = np.concatenate([weights * math.sqrt(1 - self.shared_fraction), shared])
            columns = start + np.concatenate([columns, np.full_like(columns[:1], end)])
            weights *= np.where(second[rows] == value, 1, -1) * np.where(between[rows], math.sqrt(0.5), 1)
            used = weights != 0
            entries.append((weights[used], np.broadcast_to(rows, weights.shape)[used], columns[used]))
            start += end + 1
        if not entries:
            return csr_array((len(first), 0), dtype=np.float32), shapes
        weights, rows, columns = (np.concatenate(each) for each in zip(*entries, strict=True))
        return csr_array((weights.astype(np.float32), (rows, columns)), shape=(len(first), start)), shapes

    def _nodes(self, shapes: dict[int, tuple[int, ...]], generator: np.random.Generator) -> np.ndarray:
        lengths = [length / _step(length) for length in self.lengths]
        nodes = [np.zeros(0, np.float32)]
        for shape in shapes.values():
            white = generator.standard_normal(math.prod(shape) + 1, np.float32)
            nodes += [smooth(white[:-1].reshape(shape), lengths).ravel(), white[-1:]]
        return np.concatenate(nodes)


def _step(length: float) -> int:
    """Return how many voxels apart nodes are."""
    return max(1, int(length / NODES))


def _between_nodes(places: np.ndarray, lengths: Sequence[float]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Interpolate linearly at N voxels (3, N): weights and flat indices of nodes, (8, N) each, and the nodes' shape."""
    weights, columns, shape = np.ones((1, places.shape[1])), np.zeros((1, places.shape[1]), int), []
    for place, length in zip(places, lengths, strict=True):
        step = _step(length)
        before, rest = np.divmod(place - place.min(), step)
        shape.append(int(before.max()) + 2 if step > 1 else int(before.max()) + 1)
        beyond = rest / step
        together = axis_correlation(np.float64(step), length)  # of two nodes
        scale = 1 / np.sqrt((1 - beyond) ** 2 + beyond**2 + 2 * beyond * (1 - beyond) * together)
        after = np.minimum(before + 1, shape[-1] - 1)
        weights = np.concatenate([weights * ((1 - beyond) * scale), weights * (beyond * scale)])
        columns = np.concatenate([columns * shape[-1] + before, columns * shape[-1] + after])
    return weights, columns, tuple(shape)
