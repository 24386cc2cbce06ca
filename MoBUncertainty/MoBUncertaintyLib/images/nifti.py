"""Write volumes as compressed NIfTI files, piece by piece on several processor cores.

The volume is not copied, and a full disk is an error; SimpleITK copies it, packs it on one core, and cuts the file
short without a word.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import nibabel
import numpy as np

from MoBUncertaintyLib.geometry import Grid

_PIECE = 2**20  # bytes
_THREADS = min(4, os.cpu_count() or 1)
# No name, no time: the same voxels make the same file. 4: packed as fast as possible, 255: on any system.
_GZIP = bytes((0x1F, 0x8B, zlib.DEFLATED, 0, 0, 0, 0, 0, 4, 255))
_END = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()
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

    Of numbers with fractions only runs of a byte and frequent bytes are packed. Maps are zeros and noise: a search for
    longer repetitions would double the time and spare a twentieth of the file.

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
        whole, voxels = _write_blocks(file, array, (zlib.crc32(header), 0))
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
    strategy = zlib.Z_RLE if array.dtype.kind == "f" else zlib.Z_DEFAULT_STRATEGY
    with ThreadPoolExecutor(_THREADS) as pool:
        for piece, packed in zip(pieces, pool.map(partial(_packed, strategy=strategy), pieces), strict=True):
            found = [zlib.crc32(piece, checksum) for checksum in found]
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


def _packed(piece: bytes | memoryview, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Pack a piece so that it ends with a whole byte, and another can follow."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
