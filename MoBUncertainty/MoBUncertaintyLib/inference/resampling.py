"""From the image's grid to the network's, as nnU-Net does it, and back.

The way there is a product with one small matrix per axis. nnU-Net interpolates with cubic splines, on a grid whose
edges coincide with the image's. That is linear, and separable, so a matrix per axis says all of it. A product with each
gives nnU-Net's values to float32's rounding, in a thirtieth of the time, and without its several float64 copies of the
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

CUBIC = {"is_seg": False, "order": 3, "order_z": 0}
"""The options of nnU-Net's function for which `resample` takes its place; they are its default for images."""


def resample(
    data: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    function: Callable[..., Any],
) -> np.ndarray:
    """An image on the network's grid.

    Args:
        data: (*S) float32.
        shape: Of the result.
        spacing, new_spacing: Before and after, mm. Where they are anisotropic, nnU-Net takes the nearest slice along
            the axis of the coarse spacing.
        function: What nnU-Net's plans call for; it is called, unless it is nnU-Net's cubic splines.
    """
    if tuple(shape) == data.shape:
        return data
    options = function.keywords if isinstance(function, partial) else {}
    is_cubic = getattr(function, "func", None) is resample_data_or_seg_to_shape
    if not is_cubic or {name: options.get(name, value) for name, value in CUBIC.items()} != CUBIC:
        return np.asarray(function(data[None], np.asarray(shape), spacing, new_spacing))[0]
    rules = {"force_separate_z": False} | {k: v for k, v in options.items() if k not in CUBIC}
    separate, coarse = determine_do_sep_z_and_axis(current_spacing=spacing, new_spacing=new_spacing, **rules)
    splines = [axis for axis in range(3) if not (separate and axis == coarse)]
    # Where it may overshoot, the result is held within the values of what is interpolated: a slice, or all.
    bounded = tuple(splines)
    low, high = data.min(axis=bounded, keepdims=True), data.max(axis=bounded, keepdims=True)
    # What shrinks the data most comes first.
    for axis in sorted(splines, key=lambda axis: shape[axis] / data.shape[axis]):
        if data.shape[axis] != shape[axis]:
            data = _along(axis, spline_matrix(data.shape[axis], shape[axis]), data)
    data = np.clip(data, low, high)
    return data.take(nearest(data.shape[coarse], shape[coarse]), axis=coarse) if separate else data


def spline_matrix(old: int, new: int) -> np.ndarray:
    """(new, old) float32: what cubic splines make of `old` values on a grid of `new` points with the same edges."""
    return ndimage.zoom(np.eye(old), (new / old, 1), order=3, mode="nearest", grid_mode=True).astype(np.float32)


def nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` points the nearest of `old` on a grid with the same edges."""
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    return np.clip(np.floor(position + 0.5).astype(int), 0, old - 1)


def _along(axis: int, matrix: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The matrix times each line of the data along an axis."""
    if axis == 2:
        return data @ matrix.T
    if axis == 1:
        return matrix @ data
    return np.tensordot(matrix, data, axes=1)


def planes(
    volumes: Tensor, shape: Sequence[int], wanted: tuple[slice, slice, slice] = (slice(None),) * 3
) -> Iterator[np.ndarray]:
    """Results on another grid, linearly, one plane along the first axis after the other; no more than that is held.

    The edges of both grids coincide (`align_corners=False`), as in the way there.

    Args:
        volumes: (C, *S) float32 on the CPU.
        shape: Of the other grid.
        wanted: The part of it that is wanted.

    Yields:
        (C, rows, columns) float32.
    """
    first, *rest = wanted
    depth = volumes.shape[1]
    for i in range(*first.indices(shape[0])):
        position = min(max((i + 0.5) * (depth / shape[0]) - 0.5, 0), depth - 1)
        below = int(position)
        plane = volumes[:, below]
        if position > below:
            plane = plane.lerp(volumes[:, below + 1], position - below)
        if list(plane.shape[1:]) != list(shape[1:]):
            plane = interpolate(plane[None], size=tuple(shape[1:]), mode="bilinear", align_corners=False)[0]
        yield plane[:, rest[0], rest[1]].numpy()
