"""Tables of scores as CSV, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from mob_training.data.datasets import CASES_FILE, LEFT_OUT
from mob_training.evaluation.score_files import write_content
from MoBUncertaintyLib.base.errors import SettingsError

RESAMPLES = 2000
"""Of the bootstrap."""

BETTER, WORSE = "†", "‡"
"""Marks of scores that differ significantly from the reference's."""

LATEX = {character: f"\\{character}" for character in "&%_#${}"}
LATEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "–": "--"}
LATEX |= {"|": "$|$", "<": "$<$", ">": "$>$", "−": "$-$", "·": r"$\cdot$", "³": "$^3$", "±": r"$\pm$"}
LATEX |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\to$", BETTER: r"$^\dagger$", WORSE: r"$^\ddagger$"}
"""How LaTeX writes what titles, names and numbers contain."""


@dataclass(frozen=True)
class Cell:
    """A score over seeds, with its decimals; the best of its column; and the mark of a difference beyond chance.

    Attributes:
        mean: None where it is undefined.
        deviation: Standard deviation over the seeds (n - 1); None with fewer than two.
    """

    mean: float | None
    deviation: float | None = None
    digits: int = 2
    best: bool = False
    mark: str = ""

    @classmethod
    def over(cls, values: Sequence[float], digits: int) -> Cell:
        """Aggregate the seeds' defined values."""
        if not values:
            return cls(None, None, digits)
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), deviation, digits)

    def text(self) -> str:
        """Format the cell for reading."""
        if self.mean is None:
            return "–"
        shown = f"{round(self.mean, self.digits) + 0.0:.{self.digits}f}"
        return shown if self.deviation is None else f"{shown} ± {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """A title, a sentence without its full stop; what the rows are; columns and rows, whose cells may be words."""

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | str, ...]], ...]

    def csv(self) -> str:
        """Format as CSV with full numbers; a column of scores becomes two, mean and standard deviation."""
        columns: dict[str, list[Any]] = {self.corner: [name for name, _ in self.rows]}
        for title, *cells in zip(self.columns, *(cells for _, cells in self.rows), strict=True):
            if isinstance(cells[0], Cell):
                columns[title] = [cell.mean for cell in cells]
                columns[f"{title} (standard deviation)"] = [cell.deviation for cell in cells]
            else:
                columns[title] = cells
        return pd.DataFrame(columns).to_csv(index=False, float_format="%.6g", lineterminator="\n")

    def markdown(self) -> str:
        """Format as Markdown, the best of each column in bold, and marked where it differs from the reference."""
        lines = [_markdown_row([self.corner, *self.columns]), "|" + " --- |" * (1 + len(self.columns))]
        for name, cells in self.rows:
            shown = []
            for cell in cells:
                text = cell if isinstance(cell, str) else cell.text()
                if isinstance(cell, Cell):
                    text = f"{f'**{text}**' if cell.best else text} {cell.mark}".rstrip()
                shown.append(text)
            lines.append(_markdown_row([name, *shown]))
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """Format as a LaTeX `tabular` for booktabs, in the layout of the paper's Tables 2 to 4."""
        lines = [f"% {_escape(self.title)}", rf"\begin{{tabular}}{{l{'c' * len(self.columns)}}}", r"\toprule"]
        lines += [" & ".join(map(_escape, (self.corner, *self.columns))) + r" \\", r"\midrule"]
        lines += [" & ".join([_escape(name), *map(_latex_cell, cells)]) + r" \\" for name, cells in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def write(self, stem: Path) -> None:
        """Write `STEM.csv` and `STEM.tex`."""
        write_content(self.csv().encode(), stem.with_name(f"{stem.name}.csv"))
        write_content(self.latex().encode(), stem.with_name(f"{stem.name}.tex"))


def with_best(cells: Sequence[Cell], higher: bool, target: float | None = None) -> list[Cell]:
    """Mark the best cells of a column: all that show the best number, none if there is only one row.

    With a target the nearest to it are the best.
    """
    shown = pd.Series([np.nan if cell.mean is None else round(cell.mean, cell.digits) for cell in cells])
    if shown.count() < 2:
        return list(cells)
    if target is not None:
        shown = (shown - target).abs().round(9)
    best = shown.max() if higher and target is None else shown.min()
    return [replace(cell, best=bool(value == best)) for cell, value in zip(cells, shown, strict=True)]


def interval(values: Sequence[float]) -> str:
    """Write the mean of independent values to three significant digits, and its 95 % interval: 84.1 (82.0 to 85.9)."""
    if not values:
        return "–"
    mean = float(np.mean(values))
    ends = (mean, mean)
    if len(set(values)) > 1:
        resampled = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0)
        ends = resampled.confidence_interval
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    low, high = (f"{end:.{digits}f}" for end in ends)
    return f"{mean:.{digits}f} ({low} to {high})"


def table1(datasets: Sequence[Path]) -> Table:
    """Tabulate the cases of raw data sets by part of the split, and the volumes of the structures in ml (Table 1).

    Volumes are over the cases in use that show the structure.

    Raises:
        SettingsError: A folder was not written by this program.
    """
    columns = ("Cases", "Train", "Val", "Test", "Left out", "Mean, ml", "SD, ml", "Median, ml", "Min, ml", "Max, ml")
    rows: list[tuple[str, tuple[str, ...]]] = []
    for dataset in datasets:
        try:
            cases = pd.read_csv(dataset / CASES_FILE)
            labels = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"]
        except OSError:
            raise SettingsError(f"{dataset} has no {CASES_FILE}; convert it by mob-training.") from None
        parts = cases["part"].value_counts()
        used = cases[cases["part"].isin(("train", "val", "test"))]
        counts = [len(used), *(parts.get(part, 0) for part in ("train", "val", "test", LEFT_OUT))]
        for name in (name for name, value in labels.items() if value != 0):
            volumes = used[f"{name}_ml"][used[f"{name}_ml"] > 0]
            deviation = volumes.std() if len(volumes) > 1 else 0.0
            numbers = (volumes.mean(), deviation, volumes.median(), volumes.min(), volumes.max())
            rows.append((name.replace("_", " "), (*map(str, counts), *(f"{number:.2f}" for number in numbers))))
    return Table("Data sets", "Structure", columns, tuple(rows))


def _latex_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    text = _escape(cell.text())
    return (rf"\textbf{{{text}}}" if cell.best else text) + _escape(cell.mark)


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _markdown_row(cells: Sequence[str]) -> str:
    """Format a row; a bar within a cell, as in |p − q|, is escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
