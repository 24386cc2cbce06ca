"""Where tiles lie in a volume, how they are weighted, and how what the network says about them is put together.

The layout and the weights are nnU-Net's. The weights are products of one-dimensional parts, so their sum, which
everything is divided by in the end, never needs a volume of its own, and for two classes there are exactly two
accumulators.

With `Tiling.ADAPTIVE` not all tiles of the grid are looked at: those that cover the volume side by side, and of the
others those that count where there may be an organ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch import Tensor

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.network.moments import Moments

SIGMA = 1 / 8  # of the tile's size

# The bounds of `Tiling.ADAPTIVE`: where each foreground class is less probable than this, no tile is added; and a tile
# is left out if, wherever one is more probable, its weight is below this part of the greatest that any tile has there.
# The part is of the greatest weight, not of the sum, so that it means the same however much the tiles overlap.
MINIMUM_PROBABILITY = 0.01
MINIMUM_WEIGHT = 0.02


class Tiling(StrEnum):
    """Which tiles of the grid are looked at."""

    FULL = "full"
    """All of them, as nnU-Net does."""
    ADAPTIVE = "adaptive"
    """Side by side and, where that shows foreground or doubt, all that matter there."""


class TileGrid:
    """Overlapping tiles that cover a volume.

    Args:
        shape: Voxels of the volume along its three axes; at least those of the tile (pad it otherwise).
        tile: Voxels of a tile.
        overlap: Share of a tile that its neighbour covers too, 0 <= overlap < 1.

    Attributes:
        starts: First voxel of the tiles along each axis.
        weights: The Gaussian importance of a tile's voxels along each axis, (tile[axis],) fp32, largest 1, never 0; the
            weight of a voxel is their product.
        greatest: For each axis, the greatest weight that any tile has there, (shape[axis],) fp32; the greatest weight
            at a voxel is their product.
    """

    def __init__(self, shape: Sequence[int], tile: Sequence[int], overlap: float = 0.5) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap must be at least 0 and below 1, not {overlap}")
        if any(size < n for size, n in zip(shape, tile, strict=True)):
            raise ValueError(f"a volume of {tuple(shape)} voxels is smaller than a tile of {tuple(tile)}")
        self.shape, self.tile = tuple(shape), tuple(tile)
        self.starts = compute_steps_for_sliding_window(self.shape, self.tile, 1 - overlap)
        self.weights = [gaussian(n) for n in self.tile]
        self.greatest = [_greatest(*axis) for axis in zip(self.shape, self.starts, self.weights, strict=True)]

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self.starts)

    def __getitem__(self, number: int) -> Box:
        """Where the tile of that number lies; the last axis counts fastest."""
        starts = [self.starts[axis][i] for axis, i in enumerate(self._index(number))]
        return tuple(slice(start, start + n) for start, n in zip(starts, self.tile, strict=True))

    def side_by_side(self) -> list[int]:
        """The numbers of as few tiles as cover the volume."""
        chosen = [_cover(starts, n) for starts, n in zip(self.starts, self.tile, strict=True)]
        counts = [len(starts) for starts in self.starts]
        return np.ravel_multi_index(np.meshgrid(*chosen, indexing="ij"), counts).ravel().tolist()

    def that_count(self, where: Tensor, minimum: float = MINIMUM_WEIGHT) -> list[int]:
        """The numbers of the tiles whose weight is at least this part of the greatest at some voxel of a mask.

        Args:
            where: (*shape) bool, on the CPU.
            minimum: Of the greatest weight that any tile of the grid has at the voxel.
        """
        parts = [
            [weights / greatest[start : start + len(weights)] for start in starts]
            for starts, weights, greatest in zip(self.starts, self.weights, self.greatest, strict=True)
        ]
        found = []
        for number in range(len(self)):
            inside = where[self[number]]
            if inside.any():
                own = _outer([parts[axis][i] for axis, i in enumerate(self._index(number))])
                if own[inside].max() >= minimum:
                    found.append(number)
        return found

    def _index(self, number: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(number, [len(starts) for starts in self.starts]))

    def weight(self) -> Tensor:
        """The weight of every voxel of a tile, (*tile) fp32."""
        return _outer(self.weights)


class Accumulator:
    """Weighted sums of E[p] and E[p^2] of the foreground classes over tiles, mirrored passes and folds, in fp32.

    Moments are what is blended, so the result is the mixture of all that was added: where tiles, passes or folds
    disagree, the variance says so (law of total variance).

    Args:
        grid: The tiles.
        classes: Number of foreground classes, C - 1.
        device: Where the sums are held.
    """

    def __init__(self, grid: TileGrid, classes: int, device: torch.device | str = "cpu") -> None:
        self.grid = grid
        self.weight = grid.weight().to(device)
        self.first = torch.zeros((classes, *grid.shape), device=device)
        self.second = torch.zeros_like(self.first)
        self._added: Counter[tuple[int, int, int]] = Counter()

    def to(self, device: torch.device | str) -> None:
        """Move the sums."""
        self.weight, self.first, self.second = (t.to(device) for t in (self.weight, self.first, self.second))

    def add(self, tile: Box, moments: Moments) -> None:
        """Add what one pass says about a tile; `moments` with a batch of one.

        Nothing is added unless all is: what needs memory comes before the first sum changes, so a tile that ran out of
        memory can be tried again.
        """
        first, second = (
            m[0].to(self.first.device, torch.float32) * self.weight for m in (moments.first, moments.second)
        )
        self.first[(slice(None), *tile)] += first
        self.second[(slice(None), *tile)] += second
        self._added[tuple(part.start for part in tile)] += 1

    def foreground(self, threshold: float = MINIMUM_PROBABILITY) -> Tensor:
        """Where any foreground class is at least this probable, as far as is known: (*shape) bool on the CPU."""
        found = torch.empty(self.grid.shape, dtype=torch.bool)
        for i, weight in enumerate(self._plane_weights()):
            found[i] = (self.first[:, i] >= threshold * weight).any(dim=0)
        return found

    def result(self) -> tuple[Tensor, Tensor]:
        """Probability and variance of each foreground class, (C - 1, *shape) on the CPU; the sums are used up."""
        self.to("cpu")
        # Plane by plane and in place, so that no third volume is needed.
        for i, weight in enumerate(self._plane_weights()):
            p, v = self.first[:, i], self.second[:, i]
            p.div_(weight).clamp_(0, 1)
            v.div_(weight).copy_(Moments(p, v).variance())
        return self.first, self.second

    def _plane_weights(self) -> Iterator[Tensor]:
        """The summed weights of all that was added: for each plane along the volume's first axis (rows, columns)."""
        depth, rows, columns = self.grid.tile
        z, y, x = (weights.to(self.weight.device) for weights in self.grid.weights)
        tile = y[:, None] * x
        layers: dict[int, Tensor] = {}
        for (front, top, left), times in self._added.items():
            if front not in layers:
                layers[front] = torch.zeros(self.grid.shape[1:], device=self.weight.device)
            layers[front][top : top + rows, left : left + columns] += times * tile
        for i in range(self.grid.shape[0]):
            yield sum(z[i - front] * layer for front, layer in layers.items() if 0 <= i - front < depth)


def _cover(starts: Sequence[int], size: int) -> list[int]:
    """The indices of as few of the intervals `start` to `start + size` as cover all that they all cover."""
    chosen = [0]
    while chosen[-1] < len(starts) - 1:
        reached = starts[chosen[-1]] + size
        chosen.append(max(i for i, start in enumerate(starts) if start <= reached))
    return chosen


def _greatest(size: int, starts: Sequence[int], weights: Tensor) -> Tensor:
    greatest = torch.zeros(size)
    for start in starts:
        part = greatest[start : start + len(weights)]
        torch.maximum(part, weights, out=part)
    return greatest


def gaussian(n: int) -> Tensor:
    """nnU-Net's importance of the n voxels along an axis of a tile: largest (1) at n // 2, standard deviation n / 8."""
    distance = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-0.5 * (distance / (n * SIGMA)).square()).float()


def _outer(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product[..., None] * factor
    return product
