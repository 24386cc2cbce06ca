"""Rows of a check: each is computed, judged and written at once, so that later faults cannot take it away."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import UserError, reason_of

FILE = "gpu-check.jsonl"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass
class Row:
    """One thing that is checked.

    Attributes:
        step: Which step it belongs to.
        what: What was checked.
        status: `ok`, `failed` or `skipped`.
        why: A sentence, unless all is well.
        values: What was measured, by name.
        seconds: How long it took.
    """

    step: str
    what: str
    status: str = OK
    why: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class ResultError(Exception):
    """A result is not what it should be.

    Args:
        why: A sentence.
        values: What was measured nevertheless.
    """

    def __init__(self, why: str, values: dict[str, Any]) -> None:
        super().__init__(why)
        self.values = values


class Rows:
    """Computes the rows of a step until its time is over.

    Args:
        folder: Of the check; rows are added to its `FILE`.
        step: Name of the step.
        until: Time (`time.time`) at which all must be done.
    """

    def __init__(self, folder: Path, step: str, until: float) -> None:
        self.path, self.step, self.until = folder / FILE, step, until

    def add(self, what: str, work: Callable[[], dict[str, Any]], needs: float = 0.0) -> dict[str, Any]:
        """Do what a row needs, if `needs` seconds are left for it, and write down what comes of it; the values."""
        row, start = Row(self.step, what), time.time()
        if start + needs > self.until:
            row.status, row.why = SKIPPED, no_time(needs)
        else:
            try:
                row.values = work()
            except Exception as error:
                row.status, row.why, row.values = FAILED, sentence(error), getattr(error, "values", {})
                if not isinstance(error, (ResultError, UserError)):
                    traceback.print_exc()
            row.seconds = time.time() - start
        write(self.path, row)
        return row.values


def no_time(needs: float) -> str:
    """Say that the time left is too short."""
    return f"There was no time left for it ({needs:.0f} s are needed)." if needs else "There was no time left for it."


def sentence(error: Exception) -> str:
    """An error in one sentence."""
    if isinstance(error, (ResultError, UserError)):
        return str(error)
    return f"{type(error).__name__}: {reason_of(error, limit=240)}."


def write(path: Path, row: Row) -> None:
    """Add a row to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), default=float) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a file; one that was cut short, because its process was ended, is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows
