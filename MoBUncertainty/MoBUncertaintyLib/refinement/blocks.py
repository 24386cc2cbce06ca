"""The blocks that a volume is divided into, and which points reach which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from MoBUncertaintyLib.geometry import Box, intersection

Corner = tuple[int, ...]
"""A block's place among the blocks: (z, y, x)."""


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

    def reached(self, points: np.ndarray, reach_mm: float, box: Box) -> Iterator[tuple[Corner, Box, np.ndarray]]:
        """List blocks near points: corner, box, and indices of the points that are nearer than `reach_mm`.

        Args:
            points: (P, 3) voxels.
            reach_mm: Distance.
            box: Only blocks that meet it.
        """
        meeting = intersection(box, self.inside)
        if meeting is None or not len(points):
            return
        bounds = [(part.start // n, (part.stop - 1) // n) for part, n in zip(meeting, self.edge, strict=True)]
        square = np.zeros((len(points), 1, 1, 1))
        for axis, (first, last) in enumerate(bounds):
            start = np.arange(first, last + 1) * self.edge[axis]
            place = points[:, axis, None]
            gap = np.maximum(np.maximum(start - place, place - (start + self.edge[axis] - 1)), 0) * self.spacing[axis]
            square = square + np.expand_dims(gap**2, tuple({1, 2, 3} - {axis + 1}))
        near = square < reach_mm**2
        for corner in np.argwhere(near.any(0)):
            there = tuple(int(c + first) for c, (first, _) in zip(corner, bounds, strict=True))
            block = tuple(slice(int(c * n), int((c + 1) * n)) for c, n in zip(there, self.edge, strict=True))
            clipped = intersection(block, self.inside)
            assert clipped is not None
            yield there, clipped, np.flatnonzero(near[(slice(None), *corner)])
