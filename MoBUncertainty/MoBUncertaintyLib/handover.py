"""Volumes and arrays as the worker takes them from files and hands them over: .npy, (z, y, x), no copy in between."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.images import check_geometry

_LPS_TO_RAS = np.array((-1.0, -1.0, 1.0))


def read_volume(volume: Mapping[str, Any]) -> tuple[sitk.Image, str]:
    """The image that a request names, unchecked but for its geometry.

    Args:
        volume: `array`, the .npy file (z, y, x), or (z, y, x, components); `ijk_to_ras`, 4 x 4, mm.

    Returns:
        The image, and the SHA-256 of its voxels (in memory's order) and matrix.

    Raises:
        ImageError: The matrix is not that of a volume.
    """
    array = np.load(volume["array"], mmap_mode="r", allow_pickle=False)
    matrix = np.array(volume["ijk_to_ras"], dtype=float)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = (_LPS_TO_RAS[:, None] * matrix[:3, :3] / np.where(spacing == 0, 1, spacing)).ravel().tolist()
    origin = (_LPS_TO_RAS * matrix[:3, 3]).tolist()
    check_geometry(spacing.tolist(), origin, direction)
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin)
        image.SetDirection(direction)
    digest = hashlib.sha256(np.ascontiguousarray(array).data)
    digest.update(matrix.tobytes())
    return image, digest.hexdigest()


def write_array(folder: Path | str, name: str, array: np.ndarray) -> str:
    """Write an array, or a view of one, to `name`.npy in a folder.

    Returns:
        The file's path.

    Raises:
        OutputError: It cannot be written, because the disk is full, say.
    """
    path = Path(folder) / f"{name}.npy"
    try:
        np.save(path, array, allow_pickle=False)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise OutputError(
            f"The results cannot be handed over in {path.parent} ({reason}); free some space there and apply again."
        ) from error
    return str(path)
