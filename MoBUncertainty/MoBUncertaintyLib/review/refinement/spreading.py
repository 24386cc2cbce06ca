"""From what the clicked voxels say to the maps around them, block by block.

What clicks make of a block depends on those in its reach alone. A block is computed once for the same inputs, so that a
click costs what it changes, however many there are.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, intersection, shape_of
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.conditioning import spread
from MoBUncertaintyLib.review.refinement.kernel import Kernel, offsets_mm
from MoBUncertaintyLib.review.refinement.logits import logits_of, movable

STEP = np.float32(2.0**-14)
"""What a click says is rounded to what moves a logit in the block by this part of its deviation. Far from a new click
less than that changes, so that most blocks stay as they are."""

MIN_EDGE = 8
"""Voxels of a block along each axis at least: smaller ones cost more to handle than to compute."""

KEPT_VOXELS = 12_000_000
"""Blocks of so many voxels are kept, each with 10 bytes and 8 more for each further label."""

CHUNK = 4_000_000
"""Correlations that are computed at once."""

Corner = tuple[int, ...]
"""A block's place among the blocks: (z, y, x)."""

Key = tuple[Corner, bytes]
"""A block, and a digest of all that decides about it."""

Inputs = dict[Corner, tuple["Reached", Key]]
"""The blocks that a set of points reaches."""


class Reached(NamedTuple):
    """A block that points reach: where it is, which points (by index), and their highest correlation with it."""

    corner: Corner
    box: Box
    points: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True, eq=False)
class Lattice:
    """Blocks of equal size (`edge`: voxels along each axis, (3,)), counted from the first voxel, of a box."""

    edge: np.ndarray
    spacing: np.ndarray
    inside: Box

    def reached(self, points: np.ndarray, kernel: Kernel, box: Box) -> Iterator[Reached]:
        """List the blocks that meet a box and have some of the points, (P, 3) voxels, in reach."""
        meeting = intersection(box, self.inside)
        if meeting is None or not len(points):
            return
        bounds = [(part.start // n, (part.stop - 1) // n) for part, n in zip(meeting, self.edge, strict=True)]
        gaps = []
        for axis, (first, last) in enumerate(bounds):
            start = np.arange(first, last + 1) * self.edge[axis]
            place = points[:, axis, None]
            gap = np.maximum(np.maximum(start - place, place - (start + self.edge[axis] - 1)), 0) * self.spacing[axis]
            gaps.append(np.expand_dims(gap, tuple({1, 2, 3} - {axis + 1})))
        most = kernel.between(gaps)
        near = (most > 0).reshape(len(points), -1)
        block, point = np.nonzero(near.T)
        if not len(block):
            return
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        first = np.array([low for low, _ in bounds])
        corners = first + np.transpose(np.unravel_index(block[starts], most.shape[1:]))
        lows, highs = np.transpose([(part.start, part.stop) for part in self.inside])
        low, high = np.maximum(corners * self.edge, lows), np.minimum((corners + 1) * self.edge, highs)
        highest = most.reshape(len(points), -1)[point, block]
        parts = (np.split(values, starts[1:]) for values in (point, highest))
        for corner, start, stop, own, nearness in zip(
            corners.tolist(), low.tolist(), high.tolist(), *parts, strict=True
        ):
            yield Reached(tuple(corner), tuple(map(slice, start, stop)), own, nearness)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What P points tell of the logit of each of L labels, see `conditioning.spread`.

    Attributes:
        points: (P, 3) voxels.
        table: (L, P, P + 1) precision and, as the last column, weights.
    """

    points: np.ndarray
    table: np.ndarray

    def near(self, block: Reached) -> Posterior:
        """Return what the points near a block tell there, in whole steps that depend on how near they are."""
        most = block.correlation.astype(np.float32)
        scale = np.maximum(np.append(most, np.float32(1)) * most[:, None], np.float32(1e-30))
        columns = np.append(block.points, len(self.points))
        steps = np.rint(self.table[:, block.points[:, None], columns] * (scale / STEP))
        steps += 0  # there is but one zero then
        return Posterior(self.points[block.points], steps * (STEP / scale))

    def key(self, corner: Corner) -> Key:
        """Name a block of which this decides."""
        return corner, hashlib.blake2b(self.points.tobytes() + self.table.tobytes(), digest_size=16).digest()

    def spread(self, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Do for each label what `conditioning.spread` does: (L, N) each."""
        pairs = [spread(correlation, label[:, -1], label[:, :-1]) for label in self.table]
        shift, left = zip(*pairs, strict=True)
        return np.array(shift), np.array(left)


@dataclass(frozen=True, eq=False)
class Maps:
    """Arrays over a box: probability and variance (L, *box), segmentation and `reached` (*box)."""

    probability: np.ndarray
    variance: np.ndarray
    segmentation: np.ndarray
    reached: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction, box: Box) -> Maps:
        """Copy a prediction's."""
        probability, variance = (
            np.array([each[box] for each in maps], np.float32) for maps in (prediction.probability, prediction.variance)
        )
        return cls(probability, variance, prediction.segmentation[box].copy(), np.zeros(shape_of(box), bool))

    def insert(self, other: Maps, here: Box, there: Box) -> None:
        """Copy the part `there` of other maps to the part `here` of these."""
        for name in ("probability", "variance", "segmentation", "reached"):
            getattr(self, name)[(..., *here)] = getattr(other, name)[(..., *there)]


@dataclass(frozen=True, eq=False)
class _Job:
    """A block to compute: which of its voxels are reached (flat indices), and their correlation with each point."""

    key: Key
    box: Box
    posterior: Posterior
    voxels: np.ndarray
    correlation: np.ndarray

    @property
    def size(self) -> int:
        """Voxels of the block."""
        return math.prod(shape_of(self.box))


class Spreading:
    """Computes refined blocks of a prediction, and keeps them."""

    def __init__(self, prediction: Prediction, kernel: Kernel, settings: ClickSettings) -> None:
        self._prediction = prediction
        self._kernel = kernel
        self._settings = settings
        self._spacing = prediction.grid.spacing.astype(np.float32)
        edge = np.maximum(MIN_EDGE, np.rint(kernel.box_mm / prediction.grid.spacing)).astype(int)
        self._lattice = Lattice(edge, prediction.grid.spacing, prediction.processed_box)
        self._values = np.array([label.value for label in prediction.labels], np.uint8)
        self._logits: dict[Corner, tuple[np.ndarray, np.ndarray]] = {}
        self._blocks: OrderedDict[Key, tuple[Box, Maps]] = OrderedDict()
        self._kept = 0
        logits_of(*np.array([[0.3], [0.05]], np.float32))  # makes the inverse's table now, not at the first click

    def logits_at(self, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find mean and variance of the logits (L, K) at voxels (K, 3)."""
        return self._logits_at(voxels.tobytes())

    @cached_method(64)
    def _logits_at(self, voxels: bytes) -> tuple[np.ndarray, np.ndarray]:
        at = tuple(np.frombuffer(voxels, np.intp).reshape(-1, 3).T)
        maps = self._prediction.probability, self._prediction.variance
        return logits_of(*(np.array([one[at] for one in each]) for each in maps))

    def labels_at(self, posterior: Posterior, voxels: np.ndarray) -> np.ndarray:
        """Find the most probable label of each of (K, 3) voxels."""
        correlation = self._kernel.between(offsets_mm(posterior.points, tuple(voxels.T), self._spacing))
        mean, variance = self.logits_at(voxels)
        return self._maps(mean, variance, *posterior.spread(correlation))[2]

    def inputs(self, posterior: Posterior, box: Box) -> Inputs:
        """Gather what decides about each block that meets a box and that points reach."""
        reached = self._lattice.reached(posterior.points, self._kernel, box)
        return {block.corner: (block, posterior.near(block).key(block.corner)) for block in reached}

    def blocks(self, posterior: Posterior, inputs: Inputs, box: Box) -> Iterator[tuple[Box, Maps]]:
        """Compute all blocks that meet a box, or find them computed."""
        jobs: list[_Job] = []
        size = 0
        for block, key in inputs.values():
            if intersection(block.box, box) is None:
                continue
            if key in self._blocks:
                self._blocks.move_to_end(key)
                yield self._blocks[key]
                continue
            jobs.append(self._job(key, block.box, posterior.near(block)))
            size += jobs[-1].correlation.size
            if size > CHUNK:
                yield from self._compute(jobs)
                jobs, size = [], 0
        yield from self._compute(jobs)

    def _job(self, key: Key, box: Box, posterior: Posterior) -> _Job:
        axes = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij", sparse=True)
        voxels, correlation = self._kernel.reached(offsets_mm(posterior.points, axes, self._spacing))
        return _Job(key, box, posterior, voxels, correlation)

    def _compute(self, jobs: Sequence[_Job]) -> Iterator[tuple[Box, Maps]]:
        """Compute blocks together: functions of many voxels cost less than many functions of few."""
        if not jobs:
            return
        self._solve_logits(jobs)
        logits = [(self._logits[job.key[0]], job.voxels) for job in jobs]
        mean, variance = (np.concatenate([pair[i][:, voxels] for pair, voxels in logits], axis=1) for i in (0, 1))
        effects = [job.posterior.spread(job.correlation) for job in jobs]
        shift, left = (np.concatenate(each, axis=1) for each in zip(*effects, strict=True))
        p, v, labels = self._maps(mean, variance, shift, left)
        ends = np.cumsum([len(job.voxels) for job in jobs])
        for job, end in zip(jobs, ends, strict=True):
            own = slice(end - len(job.voxels), end)
            maps = Maps.of(self._prediction, job.box)
            for whole, part in zip((maps.probability, maps.variance), (p, v), strict=True):
                whole.reshape(len(whole), -1)[:, job.voxels] = part[:, own]
            maps.segmentation.reshape(-1)[job.voxels] = labels[own]
            maps.reached.reshape(-1)[job.voxels] = True
            self._keep(job.key, (job.box, maps))
            yield job.box, maps

    def _solve_logits(self, jobs: Sequence[_Job]) -> None:
        """Find the logits of all reached voxels that were not reached before."""
        new = []
        for job in jobs:
            shape = len(self._values), job.size
            empty = np.full(shape, np.nan, np.float32), np.empty(shape, np.float32)
            mean, _ = self._logits.setdefault(job.key[0], empty)
            voxels = job.voxels[np.isnan(mean[0, job.voxels])]
            if len(voxels):
                new.append((job, voxels))
        if not new:
            return
        stored = (
            np.concatenate([np.array([each[job.box].ravel()[voxels] for each in maps]) for job, voxels in new], axis=1)
            for maps in (self._prediction.probability, self._prediction.variance)
        )
        solved = logits_of(*stored)
        start = 0
        for job, voxels in new:
            stop = start + len(voxels)
            for logits, values in zip(self._logits[job.key[0]], solved, strict=True):
                logits[:, voxels] = values[:, start:stop]
            start = stop

    def _maps(
        self, mean: np.ndarray, variance: np.ndarray, shift: np.ndarray, left: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute probability and variance (L, N) and the label (N,) from the logits and what clicks do to them."""
        moved = mean + movable(variance, self._settings.prior_deviation) * shift
        return refined_maps(moved, variance, left, self._settings.sharpening, self._values)

    def _keep(self, key: Key, block: tuple[Box, Maps]) -> None:
        self._blocks[key] = block
        self._kept += block[1].reached.size
        while self._kept > KEPT_VOXELS:
            _, (_, oldest) = self._blocks.popitem(last=False)
            self._kept -= oldest.reached.size


def refined_maps(
    mean: np.ndarray, variance: np.ndarray, left: np.ndarray, sharpening: float, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute probability and variance (L, N) and the label (N,) of logits that clicks have moved.

    Of the variance of the logit there is left what clicks have left of the process's. That alone leaves the expected
    error far too large: a click also tells that labels nearby are as they seem, which no variance of a logit can say.
    So the logit grows by as much as clicks have explained; its sign, and so the outline, stays.

    Args:
        mean: Of the logits, moved, (L, N).
        variance: Of the logits without clicks, likewise.
        left: The fraction of the process's variance that is left, likewise.
        sharpening: See `ClickSettings`.
        values: Of the L labels.
    """
    p, v = logistic_normal_moments(mean * (1 + np.float32(sharpening) * (1 - left)), variance * left)
    total = p.sum(0)
    if len(p) > 1:  # one label against the rest, for each: together they may be too sure
        excess = np.maximum(total, 1)
        p, v, total = p / excess, v / excess**2, total / excess
    best, labels = 1 - total, np.zeros(total.shape, np.uint8)
    for value, own in zip(values, p, strict=True):
        labels[own > best] = value
        best = np.maximum(best, own)
    return p, np.minimum(v, p * (1 - p)), labels
