"""Whether models differ by more than chance: paired tests over the cases, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon

from mob_training.evaluation import CONTROL
from mob_training.runs import ORDER, Run, by_model, datasets, over_seeds
from mob_training.scoreboard import GROUPS, Metric
from mob_training.tables import BETTER, WORSE
from MoBUncertaintyLib.errors import SettingsError

LEVEL = 0.05
"""Of the Holm-corrected p below which a difference is marked in the tables."""


@dataclass(frozen=True)
class PairedTest:
    """A model against the reference over the same cases.

    Attributes:
        dataset, metric, model, reference: What is compared.
        difference: Mean over the cases of model minus reference, seeds averaged before.
        cases: In which both scores are defined.
        p: Two-sided Wilcoxon signed-rank test; 1 where no case differs.
        corrected: Holm's, over the models of this data set and score.
    """

    dataset: str
    metric: Metric
    model: str
    reference: str
    difference: float
    cases: int
    p: float
    corrected: float = 1.0

    @property
    def better(self) -> bool | None:
        """Whether the model is better in the mean; None where neither is."""
        return (self.difference > 0) == self.metric.higher if self.difference else None

    @property
    def mark(self) -> str:
        """For the model's cell in a table."""
        if self.corrected >= LEVEL or self.better is None:
            return ""
        return BETTER if self.better else WORSE


def paired_tests(runs: Sequence[Run], reference: str | None = None) -> list[PairedTest]:
    """Test every model against the reference, for every score that both have.

    Raises:
        SettingsError: There is no such reference, or two models were scored on different cases.
    """
    tests: list[PairedTest] = []
    for dataset in datasets(runs):
        own = [run for run in runs if run.dataset == dataset]
        _check_same_cases(own)
        groups = by_model([run for run in own if not run.sweep])
        if not groups:
            continue
        if reference is not None and reference not in groups:
            raise SettingsError(f"{dataset} has no model {reference!r}; choose among {', '.join(groups)}.")
        base = reference or next((name for name in (CONTROL, ORDER[0]) if name in groups), next(iter(groups)))
        for metric in (metric for _, metrics in GROUPS.values() for metric in metrics):
            expected = over_seeds(groups[base], metric.against or metric.key)
            family = []
            for model, seeds in groups.items():
                found = over_seeds(seeds, metric.key)
                shared = sorted(found.keys() & expected.keys())
                if model != base and shared:
                    differences = np.array([found[case] - expected[case] for case in shared])
                    p = signed_rank(differences)
                    mean = float(differences.mean())
                    family.append(PairedTest(dataset, metric, model, base, mean, len(shared), p))
            corrected = holm([test.p for test in family])
            tests += [replace(test, corrected=p) for test, p in zip(family, corrected, strict=True)]
    return tests


def signed_rank(differences: np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test; cases without a difference are left out, 1 if none is left."""
    nonzero = differences[differences != 0]
    return float(wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p_(i) times the number of hypotheses not yet rejected, never falling, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def _check_same_cases(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        if run.cases.keys() != runs[0].cases.keys():
            raise SettingsError(
                f"{run.model} and {runs[0].model} were scored on different cases of {run.dataset}; "
                "evaluate both on the same data set."
            )
