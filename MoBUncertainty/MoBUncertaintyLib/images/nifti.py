"""Write volumes as compressed NIfTI and NRRD files, piece by piece on several processor cores.

A full disk is an error, and a file may have any name. SimpleITK copies the volume, packs it on one core, cuts the file
short without a word, and on Windows opens names in the system's code page alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from isal.isal_zlib import DEFLATED, MAX_WBITS, Z_SYNC_FLUSH, compressobj, crc32

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid

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
    with path.open("wb") as file:
        _write_gzip(file, nifti_header(array, grid), array)


def write_nrrd(path: Path, labels: np.ndarray, grid: Grid, fields: Mapping[str, str] | None = None) -> None:
    """Write a label map (z, y, x), uint8 or uint16, as a `.nrrd` file with further fields. Raises `OSError`."""
    matrix = np.diag([*LPS_TO_RAS, 1.0]) @ grid.matrix()
    *axes, origin = ("(" + ",".join(f"{number:.17g}" for number in column) + ")" for column in matrix[:3].T)
    header = {
        "type": labels.dtype.name,
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, reversed(labels.shape))),
        "space directions": " ".join(axes),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip",
        "space origin": origin,
    }
    lines = ["NRRD0004", *(f"{name}: {value}" for name, value in header.items())]
    lines += [f"{name}:={value}".replace("\\", "\\\\") for name, value in (fields or {}).items()]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "", ""]).encode())
        _write_gzip(file, b"", labels.astype(labels.dtype.newbyteorder("<"), copy=False))


def _write_gzip(file: BinaryIO, header: bytes, array: np.ndarray) -> None:
    """Write a header and the array's numbers as one gzip stream."""
    voxels = np.ascontiguousarray(array).data.cast("B")
    pieces = [header, *(voxels[at : at + _PIECE] for at in range(0, len(voxels), _PIECE))]
    checksum = 0
    file.write(_GZIP)
    with ThreadPoolExecutor(_THREADS) as pool:
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
