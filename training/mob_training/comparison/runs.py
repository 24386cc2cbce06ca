"""Runs grouped by model, seed and number of bases, and their scores averaged over seeds and subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from mob_training.evaluation.score_files import CONTROL, NAMES, Run
from MoBUncertaintyLib.model.covariance import Covariance

ORDER = (NAMES[Covariance.DETERMINISTIC], CONTROL, *list(NAMES.values())[1:])
"""The paper's, with the control after the model it controls."""


def datasets(runs: Iterable[Run]) -> list[str]:
    """List the names of the data sets, in order of appearance."""
    return list(dict.fromkeys(run.dataset for run in runs))


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by model, in the paper's order, variants after the model they vary, a sweep by number of bases."""

    def place(run: Run) -> tuple[int, str, int]:
        stem = run.model.partition(" (")[0]
        return (ORDER.index(stem) if stem in ORDER else len(ORDER)), run.model, run.bases or 0

    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=place):
        groups[f"{run.model}, M = {run.bases}" if run.sweep else run.model].append(run)
    return dict(groups)


def backbones(runs: Iterable[Run]) -> list[tuple[str, int]]:
    """List the backbones of runs, by data set and seed; an ensemble or a stock model has none."""
    return sorted({run.backbone for run in runs if run.backbone is not None})


def sweeps(runs: Sequence[Run]) -> dict[str, dict[int, list[Run]]]:
    """Group runs by number of bases, for each model with several numbers."""
    numbers: dict[str, dict[int, list[Run]]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.bases or 0):
        if run.bases is not None:
            numbers[run.model].setdefault(run.bases, []).append(run)
    return {model: runs_of_number for model, runs_of_number in numbers.items() if len(runs_of_number) > 1}


def over_seeds(runs: Sequence[Run], key: str) -> pd.Series:
    """Average each case's score over the seeds in which it is defined; by case."""
    return pd.DataFrame([run.per_case(key) for run in runs], dtype=float).mean()


def over_subjects(runs: Sequence[Run], values: pd.Series) -> pd.Series:
    """Average each subject's values, which are by case: cases of one subject are not independent."""
    subjects = {case: scores.get("subject", case) for run in runs for case, scores in run.cases.items()}
    return values.groupby(subjects, sort=False).mean()
