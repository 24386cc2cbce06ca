"""Progress of a fine-tuning, one row per epoch: `progress.csv`, and `progress.png` drawn from it."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from MoBUncertaintyLib.files.publishing import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, float]

TERMS = ("cross_entropy", "dice", "kl", "orthogonality", "weight")
PULLS = {"prior_pull": "of the prior (Eq. 8)", "likelihood_pull": "of the likelihood"}


def read_progress(path: Path) -> list[Row]:
    """Read the rows of a `progress.csv`; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def add_progress(path: Path, row: Row) -> list[Row]:
    """Add an epoch to a `progress.csv`, and remove rows of this and later epochs, left from before a restart.

    Args:
        path: The file.
        row: `epoch` and any other numbers, the same for every epoch.

    Returns:
        All rows.
    """
    rows = [earlier for earlier in read_progress(path) if earlier["epoch"] < row["epoch"]] + [row]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(row), restval="nan", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in entry.items()} for entry in rows)
    write_file(path, lambda partial: partial.write_bytes(file.getvalue().encode()))
    return rows


def draw_progress(rows: list[Row], path: Path) -> None:
    """Draw loss terms, validation, what pulls at the variance, and how often each basis is chosen, over the epochs."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    ((loss, validation), (variance, bases)) = figure.subplots(2, 2)
    epochs = [row["epoch"] for row in rows]

    def plot(axes: Axes, name: str, label: str, **style: Any) -> None:
        axes.plot(epochs, [row.get(name, float("nan")) for row in rows], label=label, marker=".", **style)

    names = list(rows[-1])
    for name in TERMS:
        if name in names:
            plot(loss, name, name.replace("_", " "))
    loss.set_title("Weighted terms of the loss (Eq. 11)")
    plot(validation, "validation_dice", "Dice", color="#1d4ed8")
    plot(validation, "validation_nll", "NLL", color="#c2410c")
    validation.set_title("Validation patches")
    for name, label in PULLS.items():
        if name in names:
            plot(variance, name, label)
    if "mean_variance" in names:
        beside = variance.twinx()
        plot(beside, "mean_variance", "mean of d", color="#555", linestyle=":")
        beside.set_ylabel("mean of d (dotted)")
    variance.set_title("Pull on ln d, summed over a patch (above 0: upwards)")
    chosen = [name for name in names if re.fullmatch(r"basis_\d+", name)]
    for name in chosen:
        plot(bases, name, name.replace("_", " "))
    bases.set(title="Fraction of cells that choose each basis", ylim=(-0.02, 1.02))
    for axes in (loss, validation, variance, bases):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "not in this model", ha="center", transform=axes.transAxes)
    write_file(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
