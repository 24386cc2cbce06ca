"""Resample from the image's grid to the network's, as nnU-Net does, and back.

nnU-Net interpolates with cubic splines on a grid whose edges coincide with the image's. That is linear and separable,
so it is a product with one small matrix per axis. The product has nnU-Net's values up to float32's rounding, takes a
thirtieth of the time, and does not make several float64 copies of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.nnunet.plans import CUBIC, is_cubic

NEGLIGIBLE = 2.0**-40
"""Weight of a voxel in an interpolation: a 65,000th of float32's rounding, even next to one of weight 1."""

_AT_ONCE = 2**22
"""Numbers of an image that are prepared at once: with fewer, a product's threads wait longer than they compute."""


@dataclass(frozen=True)
class Resampling:
    """How nnU-Net's plans have images, or label maps, resampled to the network's grid.

    Attributes:
        function: Name of the function that the plans name; nnU-Net's own is called unless it is that of cubic splines.
        options: Its arguments.
    """

    function: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, configuration: Mapping[str, Any], what: str) -> Resampling:
        """Return that of `data` or `seg` in a configuration."""
        return cls(configuration[f"resampling_fn_{what}"], configuration[f"resampling_fn_{what}_kwargs"])

    def resample(
        self,
        data: np.ndarray,
        shape: Sequence[int],
        spacing: Sequence[float],
        new_spacing: Sequence[float],
        prepare: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> np.ndarray:
        """Resample to another grid.

        Args:
            data: (*S) float32, or what `prepare` makes that of.
            shape: Shape of the result.
            spacing, new_spacing: Spacing before and after, mm. If one is anisotropic, nnU-Net takes the nearest slice
                along the axis of coarse spacing.
            prepare: What is to be done first, with each voxel alone; called for one part of the data after the other.
        """
        if tuple(shape) == data.shape:
            return prepare(data)
        if not is_cubic(self.function, self.options):
            from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name

            function = recursive_find_resampling_fn_by_name(self.function)
            grids = np.asarray(shape), spacing, new_spacing
            resampled: np.ndarray = np.asarray(function(prepare(data)[None], *grids, **self.options))[0]
            return resampled
        rules = {name: value for name, value in self.options.items() if name not in CUBIC}
        coarse = _coarse_axis(spacing, new_spacing, **rules)
        splines = tuple(axis for axis in range(3) if axis != coarse)
        # The axis that shrinks the data most comes first, slab by slab along another: they are not copied as a whole.
        first, *others = sorted(splines, key=lambda axis: shape[axis] / data.shape[axis])
        # Splines overshoot, so the result is clipped to the range of what is interpolated: a slice, or all.
        low, high, done = np.float32(np.inf), np.float32(-np.inf), []
        for slab in _slabs(data, min(others)):
            part = prepare(slab)
            low = np.minimum(low, part.min(axis=splines, keepdims=True))
            high = np.maximum(high, part.max(axis=splines, keepdims=True))
            done.append(_along(first, shape[first], part))
        data = np.concatenate(done, axis=min(others))
        for axis in others:
            data = _along(axis, shape[axis], data)
        data = np.clip(data, low, high)
        return data if coarse is None else data.take(nearest(data.shape[coarse], shape[coarse]), axis=coarse)


def _coarse_axis(
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = 3,
) -> int | None:
    """Find the axis along which nnU-Net takes the nearest slice, if there is one, by its function's arguments."""
    for steps in (spacing, new_spacing):
        anisotropic = max(steps) / min(steps) > separate_z_anisotropy_threshold
        if force_separate_z or (force_separate_z is None and anisotropic):
            coarse = [axis for axis, step in enumerate(steps) if step == max(steps)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def _slabs(data: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """Cut the data along an axis into parts."""
    thickness = max(1, _AT_ONCE * data.shape[axis] // data.size)
    for start in range(0, data.shape[axis], thickness):
        yield data[(slice(None),) * axis + (slice(start, start + thickness),)]


@lru_cache(maxsize=8)
def spline_matrix(old: int, new: int) -> np.ndarray:
    """Compute the (new, old) float32 matrix of cubic spline interpolation between grids with the same edges.

    The weights of voxels further and further away soon lie below float32's rounding, and then below its smallest normal
    number, with which processors multiply ten times more slowly: these are 0.
    """
    matrix: np.ndarray = ndimage.zoom(np.eye(old), (new / old, 1), order=3, mode="nearest", grid_mode=True)
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    return matrix.astype(np.float32)


def nearest(old: int, new: int) -> np.ndarray:
    """Find the nearest of `old` points to each of `new` points on a grid with the same edges."""
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    index: np.ndarray = np.clip(np.floor(position + 0.5).astype(int), 0, old - 1)
    return index


def _along(axis: int, new: int, data: np.ndarray) -> np.ndarray:
    """Interpolate each line of the data along an axis."""
    if data.shape[axis] == new:
        return data
    matrix = spline_matrix(data.shape[axis], new)
    product: np.ndarray = (
        data @ matrix.T if axis == 2 else matrix @ data if axis == 1 else np.tensordot(matrix, data, 1)
    )
    return product


def planes(volumes: np.ndarray, shape: Sequence[int], wanted: Box = (slice(None),) * 3) -> Iterator[np.ndarray]:
    """Resample results linearly to another grid, one plane along the first axis at a time, to save memory.

    The edges of both grids coincide (`align_corners=False`), as in `resample`.

    Args:
        volumes: (C, *S) float32.
        shape: Shape of the other grid.
        wanted: Part of the other grid to return.

    Yields:
        (C, rows, columns) float32; it must not be changed.
    """
    depths, rows, columns = map(_neighbours, volumes.shape[1:], shape, wanted)
    wide: dict[int, np.ndarray] = {}  # planes of the results, their rows and columns those of the other grid
    step: tuple[int, np.ndarray] | None = None
    for below, above, weight in zip(*depths, strict=True):
        for depth in {below, above} - wide.keys():
            wide[depth] = _between(_between(volumes[:, depth], columns, 2), rows, 1)
        wide = {depth: wide[depth] for depth in (below, above)}
        if step is None or step[0] != below:
            step = below, wide[above] - wide[below]
        yield wide[below] + weight * step[1] if weight else wide[below]


def _neighbours(old: int, new: int, part: slice) -> tuple[list[int], list[int], list[np.float32]]:
    """Find the two of `old` points beside each of `new` ones on a grid with the same edges, and the second's weight."""
    position = np.clip((np.arange(new)[part] + 0.5) * (old / new) - 0.5, 0, old - 1)
    below = position.astype(int)
    return below.tolist(), np.minimum(below + 1, old - 1).tolist(), list((position - below).astype(np.float32))


def _between(data: np.ndarray, neighbours: tuple[list[int], list[int], list[np.float32]], axis: int) -> np.ndarray:
    """Interpolate between neighbours along an axis of (C, rows, columns)."""
    below, above, weight = neighbours
    low, result = data.take(below, axis), data.take(above, axis)
    result -= low
    result *= np.reshape(weight, (-1, 1) if axis == 1 else -1)
    result += low
    return result
