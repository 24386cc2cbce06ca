"""The benchmark's picture, PNG: what the stages of each system take."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from inference.summary import STAGES, Row, mark_of, number
from inference.tasks import network_name, size_title, system_title

# The palette of Okabe and Ito, which the colour-blind can tell apart.
STAGE_COLOURS = {
    "read": "#b3b3b3",
    "preprocess": "#56b4e9",
    "backbone": "#0072b2",
    "moments": "#d55e00",
    "blend": "#cc79a7",
    "resample": "#009e73",
    "write": "#e69f00",
    "other": "#dddddd",
    "regions": "#999933",
    "report": "#882255",
    "scene": "#332288",
}
STAGE_NAMES = {"moments": "heads and moments", "write": "write volumes", "report": "overlay and report"}


def draw_stages(table: Sequence[Row], path: Path) -> None:
    """What the stages of each system take: one bar for each, one panel for each network and size."""
    panels = list(dict.fromkeys((row["network"], tuple(row["size"])) for row in table))
    groups = [[row for row in table if (row["network"], tuple(row["size"])) == panel] for panel in panels]
    figure = Figure(figsize=(11.0, sum(0.32 * len(group) + 0.75 for group in groups) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) + 1.2 for group in groups])[:, 0]
    for axes, (network, size), group in zip(grid, panels, groups, strict=True):
        for y, row in enumerate(reversed(group)):
            left = 0.0
            for stage in STAGES:
                seconds = row["stages_s"].get(stage, 0.0)
                axes.barh(
                    y, seconds, left=left, height=0.72, color=STAGE_COLOURS[stage], label=STAGE_NAMES.get(stage, stage)
                )
                left += seconds
            text = f" {number(row['total_s'])} s{mark_of(row)}"
            axes.text(left, y, text, va="center", fontsize=8, color="0.2", clip_on=False)
        axes.set_yticks(range(len(group)), [system_title(row["system"]) for row in reversed(group)], fontsize=8)
        axes.set_xlim(0, 1.15 * max(row["total_s"] for row in group))
        axes.set_title(f"{network_name(network)}, {size_title(size)} voxels", fontsize=9, loc="left")
        axes.grid(alpha=0.25, axis="x")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1].set_xlabel("seconds, warm")
    handles, labels = grid[0].get_legend_handles_labels()
    names = dict(zip(labels, handles, strict=True))
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    # A small file: lines and text need few colours.
    file = io.BytesIO()
    figure.savefig(file, dpi=72)
    picture = Image.open(file).convert("RGB").quantize(32, Image.Quantize.MAXCOVERAGE, 4, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
