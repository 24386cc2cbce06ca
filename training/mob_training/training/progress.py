"""Progress of a training, one row per epoch: `progress.csv`, and `progress.png` drawn from it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from MoBUncertaintyLib.base.publishing import write_file

TABLE, DRAWING = "progress.csv", "progress.png"
PANELS = {
    "Weighted terms of the loss (Eq. 11)": r"cross_entropy|dice|kl|orthogonality|weight",
    "Validation patches": r"validation_(dice|nll)",
    "Mean of d": r"mean_variance",
    "Fraction of cells that choose each basis": r"basis_\d+",
}
"""What is drawn: titles, and patterns of the columns."""


def read_progress(folder: Path) -> pd.DataFrame:
    """Read `progress.csv`; no rows if there is no such file."""
    return pd.read_csv(folder / TABLE) if (folder / TABLE).exists() else pd.DataFrame({"epoch": []})


def add_progress(folder: Path, row: dict[str, float]) -> None:
    """Add an epoch, draw all, and remove rows of this and later epochs, left from before a restart."""
    earlier = read_progress(folder)
    rows = pd.concat([earlier[earlier["epoch"] < row["epoch"]], pd.DataFrame([row])])[list(row)]
    text = rows.to_csv(index=False, float_format="%.6g", na_rep="nan", lineterminator="\n")
    write_file(folder / TABLE, lambda partial: partial.write_text(text, encoding="utf-8"))
    draw_progress(rows, folder / DRAWING)


def draw_progress(rows: pd.DataFrame, path: Path) -> None:
    """Draw loss terms, validation, the mean variance, and how often each basis is chosen, over the epochs."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, pattern) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        names = [name for name in rows.columns if re.fullmatch(pattern, name)]
        if names:
            rows.plot(x="epoch", y=names, ax=axes, marker=".", grid=True)
        else:
            axes.text(0.5, 0.5, "not in this model", ha="center", transform=axes.transAxes)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    write_file(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
