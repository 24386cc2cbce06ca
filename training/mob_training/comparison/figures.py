"""Figures of scores of one model, and of several models (the paper's Figures 3 and 4), each written as a PNG.

`groups` are the seeds of each model; lines and bands are mean and standard deviation over them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mob_training.comparison.directions import DIAGONAL, ERRORS, Directions
from mob_training.comparison.runs import ORDER
from mob_training.evaluation.metrics.calibration import BINS
from mob_training.evaluation.metrics.volumes import LAGS, LEVELS, STEP_MM
from mob_training.evaluation.readers.simulation import ACTIONS, CLICKS, OWN, READERS, STATIONARY
from mob_training.evaluation.score_files import Run, write_content
from mob_training.evaluation.scoreboard import BOX_MARGIN_MM, DICE, ECE, LIKELIHOOD, NLL
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.region_settings import MEASURE_NAMES, UNCERTAINTIES, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mob_training.comparison.significance import PairedTest

KINDS = {"error": "of all error", "thick_error": "of the error thicker than one voxel"}
COLOURS = {"variance": "#c2410c", "bernoulli": "#1d4ed8"}
MAX_REGIONS = 12
COMPRESSED = 20
"""Of a forest plot: the largest difference is so many times the narrowest interval."""
MOST_TICKS = 5
"""Of a compressed scale."""
FEWEST_VOXELS = 20
"""A bin with fewer voxels, averaged over the seeds, gets no point: its fraction would be noise."""

# The colour-blind safe palette of Okabe and Ito, without its yellow, which is invisible on white; dashes and markers
# are distinct, too.
_LOOKS = (
    ("#000000", "-", "o"),
    ("#7f7f7f", (0, (5, 1.5)), "s"),
    ("#e69f00", "-", "^"),
    ("#56b4e9", (0, (5, 1.5)), "v"),
    ("#009e73", "-", "D"),
    ("#d55e00", "-", "*"),
    ("#cc79a7", (0, (5, 1.5)), "P"),
    ("#0072b2", (0, (3, 1, 1, 1)), "X"),
    # Beyond that palette, for many variants.
    ("#882255", "-", "<"),
    ("#999933", (0, (5, 1.5)), ">"),
    ("#332288", (0, (1, 1)), "p"),
    ("#44aa99", (0, (3, 1, 1, 1)), "h"),
)

_PALE = {"color": _LOOKS[5][0], "alpha": 0.35}
_GUIDE = {"color": "0.45", "linestyle": ":", "linewidth": 1.2, "zorder": 1}
_BINNED = f"{BINS} bins, points of at least {FEWEST_VOXELS} voxels"
_CALIBRATION = ("frequency of the class", "frequency − probability", "voxels in the bin")


def draw_error_caught(run: Run, path: Path, most: int = MAX_REGIONS) -> None:
    """Draw the mean fraction of the error inside the first n regions, up to `most`, for each uncertainty map.

    A case with fewer regions keeps its last fraction, one without error has none.
    """
    figure, n = _figure(9.5, 3.8), np.arange(most + 1)
    for axes, (kind, words) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        for measure, colour in COLOURS.items():
            caught = list(run.per_case(f"{measure}.caught.{kind}").values())
            if not caught:
                continue
            steps = [[0.0, *one] for one in caught]
            fractions = np.array([[*one[: most + 1], *one[-1:] * (most + 1 - len(one))] for one in steps])
            label = f"{MEASURE_NAMES[Measure(measure)]} (median {np.median(list(map(len, caught))):g} regions)"
            axes.plot(n, fractions.mean(axis=0), color=colour, label=label)
            axes.fill_between(n, *np.percentile(fractions, (25, 75), axis=0), color=colour, alpha=0.12, linewidth=0)
        axes.set(xlim=(0, most), ylim=(0, 1), title=f"Fraction {words}")
        axes.set_xlabel("regions reviewed, most expected error first")
        _tidy(axes)
    figure.axes[0].set_ylabel("inside the regions (mean of the cases with error)")
    figure.axes[1].legend(loc="lower right", frameon=False)
    _save(figure, path)


def draw_calibration(groups: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw calibration curves (paper, Fig. 3), a column for each class.

    From top to bottom: frequency of the class by its predicted probability, its difference to the diagonal, voxels.
    """
    labels = list(dict.fromkeys(name for runs in groups.values() for run in runs for name in run.description["labels"]))
    figure = _figure(max(7.6, 5.6 * len(labels)), 8.2)
    grid = figure.subplots(3, len(labels), sharex=True, sharey="row", squeeze=False, height_ratios=(4, 2.6, 1.6))
    looks = styles(groups)
    for (reliability, gap, number), label in zip(grid.T, labels, strict=True):
        for model, runs in groups.items():
            p, frequency, voxels = binned(runs, f"volume.curve.{label}", "confidence", "frequency")
            if not len(voxels):
                continue
            middle, count = _mean(p), voxels.mean(axis=0)
            frequency[:, count < FEWEST_VOXELS] = np.nan
            _band(reliability, p, frequency, looks[model], model)
            _band(gap, p, frequency - middle, looks[model])
            _draw_count(number, middle, count, looks[model])
        reliability.plot((0, 1), (0, 1), **_GUIDE, label="perfectly calibrated")
        gap.axhline(0, **_GUIDE)
        reliability.set(title=readable(label), ylim=(0, 1))
        number.set(xlabel="predicted probability", xlim=(0, 1))
    for axes, words in zip(grid[:, 0], _CALIBRATION, strict=True):
        axes.set_ylabel(words)
    _finish(figure, f"All voxels of all test cases; {_BINNED}", path)


def draw_uncertainty(groups: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw the fraction of wrong voxels by their uncertainty (paper, Fig. 4), a column for each uncertainty map."""
    figure, looks = _figure(13.5, 5.8), styles(groups)
    grid = figure.subplots(2, 3, sharex="col", sharey="row", height_ratios=(3.2, 1.2))
    for (rate, number), measure in zip(grid.T, UNCERTAINTIES, strict=True):
        for model, runs in groups.items():
            uncertainty, error, voxels = binned(runs, f"{measure}.box.curve", "uncertainty", "error")
            if len(voxels):
                count = voxels.mean(axis=0)
                error[:, count < FEWEST_VOXELS] = np.nan
                _band(rate, uncertainty, error, looks[model], model)
                _draw_count(number, _mean(uncertainty), count, looks[model])
        number.set(xlabel=MEASURE_NAMES[measure], xlim=(0, None))
    grid[0, 0].set(ylabel="fraction of wrong voxels", ylim=(0, None))
    grid[1, 0].set_ylabel("voxels in the bin")
    place = f"Boxes of prediction and truth, {BOX_MARGIN_MM:g} mm wider, of all test cases"
    _finish(figure, f"{place}; {_BINNED}", path)


def binned(runs: Sequence[Run], place: str, x: str, y: str) -> np.ndarray:
    """Return x, y and the number of voxels of each bin of a pooled curve: (3, seeds, bins).

    The first two are NaN in an empty bin; a run without them is left out.
    """
    rows = [[run.over_voxels(f"{place}.{name}") for name in (x, y, "count")] for run in runs]
    return np.array([row for row in rows if None not in row], float).reshape(-1, 3, BINS).swapaxes(0, 1)


def draw_joint(groups: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw what is joint: how far errors and samples are correlated, volume intervals, and Dice after clicks."""
    figure, looks = _figure(13.5, 5.4), styles(groups)
    far, intervals, clicked = figure.subplots(1, 3)
    distance = STEP_MM * np.arange(LAGS)
    covered = [f"joint.volume.covered_{100 * level:g}" for level in LEVELS]
    for model, runs in groups.items():
        _band(far, distance, by_distance(runs, "samples"), looks[model], model)
        _band(intervals, np.array(LEVELS), 100 * means(runs, covered), looks[model])
        for correlation, dashes in ((STATIONARY, "-"), (OWN, ":")):
            dice = means(runs, ["dice", *(f"clicks.{correlation}.dice_{n}" for n in CLICKS)])
            _band(clicked, np.array([0, *CLICKS]), 100 * dice, {**looks[model], "linestyle": dashes})
    errors = [_mean(rows) for runs in groups.values() if len(rows := by_distance(runs, "errors"))]
    if errors:
        mean = _mean(np.array(errors))
        shown = np.isfinite(mean)
        far.plot(distance[shown], mean[shown], **(_GUIDE | {"color": "0.2"}), label="the errors, mean of the models")
    intervals.plot((0, 1), (0, 100), **_GUIDE)
    far.set(xlabel="distance of two voxels, mm", ylabel="correlation of samples", ylim=(None, 1), xlim=(0, 10))
    intervals.set(xlabel="nominal", ylabel="volume intervals that hold the truth, %", xlim=(0.4, 1), ylim=(0, 100))
    clicked.set(xlabel="clicks at the largest errors\n(dotted: by own correlation)", ylabel="Dice, %")
    clicked.xaxis.set_major_locator(MaxNLocator(integer=True))
    clicked.set_visible(bool(clicked.lines))
    _finish(figure, "Correlation, volume and clicks; all test cases", path)


def by_distance(runs: Sequence[Run], what: str) -> np.ndarray:
    """Return the correlation of `errors` or `samples` by the distance of two voxels, over all cases: (seeds, LAGS)."""
    rows = [run.over_voxels(f"joint.variogram.{what}") for run in runs]
    return np.array([row for row in rows if row is not None], float).reshape(-1, LAGS)


def means(runs: Sequence[Run], keys: Sequence[str]) -> np.ndarray:
    """Return the means of scores over the cases of the runs that have all of them, (seeds, keys)."""
    rows = [[run.mean(key) for key in keys] for run in runs]
    return np.array([row for row in rows if None not in row], float).reshape(-1, len(keys))


def draw_forest(tests: Sequence[PairedTest], path: Path) -> None:
    """Draw the differences of paired tests with 95 % intervals, a panel for each score, a row for each model.

    Pale points are single backbones. A scale that would hide the small differences is compressed beyond them.
    """
    scores = list(dict.fromkeys(test.metric for test in tests))
    rows = list(dict.fromkeys(f"{test.dataset}: {test.model}" for test in tests))
    figure = _figure(3 + 2.8 * len(scores), 1.4 + 0.3 * len(rows))
    for axes, metric in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores, strict=True):
        own = [test for test in tests if test.metric == metric]
        for test in own:
            place, mean = rows.index(f"{test.dataset}: {test.model}"), metric.factor * test.mean
            beyond = [[metric.factor * abs(end - test.mean)] for end in test.interval]
            axes.errorbar(mean, place, xerr=beyond, color=_LOOKS[0][0], marker="D", markersize=5, capsize=3)
            single = metric.factor * np.array(test.of_seeds)
            axes.plot(single, [place] * len(single), linestyle="", marker="o", markersize=4, **_PALE)
        compressed = _show_small(axes, metric.factor * np.array([test.interval for test in own]))
        axes.axvline(0, **_GUIDE)
        axes.set_xlabel(metric.header + "\n(compressed scale)" * compressed)
        _tidy(axes)
    figure.axes[0].set_yticks(range(len(rows)), rows)
    figure.axes[0].invert_yaxis()
    references = ", ".join(dict.fromkeys(test.reference for test in tests))
    words = "with 95 % intervals over other subjects and trainings; pale: single backbones"
    figure.suptitle(f"Difference to {references}\n{words}", fontsize=10)
    _save(figure, path)


def _show_small(axes: Axes, intervals: np.ndarray) -> bool:
    """Compress the scale beyond the narrowest of some intervals, (n, 2), where the largest would hide it."""
    narrow, largest = np.ptp(intervals, axis=1).min(), np.abs(intervals).max()
    if not 0 < COMPRESSED * narrow < largest:
        return False
    axes.set_xscale("asinh", linear_width=narrow)
    decades = 10.0 ** np.arange(np.floor(np.log10(largest)), np.log10(narrow), -1)
    for step in range(1, len(decades) + 1):  # until their labels have room beside each other
        kept = decades[::step]
        ticks = [tick for tick in (*-kept, 0, *kept) if intervals.min() <= tick <= max(0, intervals.max())]
        if len(ticks) <= MOST_TICKS:
            break
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return True


def draw_readers(runs: Sequence[Run], path: Path) -> None:
    """Draw the mean Dice of simulated readers by the number of their actions, two runs beside each other."""
    columns, rows = min(len(runs), 2), math.ceil(len(runs) / 2)
    figure, looks = _figure(max(7.6, 5.6 * columns), 1.2 + 4.4 * rows), styles(reader.title for reader in READERS)
    for number, run in enumerate(runs, start=1):
        axes = figure.add_subplot(rows, columns, number)
        for reader in READERS:
            dice = list(run.per_case(f"{reader.key}.dice").values())
            if dice:
                curve = 100 * np.mean(dice, axis=0)
                axes.plot(np.arange(ACTIONS + 1), curve, label=reader.title, linewidth=1.4, **looks[reader.title])
        axes.set(title=f"{run.dataset}, {len(run.cases)} cases", xlabel="actions: clicks or regions")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
    for axes in figure.axes[::2]:
        axes.set_ylabel("Dice in %, mean over the cases")
    figure.suptitle("Where nothing is left to do, the last value stays", fontsize=10)
    _legend(figure, dict(zip(*figure.axes[0].get_legend_handles_labels()[::-1], strict=True)))
    _save(figure, path)


def draw_bases(numbers: Mapping[int, Sequence[Run]], path: Path) -> None:
    """Draw scores by the number of bases (paper, Fig. 4), mean and standard deviation over the seeds."""
    runs = [run for seeds in numbers.values() for run in seeds]
    joint = [LIKELIHOOD] if any(run.per_case(LIKELIHOOD.key) for run in runs) else []
    shown = (*joint, DICE, NLL, ECE)
    figure = _figure(3.8 * len(shown), 3.8)
    colour = _LOOKS[5][0]
    for axes, metric in zip(figure.subplots(1, len(shown)), shown, strict=True):
        scores = pd.DataFrame(
            [(bases, run.mean(metric.key)) for bases, runs in numbers.items() for run in runs],
            columns=["bases", "score"],
            dtype=float,
        )
        scores["score"] *= metric.factor
        axes.plot(scores["bases"], scores["score"], linestyle="", marker="o", markersize=4, **_PALE)
        over_seeds = scores.groupby("bases")["score"]
        mean, deviation = over_seeds.mean(), over_seeds.std()
        axes.errorbar(mean.index, mean, deviation, color=colour, marker="D", markersize=5, capsize=4)
        axes.set(xlabel="bases", title=f"{metric.header}{' in %' if metric.factor == 100 else ''}")
        axes.set_xticks(list(numbers))
        axes.margins(x=0.08)
        _tidy(axes)
    figure.suptitle("Mean ± standard deviation over the seeds; pale points are single seeds", fontsize=10)
    _save(figure, path)


def draw_directions(groups: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw the principal directions of the errors that neighbours share, and what part of a model's noise each has."""
    shown = Directions.of(groups)
    assert shown is not None
    directions, rows = range(len(shown.vectors)), len(shown.parts)
    columns = sorted({part for parts in shown.parts.values() for part in parts} - {ERRORS, DIAGONAL})
    colours = {ERRORS: _LOOKS[0][0], **dict(zip(columns, cycle(_LOOKS[at][0] for at in (5, 3, 2, 4, 6)), strict=False))}
    colours[DIAGONAL] = _LOOKS[1][0]
    figure = _figure(4.5 + 0.9 * len(shown.classes), 1.6 + 0.25 * (rows + 1) * len(directions))
    classes, bars = figure.subplots(1, 2, width_ratios=(len(shown.classes), 5))
    _draw_classes(classes, shown)
    places = np.array(directions)[:, None] + np.arange(1, rows + 1) / (rows + 1)
    handles = {}
    for y, parts in zip(places.T, shown.parts.values(), strict=True):
        end = np.zeros(len(directions))
        for part, fractions in parts.items():
            handles[part] = bars.barh(y, 100 * fractions, 0.8 / (rows + 1), end, color=colours[part])
            end = end + 100 * fractions
        for at, total in zip(y, end, strict=True):
            bars.annotate(f"{total:.0f}", (total, at), (3, 0), textcoords="offset points", va="center", fontsize=8)
    bars.set_yticks(places.ravel(), [*shown.parts] * len(directions))
    bars.set(xlabel="% of what neighbours share", ylim=(len(directions), 0), title="Errors and noise")
    bars.margins(x=0.1)
    bars.yaxis.tick_right()
    bars.set_axisbelow(True)
    _tidy(bars)
    _legend(figure, {part: handles[part] for part in colours if part in handles})
    _save(figure, path)


def _draw_classes(axes: Axes, shown: Directions) -> None:
    """Draw a row for each direction, a column for each class."""
    axes.pcolormesh(shown.vectors, cmap="RdBu_r", vmin=-1, vmax=1, edgecolors="white", linewidth=4)
    for (row, column), entry in np.ndenumerate(shown.vectors):
        colour = "white" if abs(entry) > 0.6 else "black"
        axes.text(column + 0.5, row + 0.5, f"{entry:+.2f}", color=colour, ha="center", va="center")
    axes.set_xticks(np.arange(len(shown.classes)) + 0.5, shown.classes, rotation=30, ha="right")
    axes.set(yticks=[], ylim=(len(shown.vectors), 0), title="Direction")
    axes.spines[:].set_visible(False)


def styles(models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Assign colour, dashes and marker to each model: fixed for the paper's models, the rest for others.

    Where there is none of the paper's models, all styles are free. After the last, markers are hollow, then everything
    repeats.
    """
    models = list(models)
    taken = dict(zip(ORDER, _LOOKS, strict=False))
    spare = cycle(product((False, True), _LOOKS[len(ORDER) if set(models) & set(ORDER) else 0 :]))
    chosen = {model: (False, taken[model]) if model in taken else next(spare) for model in models}
    return {
        model: {
            "color": colour,
            "linestyle": dashes,
            "marker": marker,
            "markerfacecolor": "white" if hollow else colour,
            "markeredgewidth": float(hollow),
            "markersize": 7 if marker == "*" else 5,
        }
        for model, (hollow, (colour, dashes, marker)) in chosen.items()
    }


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over the first axis what is not NaN; NaN where nothing is left."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def _draw_count(axes: Axes, x: np.ndarray, count: np.ndarray, look: Mapping[str, Any]) -> None:
    small = {**look, "markersize": 0.6 * look["markersize"]}
    axes.plot(x[count > 0], count[count > 0], linewidth=1.0, **small)
    axes.set_yscale("log")


def _band(axes: Axes, x: np.ndarray, y: np.ndarray, look: Mapping[str, Any], label: str | None = None) -> None:
    """Plot the mean of seeds, (seeds, n), NaN where one has no point; and as a band the standard deviation (n - 1)."""
    points = np.isfinite(y).any(axis=0)
    if not points.any():
        return
    x, y = (np.broadcast_to(values, y.shape)[:, points] for values in (x, y))
    middle, mean = _mean(x), _mean(y)
    axes.plot(middle, mean, label=label, linewidth=1.4, **look)
    if len(y) > 1:
        deviation = np.ma.masked_invalid(y).std(axis=0, ddof=1).filled(np.nan)
        axes.fill_between(middle, mean - deviation, mean + deviation, color=look["color"], alpha=0.1, linewidth=0)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, title: str, path: Path) -> None:
    """Add one legend below all panels and a title that explains the bands, and save the figure."""
    lines: dict[str, Any] = {}
    for axes in figure.axes:
        _tidy(axes)
        lines |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.suptitle(f"{title}\nLine and band: mean ± standard deviation over the seeds", fontsize=10)
    if lines:
        _legend(figure, lines)
    _save(figure, path)


def _legend(figure: Figure, lines: Mapping[str, Any]) -> None:
    """Place the legend in as many columns as fit."""
    for columns in range(len(lines), 0, -1):
        legend = figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, frameon=False)
        if legend.get_window_extent().width <= figure.bbox.width:
            return
        if columns > 1:
            legend.remove()


def _save(figure: Figure, path: Path) -> None:
    """Save a small PNG: lines and text need few colours."""
    file = io.BytesIO()
    figure.savefig(file, dpi=75)
    picture = Image.open(file).convert("RGB").quantize(48, Image.Quantize.MAXCOVERAGE, 2, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    picture.save(packed, "png", optimize=True)
    write_content(packed.getvalue(), path)
