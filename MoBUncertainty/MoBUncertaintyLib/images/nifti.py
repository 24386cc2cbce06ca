"""Write volumes as compressed NIfTI files, piece by piece on several processor cores; a full disk is an error.

SimpleITK copies the volume, packs it on one core, and cuts the file short without a word.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
from isal.isal_zlib import DEFLATED, MAX_WBITS, Z_SYNC_FLUSH, compressobj, crc32

from MoBUncertaintyLib.base.geometry import Grid

_PIECE = 2**20  # bytes
_THREADS = min(4, os.cpu_count() or 1)
_AT_ONCE = 8 * _THREADS
LEVEL = 1
"""Of ISA-L, which packs maps several times as fast as zlib does at its fastest, to files of about the same size."""
# No name, no time: the same voxels make the same file. 4: packed as fast as possible, 255: on any system.
_GZIP = bytes((0x1F, 0x8B, DEFLATED, 0, 0, 0, 0, 0, 4, 255))
_END = compressobj(wbits=-MAX_WBITS).flush()  # the last block of a stream, an empty one


def write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array (z, y, x) as a `.nii.gz` file: one gzip stream, as SimpleITK writes it. Raises `OSError`."""
    header, voxels = nifti_header(array, grid), np.ascontiguousarray(array).data.cast("B")
    pieces = [header, *(voxels[at : at + _PIECE] for at in range(0, len(voxels), _PIECE))]
    checksum = 0
    with path.open("wb") as file, ThreadPoolExecutor(_THREADS) as pool:
        file.write(_GZIP)
        # A few at a time: were the disk slow, all that is packed would wait in memory.
        for at in range(0, len(pieces), _AT_ONCE):
            some = pieces[at : at + _AT_ONCE]
            for piece, packed in zip(some, pool.map(_packed, some), strict=True):
                checksum = crc32(piece, checksum)
                file.write(packed)
        file.write(_END + checksum.to_bytes(4, "little") + ((len(header) + array.nbytes) % 2**32).to_bytes(4, "little"))


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


def _packed(piece: bytes | memoryview) -> bytes:
    """Pack a piece so that it ends with a whole byte, and another can follow."""
    packer = compressobj(LEVEL, wbits=-MAX_WBITS)
    return packer.compress(piece) + packer.flush(Z_SYNC_FLUSH)
