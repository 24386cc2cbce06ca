"""Lay out tiles in a volume, weight them, and blend the network's moments.

The weights are nnU-Net's. They are products of one-dimensional factors, so their sum, by which everything is divided in
the end, needs no volume of its own, and two classes need only two accumulators.

`Tiling.FULL` predicts nnU-Net's grid of tiles. `Tiling.ADAPTIVE` first covers the volume with the fewest, then adds
tiles centred on what is found, until every voxel that may be foreground lies in the core of a tile. For an overlap of
0.5 the core is the middle half of a tile along each axis: nnU-Net's grid has one for every voxel, too.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, bounding_box, nested, shadows, whole
from MoBUncertaintyLib.gaussian.arrays import Array, as_index, namespace, placed, zeros
from MoBUncertaintyLib.gaussian.probability import Moments

SIGMA = 1 / 8  # of the tile's size
MIN_PROBABILITY = 0.25  # of foreground, which `Tiling.ADAPTIVE` centres tiles on

Start = tuple[int, ...]
"""First voxel of a tile along each axis."""


RIVALS = 3
"""Classes beside those that are kept whose means are followed at each voxel."""


class TileGrid:
    """The places where tiles may lie in a volume.

    Args:
        shape: Voxels of the volume along its three axes; at least those of the tile (pad it otherwise).
        tile: Voxels of a tile.
        overlap: Fraction of a tile that its neighbour also covers, 0 <= overlap < 1.

    Attributes:
        weights: For each axis the Gaussian weights of a tile's voxels, (tile[axis],) fp32, at most 1, never 0; the
            weight of a voxel is their product.
    """

    def __init__(self, shape: Sequence[int], tile: Sequence[int], overlap: float = 0.5) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap must be at least 0 and below 1, not {overlap}")
        if any(size < n for size, n in zip(shape, tile, strict=True)):
            raise ValueError(f"a volume of {tuple(shape)} voxels is smaller than a tile of {tuple(tile)}")
        self.shape, self.tile, self.overlap = tuple(shape), tuple(tile), overlap
        self.weights = [gaussian(n) for n in self.tile]
        self._core = [max(round(n * (1 - overlap)), 1) for n in self.tile]
        self._margin = [(n - core) // 2 for n, core in zip(self.tile, self._core, strict=True)]

    def box(self, start: Start) -> Box:
        """Return the voxels of a tile."""
        return tuple(slice(first, first + n) for first, n in zip(start, self.tile, strict=True))

    def all(self) -> list[Start]:
        """Return nnU-Net's grid; the last axis varies fastest."""
        axes = []
        for size, n in zip(self.shape, self.tile, strict=True):
            steps = math.ceil((size - n) / (n * (1 - self.overlap)))
            axes.append(sorted({round(i * (size - n) / max(steps, 1)) for i in range(steps + 1)}))
        return list(itertools.product(*axes))

    def fewest(self) -> list[Start]:
        """Return the fewest tiles that cover the volume, evenly spread."""
        axes = []
        for size, n in zip(self.shape, self.tile, strict=True):
            count = math.ceil(size / n)
            axes.append([round(i * (size - n) / max(count - 1, 1)) for i in range(count)])
        return list(itertools.product(*axes))

    def core(self, start: Start) -> Box:
        """Return the middle part of a tile; at the volume's faces it reaches to them."""
        return tuple(slice(*self._core_along(axis, first)) for axis, first in enumerate(start))

    def centred(self, mask: np.ndarray) -> list[Start]:
        """Place few tiles so that every voxel of a mask lies in the core of one, each centred on those in its core.

        Args:
            mask: (*shape) bool.
        """
        if not mask.any():
            return []
        orders = itertools.permutations(range(mask.ndim))
        placed = [set(self._sweep(mask, whole(mask.shape), axes)) for axes in orders]
        fewest = min(placed, key=len)
        return sorted(fewest)

    def weight(self) -> np.ndarray:
        """Compute the weight of every voxel of a tile, (*tile) fp32."""
        z, y, x = self.weights
        product: np.ndarray = z[:, None, None] * y[:, None] * x
        return product

    def _sweep(self, mask: np.ndarray, box: Box, axes: Sequence[int]) -> Iterator[Start]:
        """Divide what a box has of a mask along one axis after the other into the fewest parts that fit a core."""
        filled, start = shadows(mask[box]), [part.start for part in box]
        box = nested(box, bounding_box(filled))
        if not axes:
            yield tuple(map(self._centre, range(mask.ndim), box))
            return
        axis, *others = axes
        left = np.flatnonzero(filled[axis]) + start[axis]
        while left.size:
            first = int(left[0])
            _, end = self._core_along(axis, self._clamped(axis, first - self._margin[axis]))
            yield from self._sweep(mask, (*box[:axis], slice(first, end), *box[axis + 1 :]), others)
            left = left[left >= end]

    def _centre(self, axis: int, part: slice) -> int:
        """Return the start of the tile in the middle of whose core a part of the axis lies."""
        return self._clamped(axis, part.start - self._margin[axis] - (self._core[axis] - (part.stop - part.start)) // 2)

    def _clamped(self, axis: int, start: int) -> int:
        return int(min(max(start, 0), self.shape[axis] - self.tile[axis]))

    def _core_along(self, axis: int, start: int) -> tuple[int, int]:
        size, first = self.shape[axis], start + self._margin[axis]
        at_end = start == size - self.tile[axis]
        return (first if start else 0), (size if at_end else first + self._core[axis])


class Accumulator:
    """The mixture of the moments of tiles, mirrored passes and folds, weighted voxel by voxel, in fp32.

    Where tiles, passes or folds disagree, the variance is larger (law of total variance). At any time mean and variance
    are those of everything added so far: sums of E[p] and E[p^2] would lose small variances near p = 1.

    Args:
        grid: The tiles.
        classes: Number of foreground classes that are kept, L.
        device: Device of the results.
        others: Number of those that are not, background included, if any is a foreground class. Of these, `RIVALS` are
            followed at each voxel, those of the largest means so far.

    Attributes:
        mean, variance: (L, *shape); 0 where nothing was added.
        rivals: Means of those of the others that are followed, (R, *shape); R is 0 if there are none.
    """

    def __init__(self, grid: TileGrid, classes: int, device: str = "cpu", others: int = 0) -> None:
        self.grid, self.device = grid, device
        self.weight = placed(grid.weight(), device)
        self._axes = [placed(weights, device) for weights in grid.weights]
        self._voxels = placed(np.arange(math.prod(grid.tile)), device)
        self.mean, self.variance = (zeros((classes, *grid.shape), self.weight) for _ in range(2))
        self.rivals = zeros((min(others, RIVALS), *grid.shape), self.weight)
        self._followed = namespace(self.rivals).zeros_like(self.rivals, dtype=namespace(self.rivals).uint8)
        self._added: Counter[tuple[int, int, int]] = Counter()

    def to(self, device: str) -> None:
        """Move the results so far."""
        for name in ("weight", "mean", "variance", "rivals", "_followed", "_voxels"):
            setattr(self, name, placed(getattr(self, name), device))
        self._axes = [placed(weights, device) for weights in self._axes]
        self.device = device

    def add(self, tile: Box, moments: Moments) -> None:
        """Add the moments of a tile in one pass, in a batch of one.

        All memory is allocated before the first result changes, so that a tile that ran out of memory can be added
        again.
        """
        place = (slice(None), *tile)
        mean, variance = (placed(m[0], self.device) for m in (moments.mean, moments.variance))
        fraction = self.weight / (self._weight_before(tile) + self.weight)
        change = mean - self.mean[place]
        variance = fraction * variance + (1 - fraction) * self.variance[place] + fraction * (1 - fraction) * change**2
        mean = self.mean[place] + fraction * change
        if moments.others is not None:
            rivals = self._rivals(place, fraction, placed(moments.others[0], self.device))
            self.rivals[place], self._followed[place] = rivals
        self.mean[place], self.variance[place] = mean, variance
        self._added[tuple(part.start for part in tile)] += 1

    def foreground(self, threshold: float = MIN_PROBABILITY) -> np.ndarray:
        """Return where any foreground class is at least this probable so far, (*shape) bool."""
        mask = np.empty(self.grid.shape, dtype=bool)
        # On a CPU plane by plane, without a third volume; each copy from another device would take a wait.
        size = 1 if isinstance(self.mean, np.ndarray) else len(mask)
        for first in range(0, len(mask), size):
            here = (self.mean[:, first : first + size] >= threshold).any(0)
            mask[first : first + size] = placed(here, "cpu")
        return mask

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean, with the largest of the others behind it if there are any, and variance."""
        mean, variance, rivals = (placed(values, "cpu") for values in (self.mean, self.variance, self.rivals))
        return np.concatenate([mean, rivals.max(0, keepdims=True)]) if len(rivals) else mean, variance

    def _rivals(self, place: Box, fraction: Array, means: Array) -> tuple[Array, ...]:
        """Find the largest means of the other classes in a tile: exactly for those that were followed all along."""
        means = (fraction * means).reshape(len(means), -1)
        before, voxels = ((1 - fraction) * self.rivals[place]).reshape(len(self.rivals), -1), self._voxels
        for which, mean in zip(self._followed[place].reshape(before.shape), before, strict=True):
            means[as_index(which), voxels] += mean
        rivals, followed = [], []
        for _ in self.rivals:
            which = means.argmax(0)
            rivals.append(means[which, voxels])
            followed.append(which)
            means[which, voxels] = -1.0
        return tuple(namespace(means).stack(ranks).reshape(-1, *self.grid.tile) for ranks in (rivals, followed))

    def _weight_before(self, tile: Box) -> Array:
        """Sum the weights of everything added so far, at the voxels of a tile."""
        axes = self._axes
        layers: dict[int, Array] = {}  # of what was added with the same shift along the first axis
        for starts, times in self._added.items():
            z, y, x = (start - part.start for start, part in zip(starts, tile, strict=True))
            if all(abs(shift) < len(weights) for shift, weights in zip((z, y, x), axes, strict=True)):
                layer = times * _shifted(axes[1], y)[:, None] * _shifted(axes[2], x)
                layers[z] = layers[z] + layer if z in layers else layer
        total = namespace(self.weight).zeros_like(self.weight)
        for shift, layer in layers.items():
            total += _shifted(axes[0], shift)[:, None, None] * layer
        return total


def _shifted(weights: Array, shift: int) -> Array:
    """Move weights along their axis; what comes in is 0."""
    moved = namespace(weights).zeros_like(weights)
    if shift >= 0:
        moved[shift:] = weights[: len(weights) - shift]
    else:
        moved[:shift] = weights[-shift:]
    return moved


def gaussian(n: int) -> np.ndarray:
    """Compute nnU-Net's weights of n voxels along an axis of a tile: 1 at n // 2, standard deviation n / 8."""
    distance = np.arange(n) - n // 2
    weights: np.ndarray = np.exp(-0.5 * (distance / (n * SIGMA)) ** 2).astype(np.float32)
    return weights
