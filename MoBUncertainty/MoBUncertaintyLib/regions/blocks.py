"""Blocks of whole voxels: a fine grid in steps of at most 2 mm, with every sum kept.

Uncertainty is judged over millimetres, so that finer voxels cost time and tell nothing. Where voxels are longer than
1 mm, a block is one voxel and all is as if there were no blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, reduce

import numpy as np

from MoBUncertaintyLib.geometry import Box

LONGEST_MM = 2.0


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
        self._box = box
        self.factors = np.maximum(1, np.floor(longest_mm / spacing + 1e-6).astype(int))
        self.spacing = spacing * self.factors
        # Where each block begins; the last one along an axis may hold fewer voxels.
        self._edges = [np.append(np.arange(s.start, s.stop, f), s.stop) for s, f in zip(box, self.factors, strict=True)]
        self.shape = tuple(len(edges) - 1 for edges in self._edges)

    @cached_property
    def voxels(self) -> np.ndarray:
        """Number of voxels in each block, float32."""
        z, y, x = (np.diff(edges).astype(np.float32) for edges in self._edges)
        return np.asarray(np.multiply.outer(np.multiply.outer(z, y), x))

    def layers(self) -> Iterator[tuple[int, Box]]:
        """Iterate over layers of blocks along z, by its number and the box of its voxels."""
        for layer, (first, end) in enumerate(zip(self._edges[0][:-1], self._edges[0][1:], strict=True)):
            yield layer, (slice(first, end), *self._box[1:])

    def merge(self, voxels: np.ndarray, operation: np.ufunc = np.add) -> np.ndarray:
        """Compute the sum (or another operation on positive numbers) over each block of one layer, (Y, X).

        Args:
            voxels: The voxels of the layer, as `layers` cuts them.
            operation: A ufunc of two arguments, to which a missing voxel counts as 0.
        """
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
        inside = (slice(int(edges[s.start]), int(edges[s.stop])) for edges, s in zip(self._edges, box, strict=True))
        return tuple(inside), voxels
