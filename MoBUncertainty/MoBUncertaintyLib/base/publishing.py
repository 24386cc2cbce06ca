"""Publish files and folders whole or not at all, one run at a time, and never replace anything of another kind.

Everything is written to a hidden name beside the target, `.NAME.mob-1a2b.tmp`, which is renamed at the end. The writer
holds the lock `.NAME.mob-lock`, so hidden names whose lock nobody holds were left by killed processes. A long name is
shortened in them: Windows takes paths of 260 characters, and what fits under the target must fit under them.
Needs only the standard library.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.durable import PATIENCE_S, Lock, patiently, rename_new, sync_folder, sync_tree
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.integrity import IntegrityError, check_manifest
from MoBUncertaintyLib.base.json_input import JsonError, read_object
from MoBUncertaintyLib.base.names import is_system_file, short_name

RECORDS = ("prediction.json", "report.json")
"""The file in each kind of folder that says what it is and lists its other files, `{"files": {NAME: SHA-256}}`."""

HIDDEN = re.compile(r"\.(?P<name>.+)\.mob-(?P<what>lock|[0-9a-f]{4,8}\.(tmp|old))", re.DOTALL)
"""Names that only this module makes."""
KEPT = re.compile(r".+\.kept-\d+", re.DOTALL)  # names of what was in a target's place before
_HIDDEN_LIMIT = 32  # bytes of the name in a hidden name
_PRIVATE = re.compile(r"(?:mob-model|MoBUncertainty)-[0-9a-f]{12}")

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
        """Give `partial`, a file, the target's name in place of a file that is there; raises `OSError`."""
        sync_tree(self.partial)
        with _moving:
            patiently(lambda: self.partial.replace(self.target))
            sync_folder(self.target.parent)

    def publish(self, earlier: bytes | None, keep: bool = False) -> Path | None:
        """Publish like `publish_new`, but move what is there already aside first; return where something is kept.

        What holds the record `earlier`, unchanged and with nothing else, is removed at the end unless it is to be kept.
        Raises `OSError` if it cannot be put there, and all is as it was.
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
    """Write a file whole or not at all, by a function of the path to write to; missing parents are made.

    Raises `OutputError` if another process writes there, and `OSError`; an earlier file is as it was then.
    """
    with reserve(target) as reservation:
        write(reservation.partial)
        reservation.replace()


def withdraw(target: Path) -> None:
    """Remove what was published; a process killed meanwhile leaves it whole, or hidden for the next run to remove.

    Raises `OutputError` if another process writes there, and `OSError`.
    """
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
    """Remove what a killed process has left of writing something, unless another process is writing it.

    Call this after killing a writer, since it leaves a patient's data under a hidden name, or before this process ends.
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


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a folder's record; None if there is none that can be read."""
    try:
        return read_object(path) if path.is_file() else None
    except (OSError, JsonError):
        return None


def content_of(path: Path) -> bytes | None:
    """Read a file; None if there is none that can be read."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
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
