"""Coherent samples of the segmentation from the maps of a prediction, as predicted or under a reader's clicks.

A voxel takes the more or the less probable of its two most probable labels. Which one, a smooth Gaussian field of unit
variance decides, by a threshold at the quantile of the probability: so each voxel has a label in the fraction of the
samples that its probability states, and neighbours change together, over the model's own correlation length. Each label
has a field of its own; between two of them their difference decides. The fields depend on nothing but the image's grid
and the number of the sample, so that a label's samples are the same whatever else is measured. No network is needed,
nor torch.

Of a label that is of one piece, what hangs together with no voxel that always has it is background in a sample.

`inference.draws` samples the network's own Gaussian, without what the label is still uncertain of given its logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array, hstack
from scipy.special import ndtri

from MoBUncertaintyLib.base.geometry import nested, occupied, widened
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM
from MoBUncertaintyLib.model.covariance import REACH
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of

POSSIBLE = 0.01
"""A voxel keeps its label if that is less probable to change. No interval of 90 % depends on one such voxel; but with
0.001 a faint haze, litres in a large image, is most of the voxels, and each sample has stray pieces of it."""
EVERYWHERE = np.uint64(2**64 - 1)  # instead of a node: the noise that all voxels share
_BITS = 21  # of a place along an axis
AT_ONCE = 16  # samples; they are drawn in pairs
_TOGETHER = 64  # samples whose strays are found together


@dataclass(frozen=True, eq=False)
class ChangingVoxels:
    """The N voxels of a prediction whose label can change from sample to sample.

    Attributes:
        places: Their indices, (3, N).
        labels: Values of the most probable and the next label, (2, N) uint8.
        thresholds: In deviations of the field, how far the first is from giving way, (N,) float32.
        lengths: Correlation length along each axis, in voxels.
        shared_fraction: Fraction of a field's variance that all voxels share.
        pieces: The labels that are of one piece.
    """

    places: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray
    lengths: tuple[float, ...]
    shared_fraction: float = 0.0
    pieces: Sequence[_Piece] = ()

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
            likely = (maps[channel] > POSSIBLE / 2 for channel in wanted)
            y, x = np.nonzero(reduce(np.logical_or, likely, np.zeros(maps[0].shape, bool)))
            p = np.array([one[y, x] for one in maps], np.float32)
            p = np.concatenate([np.maximum(1 - p.sum(axis=0, keepdims=True), 0), p])
            order, (first, second) = _two_most_probable(p)
            place = np.array([np.full(len(y), z), y + box[1].start, x + box[2].start])
            # What is otherwise decided than by its probability, by a reader say, stays.
            open_ = (values[order[0]] == prediction.segmentation[tuple(place)]) & (second > POSSIBLE)
            open_ &= np.isin(order - 1, wanted).any(axis=0)
            threshold = ndtri((first / (first + second)).astype(float))
            parts.append((place[:, open_], values[order][:, open_], threshold[open_].astype(np.float32)))
        places, pairs, thresholds = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        lengths_mm = prediction.correlation_mm or (prediction.click_settings.length_mm or DEFAULT_LENGTH_MM,) * 3
        lengths = tuple((np.array(lengths_mm) / prediction.grid.spacing).tolist())
        pieces = [_Piece.of(one, prediction, places, pairs) for one in labels if one.name in prediction.one_piece]
        return cls(places, pairs, thresholds, lengths, prediction.shared_fraction, pieces)

    def samples(self, count: int, seed: int = 0) -> Iterator[np.ndarray]:
        """Draw labels of the voxels, (N,) uint8, again and again; a sample depends on the seed and its number alone."""
        if not count:
            return
        with ThreadPoolExecutor(1) as beside:  # draws the next while whoever has asked measures these
            ahead = beside.submit(self._joined, 0, count, seed)
            for start in range(0, count, _TOGETHER):
                drawn, after = ahead.result(), start + _TOGETHER
                if after < count:
                    ahead = beside.submit(self._joined, after, count, seed)
                yield from drawn

    def _joined(self, start: int, count: int, seed: int) -> np.ndarray:
        """Draw up to 64 samples from the number `start` on, below `count`, without strays, (K, N)."""
        batches = range(start, min(start + _TOGETHER, count), AT_ONCE)
        drawn = np.concatenate([self._drawn(first, seed) for first in batches])[: count - start]
        for piece in self.pieces:
            own = drawn[:, piece.voxels]
            drawn[:, piece.voxels] = np.where(piece.strays(own), 0, own)
        return drawn

    def _drawn(self, start: int, seed: int) -> np.ndarray:
        """Draw the samples from the number `start` on, strays among them, (AT_ONCE, N)."""
        average, fields = self._fields
        noise = [np.zeros((0, AT_ONCE), np.float32), *(field.drawn(start, seed) for field in fields)]
        drawn: np.ndarray = np.where(
            (average @ np.concatenate(noise) < self.thresholds[:, None]).T, *self.labels[:, None]
        )
        return drawn

    @cached_property
    def _fields(self) -> tuple[csr_array, list[_Field]]:
        """Make the field of each label, and the matrix that makes of all the one that pushes to the second label.

        A row of it has the norm 1, and so that field unit variance.
        """
        first, second = self.labels
        scale = np.where((first > 0) & (second > 0), math.sqrt(0.5), 1)
        local, shared = (math.sqrt(fraction) for fraction in (1 - self.shared_fraction, self.shared_fraction))
        parts, fields = [csr_array((len(first), 0), dtype=np.float32)], []
        for value in np.unique(self.labels[self.labels > 0]).tolist():
            rows = np.flatnonzero((self.labels == value).any(axis=0))
            signs = np.where(second[rows] == value, scale[rows], -scale[rows]).astype(np.float32)
            to_all = csr_array((signs, (rows, np.arange(len(rows)))), shape=(len(first), len(rows)))
            (along_x, *averages), nodes = _moving_averages(self.places[:, rows], self.lengths)
            fields.append(_Field(value, averages, nodes, self.shared_fraction > 0))
            parts.append(to_all @ (along_x * np.float32(local)))
            if self.shared_fraction:
                parts.append(to_all @ csr_array(np.full((len(rows), 1), shared, np.float32)))
        return hstack(parts, format="csr"), fields


@dataclass(frozen=True, eq=False)
class _Field:
    """The noise of a label, at the nodes along x beside each of its voxels.

    Attributes:
        label: Its value.
        averages: What makes it of white noise, from the last to the first.
        nodes: The places of the white noise in the image's lattice, (nodes,) uint64, each a number.
        shared: Whether noise that all voxels share is a last row of it.
    """

    label: int
    averages: Sequence[csr_array]
    nodes: np.ndarray
    shared: bool

    def drawn(self, start: int, seed: int) -> np.ndarray:
        """Draw the samples from the number `start` on, (rows, AT_ONCE)."""
        noise = _white_noise(self.nodes, (seed, self.label), start)
        for average in reversed(self.averages):
            noise = average @ noise
        if not self.shared:
            return noise
        return np.concatenate([noise, _white_noise(np.array([EVERYWHERE]), (seed, self.label), start)])


@dataclass(frozen=True, eq=False)
class _Piece:
    """A label of one piece, at the M voxels that change and can have it.

    Attributes:
        value: Of the label.
        voxels: Which of those that change they are, (M,).
        beside: The up to 26 of them that are beside each, (M, 26); M stands for none.
        hangs: Whether a voxel that always has the label is beside it, (M,).
        slabs: Ways through all of them, slab by slab: up and down along each axis.
    """

    value: int
    voxels: np.ndarray
    beside: np.ndarray
    hangs: np.ndarray
    slabs: Sequence[Sequence[np.ndarray]]

    @classmethod
    def of(cls, label: Label, prediction: Prediction, places: np.ndarray, pairs: np.ndarray) -> _Piece:
        voxels = np.flatnonzero((pairs == label.value).any(axis=0))
        own, none = places[:, voxels], len(voxels)
        keys, beside = _packed(own), np.full((none, 26), none, np.int32)
        steps = list(itertools.product((-1, 0, 1), repeat=3))
        for column, step in enumerate(steps[:13]):  # the others are opposite to these
            there = keys + _packed(np.array(step))
            at = np.searchsorted(keys, there)  # sorted, as the places are
            voxel = np.flatnonzero(np.append(keys, -1)[at] == there)
            beside[voxel, column], beside[at[voxel], 25 - column] = at[voxel], voxel
        segmented = prediction.segmented_box
        box = nested(segmented, occupied(label.mask(prediction.segmentation[segmented])))
        box = widened(box, (1, 1, 1), prediction.shape)
        always = label.mask(prediction.segmentation[box])
        low, high = np.array([(axis.start, axis.stop) for axis in box]).T[:, :, None]
        inside = np.flatnonzero(((own >= low) & (own < high)).all(axis=0))
        within = tuple(own[:, inside] - low)
        always[within] = False
        hangs, slabs = np.zeros(none, bool), list[list[np.ndarray]]()
        hangs[inside] = ndimage.maximum_filter(always, 3)[within]
        for along in own:
            order = np.argsort(along, kind="stable")
            slabs.append(np.split(order, np.flatnonzero(np.diff(along[order])) + 1))
            slabs.append(slabs[-1][::-1])
        return cls(label.value, voxels, beside, hangs, slabs)

    def strays(self, drawn: np.ndarray) -> np.ndarray:
        """Find what hangs together with no voxel that always has the label, in up to 64 samples (K, M), bool likewise.

        The samples are the bits of a number, so that all are followed at once from voxel to voxel, in sweeps. Where no
        voxel always has the label there are no strays.
        """
        if not self.hangs.any():
            return np.zeros(drawn.shape, bool)
        bits = np.zeros((len(self.voxels) + 1, _TOGETHER // 8), np.uint8)  # the last is that of no voxel
        packed = np.packbits(drawn == self.value, axis=0)
        bits[:-1, : len(packed)] = packed.T
        has = bits.view(np.uint64)[:, 0]
        joined = np.append(np.where(self.hangs, has[:-1], 0), np.uint64(0))
        grown = True
        while grown:
            grown = False
            for slab in itertools.chain(*self.slabs):
                left = slab[joined[slab] != has[slab]]
                now = joined[left] | (has[left] & np.bitwise_or.reduce(joined[self.beside[left]], axis=1))
                grown |= not np.array_equal(now, joined[left])
                joined[left] = now
        strays = (has & ~joined)[:-1, None].view(np.uint8)[:, : len(packed)]
        return np.unpackbits(strays, axis=1, count=len(drawn)).T.astype(bool)


def _moving_averages(places: np.ndarray, lengths: Sequence[float]) -> tuple[list[csr_array], np.ndarray]:
    """Average white noise at the nodes around N voxels (3, N), so that its correlation becomes that of the model.

    The spline of `model.covariance` is what a triangle makes of white noise, along each axis. Four nodes lie in it. One
    axis after the other has the voxels' places replaced by nodes, so that 12 numbers are added for a voxel and not 64.

    Returns:
        A matrix for each axis, the first with N rows, each row of the norm 1; and the nodes, as one number each.
    """
    averages, keys = [], _packed(places)
    for axis in (2, 1, 0):
        shift = _BITS * (2 - axis)
        place = (keys >> shift) & ((1 << _BITS) - 1)
        half = lengths[axis] * REACH / 2
        step = max(half / 2, 1.0)
        at = place / step
        before = np.floor(at).astype(np.int64)  # the node before it, the second of four
        triangle = np.maximum(1 - np.abs((at - before)[:, None] - np.arange(-1, 3)) * (step / half), 0)
        triangle = (triangle / np.sqrt((triangle**2).sum(axis=1, keepdims=True))).astype(np.float32)
        cells, cell = np.unique(keys + ((before - place) << shift), return_inverse=True)
        keys, columns = np.unique(cells[:, None] + (np.arange(4) << shift), return_inverse=True)
        beside = columns.reshape(-1, 4).astype(np.int32)[cell].ravel()
        rows = np.arange(0, beside.size + 1, 4)
        averages.append(csr_array((triangle.ravel(), beside, rows), shape=(len(place), len(keys))))
    return averages, keys.astype(np.uint64)


def _two_most_probable(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the places of the two largest of the numbers (C, N) along the first axis, and these; (2, N) each."""
    order, numbers, left = [], [], p.copy()
    for _ in range(2):
        order.append(left.argmax(axis=0)[None])
        numbers.append(np.take_along_axis(left, order[-1], axis=0))
        np.put_along_axis(left, order[-1], -1, axis=0)
    return np.concatenate(order), np.concatenate(numbers)


def _packed(places: np.ndarray) -> np.ndarray:
    """Make one number of each place (3, N)."""
    z, y, x = places.astype(np.int64)
    return np.asarray((((z << _BITS) + y) << _BITS) + x)


def _white_noise(nodes: np.ndarray, field: tuple[int, int], start: int) -> np.ndarray:
    """Draw standard normal numbers for nodes, (nodes, AT_ONCE) float32, which depend on the node, field and sample.

    A generator would have to go through all nodes in turn. This is SplitMix64 (Steele, Lea and Flood 2014), from a
    counter, and the pairs of Box and Muller.
    """
    pairs = range(start // 2, (start + AT_ONCE) // 2)
    streams = [np.random.SeedSequence((*field, pair)).generate_state(1, np.uint64)[0] for pair in pairs]
    bits = _mixed(_mixed(nodes)[:, None] + np.array(streams))
    uniform = (bits >> np.uint64(40)).astype(np.float32) + np.float32(0.5)  # never 0
    radius = np.sqrt(-2 * np.log(uniform * np.float32(2**-24)))
    angle = (bits & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2 * math.pi * 2**-24)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(len(nodes), AT_ONCE)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Mix the bits of numbers, uint64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(numbers ^ (numbers >> np.uint64(31)))
