"""Put files and folders in place so that after a power cut they are whole, or not there at all; lock files.

On Windows, what another program has opened (a virus scanner, an indexer, Excel) cannot be renamed or replaced. Most
programs let go within seconds, so that it is tried again for as long. A lock is released when its process ends.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

if sys.platform == "win32":
    import msvcrt
else:
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


PATIENCE_S = 1.0  # how long to wait: a process that cleans up after a killed one holds the lock briefly
_LOCK_POLL_S = 0.02
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Lock:
    """A lock file, which exists while a process holds it, or after one was killed.

    Attributes:
        works: Whether it keeps other processes out; some network disks have no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.works = True
        self._descriptor: int | None = None

    def acquire(self, patience_s: float = PATIENCE_S) -> bool:
        """Take the lock, waiting for another process for a while; whether this one may go on. Raises `OSError`."""
        deadline = time.monotonic() + patience_s
        while not self._try():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_POLL_S)
        return True

    def release(self) -> None:
        """Give the lock back and remove its file; does nothing if it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if os.name == "nt":  # an open file cannot be removed there, neither can one that another process has opened
            os.close(descriptor)
            with suppress(OSError):
                self.path.unlink()
        else:
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)

    def _try(self) -> bool:
        # Follow no link in place of the file, and let no program that is started meanwhile inherit it.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = patiently(lambda: os.open(self.path, flags, 0o666))  # on Windows, its holder may be removing it
        try:
            if _lock(descriptor) and self._is_in_place(descriptor):
                self._descriptor = descriptor
                return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.works = False
            self._descriptor = descriptor
            return True
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return False

    def _is_in_place(self, descriptor: int) -> bool:
        """Whether the locked file still has its name: its holder removes it at the end."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # how Windows says that another process holds it
        return False
    return True
