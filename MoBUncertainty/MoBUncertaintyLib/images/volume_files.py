"""Check the voxels of NIfTI, NRRD and MetaImage files before SimpleITK reads them.

SimpleITK silently reads damaged voxels as they are, and missing ones as zeros. So all voxels are read once before,
which also verifies the checksum of a compressed stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from isal import igzip
from isal.igzip_lib import IsalError

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.files.input_files import BoundedReader
from MoBUncertaintyLib.images.volume_headers import VolumeHeader, Voxels

_CHUNK = 1 << 22
# Up to this many bytes after uncompressed voxels, if fewer than a slice, are ignored with a warning. More of them, or
# any in a compressed stream, mean that the header states a wrong size.
_SURPLUS = 4096


def check_voxels(header: VolumeHeader) -> list[str]:
    """Check that a volume has as many voxels as its header states, with the right checksum.

    Returns:
        A warning if a few bytes follow them.

    Raises:
        ImageError: Voxels are missing or damaged, or there are many more bytes than stated.
    """
    voxels = header.voxels
    name, needed = voxels.path.name, voxels.skip + voxels.length
    surplus = min(_SURPLUS, voxels.length // header.shape[-1] - 1) if voxels.packing == "raw" else 0
    try:
        present = _count_bytes(voxels, needed + surplus + 1)
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # type: ignore[misc]  # its stub has it as an instance
        raise ImageError(f"{name} is truncated or damaged; copy or download it again.") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror or error}); check the path.") from error
    if present < needed:
        raise ImageError(f"{name} is truncated ({present} of {needed} bytes); copy or download it again.")
    if present > needed + surplus:
        raise ImageError(f"{name} holds more than the {needed} bytes of its voxels; its header is wrong, or the file.")
    if present > needed:
        return [f"{name} holds {present - needed} bytes more than its voxels, which were ignored."]
    return []


def _count_bytes(voxels: Voxels, limit: int) -> int:
    """Count the unpacked bytes up to about `limit`; a stream that ends before is verified."""
    with BoundedReader(voxels.path) as file:
        if voxels.packing == "raw":
            return voxels.path.stat().st_size - voxels.start
        file.seek(voxels.start)
        count = 0
        for length in _gzip_lengths(file) if voxels.packing == "gzip" else _zlib_lengths(file, voxels.packed):
            count += length
            if count >= limit:
                break
        return count


def _gzip_lengths(file: BinaryIO) -> Iterator[int]:
    with igzip.GzipFile(fileobj=file) as stream:
        while chunk := stream.read(_CHUNK):
            yield len(chunk)


def _zlib_lengths(file: BinaryIO, packed: int | None) -> Iterator[int]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as MetaImage's own reader takes both
    taken = 0
    while not stream.eof:
        block = stream.unconsumed_tail or file.read(_CHUNK)
        if not block:
            raise EOFError("the stream has no end")
        if not stream.unconsumed_tail:
            taken += len(block)
        yield len(stream.decompress(block, _CHUNK))
    if packed not in (None, taken) or stream.unused_data or file.read(1):
        raise zlib.error("the stream has another length than stated")
