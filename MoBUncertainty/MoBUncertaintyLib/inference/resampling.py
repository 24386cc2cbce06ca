"""Resample from the image's grid to the network's, as nnU-Net does, and back.

nnU-Net interpolates with cubic splines on a grid whose edges coincide with the image's. That is linear and separable,
so it is a product with one small matrix per axis. The product has nnU-Net's values up to float32's rounding, takes a
thirtieth of the time, and does not make several float64 copies of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from MoBUncertaintyLib.geometry import Box

CUBIC = {"is_seg": False, "order": 3, "order_z": 0}
"""Options of nnU-Net's function, its defaults for images, for which `resample` replaces it."""

NEGLIGIBLE = 2.0**-40
"""Weight of a voxel in an interpolation: a 65,000th of float32's rounding, even next to one of weight 1."""

_AT_ONCE = 2**22
"""Numbers that are interpolated at once: for a plane alone torch's threads take longer to meet than to compute."""


def resample(
    data: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    function: Callable[..., Any],
) -> np.ndarray:
    """Resample an image to the network's grid.

    Args:
        data: (*S) float32.
        shape: Shape of the result.
        spacing, new_spacing: Spacing before and after, mm. If one is anisotropic, nnU-Net takes the nearest slice
            along the axis of coarse spacing.
        function: The function that nnU-Net's plans name; it is called unless it is the one with cubic splines.
    """
    if tuple(shape) == data.shape:
        return data
    options = function.keywords if isinstance(function, partial) else {}
    is_cubic = getattr(function, "func", None) is resample_data_or_seg_to_shape
    if not is_cubic or {name: options.get(name, value) for name, value in CUBIC.items()} != CUBIC:
        resampled: np.ndarray = np.asarray(function(data[None], np.asarray(shape), spacing, new_spacing))[0]
        return resampled
    rules = {"force_separate_z": False} | {k: v for k, v in options.items() if k not in CUBIC}
    separate, coarse = determine_do_sep_z_and_axis(current_spacing=spacing, new_spacing=new_spacing, **rules)
    splines = [axis for axis in range(3) if not (separate and axis == coarse)]
    # Splines overshoot, so the result is clipped to the range of what is interpolated: a slice, or all.
    bounded = tuple(splines)
    low, high = data.min(axis=bounded, keepdims=True), data.max(axis=bounded, keepdims=True)
    # The axis that shrinks the data most comes first.
    for axis in sorted(splines, key=lambda axis: shape[axis] / data.shape[axis]):
        if data.shape[axis] != shape[axis]:
            data = _along(axis, spline_matrix(data.shape[axis], shape[axis]), data)
    data = np.clip(data, low, high)
    return data.take(nearest(data.shape[coarse], shape[coarse]), axis=coarse) if separate else data


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


def _along(axis: int, matrix: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Multiply each line of the data along an axis by the matrix."""
    product: np.ndarray = (
        data @ matrix.T if axis == 2 else matrix @ data if axis == 1 else np.tensordot(matrix, data, 1)
    )
    return product


def planes(volumes: Tensor, shape: Sequence[int], wanted: Box = (slice(None),) * 3) -> Iterator[np.ndarray]:
    """Resample results linearly to another grid, a few planes along the first axis at a time, to save memory.

    The edges of both grids coincide (`align_corners=False`), as in `resample`.

    Args:
        volumes: (C, *S) float32 on the CPU.
        shape: Shape of the other grid.
        wanted: Part of the other grid to return.

    Yields:
        (C, rows, columns) float32.
    """
    first, *rest = wanted
    depth = volumes.shape[1]
    numbers = range(*first.indices(shape[0]))
    batch = max(1, _AT_ONCE // (len(volumes) * math.prod(shape[1:])))
    for begin in range(0, len(numbers), batch):
        between = []
        for i in numbers[begin : begin + batch]:
            position = min(max((i + 0.5) * (depth / shape[0]) - 0.5, 0), depth - 1)
            below = int(position)
            plane = volumes[:, below]
            between.append(plane.lerp(volumes[:, below + 1], position - below) if position > below else plane)
        if list(volumes.shape[2:]) != list(shape[1:]):
            stack = torch.stack(between)
            between = list(interpolate(stack, size=tuple(shape[1:]), mode="bilinear", align_corners=False))
        yield from (plane[:, rest[0], rest[1]].numpy() for plane in between)
