"""Write an export part by part: one that cannot be made is a sentence, and the rest is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from MoBUncertaintyLib.base.errors import (
    NOT_ENOUGH_MEMORY,
    Cancelled,
    OutputError,
    UserError,
    is_out_of_memory,
    reason_of,
)


class Parts:
    """The parts of an export, in a folder that exists.

    Args:
        folder: Where they are written.

    Attributes:
        warnings: What the user should know of those that were written, one sentence each.
        problems: Which were not written, and why, one sentence each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.problems: list[str] = []

    @contextmanager
    def part(self, name: str, *files: str) -> Iterator[None]:
        """Write a part; if it cannot be made, say so and remove its files.

        Args:
            name: Of the part, as the start of a sentence.
            files: Names of its files, or patterns of them.

        Raises:
            OSError, OutputError: The disk is full or broken, so that nothing else can be written either.
            Cancelled: The user has cancelled.
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
    return f"It could not be made of this case ({reason_of(error)}); report this as a fault of the program."
