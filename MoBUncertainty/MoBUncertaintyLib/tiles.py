"""Where tiles lie in a volume, how they are weighted, and how what the network says about them is put together.

The layout and the weights are nnU-Net's. Both are products of one-dimensional parts, since tiles form a full grid: so
the sum of the weights, which everything is divided by in the end, never needs a volume of its own, and for two classes
there are exactly two accumulators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch import Tensor

from MoBUncertaintyLib.moments import Moments

SIGMA = 1 / 8  # of the tile's size


class TileGrid:
    """Overlapping tiles that cover a volume.

    Args:
        shape: Voxels of the volume along its three axes; at least those of the tile (pad it otherwise).
        tile: Voxels of a tile.
        overlap: Share of a tile that its neighbour covers too, 0 <= overlap < 1.

    Attributes:
        starts: First voxel of the tiles along each axis.
        weights: The Gaussian importance of a tile's voxels along each axis, largest 1, never 0; the weight of a voxel
            is their product.
        sums: For each axis, the sum of the weights of all tiles along it; the normaliser is their product.
    """

    def __init__(self, shape: Sequence[int], tile: Sequence[int], overlap: float = 0.5) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap must be at least 0 and below 1, not {overlap}")
        if any(size < n for size, n in zip(shape, tile, strict=True)):
            raise ValueError(f"a volume of {tuple(shape)} voxels is smaller than a tile of {tuple(tile)}")
        self.shape, self.tile = tuple(shape), tuple(tile)
        self.starts = compute_steps_for_sliding_window(self.shape, self.tile, 1 - overlap)
        self.weights = [gaussian(n) for n in self.tile]
        self.sums = [self._sum(*axis) for axis in zip(self.shape, self.starts, self.weights, strict=True)]

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self.starts)

    def __iter__(self) -> Iterator[tuple[slice, slice, slice]]:
        for z in self.starts[0]:
            for y in self.starts[1]:
                for x in self.starts[2]:
                    yield tuple(slice(i, i + n) for i, n in zip((z, y, x), self.tile, strict=True))

    def weight(self) -> Tensor:
        """The weight of every voxel of a tile, (*tile) fp32."""
        return _outer(self.weights)

    @staticmethod
    def _sum(size: int, starts: Sequence[int], weights: Tensor) -> Tensor:
        total = torch.zeros(size)
        for start in starts:
            total[start : start + len(weights)] += weights
        return total


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

    @property
    def nbytes(self) -> int:
        """Bytes of the two sums."""
        return self.first.nbytes + self.second.nbytes

    def to(self, device: torch.device | str) -> None:
        """Move the sums."""
        self.weight, self.first, self.second = (t.to(device) for t in (self.weight, self.first, self.second))

    def add(self, tile: tuple[slice, slice, slice], moments: Moments) -> None:
        """Add what one pass says about a tile; `moments` with a batch of one.

        Nothing is added unless all is: what needs memory comes before the first sum changes, so a tile that ran out of
        memory can be tried again.
        """
        first, second = (
            m[0].to(self.first.device, torch.float32) * self.weight for m in (moments.first, moments.second)
        )
        self.first[(slice(None), *tile)] += first
        self.second[(slice(None), *tile)] += second

    def result(self, passes: int = 1) -> tuple[Tensor, Tensor]:
        """Probability and variance of each foreground class, (C - 1, *shape) on the CPU; the sums are used up.

        Args:
            passes: How often every tile was added (mirrored passes times folds).
        """
        probability, variance = self.first.cpu(), self.second.cpu()
        z, y, x = self.grid.sums
        plane_sum = _outer([y, x])
        # Plane by plane and in place, so that no third volume is needed.
        for i in range(self.grid.shape[0]):
            p, v = probability[:, i], variance[:, i]
            p.div_(plane_sum * (z[i] * passes)).clamp_(0, 1)
            v.div_(plane_sum * (z[i] * passes)).copy_(Moments(p, v).variance())
        return probability, variance


def gaussian(n: int) -> Tensor:
    """nnU-Net's importance of the n voxels along an axis of a tile: largest (1) at n // 2, standard deviation n / 8."""
    distance = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-0.5 * (distance / (n * SIGMA)).square()).float()


def _outer(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product[..., None] * factor
    return product
