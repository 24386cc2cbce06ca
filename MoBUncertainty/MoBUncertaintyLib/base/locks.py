"""Lock files: held by one process, and released when it ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from MoBUncertaintyLib.base.durable import patiently

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PATIENCE_S = 1.0
"""How long to wait: a process that cleans up after a killed one holds the lock briefly."""
_POLL_S = 0.02
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
            time.sleep(_POLL_S)
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
