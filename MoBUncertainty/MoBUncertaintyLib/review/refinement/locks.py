"""Labels that are locked: what later clicks must leave as it is.

From a lock on (a click of the extent `LOCK`) no voxel joins its label or leaves it. Where the clicks that follow would
do either, labels and maps stay as they were under those before the lock. So the order of clicks counts where a label is
locked, and nowhere else; their times, which the record holds, say it. Once it is unlocked all clicks act there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, apart, hull, shape_of
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.regions.measure import VoxelMaps
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent
from MoBUncertaintyLib.review.refinement.refiner import Clicks, Refiner


def locks_of(clicks: Iterable[Click]) -> dict[int, Click]:
    """List the locks among clicks by the label that is locked."""
    return {click.label: click for click in clicks if click.extent is Extent.LOCK}


def spared(before: np.ndarray, after: np.ndarray, clicks: Iterable[Click]) -> np.ndarray:
    """Mark the voxels of two label maps of one shape where a label that clicks lock is, or would come to be."""
    values = list(locks_of(clicks))
    return np.asarray(np.isin(before, values) | np.isin(after, values))


class LockingRefiner(Refiner):
    """The maps of one prediction under any set of clicks, locks among them."""

    def free_voxels(self, click: Click, clicks: Clicks) -> np.ndarray:
        earlier = [each for each in _ordered(clicks) if each.order < click.order]
        while earlier and earlier[-1].extent is not Extent.LOCK:
            earlier.pop()
        return self._free_voxels(click, tuple(earlier)) if earlier else self.voxels_of(click)

    @cached_method(4096)
    def _free_voxels(self, click: Click, locking: Clicks) -> np.ndarray:
        """Find the voxels that a click can give its label after others, the last of which is a lock."""
        voxels, locked = self.voxels_of(click), list(locks_of(locking))
        if click.label in locked or not len(voxels):
            return voxels[:0]
        low = voxels.min(0)
        box = tuple(map(slice, low.tolist(), (voxels.max(0) + 1).tolist()))
        return voxels[~np.isin(self.labels(locking, box)[tuple((voxels - low).T)], locked)]

    def reach(self, clicks: Iterable[Click]) -> Box:
        boxes = [Refiner.reach(self, each) for each in _stages(tuple(clicks))]
        return hull(box for box in boxes if shape_of(box)[0])

    def changed(self, before: Iterable[Click], after: Iterable[Click]) -> tuple[Box, ...]:
        old, new = list(_stages(tuple(before))), list(_stages(tuple(after)))
        boxes = list(super().changed(old[-1], new[-1]))
        for stage in set(old[:-1]) ^ set(new[:-1]):  # locked in one only: there it stayed as it was, or goes on
            boxes += super().changed(stage, old[-1])
        return apart(boxes)

    def refine(self, clicks: Iterable[Click], box: Box | None = None) -> VoxelMaps:
        first, *later = _stages(clicks := tuple(clicks))
        box = self.reach(clicks) if box is None else box
        maps = super().refine(first, box)
        for locking, stage in pairwise([first, *later]):
            before, maps = maps, super().refine(stage, box)
            frozen = spared(before.segmentation, maps.segmentation, locking)
            maps.segmentation[frozen] = before.segmentation[frozen]
            maps.probability[:, frozen], maps.variance[:, frozen] = (
                before.probability[:, frozen],
                before.variance[:, frozen],
            )
        return maps


def _ordered(clicks: Iterable[Click]) -> Clicks:
    return tuple(sorted(clicks, key=lambda click: click.order))


def _stages(clicks: Clicks) -> Iterator[Clicks]:
    """List, in order, the clicks up to each last lock of several in a row, and all clicks."""
    ordered = _ordered(clicks)
    for number, click in enumerate(ordered[:-1], 1):
        if click.extent is Extent.LOCK and ordered[number].extent is not Extent.LOCK:
            yield ordered[:number]
    yield ordered
