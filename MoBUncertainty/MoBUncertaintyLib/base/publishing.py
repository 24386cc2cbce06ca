"""Publish files and folders whole or not at all, one run at a time, and never replace anything of another kind.

Everything is written to a hidden name beside the target, `.NAME.mob-1a2b.tmp`, which is renamed at the end. The writer
holds the lock `.NAME.mob-lock`, so hidden names whose lock nobody holds were left by killed processes. A long name is
shortened in them: Windows takes paths of 260 characters, and what fits under the target must fit under them. What is
put in place is on the disk: after a power cut it is whole, or not there. Needs only the standard library.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.integrity import IntegrityError, check_manifest
from MoBUncertaintyLib.base.json_input import JsonError, read_object
from MoBUncertaintyLib.base.names import is_system_file, short_name

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

RECORDS = ("prediction.json", "report.json")
"""The file in each kind of folder that says what it is and lists its other files, `{"files": {NAME: SHA-256}}`."""

HIDDEN = re.compile(r"\.(?P<name>.+)\.mob-(?P<what>lock|[0-9a-f]{4,8}\.(tmp|old))", re.DOTALL)
"""Names that only this module makes."""
KEPT = re.compile(r".+\.kept-\d+", re.DOTALL)  # names of what was in a target's place before
_HIDDEN_LIMIT = 32  # bytes of the name in a hidden name
_PRIVATE = re.compile(r"(?:mob-model|MoBUncertainty)-[0-9a-f]{12}")

BUSY: type[OSError] | tuple[()] = PermissionError if sys.platform == "win32" else ()
"""How Windows says that another program (a virus scanner, Excel) has opened a file; most let go within `BUSY_S`."""
BUSY_S = 5.0
PATIENCE_S = 1.0  # how long to wait for a lock: a process that cleans up after a killed one holds it briefly
_POLL_S = 0.02

_T = TypeVar("_T")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: dict[Path, Lock] = {}
_moving = threading.RLock()  # held by a process about to end, so that nothing is published any more


@dataclass(frozen=True)
class Reservation:
    """A name that no other process writes to."""

    target: Path  # what will be written
    partial: Path  # the hidden name beside it that everything is written to first

    def publish_new(self, part: str = "") -> None:
        """Give `partial`, or a part in it, the target's name for good; raises `OSError` if something is there."""
        sync_tree(self.partial / part)
        with _moving:
            rename_new(self.partial / part, self.target)
            sync_folder(self.target.parent)

    def replace(self) -> None:
        """Put `partial`, a file, in place of a file that may be there; raises `OSError`."""
        sync_tree(self.partial)
        with _moving:
            patiently(lambda: self.partial.replace(self.target))
            sync_folder(self.target.parent)

    def publish(self, earlier: bytes | None, keep: bool = False) -> Path | None:
        """Move what is there aside, and publish; return where that is kept, unless it was the folder `earlier`.

        That has this record, is unchanged and holds nothing else. Raises `OSError`, and all is as it was.
        """
        sync_tree(self.partial)
        with _moving:
            old = None
            if os.path.lexists(self.target):
                old = _free(self.target) if keep else _hidden(self.target, "old")
                patiently(lambda: self.target.rename(old))
            try:
                rename_new(self.partial, self.target)
            except BaseException:
                if old:
                    rename_new(old, self.target)
                raise
            sync_folder(self.target.parent)
        return _retire(old, self.target, earlier) if old and not keep else old


@contextmanager
def reserve(target: Path) -> Iterator[Reservation]:
    """Reserve a name for writing, and make missing parents; what is not published is removed at the end.

    Raises `OutputError` if another process writes there, and `OSError`.
    """
    sweep(target.parent)
    with _parents_made(target.parent), _locked(target) as lock:
        if lock.works:
            _repair(target)
        reservation = Reservation(target, _hidden(target, "tmp"))
        try:
            yield reservation
        finally:
            _remove(reservation.partial)


def write_file(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, by a function of the path to write to; errors as for `reserve`."""
    with reserve(target) as reservation:
        write(reservation.partial)
        reservation.replace()


def withdraw(target: Path) -> None:
    """Remove what was published, whole or not at all; raises `OutputError` if it is being written, and `OSError`."""
    with _locked(target):
        doomed = _hidden(target, "tmp")
        with _moving:
            patiently(lambda: target.rename(doomed))
            sync_folder(target.parent)
        _remove(doomed)


def absolute(path: str | Path) -> Path:
    """Follow a path's links as far as it exists; unlike `Path.resolve`, a loop of links raises nothing."""
    return Path(os.path.realpath(path))


def remove_leftovers(target: str | Path, patience_s: float = 0) -> None:
    """Remove what a killed process, or this one at its end, leaves of writing something: it may be a patient's data.

    What was moved aside comes back if nothing has taken its place.
    """
    with suppress(OSError, ValueError, TypeError, OutputError):  # the path comes from a request, and may be anything
        target = absolute(target)
        if not target.parent.is_dir():
            return
        with _moving:
            if mine := _held.pop(_lock_path(target), None):
                mine.release()
            with _locked(target, patience_s):
                _repair(target)


def sweep(folder: Path) -> None:
    """Remove everything that killed processes have left in a folder; see `remove_leftovers`."""
    names: set[str] = set()
    with suppress(OSError):
        for entry in os.scandir(folder):
            if match := HIDDEN.fullmatch(entry.name):
                names.add(match["name"])
            elif _PRIVATE.fullmatch(entry.name):
                names.add(entry.name)
    for name in names:
        with suppress(OSError, ValueError, OutputError), _locked(folder / name, patience_s=0) as lock:
            if not lock.works:
                continue
            # A shortened name does not tell what was moved aside: the next run that writes there puts it back.
            _repair(folder / name, whole=len(name.encode()) < _HIDDEN_LIMIT - 4)
            if _PRIVATE.fullmatch(name):
                shutil.rmtree(folder / name, ignore_errors=True)


def make_private_folder(prefix: str, parent: str | Path | None = None) -> Path:
    """Make a folder for temporary files that others may not read (default: in the system's); raises `OSError`."""
    folder = Path(parent or tempfile.gettempdir()) / f"{prefix}-{uuid.uuid4().hex[:12]}"
    lock = Lock(_lock_path(folder))
    lock.acquire()
    _held[lock.path] = lock
    try:
        folder.mkdir(mode=0o700)
    except BaseException:
        remove_private_folder(folder)
        raise
    return folder


def remove_private_folder(folder: Path) -> None:
    """Remove a folder that `make_private_folder` made."""
    shutil.rmtree(folder, ignore_errors=True)
    if lock := _held.pop(_lock_path(folder), None):
        lock.release()


def unlisted_in(folder: Path, record: dict[str, Any]) -> set[str]:
    """List the names in a folder that its record does not list, the record's own included and system files left out."""
    files = record.get("files")
    names = {path.name for path in folder.iterdir() if not is_system_file(path.name)}
    return names - set(files if isinstance(files, dict) else ())


def content_of(path: Path) -> bytes | None:
    """Read a file; None if there is none that can be read."""
    with suppress(OSError):
        return path.read_bytes() if path.is_file() else None
    return None


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a folder's record; None if there is none that can be read."""
    with suppress(OSError, JsonError):
        return read_object(path) if path.is_file() else None
    return None


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{short_name(target.name, _HIDDEN_LIMIT)}.mob-lock")


def _hidden(target: Path, ending: str) -> Path:
    return target.with_name(f".{short_name(target.name, _HIDDEN_LIMIT)}.mob-{uuid.uuid4().hex[:4]}.{ending}")


@contextmanager
def _locked(target: Path, patience_s: float = PATIENCE_S) -> Iterator[Lock]:
    lock = Lock(_lock_path(target))
    if not lock.acquire(patience_s):
        raise OutputError(f"Another run is writing to {target}; wait until it has finished, or choose another name.")
    _held[lock.path] = lock
    try:
        yield lock
    finally:
        _held.pop(lock.path, None)
        lock.release()


@contextmanager
def _parents_made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; remove those again that are still empty at the end."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        for parent in missing:
            if parent.exists():
                sync_folder(parent.parent)


def _repair(target: Path, whole: bool = True) -> None:
    """Clean up beside a locked target; put back what was moved aside if its place is free and its name is whole."""
    name = short_name(target.name, _HIDDEN_LIMIT)
    hidden = [(path, match) for path in target.parent.iterdir() if (match := HIDDEN.fullmatch(path.name))]
    for path, match in hidden:
        if match["name"] != name or match["what"] == "lock":
            continue
        if match["what"].endswith("tmp"):
            _remove(path)
        elif not whole:
            continue
        elif os.path.lexists(target):
            _retire(path, target, next(filter(None, (content_of(path / record) for record in RECORDS)), None))
        else:
            rename_new(path, target)
            sync_folder(target.parent)


def _retire(old: Path, target: Path, earlier: bytes | None) -> Path | None:
    """Remove what was moved aside if it is the earlier folder, unchanged; otherwise keep it, and return where."""
    if _is_replaceable(old, earlier):
        doomed = _hidden(target, "tmp")  # is cleaned up later if the process is killed during the removal
        patiently(lambda: old.rename(doomed))
        _remove(doomed)
        return None
    while True:
        place = _free(target)
        with suppress(FileExistsError):
            rename_new(old, place)
            sync_folder(place.parent)
            return place


def _free(target: Path) -> Path:
    """Name what is kept beside a target; see `KEPT`."""
    names = (f"{short_name(target.name, _HIDDEN_LIMIT)}.kept-{number}" for number in itertools.count(1))
    return next(free for name in names if not os.path.lexists(free := target.with_name(name)))


def _is_replaceable(old: Path, earlier: bytes | None) -> bool:
    if old.is_symlink() or not old.is_dir():
        return False
    if all(is_system_file(path.name) for path in old.iterdir()):
        return True
    for name in RECORDS:
        record = read_record(old / name)
        if record and earlier is not None and content_of(old / name) == earlier and unlisted_in(old, record) == {name}:
            with suppress(IntegrityError):
                check_manifest(old, record["files"])
                return True
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# --- the disk, and locks on it ----------------------------------------------------------------------------------------


def patiently(act: Callable[[], _T]) -> _T:
    """Do something, again for `BUSY_S` seconds while another program has opened the file; then raises its `OSError`."""
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
    except OSError:  # something is there, or the disk has no such links
        if os.path.lexists(target):
            raise FileExistsError(f"{target} exists") from None
        source.rename(target)
    else:
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


class Lock:
    """A lock file, which exists while a process holds it, or after one was killed: its lock ends with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.works = True  # whether it keeps other processes out; some network disks have no locks
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
        if os.name == "nt":  # an open file cannot be removed there
            os.close(descriptor)
        with suppress(OSError):
            self.path.unlink()
        if os.name != "nt":
            os.close(descriptor)

    def _try(self) -> bool:
        # Follow no link in place of the file, and let no program that is started meanwhile inherit it.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = patiently(lambda: os.open(self.path, flags, 0o666))  # on Windows, its holder may be removing it
        try:
            if _lock(descriptor) and self._is_in_place(descriptor):
                self._descriptor = descriptor
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.works, self._descriptor = False, descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

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
    except (BlockingIOError, PermissionError):  # the latter is how Windows says that another process holds it
        return False
    return True
