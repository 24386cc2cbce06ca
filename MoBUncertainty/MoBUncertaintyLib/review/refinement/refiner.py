"""A prediction refined by clicks: what the posterior of a set of clicks says of every voxel in reach.

The logit of a label against the rest is normal at each voxel: mean m and deviation s are those whose moments are the
stored probability and variance. A click moves the logit by a Gaussian process with deviation c and correlation k
(`conditioning`); c is s, or the settings' `prior_deviation`. The variance that is reported is s^2 times the fraction of
c^2 that is left: where a click's reach ends nothing jumps, and a model without variance keeps p = sigma(m). So that the
expected error is honest, the logit grows where clicks explain it (`refined_maps`). With more than two classes each
label is conditioned against the rest, +1 where a click gives that label and -1 where it gives another.

Where others have drawn the segmentation (`Prediction.checked`), the maps are those of the model under the clicks. The
labels are as drawn until a click speaks against them: beside the model's logits there is a second set, which favours
what was drawn where the model does not, and clicks condition both alike. A click that takes the side of one against the
other tells nothing beyond the piece in which they differ (`_disputed`): there only what moves both sets counts.

Maps are computed block by block. What clicks make of a block depends on those in its reach alone, and is computed once
for the same of them, so that a click costs what it changes, however many there are. Arrays are (z, y, x).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, apart, common_parts, hull, intersection, shape_of, widened, within
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.gaussian.logits import logits_of, movable
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.model.click_trees import FEATURES
from MoBUncertaintyLib.regions.measure import VoxelMaps, maps_in, values_in
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click, Clicked, gather, voxels_of
from MoBUncertaintyLib.review.refinement.conditioning import (
    Field,
    Kernel,
    kernel_of,
    offsets_mm,
    pairs_mm,
    solve,
    spread,
)
from MoBUncertaintyLib.review.refinement.extent import Described, Extent, most_probable

STEP = np.float32(2.0**-14)
"""What a click says is rounded to what moves a logit in the block by this part of its deviation. Far from a new click
less than that changes, so that most blocks stay as they are."""
MIN_EDGE = 8  # voxels of a block along each axis: smaller ones cost more to handle than to compute
KEPT_VOXELS = 12_000_000  # of blocks, each with 10 bytes and 8 more for each further label
HOLD = np.float32(0.5)
"""By so many of its deviations a click must move a logit before what others have drawn gives way."""
CHUNK = 4_000_000  # correlations that are computed at once
CONDITIONED = FEATURES.index("conditioned")

Clicks = tuple[Click, ...]
Corner = tuple[int, ...]  # a block's place among the blocks: (z, y, x)
Key = tuple[Corner, bytes]  # a block, and a digest of all that decides about it


class Effect(NamedTuple):
    """What a click changed: what became part of any label, less what ceased to be, and all whose label changed."""

    net_mm3: float
    changed_mm3: float


class _Reached(NamedTuple):
    """A block that points reach, which points (by index), and their highest correlation with it."""

    corner: Corner
    box: Box
    points: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True, eq=False)
class _Posterior:
    """What points (P, 3) of some labels (P,) tell of L logits: (L, P, P + 1), precision and, last, weights."""

    points: np.ndarray
    labels: np.ndarray
    table: np.ndarray

    def near(self, block: _Reached) -> _Posterior:
        """Return what the points near a block tell there, in whole steps that depend on how near they are."""
        most = block.correlation.astype(np.float32)
        scale = np.maximum(np.append(most, np.float32(1)) * most[:, None], np.float32(1e-30))
        columns = np.append(block.points, len(self.points))
        steps = np.rint(self.table[:, block.points[:, None], columns] * (scale / STEP))
        steps += 0  # there is but one zero then
        return _Posterior(self.points[block.points], self.labels[block.points], steps * (STEP / scale))

    def key(self, corner: Corner) -> Key:
        """Name a block of which this decides."""
        content = self.points.tobytes() + self.labels.tobytes() + self.table.tobytes()
        return corner, hashlib.blake2b(content, digest_size=16).digest()

    def spread(self, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Do for each logit what `conditioning.spread` does: (L, N) each."""
        shift, left = zip(*(spread(correlation, each[:, -1], each[:, :-1]) for each in self.table), strict=True)
        return np.array(shift), np.array(left)


class _Job(NamedTuple):
    """A block to compute: which of its voxels are reached (flat indices), and their correlation with each point."""

    key: Key
    box: Box
    posterior: _Posterior
    voxels: np.ndarray
    correlation: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Those voxels, (N, 3)."""
        index = np.unravel_index(self.voxels, shape_of(self.box))
        return np.column_stack([own + part.start for own, part in zip(index, self.box, strict=True)])


class _Blocks:
    """Computes refined blocks of a prediction, and keeps them."""

    def __init__(self, prediction: Prediction, kernel: Kernel, settings: ClickSettings) -> None:
        self._prediction, self._kernel, self._settings = prediction, kernel, settings
        self._spacing = prediction.grid.spacing.astype(np.float32)
        self._edge = np.maximum(MIN_EDGE, np.rint(kernel.box_mm / prediction.grid.spacing)).astype(int)
        self._values = np.array([label.value for label in prediction.labels], np.uint8)
        self._extent = Extent(prediction, kernel.length_mm)
        self.channels = np.tile(self._values, 2 if prediction.checked else 1)  # labels of the sets of logits
        self._logits: dict[Corner, tuple[np.ndarray, np.ndarray]] = {}
        self._blocks: OrderedDict[Key, tuple[Box, VoxelMaps]] = OrderedDict()
        self._size = 0
        logits_of(*np.array([[0.3], [0.05]], np.float32))  # makes the inverse's table now, not at the first click

    def _box(self, corner: Sequence[int]) -> Box | None:
        """Return what of a block was predicted, if anything."""
        block = tuple(slice(at * int(n), (at + 1) * int(n)) for at, n in zip(corner, self._edge, strict=True))
        return intersection(block, self._prediction.processed_box)

    def around(self, voxels: np.ndarray) -> list[Box]:
        """List the blocks that hold some of voxels (K, 3)."""
        corners = np.unique(voxels // self._edge, axis=0).tolist()
        return list(filter(None, map(self._box, corners)))

    def logits_at(self, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find mean and variance of the logits, (L, K) or both sets of them, at voxels (K, 3)."""
        maps, at = (self._prediction.probability, self._prediction.variance), tuple(voxels.T)
        stored = (np.array([label[at] for label in each]) for each in maps)
        return self._sets_of(*logits_of(*stored), self._prediction.segmentation[at])

    def _sets_of(self, mean: np.ndarray, variance: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Put the logits that favour what was drawn after those of the model, if others have drawn it."""
        if self._prediction.checked is None:
            return mean, variance
        unmoved = refined_maps(mean, variance, np.ones_like(mean), 0, self._values).segmentation
        least = HOLD * movable(variance, self._settings.prior_deviation)
        favoured = np.where(drawn == self._values[:, None], np.maximum(mean, least), np.minimum(mean, -least))
        held = np.where(drawn == unmoved, mean, favoured)
        return np.concatenate([mean, held]), np.concatenate([variance, variance])

    def labels_at(self, posterior: _Posterior, voxels: np.ndarray) -> np.ndarray:
        """Find the most probable label of each of (K, 3) voxels."""
        correlation = self._kernel.between(offsets_mm(posterior.points, tuple(voxels.T), self._spacing))
        moved = *self.logits_at(voxels), *posterior.spread(correlation)
        drawn = self._prediction.segmentation[tuple(voxels.T)]
        return self._maps(*moved, drawn, [(posterior.points, voxels)]).segmentation

    def reached(self, points: np.ndarray, reach: Box) -> Iterator[_Reached]:
        """List the blocks that have some of the points, (P, 3) voxels, in reach."""
        if not len(points):
            return
        bounds = [(part.start // n, (part.stop - 1) // n) for part, n in zip(reach, self._edge, strict=True)]
        gaps = []
        for axis, (first, last) in enumerate(bounds):
            start = np.arange(first, last + 1) * self._edge[axis]
            place = points[:, axis, None]
            gap = np.maximum(np.maximum(start - place, place - (start + self._edge[axis] - 1)), 0)
            gap = gap * self._prediction.grid.spacing[axis]
            gaps.append(np.expand_dims(gap, tuple({1, 2, 3} - {axis + 1})))
        highest = self._kernel.between(gaps)
        shape, highest = highest.shape[1:], highest.reshape(len(points), -1)
        for block in np.flatnonzero((highest > 0).any(0)):
            corner = [low + int(at) for (low, _), at in zip(bounds, np.unravel_index(block, shape), strict=True)]
            own = np.flatnonzero(highest[:, block] > 0)
            if box := self._box(corner):
                yield _Reached(tuple(corner), box, own, highest[own, block])

    def maps(self, posterior: _Posterior, inputs: dict[Key, _Reached], box: Box) -> Iterator[tuple[Box, VoxelMaps]]:
        """Compute all blocks that meet a box, or find them computed."""
        jobs: list[_Job] = []
        size = 0
        for key, block in inputs.items():
            if intersection(block.box, box) is None:
                continue
            if key in self._blocks:
                self._blocks.move_to_end(key)
                yield self._blocks[key]
                continue
            jobs.append(self._job(key, block, posterior))
            size += jobs[-1].correlation.size
            if size > CHUNK:
                yield from self._compute(jobs)
                jobs, size = [], 0
        yield from self._compute(jobs)

    def describe(self, posterior: _Posterior, inputs: dict[Key, _Reached]) -> tuple[np.ndarray, Described]:
        """Return the voxels (N, 3) that points reach, and what trees can ask of some of them."""
        jobs = [self._job(key, block, posterior) for key, block in inputs.items()]
        voxels = np.concatenate([job.places for job in jobs])
        return voxels, self._describe(jobs, self._conditioned(jobs, self._logits_of(jobs)).probability)

    def _job(self, key: Key, block: _Reached, posterior: _Posterior) -> _Job:
        near = posterior.near(block)
        return _Job(key, block.box, near, *self._reached_in(block.box, near.points))

    def _reached_in(self, box: Box, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the voxels of a box that points reach, as `Kernel.reached`."""
        axes = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij", sparse=True)
        return self._kernel.reached(offsets_mm(points, axes, self._spacing))

    def _compute(self, jobs: Sequence[_Job]) -> Iterator[tuple[Box, VoxelMaps]]:
        """Compute blocks together: functions of many voxels cost less than many functions of few."""
        if not jobs:
            return
        refined = self._refined(jobs, self._logits_of(jobs))
        ends = np.cumsum([len(job.voxels) for job in jobs])
        for job, end in zip(jobs, ends, strict=True):
            own, maps = slice(end - len(job.voxels), end), maps_in(self._prediction, job.box)
            size = maps.segmentation.size
            for block, values in zip(maps, refined, strict=True):
                block.reshape(-1, size)[:, job.voxels] = values[..., own]
            self._blocks[job.key] = job.box, maps
            self._size += size
            while self._size > KEPT_VOXELS:
                _, (_, oldest) = self._blocks.popitem(last=False)
                self._size -= oldest.segmentation.size
            yield job.box, maps

    def at(self, places: Sequence[tuple[_Posterior, np.ndarray]]) -> VoxelMaps:
        """Compute the maps (L, N) and labels (N,) of voxels (K, 3) that points reach, one set after another."""
        jobs = []
        for posterior, voxels in places:
            low, high = voxels.min(0), voxels.max(0) + 1
            flat = np.ravel_multi_index(tuple((voxels - low).T), tuple(high - low))
            correlation = self._kernel.between(offsets_mm(posterior.points, tuple(voxels.T), self._spacing))
            box = tuple(map(slice, low.tolist(), high.tolist()))
            jobs.append(_Job(((), b""), box, posterior, flat, correlation))
        return self._refined(jobs, self.logits_at(np.concatenate([voxels for _, voxels in places])))

    def _refined(self, jobs: Sequence[_Job], logits: tuple[np.ndarray, np.ndarray]) -> VoxelMaps:
        """Compute what clicks make of all voxels of some blocks that are reached: maps (L, N) and label (N,)."""
        refined = self._conditioned(jobs, logits)
        trees = self._settings.learned
        if trees and self._prediction.checked is None:  # trees know of errors of the model's own
            described = self._describe(jobs, refined.probability)
            score = described.features[CONDITIONED] + trees.score(described.features)
            self._extent.correct(refined, described, score, self._labels(jobs), self._settings.caution)
        return refined

    def _conditioned(self, jobs: Sequence[_Job], logits: tuple[np.ndarray, np.ndarray]) -> VoxelMaps:
        """Condition those voxels, with these means and variances, (L, N) each."""
        effects = [job.posterior.spread(job.correlation) for job in jobs]
        shift, left = (np.concatenate(each, axis=1) for each in zip(*effects, strict=True))
        reached = ((job.posterior.points, job.places) for job in jobs)
        return self._maps(*logits, shift, left, self._labels(jobs), reached)

    def _logits_of(self, jobs: Sequence[_Job]) -> tuple[np.ndarray, np.ndarray]:
        """Find mean and variance of the logits, (L, N) each, of all voxels of some blocks that are reached."""
        self._solve([job for job in jobs if job.key[0] not in self._logits])
        logits = [(self._logits[job.key[0]], job.voxels) for job in jobs]
        mean, variance = (np.concatenate([each[i][:, voxels] for each, voxels in logits], axis=1) for i in (0, 1))
        return mean, variance

    def _labels(self, jobs: Sequence[_Job]) -> np.ndarray:
        """List the labels (N,), without clicks, of all voxels of some blocks that are reached."""
        return np.concatenate([self._prediction.segmentation[job.box].reshape(-1)[job.voxels] for job in jobs])

    def _describe(self, jobs: Sequence[_Job], probability: np.ndarray) -> Described:
        """Describe the voxels of some blocks (`Extent`), after conditioning."""
        self._extent.prepare((job.box, np.unique(job.posterior.labels).tolist()) for job in jobs)
        start, described = 0, []
        for job in jobs:
            points = self._extent.points(job.posterior.points, job.posterior.labels)
            own = slice(start, start + len(job.voxels))
            at, *others = self._extent.describe(job.box, job.voxels, job.correlation, points, probability[:, own])
            described.append(Described(at + start, *others))
            start = own.stop
        return Described(*(np.concatenate(each, axis=-1) for each in zip(*described, strict=True)))

    def _solve(self, jobs: Sequence[_Job]) -> None:
        """Find the logits of blocks."""
        if not jobs:
            return
        count = len(self._values)
        maps = [maps_in(self._prediction, job.box) for job in jobs]
        stored = (np.concatenate([each[i].reshape(count, -1) for each in maps], axis=1) for i in (0, 1))
        drawn = np.concatenate([each.segmentation.ravel() for each in maps])
        ends = np.cumsum([each.segmentation.size for each in maps])[:-1]
        parts = [np.split(values, ends, axis=1) for values in self._sets_of(*logits_of(*stored), drawn)]
        for job, mean, variance in zip(jobs, *parts, strict=True):
            self._logits[job.key[0]] = mean, variance

    def _maps(
        self,
        mean: np.ndarray,
        variance: np.ndarray,
        shift: np.ndarray,
        left: np.ndarray,
        drawn: np.ndarray,
        reached: Iterable[tuple[np.ndarray, np.ndarray]],
    ) -> VoxelMaps:
        """Compute the maps (L, N) and the label (N,) from the logits and what clicks do to them.

        A label that others have `drawn`, (N,), changes where clicks change what favours it: the second set of logits
        where a click tells between drawing and model (`_disputed`), elsewhere what moves both sets. `reached` are
        points (P, 3) and the voxels (K, 3) in their reach, which are all N together.
        """
        step = movable(variance, self._settings.prior_deviation)
        count, sharpening, values = len(self._values), self._settings.sharpening, self._values
        own, held = np.split(shift, [count])
        maps = refined_maps(mean[:count] + step[:count] * own, variance[:count], left[:count], sharpening, values)
        if self._prediction.checked is None:
            return maps
        disputed = np.concatenate([self._disputed(*each) for each in reached])
        both = np.where(own * held > 0, np.sign(held) * np.minimum(np.abs(own), np.abs(held)), 0)
        moved = mean[count:] + step[count:] * np.where(disputed, held, both)
        before = refined_maps(mean[count:], variance[count:], np.ones_like(left[count:]), sharpening, values)
        after = refined_maps(moved, variance[count:], left[count:], sharpening, values)
        unchanged = before.segmentation == after.segmentation
        return maps._replace(segmentation=np.where(unchanged, drawn, after.segmentation))

    def _disputed(self, points: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """Mark the voxels, of (N, 3), of pieces in which drawing and model differ, and in which one of the points lies.

        Beyond such a piece a click that takes the side of the one says nothing against the other.
        """
        pieces = [self._piece(tuple(point)) for point in points.tolist()]
        return np.isin(self._flat(voxels), np.concatenate([np.empty(0, int), *pieces]))

    def _flat(self, voxels: np.ndarray) -> np.ndarray:
        """Return the flat indices, (N,), of voxels (N, 3) of the prediction."""
        return np.asarray(np.ravel_multi_index(tuple(voxels.T), self._prediction.shape))

    @cached_method(1024)
    def _piece(self, point: tuple[int, ...]) -> np.ndarray:
        """Find the piece around a point, as far as that reaches, in which drawing and model differ: flat indices."""
        margin = np.floor(self._kernel.box_mm / self._prediction.grid.spacing)
        box = widened(tuple(slice(at, at + 1) for at in point), margin, self._prediction.shape)
        drawn = self._prediction.segmentation[box]
        modelled = most_probable(np.array(values_in(box, self._prediction.probability)), self._values)
        at = tuple(place - part.start for place, part in zip(point, box, strict=True))
        pieces, _ = ndimage.label((drawn != modelled) & (drawn == drawn[at]))
        reached, _ = self._reached_in(box, np.array([point]))
        own = reached[pieces.reshape(-1)[reached] == pieces[at]] if pieces[at] else np.empty(0, int)
        return self._flat(np.transpose(np.unravel_index(own, pieces.shape)) + [part.start for part in box])


def refined_maps(
    mean: np.ndarray, variance: np.ndarray, left: np.ndarray, sharpening: float, values: np.ndarray
) -> VoxelMaps:
    """Compute probability and variance (L, N) and the label (N,) of logits that clicks have moved.

    Given are the moved mean of the logits, their variance without clicks, and the fraction of the process's variance
    that is left, (L, N) each. Of the variance there is left what clicks have left of the process's. That alone leaves
    the expected error far too large: a click also tells that labels nearby are as they seem, which no variance of a
    logit can say. So the logit grows by as much as clicks have explained; its sign, and so the outline, stays.
    """
    p, v = logistic_normal_moments(mean * (1 + np.float32(sharpening) * (1 - left)), variance * left)
    if len(p) > 1:  # one label against the rest, for each: together they may be too sure
        excess = np.maximum(p.sum(0), 1)
        p, v = p / excess, v / excess**2
    return VoxelMaps(p, np.minimum(v, p * (1 - p)), most_probable(p, values))


class _Reading(NamedTuple):
    """A set of clicks: its voxels, where they reach, what follows of them, and what decides about each block."""

    clicked: Clicked
    reach: Box
    posterior: _Posterior
    inputs: dict[Key, _Reached]
    conflicts: frozenset[str]


class Refiner:
    """The maps of one prediction under any set of clicks, in any order; keeps what it computed.

    The settings say how a click changes its surroundings; default: the prediction's own.
    """

    def __init__(self, prediction: Prediction, settings: ClickSettings | None = None) -> None:
        self.prediction = prediction
        self.settings = settings or prediction.click_settings
        if self.settings.prior_deviation is None and not prediction.has_variance:
            # The little that tiles disagree by is no measure of what the model does not know.
            self.settings = replace(self.settings, prior_deviation=DEFAULT_PRIOR_DEVIATION)
        self.kernel = kernel_of(prediction, self.settings)
        self._blocks = _Blocks(prediction, self.kernel, self.settings)
        self._values = np.array([label.value for label in prediction.labels])

    @cached_method(4096)
    def voxels_of(self, click: Click) -> np.ndarray:
        """Find the voxels of a click; raises `ReviewError` as `clicks.voxels_of`, or for no label of the prediction."""
        prediction = self.prediction
        if overlap(prediction.labels):
            raise ReviewError(
                "The labels of this model overlap, so a click does not say which of them it means; predict one label "
                "alone, and review that."
            )
        if click.label and click.label not in self._values:
            raise ReviewError(f"The prediction has no label {click.label}; click with one of its labels.")
        return voxels_of(click, prediction.grid, prediction.shape, prediction.processed_box)

    def free_voxels(self, click: Click, clicks: Clicks) -> np.ndarray:
        """Find the voxels of a click, (K, 3), that no lock among the clicks keeps from it."""
        return self.voxels_of(click)

    def reach(self, clicks: Iterable[Click]) -> Box:
        """Return the hull of the boxes in which the clicks may change anything; an empty box without clicks."""
        return self._read(tuple(clicks)).reach

    def conflicts(self, clicks: Iterable[Click]) -> frozenset[str]:
        """List the ids of clicks whose label the posterior of all of them contradicts at one of their voxels."""
        return self._read(tuple(clicks)).conflicts

    def changed(self, before: Iterable[Click], after: Iterable[Click]) -> tuple[Box, ...]:
        """List boxes, apart, outside of which two sets of clicks give the same maps, bit for bit."""
        old, new = (self._read(tuple(clicks)) for clicks in (before, after))
        keys = old.inputs.keys() ^ new.inputs.keys()
        boxes = [(old.inputs | new.inputs)[key].box for key in sorted(keys)]
        shape = (*self.prediction.shape, 256)
        sides = [np.ravel_multi_index((*each.clicked.voxels.T, each.clicked.labels), shape) for each in (old, new)]
        decrees = np.unravel_index(np.setxor1d(sides[0], sides[1], assume_unique=True), shape)
        return apart([*boxes, *self._blocks.around(np.column_stack(decrees[:3]))])

    def refine(self, clicks: Iterable[Click], box: Box | None = None) -> VoxelMaps:
        """Compute the maps of a box (default: the `reach`) after a set of clicks: a copy; errors as for `voxels_of`."""
        reading = self._read(tuple(clicks))
        box = reading.reach if box is None else box
        maps = maps_in(self.prediction, box)
        for own, block in self._blocks.maps(reading.posterior, reading.inputs, box):
            if common := common_parts(box, own):
                here, there = common
                maps.probability[:, *here] = block.probability[:, *there]
                maps.variance[:, *here] = block.variance[:, *there]
                maps.segmentation[here] = block.segmentation[there]
        _decree(maps, box, reading.clicked, self._values)
        return maps

    def maps_at(self, answers: Sequence[tuple[Clicks, np.ndarray]]) -> list[VoxelMaps]:
        """Compute what sets of clicks make of some voxels each, (K, 3) that all are in reach and none is clicked.

        Locks are not respected. It is what `refine` gives but for rounding, and costs less.
        """
        if not answers:
            return []
        maps = self._blocks.at([(self._read(clicks).posterior, voxels) for clicks, voxels in answers])
        ends = np.cumsum([len(voxels) for _, voxels in answers])[:-1]
        return [VoxelMaps(*own) for own in zip(*(np.split(each, ends, axis=-1) for each in maps), strict=True)]

    def describe(self, clicks: Iterable[Click]) -> tuple[np.ndarray, Described]:
        """Return the voxels (N, 3) that clicks reach, and what a model of clicks can learn of some of them."""
        reading = self._read(tuple(clicks))
        return self._blocks.describe(reading.posterior, reading.inputs)

    def labels(self, clicks: Iterable[Click], box: Box) -> np.ndarray:
        """Copy the segmentation of a box as it is after a set of clicks; uint8."""
        labels = np.array(self.prediction.segmentation[box], np.uint8)
        if reached := intersection(self.reach(clicks := tuple(clicks)), box):
            labels[within(reached, box)] = self.refine(clicks, reached).segmentation
        return labels

    @cached_method(1024)
    def effect(self, click: Click, clicks: Clicks) -> Effect:
        """Compare the segmentation under clicks with that under the same clicks but one."""
        others = tuple(each for each in clicks if each is not click)
        net = changed = 0
        for box in self.changed(others, clicks):
            without, now = self.labels(others, box), self.labels(clicks, box)
            net += int(np.count_nonzero(now)) - int(np.count_nonzero(without))
            changed += int(np.count_nonzero(now != without))
        voxel_mm3 = self.prediction.grid.voxel_mm3
        return Effect(net * voxel_mm3, changed * voxel_mm3)

    @cached_method(64)
    def _read(self, clicks: Clicks) -> _Reading:
        ordered, grid = sorted(clicks, key=lambda click: click.order), self.prediction.grid
        places = [self.free_voxels(click, clicks) for click in ordered]
        clicked = gather(ordered, places, grid, self.prediction.shape, self.kernel.length_mm / 2)
        posterior, reach = self._posterior(clicked), hull(())
        if len(clicked.points):
            margin = np.floor(self.kernel.box_mm / grid.spacing).astype(int)
            low, high = (clicked.points.min(0) - margin).tolist(), (clicked.points.max(0) + margin + 1).tolist()
            reach = intersection(tuple(map(slice, low, high)), self.prediction.processed_box) or reach
        wrong = self._blocks.labels_at(posterior, clicked.points) != clicked.point_labels
        conflicts = frozenset(ordered[owner].click_id for owner in np.unique(clicked.owners[wrong]))
        blocks = self._blocks.reached(posterior.points, reach)
        inputs = {posterior.near(block).key(block.corner): block for block in blocks}
        return _Reading(clicked, reach, posterior, inputs, conflicts)

    def _posterior(self, clicked: Clicked) -> _Posterior:
        """Solve groups of points that cannot feel each other, one by one."""
        points, count = clicked.points, len(clicked.points)
        table = np.zeros((len(self._blocks.channels), count, count + 1), np.float32)
        places = points * self.prediction.grid.spacing
        near = self.kernel.between(pairs_mm(places, places)) > 0
        groups, group = connected_components(csr_array(near)) if count else (0, [])
        for number in range(groups):
            own = np.flatnonzero(group == number)
            weights, precision = self._solved(points[own].tobytes(), clicked.point_labels[own].tobytes())
            table[:, own, -1], table[:, own[:, None], own] = weights, precision
        return _Posterior(points, clicked.point_labels, table)

    @cached_method(1024)
    def _solved(self, points: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
        voxels, label = np.frombuffer(points, np.intp).reshape(-1, 3), np.frombuffer(labels, np.int64)
        settings, places = self.settings, voxels * self.prediction.grid.spacing
        solved = []
        for value, mean, variance in zip(self._blocks.channels, *self._blocks.logits_at(voxels), strict=True):
            field = Field(mean, movable(variance, settings.prior_deviation), places)
            signs = np.where(label == value, 1, -1)
            solved.append(solve(field, self.kernel, signs, settings.strength, settings.variance_strength))
        weights, precision = zip(*solved, strict=True)
        return np.array(weights), np.array(precision)


def _decree(maps: VoxelMaps, box: Box, clicked: Clicked, values: np.ndarray) -> None:
    """Give clicked voxels their labels, in the maps of a box."""
    index = clicked.voxels - [part.start for part in box]
    inside = ((index >= 0) & (index < maps.segmentation.shape)).all(1)
    at, labels = tuple(index[inside].T), clicked.labels[inside]
    maps.segmentation[at] = labels
    maps.variance[(slice(None), *at)] = 0
    maps.probability[(slice(None), *at)] = labels == values[:, None]
