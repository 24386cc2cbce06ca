"""The blocks that a volume is divided into, and which points reach which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from MoBUncertaintyLib.geometry import Box, intersection
from MoBUncertaintyLib.refinement.kernel import Kernel

Corner = tuple[int, ...]
"""A block's place among the blocks: (z, y, x)."""


class Reached(NamedTuple):
    """A block that points reach: where it is, which points (by index), and their highest correlation with it."""

    corner: Corner
    box: Box
    points: np.ndarray
    correlation: np.ndarray


@dataclass(frozen=True, eq=False)
class Lattice:
    """Blocks of equal size, counted from the first voxel.

    Attributes:
        edge: Voxels along each axis, (3,).
        spacing: mm, (3,).
        inside: What is divided.
    """

    edge: np.ndarray
    spacing: np.ndarray
    inside: Box

    def reached(self, points: np.ndarray, kernel: Kernel, box: Box) -> Iterator[Reached]:
        """List the blocks that meet a box and have points in reach.

        Args:
            points: (P, 3) voxels.
            kernel: Says what is in reach.
            box: Only blocks that meet it.
        """
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
        parts = (np.split(each, starts[1:]) for each in (point, highest))
        for corner, start, stop, own, each in zip(corners.tolist(), low.tolist(), high.tolist(), *parts, strict=True):
            yield Reached(tuple(corner), tuple(map(slice, start, stop)), own, each)
