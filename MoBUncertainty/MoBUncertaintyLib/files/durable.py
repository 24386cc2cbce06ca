"""Put files and folders in place so that after a power cut they are whole, or not there at all."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Raises:
        OSError: It cannot be written there.
    """
    if not path.is_dir():
        _sync_file(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder, name))
        sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # cannot, and journals names anyway
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder, but never replace anything other than an empty folder.

    Raises:
        OSError: It cannot be renamed, or something is there.
    """
    if os.name == "nt" or source.is_dir() or source.is_symlink():
        source.rename(target)
        return
    try:
        os.link(source, target)  # unlike rename, fails if something is there
    except FileExistsError:
        raise
    except OSError:  # a disk without such links
        if target.exists():
            raise FileExistsError(f"{target} exists") from None
        source.rename(target)
        return
    source.unlink()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows and some network disks sync writable files only
    try:
        if sys.platform == "darwin":  # where fsync leaves data in the drive's cache
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
