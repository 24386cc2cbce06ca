"""The maps of a prediction under clicks, box by box. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, hull, intersection, within
from MoBUncertaintyLib.base.method_cache import cached_method
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.description import VoxelMaps, maps_in
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.refinement.refiner import Refiner

Clicks = tuple[Click, ...]


class Effect(NamedTuple):
    """What a click changed: what became part of any label, less what ceased to be, and all whose label changed."""

    net_mm3: float
    changed_mm3: float


class ClickedMaps:
    """Maps of one prediction under any set of clicks; its refiner keeps what it computed last."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self.refiner = Refiner(prediction)

    def at(self, clicks: Clicks, box: Box) -> VoxelMaps:
        """Copy the maps of a box as they are under clicks."""
        maps, reached = maps_in(self.prediction, box), self._reached(clicks, box)
        if reached:
            refined, there = self.refiner.refine(clicks, reached), within(reached, box)
            maps.probability[:, *there] = refined.probability
            maps.variance[:, *there] = refined.variance
            maps.labels[there] = refined.segmentation
        return maps

    def labels(self, clicks: Clicks, box: Box) -> np.ndarray:
        """Copy the segmentation of a box as it is under clicks; uint8."""
        labels, reached = np.array(self.prediction.segmentation[box], np.uint8), self._reached(clicks, box)
        if reached:
            labels[within(reached, box)] = self.refiner.refine(clicks, reached).segmentation
        return labels

    def conflicts(self, clicks: Clicks) -> frozenset[str]:
        """List the clicks that the posterior of all of them contradicts."""
        return self.refiner.refine(clicks, hull(())).conflicts if clicks else frozenset()

    def changed(self, before: Clicks, after: Clicks) -> tuple[Box, ...]:
        """List boxes outside of which two sets of clicks give the same maps."""
        if before == after:
            return ()
        return apart(self.refiner.changed(before, after))

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

    def _reached(self, clicks: Clicks, box: Box) -> Box | None:
        return intersection(self.refiner.reach(clicks), box) if clicks else None


def apart(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Join boxes that overlap or touch, until none do."""
    found: list[Box] = []
    for box in boxes:
        while touched := [each for each in found if _touch(each, box)]:
            found = [each for each in found if each not in touched]
            box = hull([box, *touched])
        found.append(box)
    return tuple(found)


def _touch(a: Box, b: Box) -> bool:
    return all(p.start <= q.stop and q.start <= p.stop for p, q in zip(a, b, strict=True))
