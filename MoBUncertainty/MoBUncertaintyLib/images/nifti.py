"""Write volumes as compressed NIfTI files, on several processor cores; a full disk is an error.

SimpleITK copies the volume, packs it on one core, and cuts the file short without a word.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip_threaded

from MoBUncertaintyLib.base.geometry import Grid

_THREADS = min(4, os.cpu_count() or 1)
LEVEL = 1
"""Of ISA-L, which packs maps several times as fast as zlib does at its fastest, to files of about the same size."""


def write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array (z, y, x) as a `.nii.gz` file, the same voxels to the same file. Raises `OSError`."""
    with igzip_threaded.open(path, "wb", LEVEL, threads=_THREADS) as file:
        file.write(nifti_header(array, grid))
        file.write(np.ascontiguousarray(array).data.cast("B"))


def nifti_header(array: np.ndarray, grid: Grid) -> bytes:
    """Make the header of an array's file, as SimpleITK makes it; voxels follow it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header.set_xyzt_units("mm", "sec")
    matrix = grid.matrix()
    header.set_qform(matrix, "scanner")
    header.set_sform(matrix, "scanner")
    header["vox_offset"], header["scl_slope"], header["scl_inter"], header["regular"] = 352, 1, 0, b"r"
    return bytes(header.binaryblock) + bytes(4)
