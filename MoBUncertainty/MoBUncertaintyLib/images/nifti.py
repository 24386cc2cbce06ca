"""Write volumes as compressed NIfTI files, piece by piece on several processor cores.

The volume is not copied, and a full disk is an error; SimpleITK copies it, packs it on one core, and cuts the file
short without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nibabel
import numpy as np
from isal.isal_zlib import DEFLATED, MAX_WBITS, Z_SYNC_FLUSH, compressobj, crc32

from MoBUncertaintyLib.geometry import Grid

_PIECE = 2**20  # bytes
_THREADS = min(4, os.cpu_count() or 1)
_AT_ONCE = 8 * _THREADS
LEVEL = 1
"""Of ISA-L, which packs maps several times as fast as zlib does at its fastest, to files of about the same size."""
# No name, no time: the same voxels make the same file. 4: packed as fast as possible, 255: on any system.
_GZIP = bytes((0x1F, 0x8B, DEFLATED, 0, 0, 0, 0, 0, 4, 255))
_END = compressobj(wbits=-MAX_WBITS).flush()
"""The last block of a stream, an empty one."""


@dataclass(frozen=True)
class PackedVoxels:
    """The packed voxels of an array, as they lie in a file: they need not be packed again for another one.

    Attributes:
        path: The file.
        start, stop: Bytes of the file where the blocks of the stream begin, and where they end.
        checksum: CRC-32 of the voxels.
        length: Bytes of the voxels.
    """

    path: Path
    start: int
    stop: int
    checksum: int
    length: int

    def write_gzip(self, file: IO[bytes]) -> None:
        """Write them as a gzip stream of their own."""
        file.write(_GZIP)
        with self.path.open("rb") as source:
            source.seek(self.start)
            for at in range(self.start, self.stop, _PIECE):
                file.write(source.read(min(_PIECE, self.stop - at)))
        file.write(_trailer(self.checksum, self.length))


def write_nifti(path: Path, array: np.ndarray, grid: Grid) -> PackedVoxels:
    """Write an array (z, y, x) as a `.nii.gz` file: one gzip stream, as SimpleITK writes it.

    Args:
        path: The file.
        array: Of numbers that NIfTI knows.
        grid: Where the voxels lie.

    Raises:
        OSError: It cannot be written.
    """
    header = nifti_header(array, grid)
    with path.open("wb") as file:
        file.write(_GZIP + _packed(header))
        start = file.tell()
        whole, voxels = _write_blocks(file, array, (crc32(header), 0))
        stop = file.tell()
        file.write(_trailer(whole, len(header) + array.nbytes))
    return PackedVoxels(path, start, stop, voxels, array.nbytes)


def write_gzip(file: IO[bytes], array: np.ndarray) -> None:
    """Write the voxels of an array as a gzip stream, packed as `write_nifti` does."""
    file.write(_GZIP)
    (checksum,) = _write_blocks(file, array, (0,))
    file.write(_trailer(checksum, array.nbytes))


def _write_blocks(file: IO[bytes], array: np.ndarray, checksums: Sequence[int]) -> list[int]:
    """Pack the voxels of an array to the end of a stream, and go on with checksums of what comes before them."""
    voxels, found = np.ascontiguousarray(array).data.cast("B"), list(checksums)
    pieces = [voxels[at : at + _PIECE] for at in range(0, len(voxels), _PIECE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        # A few at a time: were the disk slow, all that is packed would wait in memory.
        for at in range(0, len(pieces), _AT_ONCE):
            some = pieces[at : at + _AT_ONCE]
            for piece, packed in zip(some, pool.map(_packed, some), strict=True):
                found = [crc32(piece, checksum) for checksum in found]
                file.write(packed)
    file.write(_END)
    return found


def _trailer(checksum: int, length: int) -> bytes:
    return checksum.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")


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
