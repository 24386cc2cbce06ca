"""Partition a tile into P x P x P cells of nearly equal size (paper, section 3).

`adaptive_avg_pool3d` is not used because its bins overlap where P does not divide the tile.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.gaussian.arrays import Array, namespace

if TYPE_CHECKING:
    from torch import Tensor


def cell_bounds(size: int, partitions: int) -> list[tuple[int, int]]:
    """List start and stop of each cell along an axis of `size` voxels; lengths differ by at most one voxel.

    An axis shorter than `partitions` has as many cells as voxels.
    """
    count = min(partitions, size)
    edges = [i * size // count for i in range(count + 1)]
    return list(pairwise(edges))


def cell_means(values: Tensor, partitions: int) -> Tensor:
    """Average over each cell: (B, F, *S) -> (B, F, P, P, P)."""
    # A cell is a box, so the axes can be reduced one by one.
    for axis in range(2, values.ndim):
        shape, bounds = values.shape, cell_bounds(values.shape[axis], partitions)
        if shape[axis] % len(bounds):
            parts = [values.narrow(axis, a, b - a).mean(dim=axis, keepdim=True) for a, b in bounds]
            values = namespace(values).cat(parts, dim=axis)
        else:  # without a copy
            equal = values.reshape(-1, shape[axis] // len(bounds), math.prod(shape[axis + 1 :]))
            values = equal.mean(dim=1).reshape(*shape[:axis], len(bounds), *shape[axis + 1 :])
    return values


def spread_cells(values: Array, shape: tuple[int, ...]) -> Array:
    """Give every voxel its cell's value: (..., P, P, P) -> (..., *shape). The inverse of `cell_means` on constants."""
    # The innermost axis first: the last and largest step then copies whole slabs.
    for axis in range(-1, -len(shape) - 1, -1):
        cells = shape[axis], int(values.shape[axis])
        if cells[0] == cells[1]:
            continue
        if isinstance(values, np.ndarray):
            values = values.take(_cell_of_each(*cells), axis)
        else:  # repeat_interleave() does the same, but inference engines other than torch do not know it
            values = values.index_select(axis, _cell_on_device(*cells, values.device))
    return values


def _cell_of_each(size: int, partitions: int) -> list[int]:
    """List the cell of each voxel along an axis."""
    return [cell for cell, (start, stop) in enumerate(cell_bounds(size, partitions)) for _ in range(start, stop)]


@lru_cache(maxsize=64)
def _cell_on_device(size: int, partitions: int, device: Any) -> Tensor:
    """Make the same as a tensor, once on each device: a copy to it makes the host wait."""
    import torch

    with torch.inference_mode(False):  # what stays must serve training, too
        return torch.tensor(_cell_of_each(size, partitions), device=device)
