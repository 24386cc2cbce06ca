"""Check files that others wrote: regular files only, whether they change while they are read, and their SHA-256.

A pipe, a device or a socket would be waited for without end, so it is never opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.integrity import file_digest


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def begins_as_dicom(path: Path) -> bool:
    """Whether a regular file begins as DICOM does, with or without its preamble."""
    if not is_regular(path):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    # Without a preamble the first element is of group 2 or 8.
    return start[128:] == b"DICM" or start[:2] in (b"\x08\0", b"\0\x08", b"\x02\0")


def check_regular(path: Path) -> None:
    """Raise `ImageError` for anything but a readable regular file, before it is opened."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path} cannot be read ({reason}); check the path.") from error
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path} is not a regular file (a folder, pipe, device or socket); give a file.")
    if not os.access(path, os.R_OK):
        raise ImageError(f"You have no permission to read {path}; ask for access, or copy it to a folder of your own.")


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[None]:
    """Read files, and raise `ImageError` if one cannot be read or changes: what is hashed must be what is read."""
    before = [_state(file) for file in files]
    try:
        yield
    except OSError as error:
        path = error.filename or files[0]
        raise ImageError(f"{path} cannot be read ({error.strerror or error}); check the path.") from error
    for file, state in zip(files, before, strict=True):
        if _state(file) != state:
            raise ImageError(f"{file} changed while it was being read; try again when the file is complete.")


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The change time is set by the system and cannot be put back, unlike the time of modification.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def input_digest(path: Path, files: Sequence[Path]) -> str:
    """Compute the SHA-256 of a file, or of a folder: that of the list of its files' own, by name, a line each."""
    digests = [file_digest(file) for file in sorted(files)]
    if not path.is_dir():
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


class BoundedReader(io.BufferedReader):
    """A file that never allocates more than it holds, however much a damaged length field asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))
