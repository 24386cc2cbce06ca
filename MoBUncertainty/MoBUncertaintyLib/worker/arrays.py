"""Volumes and arrays as the worker takes them from files and hands them over: .npy, (z, y, x), no copy in between."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.images.modality import set_modality
from MoBUncertaintyLib.images.reader import check_geometry

if TYPE_CHECKING:
    import SimpleITK as sitk


def read_volume(volume: Mapping[str, Any]) -> tuple[sitk.Image, str]:
    """Read the image that a request names, unchecked but for its geometry, and the SHA-256 of its voxels and matrix.

    The volume has `array`, the .npy file (z, y, x), or (z, y, x, components); `ijk_to_ras`, 4 x 4, mm; `modality`,
    DICOM's term, or null. Raises `ImageError` if the matrix is not that of a volume.
    """
    array = np.load(volume["array"], mmap_mode="r", allow_pickle=False)
    matrix = np.array(volume["ijk_to_ras"], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        grid = Grid.from_matrix(matrix)
    check_geometry(grid.spacing[::-1].tolist(), grid.origin.tolist(), grid.rotation.ravel().tolist())
    image = image_on(grid, array)
    set_modality(image, volume.get("modality"))
    digest = hashlib.sha256(np.ascontiguousarray(array).data)
    digest.update(matrix.tobytes())
    return image, digest.hexdigest()


def write_array(folder: Path | str, name: str, array: np.ndarray) -> str:
    """Write an array, or a view of one, to `name`.npy in a folder.

    Returns the file's path. Raises `OutputError` if it cannot be written, because the disk is full, say.
    """
    path = Path(folder) / f"{name}.npy"
    try:
        np.save(path, array, allow_pickle=False)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise OutputError(
            f"The results cannot be written to {path.parent} ({reason}); free some space there and apply again."
        ) from error
    return str(path)
