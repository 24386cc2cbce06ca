"""What simulated readers gain: tables, a figure and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid
from scipy.stats import binomtest

from mob_training.comparison.figures import draw_readers
from mob_training.comparison.runs import over_subjects
from mob_training.comparison.significance import LEVEL, holm, signed_rank
from mob_training.comparison.tables import BETTER, RESAMPLES, WORSE, Cell, Table, interval
from mob_training.evaluation.readers.simulation import (
    ACTIONS,
    CHALLENGE,
    CLICKS,
    CLICKS_ON_A_LABEL,
    IN_TURN,
    REACHED,
    READERS,
    Reader,
)
from mob_training.evaluation.score_files import Run, write_content
from MoBUncertaintyLib.base.wording import percent

SHOWN = (1, 3, 5, ACTIONS)
TURN = ("dice", "start", "corrected_mm3", "harmed_mm3", "undone_mm3", "clicks")
"""What is scored of labels in turn."""


def of_readers(run: Run) -> bool:
    """Tell whether the scores of a run are those of simulated readers."""
    return "clicks" in run.description


def simulated(run: Run) -> list[Reader]:
    """List the readers that a run has."""
    return [reader for reader in READERS if run.per_case(f"{reader.key}.dice")]


def write_readers(runs: Sequence[Run], output: Path) -> Path:
    """Write tables and figure of some runs of simulated readers; return the page, `readers.md`."""
    page = [
        "# Simulated readers\n",
        "Mean over the cases. Readers know the truth; one who makes mistakes clicks 2 voxels beside the place, and one "
        "time in ten with another label. An action is a click, or a verdict on a region, or a region "
        f"painted. Where nothing is left to do, the last value stays; *all* is after the last action, which for clicks "
        f"outside of the list is the {ACTIONS}th. Harm: voxels made wrong over voxels corrected, clicked ones left "
        "out, of all cases together; likewise the expected error over the error left.\n",
        "![Dice by the number of actions](readers.png)\n",
    ]
    tables = [table for run in runs for table in (dice_table(run), gain_table(run), other_table(run))]
    tables += [table for make in (challenge_table, turn_table) for table in map(make, runs) if table.rows]
    for table in (*tables, worse_table(runs)):
        page += [f"## {table.title}\n", table.markdown()]
    draw_readers(runs, output / "readers.png")
    path = output / "readers.md"
    write_content("\n".join(page).encode(), path)
    return path


def dice_table(run: Run) -> Table:
    """Tabulate Dice by the number of actions, with and without the clicked voxels."""
    rows = []
    for reader in simulated(run):
        everywhere = [_after(run, reader, "dice", n) for n in (*SHOWN, None)]
        elsewhere = [_after(run, reader, "dice_elsewhere", n) for n in SHOWN[:3]] if reader.clicks else ["–"] * 3
        rows.append((reader.title, (_mean(run, f"{reader.key}.actions", 1), *everywhere, *elsewhere)))
    start = 100 * np.mean([values[0] for values in run.per_case(f"{READERS[0].key}.dice").values()])
    columns = ("Actions", *(f"Dice after {n}" for n in SHOWN), "after all")
    columns += tuple(f"Dice elsewhere after {n}" for n in SHOWN[:3])
    title = f"{run.dataset}, {len(run.cases)} cases: Dice in %, {start:.2f} before; elsewhere: not at clicked voxels"
    return Table(title, "Reader", columns, tuple(rows))


def gain_table(run: Run) -> Table:
    """Tabulate what clicks gain, what they harm, and by how much other corrections are behind, with intervals."""
    shown = [reader for reader in simulated(run) if reader.clicks]
    behind = {
        (reader.key, n): (_dice_after(run, reader.against, n) - _dice_after(run, reader.key, n)).tolist()
        for reader in shown
        if reader.against
        for n in CLICKS
    }
    corrected = dict(zip(behind, holm([signed_rank(each) for each in behind.values()]), strict=True))
    rows = []
    for reader in shown:
        cells = [interval((_dice_after(run, reader.key, n) - _dice_after(run, reader.key, 0)).tolist()) for n in CLICKS]
        cells += [percent(run.over_voxels(f"{reader.key}.harm")[n]) for n in (CLICKS[0], CLICKS[-1])]
        curves = run.per_case(f"{reader.key}.dice").values()
        cells.append(f"{sum(curve[1] < curve[0] for curve in curves)} of {len(curves)}")
        for n in CLICKS:
            pair = reader.key, n
            own = behind.get(pair, [])
            mark = "" if corrected.get(pair, 1) >= LEVEL else f" {BETTER if np.mean(own) > 0 else WORSE}"
            cells.append(interval(own) + mark)
        rows.append((reader.title, tuple(cells)))
    columns = [*(f"Gain after {n}" for n in CLICKS), f"Harm after {CLICKS[0]}", f"after {CLICKS[-1]}"]
    columns += ["Worse than before after 1", *(f"Behind after {n}" for n in CLICKS)]
    title = (
        f"{run.dataset}: gain of Dice in %, and by how much others are behind the product; mean over the subjects, in "
        f"brackets 95 % of {RESAMPLES} bootstrap samples of these; {BETTER} behind, {WORSE} ahead with p < {LEVEL:g} "
        "(Wilcoxon, Holm)"
    )
    return Table(title, "Reader", tuple(columns), tuple(rows))


def other_table(run: Run) -> Table:
    """Tabulate what else the readers leave."""
    rows = []
    for reader in simulated(run):
        pooled = [run.over_voxels(f"{reader.key}.{name}")[5] for name in ("honesty", "harm")]
        pooled += [run.over_voxels(f"{reader.key}.end.{name}") for name in ("honesty", "harm")]
        reached = [percent(run.over_voxels(f"{reader.key}.reached_{level:.2f}")[5]) for level in REACHED]
        honesty, harm, honesty_end, harm_end = pooled
        cells = (
            _mean(run, f"{reader.key}.end.nsd_2mm", 2, 100),
            _mean(run, f"{reader.key}.end.error_mm3", 0),
            _mean(run, f"{reader.key}.end.expected_error_mm3", 0),
            *(f"{ratio:.2f}" for ratio in (honesty, honesty_end)),
            *map(percent, (harm, harm_end)),
            *reached,
        )
        rows.append((reader.title, cells))
    columns = ("NSD at 2 mm after all", "Error left, mm³", "Expected, mm³", "Expected / left after 5", "after all")
    columns += ("Harm after 5", "after all", *(f"Dice ≥ {level:g} after 5" for level in REACHED))
    return Table(f"{run.dataset}: surfaces, error and harm", "Reader", columns, tuple(rows))


def challenge_table(run: Run) -> Table:
    """Tabulate the scores of the CVPR 2025 challenge on interactive segmentation: `simulation.CHALLENGE`."""
    names = {"product": "the product", "conditioned": "conditioning alone"}
    names |= {"bump": "Gaussian bump", "geodesic": "geodesic bump"}
    scored = {
        (own, score, final): over_subjects([run], pd.Series({case: _summed(curve, final) for case, curve in curves}))
        for own in names
        for score in ("dice", "nsd")
        for final in (True, False)
        if (curves := run.per_case(f"{CHALLENGE}.{own}.{score}").items())
    }
    behind = {key: scored["product", *key[1:]] - own for key, own in scored.items() if key[0] != "product"}
    tested = zip(behind, holm([signed_rank(own.tolist()) for own in behind.values()]), strict=True)
    marks = {key: BETTER if behind[key].mean() > 0 else WORSE for key, p in tested if p < LEVEL}
    rows = [
        (
            name,
            tuple(f"{interval(scored[key].tolist())} {marks.get(key, '')}".strip() for key in scored if key[0] == own),
        )
        for own, name in names.items()
        if (own, "dice", True) in scored
    ]
    title = (
        f"{run.dataset}, {len(run.cases)} cases: Dice and surface Dice of the challenge after five rounds of a click "
        f"for each label, and area under the curve from the first to the fifth, 4 at most; {BETTER} behind the "
        f"product, {WORSE} ahead with p < {LEVEL:g} (Wilcoxon, Holm)"
    )
    return Table(title, "Correction", ("Dice", "Area", "NSD at 2 mm", "Area of NSD"), tuple(rows))


def turn_table(run: Run) -> Table:
    """Tabulate what is left after clicks on one label after another: `simulation.IN_TURN`."""
    names = {"apart": "each label against the rest, apart", "conditioned": "conditioning alone"}
    names |= {"together": "the product, without locks", "locked": "the product, each label locked when done"}
    rows, gains = [], {}
    for own, name in names.items():
        scores = {each: run.per_case(f"{IN_TURN}.{own}.{each}") for each in TURN}
        if not scores["dice"]:
            continue
        rise = {case: 100 * (dice - scores["start"][case]) for case, dice in scores["dice"].items()}
        gains[own] = over_subjects([run], pd.Series(rise))
        total = {each: sum(values.values()) for each, values in scores.items()}
        undone = sum(value > 0 for value in scores["undone_mm3"].values())
        harm = percent(total["harmed_mm3"] / max(total["corrected_mm3"], 1e-9))
        clicks, worse = total["clicks"] / len(rise), sum(each < 0 for each in rise.values())
        cells = (f"{clicks:.1f}", interval(gains[own].tolist()), harm, f"{worse} of {len(rise)}")
        lost = f"{total['undone_mm3'] / len(rise):.0f}"
        rows.append((name, (*cells, lost, f"{undone} of {len(rise)}")))
    behind = {own: gains["together"] - each for own, each in gains.items() if own != "together"}
    corrected = dict(zip(behind, holm([signed_rank(each.tolist()) for each in behind.values()]), strict=True))
    compared = [
        "–"
        if own not in behind
        else f"{interval(behind[own].tolist())} "
        f"{'' if corrected[own] >= LEVEL else BETTER if behind[own].mean() > 0 else WORSE}".strip()
        for own in gains
    ]
    rows = [(name, (*cells, own)) for (name, cells), own in zip(rows, compared, strict=True)]
    columns = ("Clicks", "Gain", "Harm", "Worse than before", "Undone, mm³", "Undone in", "Behind, without locks")
    title = (
        f"{run.dataset}: labels in turn, at most {CLICKS_ON_A_LABEL} clicks each; gain of Dice in %; undone: right "
        "when its label was done, but not at the end"
    )
    return Table(title, "Clicks", columns, tuple(rows))


def worse_table(runs: Sequence[Run]) -> Table:
    """Count the cases of all runs together that have a lower Dice than before after one click."""
    rows = []
    for reader in (each for each in READERS if each.clicks):
        curves = [curve for run in runs for curve in run.per_case(f"{reader.key}.dice").values()]
        if not curves:
            continue
        worse, count = sum(curve[1] < curve[0] for curve in curves), len(curves)
        ends = binomtest(worse, count).proportion_ci(method="exact")
        rows.append((reader.title, (f"{worse} of {count}", f"{100 * ends.low:.1f} to {100 * ends.high:.1f} %")))
    title = "All data sets: cases worse than before after one click, with the exact 95 % interval"
    return Table(title, "Reader", ("Cases", "Interval"), tuple(rows))


def _summed(curve: Sequence[float], final: bool) -> float:
    """Return the last value, or the area under the curve from the first round of clicks on."""
    return float(curve[-1] if final else trapezoid(curve[1:]))


def _dice_after(run: Run, key: str, clicks: int) -> pd.Series:
    """Return the Dice of each subject after so many clicks, in %, the mean over its cases."""
    curves = {case: 100 * curve[clicks] for case, curve in run.per_case(f"{key}.dice").items()}
    return over_subjects([run], pd.Series(curves, dtype=float))


def _after(run: Run, reader: Reader, score: str, actions: int | None) -> Cell:
    """Average a score after so many actions, or after all, in %."""
    if actions is None:
        return _mean(run, f"{reader.key}.end.{score}", 2, 100)
    values = [curve[actions] for curve in run.per_case(f"{reader.key}.{score}").values()]
    return Cell(100 * float(np.mean(values)), None, 2)


def _mean(run: Run, key: str, digits: int, factor: float = 1.0) -> Cell:
    value = run.mean(key)
    return Cell(None if value is None else factor * value, None, digits)
