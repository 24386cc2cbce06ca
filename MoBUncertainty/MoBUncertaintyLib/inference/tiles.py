"""Lay out tiles in a volume, weight them, and blend the network's moments.

The layout and the weights are nnU-Net's. The weights are products of one-dimensional factors, so their sum, by which
everything is divided in the end, needs no volume of its own, and two classes need only two accumulators.

`Tiling.ADAPTIVE` predicts only some tiles of the grid: those that cover the volume side by side, and those others that
matter where there may be an organ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch import Tensor

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.network.moments import Moments

SIGMA = 1 / 8  # of the tile's size

# The bounds of `Tiling.ADAPTIVE`. No tile is added where every foreground class is less probable than the first. A tile
# is left out if, wherever one is more probable, its weight is below this fraction of the maximum of all tiles: of the
# maximum, not of the sum, so that the fraction does not depend on the tiles' overlap.
MIN_PROBABILITY = 0.01
MIN_WEIGHT = 0.02


class TileGrid:
    """Overlapping tiles that cover a volume.

    Args:
        shape: Voxels of the volume along its three axes; at least those of the tile (pad it otherwise).
        tile: Voxels of a tile.
        overlap: Fraction of a tile that its neighbour also covers, 0 <= overlap < 1.

    Attributes:
        starts: First voxel of the tiles along each axis.
        weights: For each axis the Gaussian weights of a tile's voxels, (tile[axis],) fp32, at most 1, never 0; the
            weight of a voxel is their product.
        max_weights: For each axis the maximum weight that any tile has, (shape[axis],) fp32; the maximum at a voxel
            is their product.
    """

    def __init__(self, shape: Sequence[int], tile: Sequence[int], overlap: float = 0.5) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap must be at least 0 and below 1, not {overlap}")
        if any(size < n for size, n in zip(shape, tile, strict=True)):
            raise ValueError(f"a volume of {tuple(shape)} voxels is smaller than a tile of {tuple(tile)}")
        self.shape, self.tile = tuple(shape), tuple(tile)
        self.starts = compute_steps_for_sliding_window(self.shape, self.tile, 1 - overlap)
        self.weights = [gaussian(n) for n in self.tile]
        self.max_weights = [_max_weights(*axis) for axis in zip(self.shape, self.starts, self.weights, strict=True)]

    def __len__(self) -> int:
        return math.prod(len(starts) for starts in self.starts)

    def __getitem__(self, number: int) -> Box:
        """Return the box of a tile by its number; the last axis varies fastest."""
        starts = [self.starts[axis][i] for axis, i in enumerate(self._index(number))]
        return tuple(slice(start, start + n) for start, n in zip(starts, self.tile, strict=True))

    def side_by_side(self) -> list[int]:
        """Return the numbers of the fewest tiles that cover the volume."""
        chosen = [_cover(starts, n) for starts, n in zip(self.starts, self.tile, strict=True)]
        counts = [len(starts) for starts in self.starts]
        numbers: list[int] = np.ravel_multi_index(np.meshgrid(*chosen, indexing="ij"), counts).ravel().tolist()
        return numbers

    def tiles_that_matter(self, mask: Tensor, min_weight: float = MIN_WEIGHT) -> list[int]:
        """Return the numbers of the tiles that have enough weight at some voxel of a mask.

        Args:
            mask: (*shape) bool, on the CPU.
            min_weight: Fraction of the maximum weight that any tile has at the voxel.
        """
        fractions = [
            [weights / maximum[start : start + len(weights)] for start in starts]
            for starts, weights, maximum in zip(self.starts, self.weights, self.max_weights, strict=True)
        ]
        found = []
        for number in range(len(self)):
            inside = mask[self[number]]
            if inside.any():
                own = _outer([fractions[axis][i] for axis, i in enumerate(self._index(number))])
                if own[inside].max() >= min_weight:
                    found.append(number)
        return found

    def _index(self, number: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(number, [len(starts) for starts in self.starts]))

    def weight(self) -> Tensor:
        """Compute the weight of every voxel of a tile, (*tile) fp32."""
        return _outer(self.weights)


class Accumulator:
    """The mixture of the moments of tiles, mirrored passes and folds, weighted voxel by voxel, in fp32.

    Where tiles, passes or folds disagree, the variance is larger (law of total variance). At any time mean and variance
    are those of everything added so far: sums of E[p] and E[p^2] would lose small variances near p = 1.

    Args:
        grid: The tiles.
        classes: Number of foreground classes, C - 1.
        device: Device of the results.

    Attributes:
        mean, variance: (C - 1, *shape); 0 where nothing was added.
    """

    def __init__(self, grid: TileGrid, classes: int, device: torch.device | str = "cpu") -> None:
        self.grid = grid
        self.weight = grid.weight().to(device)
        self.mean = torch.zeros((classes, *grid.shape), device=device)
        self.variance = torch.zeros_like(self.mean)
        self._added: Counter[tuple[int, int, int]] = Counter()

    def to(self, device: torch.device | str) -> None:
        """Move the results so far."""
        self.weight, self.mean, self.variance = (t.to(device) for t in (self.weight, self.mean, self.variance))

    def add(self, tile: Box, moments: Moments) -> None:
        """Add the moments of a tile in one pass, in a batch of one.

        All memory is allocated before the first result changes, so that a tile that ran out of memory can be added
        again.
        """
        place = (slice(None), *tile)
        mean, variance = (m[0].to(self.mean.device, torch.float32) for m in (moments.mean, moments.variance))
        fraction = self.weight / (self._weight_before(tile) + self.weight)
        change = mean - self.mean[place]
        variance = self.variance[place].lerp(variance, fraction)
        variance += fraction * (1 - fraction) * change.square()
        mean = torch.addcmul(self.mean[place], fraction, change)
        self.mean[place], self.variance[place] = mean, variance
        self._added[tuple(part.start for part in tile)] += 1

    def foreground(self, threshold: float = MIN_PROBABILITY) -> Tensor:
        """Return where any foreground class is at least this probable so far, (*shape) bool on the CPU."""
        found = torch.empty(self.grid.shape, dtype=torch.bool)
        for i in range(len(found)):  # plane by plane: no third volume is needed
            found[i] = (self.mean[:, i] >= threshold).any(dim=0)
        return found

    def result(self) -> tuple[Tensor, Tensor]:
        """Return probability and variance of each foreground class, (C - 1, *shape) on the CPU."""
        self.to("cpu")
        return self.mean, self.variance

    def _weight_before(self, tile: Box) -> Tensor:
        """Sum the weights of everything added so far, at the voxels of a tile."""
        axes = [weights.to(self.weight.device) for weights in self.grid.weights]
        layers: dict[int, Tensor] = {}  # of what was added with the same shift along the first axis
        for starts, times in self._added.items():
            z, y, x = (start - part.start for start, part in zip(starts, tile, strict=True))
            if all(abs(shift) < len(weights) for shift, weights in zip((z, y, x), axes, strict=True)):
                layer = times * _shifted(axes[1], y)[:, None] * _shifted(axes[2], x)
                layers[z] = layers[z] + layer if z in layers else layer
        total = torch.zeros_like(self.weight)
        for shift, layer in layers.items():
            total.addcmul_(_shifted(axes[0], shift)[:, None, None], layer)
        return total


def _shifted(weights: Tensor, shift: int) -> Tensor:
    """Move weights along their axis; what comes in is 0."""
    moved = torch.zeros_like(weights)
    if shift >= 0:
        moved[shift:] = weights[: len(weights) - shift]
    else:
        moved[:shift] = weights[-shift:]
    return moved


def _cover(starts: Sequence[int], size: int) -> list[int]:
    """Return the indices of the fewest intervals from `start` to `start + size` that cover as much as all."""
    chosen = [0]
    while chosen[-1] < len(starts) - 1:
        reached = starts[chosen[-1]] + size
        chosen.append(max(i for i, start in enumerate(starts) if start <= reached))
    return chosen


def _max_weights(size: int, starts: Sequence[int], weights: Tensor) -> Tensor:
    maximum = torch.zeros(size)
    for start in starts:
        part = maximum[start : start + len(weights)]
        torch.maximum(part, weights, out=part)
    return maximum


def gaussian(n: int) -> Tensor:
    """Compute nnU-Net's weights of n voxels along an axis of a tile: 1 at n // 2, standard deviation n / 8."""
    distance = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-0.5 * (distance / (n * SIGMA)).square()).float()


def _outer(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product[..., None] * factor
    return product
