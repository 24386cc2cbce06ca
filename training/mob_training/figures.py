"""Pictures of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NAMES = {"variance": "predictive variance", "bernoulli": "p (1 - p)"}
KINDS = {"error": "of all error", "thick_error": "of the error thicker than one voxel"}
COLOURS = {"variance": "#c2410c", "bernoulli": "#1d4ed8"}


def draw_error_caught(scores: dict, path: Path, most: int = 12) -> None:
    """Mean share of the error inside the first n regions of the ranking, for each measure of doubt.

    Args:
        scores: As `evaluation.evaluate` returns them.
        path: PNG to write.
        most: Largest n drawn; a case with fewer regions keeps its last share.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, words) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        for measure, name in NAMES.items():
            shares = np.array([_padded(case[measure]["caught"][kind], most) for case in scores["cases"]])
            n = np.arange(most + 1)
            low, high = np.percentile(shares, (25, 75), axis=0)
            count = np.median([case[measure]["regions"] for case in scores["cases"]])
            axes.plot(n, shares.mean(axis=0), color=COLOURS[measure], label=f"{name} (median {count:g} regions)")
            axes.fill_between(n, low, high, color=COLOURS[measure], alpha=0.12, linewidth=0)
        axes.set(xlim=(0, most), ylim=(0, 1), xlabel="regions looked at, most doubtful first", title=f"Share {words}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"inside the regions (mean of {len(scores['cases'])} cases)")
    figure.axes[1].legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _padded(shares: list[float], most: int) -> list[float]:
    kept = [0.0, *shares[:most]]
    return kept + [kept[-1]] * (most + 1 - len(kept))
