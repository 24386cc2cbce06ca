"""Scores of many models and seeds -> tables, paired tests and figures (the paper's Tables 2 to 4, Figures 3 and 4)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from mob_training.comparison import figures
from mob_training.comparison.directions import NEEDED, Directions
from mob_training.comparison.readers import of_readers, write_readers
from mob_training.comparison.runs import by_model, datasets, over_seeds, over_subjects, sweeps
from mob_training.comparison.significance import LEVEL, PairedTest, bootstrap_interval, by_backbone, holm, paired_tests
from mob_training.comparison.tables import BETTER, RESAMPLES, WORSE, Cell, Table, interval, with_best
from mob_training.evaluation.score_files import Run, read_runs, write_content, write_runs
from mob_training.evaluation.scoreboard import BY_LABEL, DICE, ECE, ENDPOINTS, GROUPS, NLL, POOLED, Metric
from MoBUncertaintyLib.base.errors import SettingsError

FIGURES = (
    ("calibration", figures.draw_calibration, "Calibration", None),
    ("uncertainty", figures.draw_uncertainty, "Error rate by uncertainty", None),
    (
        "joint",
        figures.draw_joint,
        "Correlation of samples, volume intervals, Dice after clicks",
        "joint.variogram.errors",
    ),
    ("directions", figures.draw_directions, "Directions of errors and of noise", NEEDED),
)
"""Of each the end of its name, the function, the title, and the pooled score without which it is not drawn."""

Marks = Mapping[tuple[str, str, str], str]
"""Of a data set, a score's key and a model."""


def compare(folders: Sequence[Path], output: Path, reference: str | None = None) -> Path:
    """Write every table and figure of some scores folders, and the scores beside them; return the page.

    Models are tested against the reference (`paired_tests`). The page is `comparison.md`, or `readers.md` of simulated
    readers. An output that is among the folders keeps its scores.

    Raises:
        SettingsError: The scores do not fit together.
        OutputError: Something cannot be written.
    """
    runs = read_runs(folders)
    if not runs:
        raise SettingsError("There are no scores to compare; name folders of `mob-training evaluate`.")
    read = [of_readers(run) for run in runs]
    if any(read) and not all(read):
        raise SettingsError("Some of these scores are of simulated readers (evaluate --clicks); compare them apart.")
    tests, swept = ([] if any(read) else paired_tests(runs, reference, sweep) for sweep in (False, True))
    if output.resolve() not in (folder.resolve() for folder in folders):
        write_runs(runs if any(read) else [_compared(run) for run in runs], output)
    if any(read):
        return write_readers(runs, output)
    page = ["# Comparison\n", _legend(runs, [*tests, *swept])]
    for stem, table in tables(runs, tests).items():
        table.write(output / stem)
        page += [f"## {table.title}\n", table.markdown()]
    if tests or swept:
        table = significance([*tests, *swept])
        write_content(table.csv().encode(), output / "significance.csv")
        page += [f"## {table.title}\n", "[significance.csv](significance.csv)\n"]
    judged = [[test for key in ENDPOINTS for test in family if test.metric.key == key] for family in (tests, swept)]
    if any(judged):
        table = effects(*judged)
        table.write(output / "effects")
        figures.draw_forest(list(chain(*judged)), output / "effects.png")
        page += [f"## {table.title}\n", table.markdown(), "![Effects with 95 % intervals](effects.png)\n"]
    if (table := coverage(runs)).rows:
        page += [f"## {table.title}\n", table.markdown()]
    for dataset in datasets(runs):
        page += [f"## {dataset}: figures\n", *_draw(dataset, runs, output)]
    path = output / "comparison.md"
    write_content("\n".join(page).encode(), path)
    return path


def _draw(dataset: str, runs: Sequence[Run], output: Path) -> list[str]:
    """Draw the figures of a data set; return the Markdown that shows them."""
    own = [run for run in runs if run.dataset == dataset]
    main = [run for run in own if not run.sweep]
    groups, drawn = by_model(main), []
    for name, draw, title, needed in FIGURES if groups else ():
        if needed and all(run.over_voxels(needed) is None for run in main):
            continue
        draw(groups, output / f"{dataset}_{name}.png")
        drawn.append(f"![{title}]({dataset}_{name}.png)\n")
    for model, numbers in sweeps(own).items():
        name = f"{dataset}_{_sweep_name(model)}.png"
        figures.draw_bases(numbers, output / name)
        drawn.append(f"![Number of bases of {model}]({name})\n")
    return drawn


def _compared(run: Run) -> Run:
    """Leave out the curves of single cases, which nothing here compares, and which are most of the file."""
    cases = {
        case: {key: value for key, value in scores.items() if not isinstance(value, list)}
        for case, scores in run.cases.items()
    }
    return replace(run, cases=cases)


def tables(runs: Sequence[Run], tests: Sequence[PairedTest]) -> dict[str, Table]:
    """Make all tables that have a number, by the stem of their files; what differs by more than chance is marked."""
    main = [run for run in runs if not run.sweep]
    marks = {(test.dataset, test.metric.key, test.model): test.mark for test in tests}
    made: dict[str, Table] = {}
    for metric in (DICE, NLL, ECE):
        made[metric.key.rpartition(".")[2]] = _across(main, metric, marks)
    for dataset in datasets(runs):
        own = [run for run in runs if run.dataset == dataset]
        groups = by_model([run for run in own if not run.sweep])
        for group, (title, metrics) in GROUPS.items():
            made[f"{dataset}_{group}"] = _within(dataset, title, groups, metrics, marks)
        title = "all voxels of all cases together"
        made[f"{dataset}_labels"] = _by_label(dataset, groups)
        made[f"{dataset}_pooled"] = _within(dataset, title, groups, POOLED, value=Run.over_voxels)
        if directions := Directions.of(groups):
            made[f"{dataset}_directions"] = directions.table(dataset)
        for model, numbers in sweeps(own).items():
            named = {f"{bases} bases" if bases > 1 else "1 basis": seeds for bases, seeds in numbers.items()}
            title = f"number of bases, {model}"
            sweep = _within(dataset, title, named, GROUPS["scores"][1])
            made[f"{dataset}_{_sweep_name(model)}"] = replace(sweep, corner="Bases")
    return {stem: table for stem, table in made.items() if table.columns and table.rows}


def _across(runs: Sequence[Run], metric: Metric, marks: Marks) -> Table:
    """Tabulate one score, models by data sets (the paper's Tables 2 and 3)."""
    models, columns = by_model(runs), {}
    for dataset in datasets(runs):
        groups = {model: [run for run in seeds if run.dataset == dataset] for model, seeds in models.items()}
        columns[dataset] = _column(dataset, groups, metric, marks)
    return _table(f"{metric.title}{' in %' if metric.factor == 100 else ''}", columns, models)


def _within(
    dataset: str,
    title: str,
    groups: dict[str, list[Run]],
    metrics: Sequence[Metric],
    marks: Marks = MappingProxyType({}),
    value: Callable[[Run, str], float | None] = Run.mean,
) -> Table:
    """Tabulate several scores of one data set (the paper's Table 4), without columns that have no number."""
    columns = {metric.header: _column(dataset, groups, metric, marks, value) for metric in metrics}
    shown = {header: cells for header, cells in columns.items() if any(cell.mean is not None for cell in cells)}
    return _table(f"{dataset}: {title}", shown, groups)


def _by_label(dataset: str, groups: Mapping[str, Sequence[Run]]) -> Table:
    """Tabulate each label of each model, over the cases that have it; no row if there is one label."""
    keys = dict.fromkeys(key for runs in groups.values() for run in runs for case in run.cases.values() for key in case)
    names = [name[1] for key in keys if (name := re.fullmatch(r"labels\.(.+)\.dice", key))]
    rows = []
    for name in names:
        for model, runs in groups.items():
            cells = [str(len(over_seeds(runs, f"labels.{name}.dice")))]
            for metric in BY_LABEL:
                values = over_subjects(runs, over_seeds(runs, f"labels.{name}.{metric.key}"))
                cells.append(interval((metric.factor * values).tolist()))
            rows.append((f"{name}, {model}" if len(groups) > 1 else name, tuple(cells)))
    title = f"{dataset}: each label, over the cases that have it; in brackets 95 % of {RESAMPLES} bootstrap samples"
    return Table(title, "Label", ("Cases", *(metric.header for metric in BY_LABEL)), tuple(rows))


def _table(title: str, columns: Mapping[str, Sequence[Cell]], models: Iterable[str]) -> Table:
    rows = tuple((model, tuple(cells[i] for cells in columns.values())) for i, model in enumerate(models))
    return Table(title, "Model", tuple(columns), rows)


def _column(
    dataset: str,
    groups: Mapping[str, Sequence[Run]],
    metric: Metric,
    marks: Marks,
    value: Callable[[Run, str], float | None] = Run.mean,
) -> list[Cell]:
    """Aggregate a score of each model over its seeds; mark the best, and what differs from the reference."""
    scores = [[value(run, metric.key) for run in seeds] for seeds in groups.values()]
    cells = [Cell.over([metric.factor * v for v in values if v is not None], metric.digits) for values in scores]
    if not metric.plain:
        cells = with_best(cells, metric.higher, None if metric.target is None else metric.factor * metric.target)
    own = [marks.get((dataset, metric.key, model), "") for model in groups]
    return [replace(cell, mark=mark) for cell, mark in zip(cells, own, strict=True)]


def significance(tests: Sequence[PairedTest]) -> Table:
    """Tabulate every paired test."""
    columns = ["Data set", "Score", "Reference", "Better", "Mean difference", "95 %", "Each backbone", "Better in"]
    columns += ["p", "p (Holm)"]
    rows = []
    for test in tests:
        metric = test.metric
        better = "neither" if test.better is None else test.model if test.better else test.reference
        cells = (
            test.dataset,
            metric.title,
            test.reference,
            better,
            *_difference(test),
            f"{test.wins} of {len(test.differences)}",
            _p(test.p),
            _p(test.corrected),
        )
        rows.append((test.model, cells))
    title = f"Paired tests against {' and '.join(dict.fromkeys(test.reference for test in tests))}"
    return Table(title, "Model", tuple(columns), tuple(rows))


def effects(*families: Sequence[PairedTest]) -> Table:
    """Tabulate the tests of `ENDPOINTS`, Holm-corrected over the primary one and over all others of each family."""
    corrected: dict[PairedTest, float] = {}
    for tests, primary in product(families, (True, False)):
        family = [test for test in tests if (test.metric.key == ENDPOINTS[0]) is primary]
        corrected |= zip(family, holm([test.p for test in family]), strict=True)
    rows = []
    for test, p in corrected.items():
        mean, ends, single = _difference(test)
        wins = f"{test.wins} of {len(test.differences)}"
        cells = (test.dataset, test.metric.header, f"{mean} ({ends})", single, wins, _p(test.p), _p(p))
        rows.append((test.model, cells))
    title = f"Difference to {', '.join(dict.fromkeys(test.reference for test in corrected))}, in brackets 95 %"
    columns = ("Data set", "Score", "Difference", "Each backbone", "Better in", "p", "p (Holm)")
    return Table(title, "Model", columns, tuple(rows))


def coverage(runs: Sequence[Run]) -> Table:
    """Tabulate how often a volume lies in the intervals of samples, in %, over the subjects; neither is better."""
    levels, rows = (50, 80, 90), []
    for dataset in datasets(runs):
        own = [run for run in runs if run.dataset == dataset and not run.sweep]
        for model, group in by_model(own).items():
            held = [by_backbone(group, f"joint.volume.covered_{level}") for level in levels]
            if all(held):
                rows.append((model, (dataset, *map(_rate, held))))
    title = "How often intervals of volumes hold, in %; in brackets 95 % of other subjects and trainings"
    return Table(title, "Model", ("Data set", *(f"of {level} %" for level in levels)), tuple(rows))


def _rate(held: Sequence[pd.DataFrame]) -> str:
    low, high = bootstrap_interval(held)
    mean = pd.DataFrame([scores.mean() for scores in held]).mean().mean()
    return f"{100 * mean:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _difference(test: PairedTest) -> tuple[str, str, str]:
    """Write a mean difference, its interval, and that of each backbone, with two digits of the interval at least."""
    metric = test.metric
    width = metric.factor * (test.interval[1] - test.interval[0])
    digits = max(metric.digits, 1 - math.floor(math.log10(width))) if width else metric.digits
    mean, low, high, *single = (
        f"{metric.factor * value:+.{digits}f}" for value in (test.mean, *test.interval, *test.of_seeds)
    )
    return mean, f"{low} to {high}", ", ".join(single)


def _legend(runs: Sequence[Run], tests: Sequence[PairedTest]) -> str:
    """Explain the symbols of the tables."""
    seeds = sorted(Counter((run.dataset, run.model, run.bases, run.sweep) for run in runs).values())
    counted = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    sentences = [
        f"Mean over the test cases, then mean ± standard deviation over {counted} seed{'s' * (seeds[-1] > 1)}. "
        "In bold the best of each column; ↑ more is better, ↓ less is better, → as near as possible."
    ]
    if tests:
        references = " and ".join(dict.fromkeys(test.reference for test in tests))
        sentences.append(
            f"{BETTER} better, {WORSE} worse than {references} with p < {LEVEL:g}: Wilcoxon's signed-rank test over "
            "the subjects, their cases and the seeds that both models have averaged, Holm-corrected over the models, "
            "where the mean difference has one sign in all seeds. The test is of these trained networks; intervals of "
            "differences are of other subjects and other trainings. A variance is tested against the p (1 − p) of a "
            "model without one."
        )
    return " ".join(sentences) + "\n"


def _sweep_name(model: str) -> str:
    return "bases_" + re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-").lower()


def _p(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
