"""Blocks of whole voxels: a fine grid in steps of at most 2 mm, with every sum kept.

Uncertainty is judged over millimetres, so that finer voxels cost time and tell nothing. Where voxels are longer than
1 mm, a block is one voxel and all is as if there were no blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np

from MoBUncertaintyLib.geometry import Box, shape_of, whole, within

LONGEST_MM = 2.0

_AT_ONCE = 2**16
"""Voxels that are merged at once: what is computed of them stays in a processor's cache."""


class BlockGrid:
    """The blocks that fill a box of an array.

    Args:
        box: In the array, (z, y, x).
        spacing: Of its voxels in mm, (z, y, x).
        longest_mm: No block of several voxels is longer.

    Attributes:
        factors: Voxels in a block along each axis.
        shape: Number of blocks along each axis.
        spacing: Of the blocks in mm, (z, y, x).
    """

    def __init__(self, box: Box, spacing: np.ndarray, longest_mm: float = LONGEST_MM) -> None:
        self.factors = np.maximum(1, np.floor(longest_mm / spacing + 1e-6).astype(int))
        self.spacing = spacing * self.factors
        # Where each block begins; the last one along an axis may hold fewer voxels.
        self._edges = [np.append(np.arange(s.start, s.stop, f), s.stop) for s, f in zip(box, self.factors, strict=True)]
        self.shape = tuple(len(edges) - 1 for edges in self._edges)

    def voxels(self, box: Box) -> np.ndarray:
        """Return the number of voxels in each block of a box of blocks, float32."""
        ends = zip(self._edges, box, strict=True)
        z, y, x = (np.diff(edges[s.start : s.stop + 1]).astype(np.float32) for edges, s in ends)
        return np.asarray(z[:, None, None] * (y[:, None] * x))

    def voxel_box(self, box: Box) -> Box:
        """Return the box, in the array, of the voxels in a box of blocks."""
        return tuple(slice(int(edges[s.start]), int(edges[s.stop])) for edges, s in zip(self._edges, box, strict=True))

    def covering(self, box: Box) -> Box:
        """Return the box of the blocks that have voxels in a box of the array; an empty one if none has."""
        ends = zip(self._edges, box, strict=True)
        found = [np.flatnonzero((edges[1:] > s.start) & (edges[:-1] < s.stop)) for edges, s in ends]
        return tuple(slice(int(each[0]), int(each[-1]) + 1) if each.size else slice(0, 0) for each in found)

    def layers(self) -> Iterator[Box]:
        """Iterate over layers of blocks along z, each a box of blocks."""
        for layer in range(self.shape[0]):
            yield (slice(layer, layer + 1), *whole(self.shape[1:]))

    def means(self, box: Box, values: Callable[[Box], np.ndarray]) -> np.ndarray:
        """Compute the mean over each block of a box of blocks, float32.

        Args:
            box: The box of blocks.
            values: Returns the values in a box of the array; called for one part after the other.
        """
        return np.asarray(self._merged(box, values, np.add) / self.voxels(box))

    def maxima(self, box: Box, values: Callable[[Box], np.ndarray]) -> np.ndarray:
        """Find the maximum of numbers from 0 on in each block of a box of blocks; arguments as for `means`."""
        return self._merged(box, values, np.maximum)

    def _merged(self, box: Box, values: Callable[[Box], np.ndarray], operation: np.ufunc) -> np.ndarray:
        layers, rows, columns = box
        merged = np.empty(shape_of(box), np.float32)
        height = int(max(1, _AT_ONCE // (self.factors.prod() * max(1, merged.shape[2]))))
        for layer in range(layers.start, layers.stop):
            for row in range(rows.start, rows.stop, height):
                part = slice(layer, layer + 1), slice(row, min(row + height, rows.stop)), columns
                merged[within(part, box)] = self._merge_layer(values(self.voxel_box(part)), operation)
        return merged

    def _merge_layer(self, voxels: np.ndarray, operation: np.ufunc) -> np.ndarray:
        """Merge the voxels of one layer to its blocks, (Y, X); `operation` counts a missing voxel as 0."""
        merged: np.ndarray = reduce(operation, voxels)
        for factor in self.factors[1:]:  # first along y, then along x
            if factor > 1:
                blocks = merged[::factor].copy()
                for n in range(1, factor):
                    others = merged[n::factor]  # one less where the last block is short
                    operation(blocks[: len(others)], others, out=blocks[: len(others)])
                merged = blocks
            merged = merged.T
        return merged

    def centres(self, index: np.ndarray) -> np.ndarray:
        """Return the middles of blocks (N, 3) in voxels of the array, (z, y, x)."""
        middles = [(edges[:-1] + edges[1:] - 1) / 2 for edges in self._edges]
        return np.stack([middle[along] for middle, along in zip(middles, index.T, strict=True)], axis=1)

    def expand(self, box: Box, blocks: np.ndarray) -> tuple[Box, np.ndarray]:
        """Find the voxels that lie in some blocks, given as a mask that fills `box`, a box of blocks.

        Returns:
            The box of these voxels in the array, and the mask that fills it.
        """
        voxels = blocks
        for axis, (edges, s) in enumerate(zip(self._edges, box, strict=True)):
            voxels = np.repeat(voxels, np.diff(edges[s.start : s.stop + 1]), axis)
        return self.voxel_box(box), voxels
