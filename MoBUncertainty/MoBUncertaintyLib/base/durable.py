"""Put files and folders in place so that after a power cut they are whole, or not there at all.

On Windows, what another program has opened (a virus scanner, an indexer, Excel) cannot be renamed or replaced. Most
programs let go within seconds, so that it is tried again for as long.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

if sys.platform != "win32":
    import fcntl


BUSY: type[OSError] | tuple[()] = PermissionError if sys.platform == "win32" else ()
"""How the system says that another program has opened a file; elsewhere it does not mind."""
BUSY_S = 5.0
_POLL_S = 0.1

_T = TypeVar("_T")


def patiently(act: Callable[[], _T]) -> _T:
    """Do something again, for `BUSY_S` seconds, while another program has opened a file; then raises its `OSError`."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return act()
        except BUSY:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk; raises `OSError`."""
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
    """Rename a file or folder; raises `OSError` if anything but an empty folder is there."""
    if os.name == "nt" or source.is_dir() or source.is_symlink():
        patiently(lambda: source.rename(target))
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
    try:
        descriptor = os.open(path, os.O_RDWR)  # Windows and some network disks sync writable files only
    except PermissionError:  # a copy of a file that is read-only
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IWUSR)
        try:
            descriptor = patiently(lambda: os.open(path, os.O_RDWR))
        finally:
            path.chmod(mode)
    try:
        if sys.platform == "darwin":  # where fsync leaves data in the drive's cache
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
