"""Write the table of a cohort, whole or not at all: `cohort.csv`, and `cohort.html`, which needs no other file."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.input_files import is_regular
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.publishing import absolute, write_file
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.cohort.cases import Agreement, CohortCase, Organ, Outcome
from MoBUncertaintyLib.output.pages.templates import fill, require_installed
from MoBUncertaintyLib.output.report import write_table

CSV, PAGE = "cohort.csv", "cohort.html"
_TEMPLATE, _STYLE, _SCRIPT = (RESOURCES / "Report" / f"cohort.{kind}" for kind in ("html.jinja", "css", "js"))
_FIRST = "case,outcome,"  # of our CSV files
_MARK = 'name="generator" content="mob-uncertainty cohort"'  # of our pages


@dataclass(frozen=True)
class Column:
    """A column of the table, in both files; on the page with decimals, a unit, and a note behind the number.

    The title is empty where the page has no such column, the value None if there is nothing to say. The unit "ml" makes
    a number a volume, whose decimals are those that fit, and whose note is its interval, as plain JSON.
    """

    name: str
    title: str
    value: Callable[[CohortCase], Any]
    unit: str = ""
    digits: int = 0
    note: Callable[[CohortCase], Any] | None = None


def check_table(folder: Path) -> None:
    """Raise `OutputError` before hours of computing if a file of that name is there that is none of ours."""
    require_installed(_TEMPLATE, _STYLE, _SCRIPT)
    for name, mark in ((CSV, _FIRST), (PAGE, _MARK)):
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
    """Write both files, the worst case first, in place of those of an earlier run; raises `OutputError`.

    Args:
        folder: Folder that holds the results folders.
        title: Of the page.
        cases: The cases, in any order.
        others: Name of each thing that is no case, and why, as the end of a sentence.
    """
    named, folder = folder, absolute(folder)
    rows = sorted(cases, key=lambda case: case.badness, reverse=True)
    others = [(printable(name), printable(reason)) for name, reason in others]
    columns = _columns(rows, named)
    names = [column.name for column in columns]
    cells = [{column.name: "" if (v := column.value(row)) is None else v for column in columns} for row in rows]
    page = _render(title, rows, [column for column in columns if column.title], others, named)
    problem: OSError | None = None
    for name, write in (
        (PAGE, lambda path: path.write_text(page, encoding="utf-8")),
        (CSV, lambda path: write_table(path, names, cells)),
    ):
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


def _columns(cases: Sequence[CohortCase], folder: Path) -> list[Column]:
    """Make the columns: of each label that one of the cases has, and of the whole case."""
    names = list(dict.fromkeys(organ.name for case in cases for organ in case.organs))
    several = len(names) > 1
    compared = names if any(case.agreement for case in cases) else []
    stated = {organ.name for case in cases for organ in case.organs if organ.interval}

    def of(name: str, value: Callable[[Organ], Any]) -> Callable[[CohortCase], Any]:
        """Take a value of the organ of that name, if the case has it."""
        return lambda case: next((value(organ) for organ in case.organs if organ.name == name), None)

    def interval(name: str, value: Callable[[Interval], Any]) -> Callable[[CohortCase], Any]:
        return of(name, lambda organ: organ.interval and value(organ.interval))

    def agreed(value: Callable[[Agreement], Any]) -> Callable[[CohortCase], Any]:
        return lambda case: case.agreement and value(case.agreement)

    columns = [
        Column("case", "", lambda case: case.name),
        Column("outcome", "", lambda case: case.outcome.value),
        Column("reason", "", lambda case: case.reason),
        Column("suitability", "", lambda case: case.suitability and case.suitability.level.value),
        Column("suitability_reasons", "", lambda c: c.suitability and "; ".join(c.suitability.reasons)),
    ]
    later: list[Column] = []
    for name in names:
        ml, note = of(name, lambda organ: organ.volume_ml), interval(name, Interval.to_dict)
        columns.append(Column(f"{name}_ml", f"{readable(name).capitalize()}", ml, "ml", note=note))
        if name in stated:
            ends = {end: interval(name, attrgetter(end)) for end in ("low", "high", "level")}
            later += [Column(f"{name}_interval_{end}", "", value) for end, value in ends.items()]
    columns += later
    columns.append(Column("expected_error_ml", "Expected error", lambda case: case.expected_error_ml, "ml"))
    if several:
        errors = {name: of(name, lambda organ: organ.expected_error_ml) for name in names}
        columns += [Column(f"{name}_expected_error_ml", "", value) for name, value in errors.items()]
    columns += [
        Column("regions", "Regions", lambda case: case.regions),
        Column("expected_error_in_regions_ml", "Error in regions", lambda c: c.expected_error_in_regions_ml, "ml"),
        Column("state", "", lambda case: case.state.value),
        Column("readers", "", lambda case: "; ".join(review.text for review in case.reviews) or None),
    ]
    for name in compared:
        title = f"Dice between readers{f', {readable(name)}' if several else ''}"
        dice = agreed(partial(lambda name, agreement: agreement.dice.get(name), name))
        columns.append(Column(f"{name}_dice_between_readers", title, dice, digits=3))
    if compared:
        different = agreed(lambda agreement: agreement.regions_different)
        note = agreed(lambda agreement: f"of {agreement.regions}")
        columns.append(Column("regions_decided_differently", "Decided differently", different, note=note))
    return [
        *columns,
        Column("seconds", "Time", lambda case: case.seconds, "s", 1),
        Column("warnings", "", lambda case: " ".join(case.warnings)),
        Column("results", "", lambda case: _way(folder, case.folder).as_posix() if case.folder else ""),
    ]


def _render(
    title: str,
    cases: Sequence[CohortCase],
    columns: Sequence[Column],
    others: Sequence[tuple[str, str]],
    folder: Path,
) -> str:
    rows = [
        {
            "case": case,
            "link": _link(_way(folder, case.folder) / "review.html") if case.folder else "",
            "cells": [(column.value(case), column, column.note and column.note(case)) for column in columns],
        }
        for case in cases
    ]
    counts = {outcome: sum(case.outcome is outcome for case in cases) for outcome in Outcome}
    return fill(
        _TEMPLATE,
        title=title,
        rows=rows,
        columns=columns,
        others=others,
        counts={outcome.value: count for outcome, count in counts.items() if count},
        seconds=sum(case.seconds or 0 for case in cases),
        largest=max((case.expected_error_ml or 0 for case in cases), default=0) or 1,
        mark=_MARK,
        table=CSV,
        software=f"MoB Uncertainty {__version__}",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        nonce=secrets.token_hex(12),
        css=_STYLE.read_text(encoding="utf-8"),
        js=_SCRIPT.read_text(encoding="utf-8"),
    )


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
