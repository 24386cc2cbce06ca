"""Refuse in advance what does not fit into the computer's memory, and take no more of it than is needed.

A system may promise memory that it does not have, and then end Slicer, with everything that was not saved.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

BYTES_OF_LABEL, BYTES_OF_MAPS = 1, 8  # per voxel: the label; probability and variance of each label, float32
MAPS_OF_TILE = 3  # feature maps at full resolution that a U-Net holds at once, at least; measured: 3.6


def check_image(size: int) -> None:
    """Raise `SettingsError` if there is no memory, swap space included, for an image of so many bytes."""
    _check(size, "The image needs", "crop or resample the image first")


def check_tile(tile: Sequence[int], features: int, number_size: int) -> None:
    """Raise `SettingsError` if there is no memory to compute one tile on the CPU.

    It has so many voxels along each axis, and each of the first stage's features takes `number_size` bytes.
    """
    what = f"The network's tiles of {' x '.join(map(str, tile))} voxels need"
    _check(MAPS_OF_TILE * math.prod(tile) * features * number_size, what, "use a GPU or another model")


def check_memory(voxels: int, labels: int, holders: int = 1) -> None:
    """Raise `SettingsError` if there is no memory for the results alone, of which so many programs hold a copy."""
    count = f"{labels} organs" if labels > 1 else "one organ"
    what = f"The results for {count} on {voxels / 1e6:,.0f} million voxels need"
    size = holders * voxels * (BYTES_OF_LABEL + BYTES_OF_MAPS * labels)
    _check(size, what, "crop or resample the image first")


def _check(size: int, what: str, advice: str) -> None:
    """Refuse what takes more bytes than are free."""
    free = _free()
    if free is not None and size > free:
        raise SettingsError(
            f"{what} {size / 1e9:,.1f} GB of memory, but only {free / 1e9:,.1f} GB are free; close other programs, or "
            f"{advice}."
        )


def _free() -> int | None:
    """Return the bytes of free memory; None where that is not known."""
    if sys.platform == "darwin":  # adds swap space when it is needed
        return None
    import psutil  # which what only makes arrays can do without

    try:
        return int(psutil.virtual_memory().available + psutil.swap_memory().free)
    except (RuntimeError, OSError):  # Windows with its performance counters switched off
        return None


def lazy_zeros(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """Make an array of zeros of which only those parts take memory that are written to.

    Those of `numpy.zeros` take all of it on Linux, where numpy asks for pages of 2 MB; most of a map of a CT stays 0.
    """
    size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux may give them without being asked
        with suppress(OSError):  # a kernel that has none
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.ndarray(tuple(shape), dtype, memory)
