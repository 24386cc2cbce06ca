"""Write the table of a cohort, whole or not at all: `cohort.csv`, and `cohort.html`, which needs no other file.

What was measured is in `measurements.csv`, one row for each case and measurement.
"""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.input_files import is_regular
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import absolute, write_file
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome
from MoBUncertaintyLib.output.pages.templates import fill, require_installed
from MoBUncertaintyLib.output.report import MEASUREMENT_COLUMNS, write_table

CSV, PAGE, MEASUREMENTS = "cohort.csv", "cohort.html", "measurements.csv"
_TEMPLATE, _STYLE, _SCRIPT = (RESOURCES / "Report" / f"cohort.{kind}" for kind in ("html.jinja", "css", "js"))
_FIRST, _FIRST_MEASURED = "case,outcome,", "case,measurement,"  # of our CSV files
_MARK = 'name="generator" content="mob-uncertainty cohort"'  # of our pages


class Column(NamedTuple):
    """A column of the page; one in "ml" shows a volume with the decimals that fit and, as its note, its interval."""

    name: str  # in the other file
    title: str
    unit: str = ""
    digits: int = 0
    lowest_first: bool = False  # the worst cases are those with the lowest numbers


def check_table(folder: Path) -> None:
    """Raise `OutputError` before hours of computing if a file of that name is there that is none of ours."""
    require_installed(_TEMPLATE, _STYLE, _SCRIPT)
    for name, mark in ((CSV, _FIRST), (PAGE, _MARK), (MEASUREMENTS, _FIRST_MEASURED)):
        path = folder / name
        if os.path.lexists(path) and not _begins(path, mark):
            raise OutputError(f"{path} was not written by this program; move it or choose another folder.")


def failed_before(folder: Path) -> dict[str, str]:
    """Read which cases had failed when the table in a folder was written, and why; nothing where there is no table."""
    if not is_regular(folder / CSV):
        return {}
    try:
        with (folder / CSV).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return {}
    return {row["case"]: row["reason"] or "" for row in rows if row.get("outcome") == Outcome.FAILED and row["case"]}


def write_cohort(folder: Path, title: str, cases: Sequence[CohortCase], others: Sequence[tuple[str, str]] = ()) -> None:
    """Write the files, the worst case first, in place of those of an earlier run; raises `OutputError`.

    Args:
        folder: Folder that holds the results folders.
        title: Of the page.
        cases: The cases, in any order.
        others: Name of each thing that is no case, and why, as the end of a sentence.
    """
    cases = sorted(cases, key=lambda case: case.badness, reverse=True)
    rows = _rows(cases, folder)
    page = _render(title, cases, rows, others, folder)
    names = list(rows[0]) if rows else ["case", "outcome", "reason"]
    cells = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    measured = [{"case": case.name, **row} for case in cases for row in case.measurements]
    folder = absolute(folder)
    files: dict[str, Callable[[Path], Any]] = {
        PAGE: lambda path: path.write_text(page, encoding="utf-8"),
        CSV: lambda path: write_table(path, names, cells),
    }
    if measured or (folder / MEASUREMENTS).exists():  # that of an earlier run
        files[MEASUREMENTS] = lambda path: write_table(path, ("case", *MEASUREMENT_COLUMNS), measured)
    problem: OSError | None = None
    for name, write in files.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(folder / name, write)
        except OSError as error:
            problem = error
    if problem:
        raise OutputError(
            f"The cohort's table cannot be written to {folder} ({problem.strerror or problem}); close it where it is "
            "open, free some space or choose another folder."
        ) from problem


def _labels(cases: Sequence[CohortCase]) -> list[str]:
    return list(dict.fromkeys(organ.name for case in cases for organ in case.organs))


def _rows(cases: Sequence[CohortCase], folder: Path) -> list[dict[str, Any]]:
    """Make the row of each case, with the columns of all; None where there is nothing to say."""
    labels = _labels(cases)
    with_interval = [
        name for name in labels if any(o.interval for case in cases for o in case.organs if o.name == name)
    ]
    expected = any(case.expected_dice is not None for case in cases)
    compared, checked = (any(getattr(case, name) is not None for case in cases) for name in ("agreement", "findings"))
    rows = []
    for case in cases:
        organs, suits, readers = {organ.name: organ for organ in case.organs}, case.suitability, case.agreement
        row: dict[str, Any] = {"case": case.name, "outcome": case.outcome.value, "reason": case.reason}
        row |= {"suitability": suits and suits.level.value, "suitability_reasons": suits and "; ".join(suits.reasons)}
        row |= {f"{name}_ml": organs[name].volume_ml if name in organs else None for name in labels}
        for name in with_interval:
            interval = organs[name].interval if name in organs else None
            row |= {f"{name}_interval_{end}": interval and getattr(interval, end) for end in ("low", "high", "level")}
        row["expected_dice"] = case.expected_dice
        for name in labels if expected else ():
            agreement = organs[name].expected if name in organs else None
            row |= {f"{name}_expected_{what}": agreement and getattr(agreement, what) for what in ("dice", "dice_low")}
        row["expected_error_ml"] = case.expected_error_ml
        if len(labels) > 1:
            errors = {name: organ.expected_error_ml for name, organ in organs.items()}
            row |= {f"{name}_expected_error_ml": errors.get(name) for name in labels}
        row |= {"regions": case.regions, "expected_error_in_regions_ml": case.expected_error_in_regions_ml}
        if checked:
            row["findings"] = " ".join(case.findings or ()) or None
        row |= {"state": case.state.value, "readers": "; ".join(review.text for review in case.reviews) or None}
        if compared:
            row |= {f"{name}_dice_between_readers": readers and readers.dice.get(name) for name in labels}
            row["regions_decided_differently"] = readers and readers.regions_different
        row |= {"seconds": case.seconds, "warnings": " ".join(case.warnings)}
        rows.append(row | {"results": _way(folder, case.folder).as_posix() if case.folder else ""})
    return rows


def _columns(labels: Sequence[str], compared: bool) -> list[Column]:
    columns = [Column(f"{name}_ml", readable(name).capitalize(), "ml") for name in labels]
    columns.append(Column("expected_dice", "Expected Dice", digits=2, lowest_first=True))
    columns += [Column("expected_error_ml", "Expected error", "ml"), Column("regions", "Regions")]
    columns.append(Column("expected_error_in_regions_ml", "Error in regions", "ml"))
    if compared:
        titles = {name: f"Dice between readers{f', {readable(name)}' if len(labels) > 1 else ''}" for name in labels}
        columns += [Column(f"{name}_dice_between_readers", title, digits=3) for name, title in titles.items()]
        columns.append(Column("regions_decided_differently", "Decided differently"))
    return [*columns, Column("seconds", "Time", "s", 1)]


def _render(
    title: str,
    cases: Sequence[CohortCase],
    rows: Sequence[Mapping[str, Any]],
    others: Sequence[tuple[str, str]],
    folder: Path,
) -> str:
    columns = _columns(_labels(cases), any(case.agreement for case in cases))
    shown = []
    for case, row in zip(cases, rows, strict=True):
        notes: dict[str, Any] = {
            f"{organ.name}_ml": organ.interval.to_dict() for organ in case.organs if organ.interval
        }
        notes["expected_dice"] = _note_on_dice(case)
        if case.agreement:
            notes["regions_decided_differently"] = f"of {case.agreement.regions}"
        cells = [(row[column.name], column, notes.get(column.name)) for column in columns]
        link = _link(_way(folder, case.folder) / "review.html") if case.folder else ""
        shown.append({"case": case, "link": link, "cells": cells})
    counts = {outcome: sum(case.outcome is outcome for case in cases) for outcome in Outcome}
    return fill(
        _TEMPLATE,
        title=title,
        rows=shown,
        columns=columns,
        others=[(printable(name), printable(reason)) for name, reason in others],
        counts={outcome.value: count for outcome, count in counts.items() if count},
        seconds=sum(case.seconds or 0 for case in cases),
        largest=max((case.expected_error_ml or 0 for case in cases), default=0) or 1,
        mark=_MARK,
        table=CSV,
        software=f"MoB Uncertainty {__version__}",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        nonce=secrets.token_hex(12),
    )


def _note_on_dice(case: CohortCase) -> str | None:
    """Name the organ of which the lowest Dice is expected, or write the bound of the only one."""
    expected = {organ.name: organ.expected for organ in case.organs if organ.expected}
    if not expected:
        return None
    name, lowest = min(expected.items(), key=lambda each: each[1].dice)
    if len(expected) > 1:
        return f"lowest: {readable(name)} {lowest.dice:.2f}"
    return None if lowest.dice_low is None else f"at least {lowest.dice_low:.2f}"


def _way(folder: Path, results: Path) -> Path:
    """Find the way from the table's folder to a results folder in it; of a folder elsewhere, its whole path.

    Links and mapped drives count as they were named, so that the way holds wherever the folder is moved; if one of the
    two was named otherwise, they are followed.
    """
    for follow in (os.path.abspath, os.path.realpath):
        base, path = Path(follow(folder)), Path(follow(results))
        if path.is_relative_to(base):
            return path.relative_to(base)
    return path


def _link(path: Path) -> str:
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _begins(path: Path, mark: str) -> bool:
    if not is_regular(path):
        return False
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return mark in file.read(1000)
    except OSError:
        return False
