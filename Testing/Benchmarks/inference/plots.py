"""The benchmark's pictures, PNG: cost against size and against K, memory by system, and what the stages take."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from inference.summary import STAGES, Row, linear_fit, marks_of, network_seconds, number
from inference.tasks import SYSTEMS, network_name, size_title, split_system, system_label, system_title

# The palette of Okabe and Ito, which the colour-blind can tell apart; markers say it again.
LOOKS = {
    "a": ("#000000", "o"),
    "b": ("#7f7f7f", "s"),
    "c": ("#e69f00", "^"),
    "d": ("#56b4e9", "D"),
    "e": ("#d55e00", "*"),
    "e-adaptive": ("#009e73", "P"),
}
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


def draw_all(summary: dict[str, Any], folder: Path) -> list[str]:
    """Draw what there are measurements of; the names of the files."""
    table = [row for row in summary["systems"] if "failed" not in row]
    drawn = []
    for name, draw, content in (
        ("cost-by-size.png", draw_sizes, table if _most_sizes(table) > 1 else []),
        ("cost-by-samples.png", draw_samples, summary["sampling"]),
        ("memory.png", draw_memory, table),
        ("stages.png", draw_stages, table),
    ):
        (folder / name).unlink(missing_ok=True)
        if content:
            draw(content, folder / name)
            drawn.append(name)
    return drawn


def draw_sizes(table: Sequence[Row], path: Path) -> None:
    """Seconds against voxels with a straight line through each system: end to end, and the network's stages alone."""
    networks = _networks(table)
    figure = _figure(11.0, 4.2 * len(networks) + 0.6)
    grid = figure.subplots(len(networks), 2, squeeze=False)
    for (whole, inner), network in zip(grid, networks, strict=True):
        own = [row for row in table if row["network"] == network]
        for system in _systems(own):
            group = [row for row in own if row["system"] == system]
            _line(whole, system, [math.prod(r["size"]) for r in group], [r["volumes_s"] for r in group])
            within = [r for r in group if r["input_voxels"]]
            seconds = [network_seconds(r) for r in within]
            _line(inner, system, [math.prod(r["input_voxels"]) for r in within], seconds)
        whole.set(xlabel="million voxels of the CT", ylabel="seconds")
        inner.set(xlabel="million voxels at the network's spacing")
        whole.set_title(f"{network_name(network)}: end to end", fontsize=10)
        inner.set_title(f"{network_name(network)}: backbone, moments, blending", fontsize=10)
        for axes in (whole, inner):
            _logarithmic(axes)
            _tidy(axes)
            title = "s per million voxels, R²"
            axes.legend(
                frameon=False, fontsize=8, title=title, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
            )
    names = [
        Line2D([], [], linestyle="none", **_marker(system), label=system_title(system)) for system in _systems(table)
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _save(figure, path)


def draw_samples(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds of the sampling stage of one tile against K, beside those of the backbone."""
    figure = _figure(5.4 * len(entries) + 2.2, 4.2)
    for axes, entry in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
        for system in ("c", "d"):
            colour, marker = LOOKS[system]
            points = {int(k): s for k, s in entry[f"{system}_s"].items()}
            axes.plot(
                points.keys(), points.values(), color=colour, marker=marker, label=system_title(system), linewidth=1.4
            )
        axes.axhline(entry["e_s"], color=LOOKS["e"][0], label=f"{system_title('e')}, whatever K", linewidth=1.8)
        axes.axhline(entry["backbone_s"], color="0.45", linestyle=":", label="backbone, for comparison")
        patch = " x ".join(map(str, entry["patch"]))
        axes.set(xlabel="samples K")
        axes.set_title(f"{network_name(entry['network'])}: {patch} voxels", fontsize=10)
        _logarithmic(axes)
        ks = sorted(int(k) for k in entry["d_s"])
        axes.set_xticks(ks, [str(k) for k in ks])
        _tidy(axes)
    figure.axes[0].set_ylabel("seconds of one tile, sampling stage")
    _legend_below(figure)
    _save(figure, path)


def draw_memory(table: Sequence[Row], path: Path) -> None:
    """Peak memory by system and size; with the GPU's, where one was used."""
    kinds = [("peak_bytes", "peak resident memory, GB")]
    if any(row["gpu_peak_bytes"] for row in table):
        kinds.append(("gpu_peak_bytes", "peak GPU memory, GB"))
    networks = _networks(table)
    figure = _figure(11.0, 3.4 * len(networks) * len(kinds) + 0.6)
    grid = iter(figure.subplots(len(networks) * len(kinds), 1, squeeze=False)[:, 0])
    for network in networks:
        for name, title in kinds:
            axes = next(grid)
            own = [row for row in table if row["network"] == network]
            systems, sizes = _systems(own), _sizes(own)
            width = 0.8 / len(systems)
            for index, system in enumerate(systems):
                values = {tuple(r["size"]): (r[name] or 0) / 1e9 for r in own if r["system"] == system}
                places = [i + (index - (len(systems) - 1) / 2) * width for i, s in enumerate(sizes) if s in values]
                heights = [values[s] for s in sizes if s in values]
                bars = axes.bar(places, heights, 0.92 * width, color=_colour(system), label=system_title(system))
                axes.bar_label(bars, [f"{h:.1f}" for h in heights], fontsize=7, color="0.3", padding=1)
            axes.set_xticks(range(len(sizes)), [f"{size_title(s)} voxels" for s in sizes])
            axes.set_ylabel(title)
            axes.set_title(network_name(network), fontsize=10)
            axes.margins(y=0.12)
            _tidy(axes, "y")
    _legend_below(figure)
    _save(figure, path)


def draw_stages(table: Sequence[Row], path: Path) -> None:
    """What the stages of each system take: one bar for each, one panel for each network and size."""
    panels = [(n, s) for n in _networks(table) for s in _sizes([r for r in table if r["network"] == n])]
    groups = [[r for r in table if (r["network"], tuple(r["size"])) == panel] for panel in panels]
    figure = _figure(11.0, sum(0.32 * len(group) + 0.75 for group in groups) + 0.8)
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) + 1.2 for group in groups])[:, 0]
    for axes, (network, size), group in zip(grid, panels, groups, strict=True):
        # K passes would dwarf the rest: bars are cut at a little more than the longest of the others.
        others = [row["total_s"] for row in group if row["system"] != "b"] or [row["total_s"] for row in group]
        longest = 1.15 * max(others)
        for y, row in enumerate(reversed(group)):
            left = 0.0
            for stage in STAGES:
                seconds = row["stages_s"].get(stage, 0.0)
                axes.barh(
                    y, seconds, left=left, height=0.72, color=STAGE_COLOURS[stage], label=STAGE_NAMES.get(stage, stage)
                )
                left += seconds
            marks = "".join(sorted(marks_of(row)))
            text = f" {number(row['total_s'])} s{marks}" + (" →" if left > longest else "")
            axes.text(min(left, longest), y, text, va="center", fontsize=8, color="0.2", clip_on=False)
        axes.set_yticks(range(len(group)), [system_title(row["system"]) for row in reversed(group)], fontsize=8)
        axes.set_xlim(0, longest)
        axes.set_title(f"{network_name(network)}, {size_title(size)} voxels", fontsize=9, loc="left")
        _tidy(axes, "x")
    grid[-1].set_xlabel("seconds, warm")
    _legend_below(figure)
    _save(figure, path)


def _line(axes: Axes, system: str, voxels: Sequence[int], seconds: Sequence[float]) -> None:
    """Points, and the straight line through them, which is bent where the axes are logarithmic."""
    if not voxels:
        return
    x = np.divide(voxels, 1e6)
    label = system_label(system)
    if len(set(voxels)) >= 3:
        fit = linear_fit(voxels, seconds)
        along = np.geomspace(x.min(), x.max(), 100)
        line = fit["seconds"] + fit["seconds_per_mvoxel"] * along
        axes.plot(along[line > 0], line[line > 0], color=_colour(system), linewidth=1.2)
        label += f" {number(fit['seconds_per_mvoxel'])}, {fit['r2']:.3f}"
    axes.plot(x, seconds, linestyle="none", **_marker(system), label=label)


def _marker(system: str) -> dict[str, Any]:
    marker = LOOKS[split_system(system)[0]][1]
    return {"color": _colour(system), "marker": marker, "markeredgewidth": 0, "markersize": 11 if marker == "*" else 7}


def _colour(system: str) -> tuple[float, ...]:
    """The system's, lighter for some ways to run it."""
    letter, (engine, precision) = split_system(system)
    light = 0.5 * (engine == "openvino") + 0.25 * (precision == "float32")
    return tuple(light + (1 - light) * part for part in to_rgb(LOOKS[letter][0]))


def _logarithmic(axes: Axes) -> None:
    """Both axes logarithmic, with plain numbers at 1, 2, 5, 10, ..."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _networks(table: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["network"] for row in table))


def _systems(table: Sequence[Row]) -> list[str]:
    there = dict.fromkeys(row["system"] for row in table)
    return sorted(there, key=lambda system: list(SYSTEMS).index(split_system(system)[0]))


def _sizes(table: Sequence[Row]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(tuple(row["size"]) for row in table))


def _most_sizes(table: Sequence[Row]) -> int:
    return max((len(_sizes([r for r in table if r["network"] == n])) for n in _networks(table)), default=0)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Save a small PNG: lines and text need few colours."""
    file = io.BytesIO()
    figure.savefig(file, dpi=72)
    picture = Image.open(file).convert("RGB").quantize(32, Image.Quantize.MAXCOVERAGE, 4, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def _tidy(axes: Axes, grid: str = "both") -> None:
    axes.grid(alpha=0.25, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_below(figure: Figure) -> None:
    """One legend for all panels."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    inches = 0.6 + 0.06 * max(map(len, found))  # of an entry: its sign, and letters of 8 points
    columns = max(1, min(len(found), int(figure.get_figwidth() // inches)))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
