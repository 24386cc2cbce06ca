"""The scores of trained models, read from files and sorted by model, seed and number of bases."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mob_training.naming import CONTROL, NAMES
from MoBUncertaintyLib.covariance import Covariance
from MoBUncertaintyLib.errors import SettingsError

CASES = "_cases"
"""What the file with the scores of each case has at the end of its name."""

ORDER = (NAMES[Covariance.DETERMINISTIC], CONTROL, *list(NAMES.values())[1:])
"""The paper's, with the control after the model it controls."""


@dataclass(frozen=True)
class Run:
    """The scores of one model and seed.

    Attributes:
        dataset, model, seed: Which; the seed is None for a stock model.
        bases: M of a Mixture-of-Bases.
        sweep: Whether it is there for its number of bases only.
        pooled: As `evaluation.evaluate` returns it, without a deterministic model's variance.
        cases: Scores by name of the case, likewise.
    """

    dataset: str
    model: str
    seed: int | None
    bases: int | None
    sweep: bool
    pooled: dict[str, Any]
    cases: dict[str, dict[str, Any]]

    @property
    def identity(self) -> tuple:
        """What no two runs of a comparison share."""
        return self.dataset, self.model, self.seed, self.bases, self.sweep

    def per_case(self, key: str) -> dict[str, Any]:
        """The score of each case, a number or a list of them, where it is defined."""
        values = {name: look_up(case, key) for name, case in self.cases.items()}
        return {name: value for name, value in values.items() if value is not None}

    def mean(self, key: str) -> float | None:
        """Mean over the cases."""
        values = list(self.per_case(key).values())
        return float(np.mean(values)) if values else None


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """Read files of `mob-training evaluate`, each with its `NAME_cases.json` beside it.

    Those are passed over where they are named, too, as with a wildcard.

    Raises:
        SettingsError: One is missing, is no such file, or a model has two files of one seed.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if path.stem.endswith(CASES) and path.with_name(f"{path.stem.removesuffix(CASES)}.json").exists():
            continue
        try:
            head = json.loads(path.read_text(encoding="utf-8"))
            rows = json.loads(path.with_name(f"{path.stem}{CASES}.json").read_text(encoding="utf-8"))
            what = head["run"]
            if what["covariance"] == Covariance.DETERMINISTIC:  # its variance is where tiles disagree: no score of it
                head["pooled"].pop("variance", None)
                rows = [{name: value for name, value in row.items() if name != "variance"} for row in rows]
            run = Run(
                *(what[name] for name in ("dataset", "model", "seed", "bases", "sweep")),
                head["pooled"],
                {row["case"]: row for row in rows},
            )
        except OSError as error:
            raise SettingsError(f"{error.filename} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError):
            raise SettingsError(f"{path} is no file of `mob-training evaluate`; evaluate the model again.") from None
        if any(run.identity == other.identity for other in runs):
            raise SettingsError(
                f"{path}: there are two files of {run.model} on {run.dataset} with seed {run.seed}; "
                "give one of them another name (evaluate --name)."
            )
        runs.append(run)
    return runs


def datasets(runs: Iterable[Run]) -> list[str]:
    """Names of the data sets, in the order in which they come."""
    return list(dict.fromkeys(run.dataset for run in runs))


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The seeds of each model, in the paper's order; variants after the model they vary."""

    def place(name: str) -> tuple[int, str]:
        stem = name.partition(" (")[0]
        return (ORDER.index(stem) if stem in ORDER else len(ORDER)), name

    names = sorted({run.model for run in runs}, key=place)
    return {name: [run for run in runs if run.model == name] for name in names}


def sweeps(runs: Sequence[Run]) -> dict[str, dict[int, list[Run]]]:
    """The seeds of each number of bases, for each model that was tried with several."""
    numbers: dict[str, dict[int, list[Run]]] = defaultdict(dict)
    for run in sorted((run for run in runs if run.bases is not None), key=lambda run: run.bases or 0):
        numbers[run.model].setdefault(run.bases, []).append(run)
    return {model: found for model, found in numbers.items() if len(found) > 1}


def over_seeds(runs: Sequence[Run], key: str) -> dict[str, float]:
    """Each case's score, mean over the seeds in which it is defined."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for case, value in run.per_case(key).items():
            values[case].append(value)
    return {case: float(np.mean(several)) for case, several in values.items()}


def over_subjects(runs: Sequence[Run], values: Mapping[str, float]) -> dict[str, float]:
    """Each subject's value, mean over its cases: two of one subject are not two witnesses."""
    subjects = {case: scores.get("subject", case) for run in runs for case, scores in run.cases.items()}
    together: dict[str, list[float]] = defaultdict(list)
    for case, value in values.items():
        together[subjects[case]].append(value)
    return {subject: float(np.mean(several)) for subject, several in together.items()}


def look_up(scores: dict[str, Any], key: str) -> Any:
    """The entry at `a.b.c`, or None where there is none."""
    value: Any = scores
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
