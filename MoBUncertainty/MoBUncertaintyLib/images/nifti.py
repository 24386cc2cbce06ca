"""Write volumes as compressed NIfTI files, piece by piece on several processor cores.

The volume is not copied, and a full disk is an error; SimpleITK copies it, packs it on one core, and cuts the file
short without a word.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np

from MoBUncertaintyLib.geometry import Grid

_PIECE = 2**20  # bytes
_THREADS = min(4, os.cpu_count() or 1)
# No name, no time: the same voxels make the same file. 4: packed as fast as possible, 255: on any system.
_GZIP = bytes((0x1F, 0x8B, zlib.DEFLATED, 0, 0, 0, 0, 0, 4, 255))


def write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array (z, y, x) as a `.nii.gz` file: one gzip stream, as SimpleITK writes it.

    Only runs of a byte, and bytes that are frequent, are packed. Label maps are runs, and maps are runs and noise: to
    search them for longer repetitions would double the time, and spare a twentieth of the file.

    Args:
        path: The file.
        array: Of numbers that NIfTI knows.
        grid: Where the voxels lie.

    Raises:
        OSError: It cannot be written.
    """
    voxels = np.ascontiguousarray(array).data.cast("B")
    pieces: list[bytes | memoryview] = [
        nifti_header(array, grid),
        *(voxels[at : at + _PIECE] for at in range(0, len(voxels), _PIECE)),
    ]
    checksum = 0
    with path.open("wb") as file, ThreadPoolExecutor(_THREADS) as pool:
        file.write(_GZIP)
        for piece, packed in zip(pieces, pool.map(_packed, pieces), strict=True):
            checksum = zlib.crc32(piece, checksum)
            file.write(packed)
        length = sum(map(len, pieces)) % 2**32
        file.write(_END + checksum.to_bytes(4, "little") + length.to_bytes(4, "little"))


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


_END = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()
"""The last block of a stream, an empty one."""


def _packed(piece: bytes | memoryview) -> bytes:
    """Pack a piece so that it ends with a whole byte, and another can follow."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS, strategy=zlib.Z_RLE)
    return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
