"""Check the voxels of NIfTI, NRRD and MetaImage files before SimpleITK reads them.

SimpleITK silently reads damaged voxels as they are, and missing ones as zeros. So all voxels are read once before,
which also verifies the checksum of a compressed stream. Those of NIfTI are kept, since SimpleITK can take another
file's: of `a.nii` where it is asked for `a.nii.gz`.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import BoundedReader
from MoBUncertaintyLib.images.volume_headers import VolumeHeader

_CHUNK = 1 << 22
# Up to this many bytes after uncompressed voxels, if fewer than a slice, are ignored with a warning. More of them, or
# any in a compressed stream, mean that the header states a wrong size.
_SURPLUS = 4096


def check_voxels(header: VolumeHeader) -> tuple[np.ndarray | None, list[str]]:
    """Check that a volume has as many voxels as its header states, with the right checksum.

    Returns:
        The voxels as they are stored, where the header states their type; and a warning if a few bytes follow them.

    Raises:
        ImageError: Voxels are missing or damaged, or there are many more bytes than stated.
    """
    voxels = header.voxels
    values = None if header.dtype is None else np.empty(math.prod(header.shape), header.dtype)
    name, needed = header.path.name, voxels.skip + voxels.length
    surplus = min(_SURPLUS, voxels.length // header.shape[-1] - 1) if voxels.packing == "raw" else 0
    try:
        present = _count_bytes(header, needed + surplus + 1, None if values is None else values.view(np.uint8))
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # type: ignore[misc]  # its stub has it as an instance
        raise ImageError(f"{name} is truncated or damaged; copy or download it again.") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror or error}); check the path.") from error
    if present < needed:
        raise ImageError(f"{name} is truncated ({present} of {needed} bytes); copy or download it again.")
    if present > needed + surplus:
        raise ImageError(f"{name} holds more than the {needed} bytes of its voxels; its header is wrong, or the file.")
    if present > needed:
        return values, [f"{name} holds {present - needed} bytes more than its voxels, which were ignored."]
    return values, []


def _count_bytes(header: VolumeHeader, limit: int, kept: np.ndarray | None) -> int:
    """Count the unpacked bytes up to about `limit`, and keep the voxels'; a stream that ends before is verified."""
    voxels = header.voxels
    with BoundedReader(header.path) as file:
        if voxels.packing == "raw":
            present = os.fstat(file.fileno()).st_size - voxels.start
            if kept is not None and present >= voxels.length:
                file.seek(voxels.start)
                file.readinto(kept.data)
            return present
        file.seek(voxels.start)
        count = 0
        for chunk in _gunzipped(file) if voxels.packing == "gzip" else _inflated(file, voxels.packed):
            if kept is not None:
                part = np.frombuffer(chunk, np.uint8)[max(voxels.skip - count, 0) :]
                there = kept[max(count - voxels.skip, 0) :][: len(part)]
                there[:] = part[: len(there)]
            count += len(chunk)
            if count >= limit:
                break
        return count


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    with igzip.GzipFile(fileobj=file) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


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
        raise zlib.error("the stream has another length than stated")
