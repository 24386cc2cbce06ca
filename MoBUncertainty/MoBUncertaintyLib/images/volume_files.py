"""Read the voxels of NIfTI, NRRD and MetaImage files.

SimpleITK silently reads damaged voxels as they are, missing ones as zeros, NaN in NIfTI as 0, and those of another file
of nearly the same name. Here as many voxels are there as the header states, and a compressed stream has its checksum.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import BoundedReader
from MoBUncertaintyLib.images.grid import Volume, grid_of
from MoBUncertaintyLib.images.modality import modality_of
from MoBUncertaintyLib.images.volume_headers import VolumeHeader

_CHUNK = 1 << 22
# Up to this many bytes after uncompressed voxels, if fewer than a slice, are ignored with a warning. More of them, or
# any in a compressed stream, mean that the header states a wrong size.
_SURPLUS = 4096


def read_voxels(header: VolumeHeader) -> Volume:
    """Read a volume of one value for each voxel.

    Raises:
        ImageError: Voxels are missing or damaged, or there are many more bytes than they take.
        OSError: The file cannot be read.
    """
    geometry, name, needed = header.geometry, header.path.name, header.skip + header.length
    size = geometry.GetSize()
    voxels = np.empty(math.prod(size), header.dtype)
    surplus = min(_SURPLUS, header.length // size[-1] - 1) if header.packing == "raw" else 0
    try:
        present = _unpack(header, voxels.view(np.uint8), needed + surplus + 1)
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # type: ignore[misc]  # its stub has it as an instance
        raise ImageError(f"{name} is truncated or damaged; copy or download it again.") from error
    if present < needed:
        raise ImageError(f"{name} is truncated ({present} of {needed} bytes); copy or download it again.")
    if present > needed + surplus:
        raise ImageError(f"{name} contains more than the {needed} bytes that its header implies; export it again.")
    warnings = list(header.warnings)
    if present > needed:
        warnings.append(f"{name} contains {present - needed} extra bytes after its voxels, which were ignored.")
    values = _scaled(voxels, *header.scale).reshape(size[2::-1])
    return Volume(values, grid_of(geometry), modality_of(geometry), warnings)


def _unpack(header: VolumeHeader, voxels: np.ndarray, limit: int) -> int:
    """Read the bytes of the voxels, and count all bytes up to about a limit; a stream that ends before is verified."""
    with BoundedReader(header.path) as file:
        file.seek(header.start)
        if header.packing == "zlib":
            chunks = _inflated(file, header.packed)
        else:
            stream = igzip.GzipFile(fileobj=file) if header.packing == "gzip" else file
            chunks = iter(partial(stream.read, _CHUNK), b"")
        count = 0
        for chunk in chunks:
            part = np.frombuffer(chunk, np.uint8)[max(header.skip - count, 0) :]
            place = voxels[max(count - header.skip, 0) :][: len(part)]
            place[:] = part[: len(place)]
            count += len(chunk)
            if count >= limit:
                break
        return count


def _inflated(file: BinaryIO, packed: int | None) -> Iterator[bytes]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as MetaImage's own reader takes both
    taken = 0
    while not stream.eof:
        block = stream.unconsumed_tail or file.read(_CHUNK)
        if not block:
            raise EOFError("the stream has no end")
        if not stream.unconsumed_tail:
            taken += len(block)
        yield stream.decompress(block, _CHUNK)
    if packed not in (None, taken) or stream.unused_data or file.read(1):
        raise zlib.error("the stream has a different length from that in the header")


def _scaled(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Multiply by the slope and add the intercept that a NIfTI file states, as SimpleITK does."""
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (slope, intercept) == (1, 0):
        return native
    scaled = native.astype(np.float64 if native.dtype == np.float64 else np.float32)
    for start in range(0, scaled.size, _CHUNK):  # in double precision, but not all at once
        part = scaled[start : start + _CHUNK]
        part[:] = part.astype(np.float64) * slope + intercept
    return scaled
