"""Paired tests of models over the subjects, corrected for the number of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata, wilcoxon

from mob_training.comparison.runs import ORDER, by_model, datasets, over_seeds, over_subjects
from mob_training.comparison.tables import BETTER, WORSE
from mob_training.evaluation.score_files import CONTROL, Run
from mob_training.evaluation.scoreboard import GROUPS, Metric
from MoBUncertaintyLib.base.errors import SettingsError

LEVEL = 0.05
"""Holm-corrected p below which a difference is marked in the tables."""


@dataclass(frozen=True)
class PairedTest:
    """A comparison of a model with the reference over the same subjects and seeds.

    Attributes:
        differences: Model minus reference for each subject, averaged over its cases and the seeds.
        seeds: Number of seeds that both have; each has its own network to start from.
        same_sign: In how many of them the mean difference has the sign of the overall mean difference.
        p: Two-sided Wilcoxon signed-rank test; 1 where no subject differs.
        corrected: Holm's, over the models of this data set and score.
    """

    dataset: str
    metric: Metric
    model: str
    reference: str
    differences: tuple[float, ...]
    seeds: int
    same_sign: int
    p: float
    corrected: float = 1.0

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(np.mean(self.differences))

    @property
    def better(self) -> bool | None:
        """Whether the model is better by the ranks, which are tested, whatever the mean; None if neither is."""
        ranks = signed_rank_sum(self.differences)
        return (ranks > 0) == self.metric.higher if ranks else None

    @property
    def wins(self) -> int:
        """Number of subjects in which the model is better."""
        return sum((d > 0) == self.metric.higher for d in self.differences if d)

    @property
    def mark(self) -> str:
        """Mark of the model's cell in a table of means: empty if means and ranks disagree.

        The test is of these trained networks only, so it is empty, too, if the seeds disagree.
        """
        if self.corrected >= LEVEL or self.better is None or self.better != ((self.mean > 0) == self.metric.higher):
            return ""
        if self.same_sign < self.seeds:
            return ""
        return BETTER if self.better else WORSE


def paired_tests(runs: Sequence[Run]) -> list[PairedTest]:
    """Test every model against the reference, for every score that both have, over the seeds that both have.

    The reference is the fine-tuned control, else the deterministic model, else the first.

    Raises:
        SettingsError: Two models were scored on different cases.
    """
    tests: list[PairedTest] = []
    for dataset in datasets(runs):
        own = [run for run in runs if run.dataset == dataset]
        _check_same_cases(own)
        groups = by_model([run for run in own if not run.sweep])
        if not groups:
            continue
        controls = [name for name in groups if name.startswith(CONTROL)]  # plain, or a variant such as (temperature)
        usual = CONTROL if CONTROL in groups else controls[0] if len(controls) == 1 else ORDER[0]
        base = usual if usual in groups else next(iter(groups))
        for metric in (metric for _, metrics in GROUPS.values() for metric in metrics if metric.tested):
            family = []
            for model in (name for name in groups if name != base):
                pairs = _pairs(groups[model], groups[base])
                differences = _differences([a for a, _ in pairs], [b for _, b in pairs], metric)
                if differences:
                    mean = np.mean(differences)
                    of_seeds = [_differences([a], [b], metric) for a, b in pairs]
                    same_sign = sum(bool(one) and np.sign(np.mean(one)) == np.sign(mean) for one in of_seeds)
                    p = signed_rank(differences)
                    family.append(PairedTest(dataset, metric, model, base, differences, len(of_seeds), same_sign, p))
            corrected = holm([test.p for test in family])
            tests += [replace(test, corrected=p) for test, p in zip(family, corrected, strict=True)]
    return tests


def signed_rank(differences: Sequence[float]) -> float:
    """Compute the p value of the two-sided Wilcoxon signed-rank test, without zero differences; 1 if none is left."""
    nonzero = [d for d in differences if d]
    return float(wilcoxon(nonzero).pvalue) if nonzero else 1.0


def signed_rank_sum(differences: Sequence[float]) -> float:
    """Compute the test's statistic: the sum of the signed ranks of the differences."""
    nonzero = np.array([d for d in differences if d])
    return float(np.sign(nonzero) @ rankdata(np.abs(nonzero))) if nonzero.size else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction: p_(i) times the hypotheses not yet rejected, monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def _pairs(ours: Sequence[Run], theirs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pair the runs of each seed; a run without a seed is paired with each of the other's."""
    return [(a, b) for a in ours for b in theirs if a.seed == b.seed or None in (a.seed, b.seed)]


def _differences(ours: Sequence[Run], theirs: Sequence[Run], metric: Metric) -> tuple[float, ...]:
    """Compute ours minus theirs for each subject, averaged over its cases and the runs."""
    differences = over_seeds(ours, metric.key) - over_seeds(theirs, metric.against or metric.key)
    return tuple(over_subjects(ours, differences.dropna().sort_index()))


def _check_same_cases(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        if run.cases.keys() != runs[0].cases.keys():
            raise SettingsError(
                f"{run.model} and {runs[0].model} were scored on different cases of {run.dataset}; "
                "evaluate both on the same data set."
            )
