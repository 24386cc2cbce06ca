"""A folder that is written whole or not at all, and never over anything that is not of its kind."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import (
    NOT_ENOUGH_MEMORY,
    Cancelled,
    DiskError,
    OutputError,
    UserError,
    is_out_of_memory,
    reason_of,
)
from MoBUncertaintyLib.base.names import is_unicode, printable
from MoBUncertaintyLib.base.publishing import (
    HIDDEN,
    Reservation,
    absolute,
    content_of,
    read_record,
    reserve,
    sweep,
    unlisted_in,
)

_FILE_NAME = re.compile(r".*\.(nii|nii\.gz|nrrd|nhdr|mha|mhd|dcm|zip|mrb|json|csv|html|png)", re.IGNORECASE)


class FolderInProgress:
    """A folder of some kind that is being written under a reserved name; `keep` moves an older one to another name."""

    def __init__(self, kind: FolderKind, reservation: Reservation, keep: bool = False) -> None:
        self._kind, self._reservation, self._keep = kind, reservation, keep
        self._earlier = content_of(reservation.target / kind.record)
        self.warnings: list[str] = []

    @property
    def partial(self) -> Path:
        """The hidden folder in which it is written."""
        return self._reservation.partial

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Write to the folder that this gives and that is put in place at the end, or raise `OutputError`."""
        target = self._reservation.target
        with self._kind.errors(target):
            yield self.partial
            kept = self._reservation.publish(self._earlier, self._keep)
        if kept and self._keep:
            self.warnings.append(f"{self._kind.earlier.capitalize()} was moved to {kept}.")
        elif kept:
            self.warnings.append(f"{target} also contained other files, which were moved to {kept}.")


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that the program writes."""

    noun: str  # what it holds: "results"
    one: str  # with its article
    earlier: str  # what is there already: "earlier results"
    main: str  # its file that most users look for
    record: str  # the file in it that says so, of `RECORDS`
    schema: str  # of that file

    def check_name(self, folder: str | Path) -> None:
        """Raise `OutputError` for the name of a file, which a user may take the folder for."""
        name = Path(folder).name
        if _FILE_NAME.fullmatch(name) and not os.path.isdir(folder):
            stem = name.split(".")[0] or "out"
            raise OutputError(
                f"{folder} is a file name, but the output is a folder that contains {self.main}; give a folder name, "
                f"such as {stem}."
            )

    def check(self, folder: str | Path, overwrite: bool = False) -> None:
        """Raise `OutputError`, before hours of work, if something else or an older one is there, or it is read-only."""
        folder = absolute(folder)
        with self.errors(folder):
            self._check(folder, overwrite)

    @contextmanager
    def reserve(self, folder: str | Path, overwrite: bool = False, keep: bool = False) -> Iterator[FolderInProgress]:
        """Keep a folder's name for this run; errors as for `check`, and `OutputError` if another run writes there."""
        self.check(folder, overwrite)
        folder = absolute(folder)
        with ExitStack() as stack:
            with self.errors(folder):
                reservation = stack.enter_context(reserve(folder))
                self._check(folder, overwrite)  # again, now that nobody else writes there
                reservation.partial.mkdir()
            yield FolderInProgress(self, reservation, keep)

    @contextmanager
    def errors(self, folder: Path) -> Iterator[None]:
        """Say in the user's words what the system says about writing there."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskError(f"The disk of {folder} is full; free some space or choose another folder.") from error
            kind = DiskError if error.errno in (errno.EROFS, errno.EIO) else OutputError
            reason = error.strerror or error
            raise kind(f"The {self.noun} cannot be written to {folder} ({reason}); choose another folder.") from error

    def recognises(self, folder: Path) -> bool:
        """Whether a folder is of this kind."""
        return self._read(folder) is not None

    def _check(self, folder: Path, overwrite: bool) -> None:
        if not is_unicode(str(folder)):
            raise OutputError(f"{printable(str(folder))} is not a name in UTF-8; choose another folder.")
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; choose a folder for the {self.noun}.")
        if folder.is_dir():
            sweep(folder)
            self._check_content(folder, overwrite)
        if os.path.ismount(folder):
            raise OutputError(f"{folder} is a drive or mount point, which cannot be replaced; choose a folder in it.")
        existing = next(parent for parent in folder.parents if parent.exists())
        if not existing.is_dir():
            raise OutputError(f"{folder} cannot be created, because {existing} is a file; choose another folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DiskError(f"You have no permission to write to {existing}; choose another folder.")

    def _check_content(self, folder: Path, overwrite: bool) -> None:
        names = {path.name for path in folder.iterdir()}
        if not names:
            return
        record = self._read(folder)
        if record is None:
            raise OutputError(f"{folder} contains files other than {self.one}; choose a new or empty folder.")
        if not overwrite:
            raise OutputError(f"{folder} contains {self.earlier}; choose another folder, or use --overwrite.")
        for name in sorted(unlisted_in(folder, record) - {self.record}):
            if HIDDEN.fullmatch(name):
                raise OutputError(f"Another run is writing to {folder}; wait until it has finished.")
            raise OutputError(
                f"{folder} also contains {printable(name)}, which would be lost; move it or choose another folder."
            )

    def _read(self, folder: Path) -> dict[str, Any] | None:
        record = read_record(folder / self.record)
        return record if record and record.get("schema") == self.schema else None


class Parts:
    """The parts of an export, in a folder that exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []  # what the user should know of those that were written, one sentence each
        self.problems: list[str] = []  # which were not written, and why, one sentence each

    @contextmanager
    def part(self, name: str, *files: str) -> Iterator[None]:
        """Write a part; if it cannot be made, say so and remove its files (names or patterns).

        Raises `OSError` or `OutputError` where the disk is full or broken, and `Cancelled`.
        """
        try:
            yield
        except (OSError, Cancelled):
            raise
        except Exception as error:
            cause = error.__cause__ if isinstance(error, OutputError) else None
            if isinstance(cause, OSError):
                raise cause from error
            if cause is not None:
                raise
            for file in (file for pattern in files for file in self.folder.glob(pattern)):
                file.unlink()
            self.problems.append(f"{name} was not written: {_reason(error)}")

    @property
    def sentences(self) -> list[str]:
        """All that there is to say."""
        return [*self.warnings, *self.problems]


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return NOT_ENOUGH_MEMORY
    return f"It could not be made for this case ({reason_of(error)}); please report this as a bug."
