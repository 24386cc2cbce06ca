"""A folder that is written whole or not at all, and never over anything that is not of its kind."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from MoBUncertaintyLib.errors import OutputError


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that the program writes.

    Attributes:
        noun: What it holds: "results".
        one: The same with its article.
        earlier: One that is there already: "earlier results".
        recognises: Whether a folder is of this kind.
        files: Names of what it holds. One with anything else in it is never replaced.
    """

    noun: str
    one: str
    earlier: str
    recognises: Callable[[Path], bool]
    files: re.Pattern[str]

    def check(self, folder: str | Path, overwrite: bool = False) -> None:
        """Refuse a folder before hours of work rather than after.

        Args:
            folder: What will be written.
            overwrite: An older one of this kind may be replaced.

        Raises:
            OutputError: Something else is there, or an older one that may not be replaced, or it may not be written to.
        """
        folder = Path(folder).resolve()
        try:
            self._check(folder, overwrite)
        except OSError as error:
            raise self.error(folder, error) from error

    @contextmanager
    def new(self, folder: Path) -> Iterator[Path]:
        """A hidden folder beside `folder` that takes its place at the end, or vanishes if anything goes wrong.

        Raises:
            OutputError: It cannot be written; an older folder is as it was.
        """
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            _move_into_place(partial, folder)
        except OSError as error:
            raise self.error(folder, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def error(self, folder: Path, error: OSError) -> OutputError:
        """What the system says, in the user's words."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutputError(f"The disk of {folder} is full; free some space or choose another folder.")
        reason = error.strerror or error
        return OutputError(f"The {self.noun} cannot be written to {folder} ({reason}); choose another folder.")

    def _check(self, folder: Path, overwrite: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; choose a folder for the {self.noun}.")
        if folder.is_dir() and any(folder.iterdir()):
            if not self.recognises(folder):
                raise OutputError(f"{folder} holds other things than {self.one}; choose a new or empty folder.")
            if not overwrite:
                raise OutputError(f"{folder} holds {self.earlier}; choose another folder, or say --overwrite.")
            foreign = sorted(path.name for path in folder.iterdir() if not self.files.fullmatch(path.name))
            if foreign:
                raise OutputError(
                    f"{folder} also holds {foreign[0]}, which would be lost; move it or choose another folder."
                )
        existing = next(parent for parent in folder.parents if parent.exists())
        if not existing.is_dir():
            raise OutputError(f"{folder} cannot be made, because {existing} is a file; choose another folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(f"{existing} may not be written to; choose another folder.")


def _move_into_place(partial: Path, folder: Path) -> None:
    """An older folder is moved aside first and comes back if the new one cannot take its place."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = partial.with_suffix(".old")
    folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a process that was killed has left of writing a folder; call it only when nothing writes there.

    Whoever kills a writer calls this, since what it leaves are a patient's data in a hidden folder.

    Args:
        folder: What was to be written.
    """
    folder = Path(folder).resolve()
    hidden = f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}"
    for old in folder.parent.glob(f"{hidden}.old"):
        with suppress(OSError):  # it is in the way only if the new folder has taken its place
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    for partial in folder.parent.glob(f"{hidden}.tmp"):
        shutil.rmtree(partial, ignore_errors=True)
