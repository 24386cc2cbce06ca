"""Paired differences of models over the subjects, their intervals, and tests corrected for the number of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

from mob_training.comparison.runs import ORDER, backbones, by_model, datasets, over_seeds, over_subjects
from mob_training.comparison.tables import BETTER, RESAMPLES, WORSE
from mob_training.evaluation.score_files import CONTROL, Run
from mob_training.evaluation.scoreboard import GROUPS, Metric
from MoBUncertaintyLib.base.errors import SettingsError

LEVEL = 0.05
"""Holm-corrected p below which a difference is marked in the tables."""


@dataclass(frozen=True)
class PairedTest:
    """A comparison of a model with the reference over the same subjects and seeds.

    Attributes:
        differences: Model minus reference for each subject, averaged over its cases and the backbones.
        interval: 95 % of the mean difference (`bootstrap_interval`).
        of_seeds: Mean difference of each backbone's seed that both have, averaged over the heads on it.
        p: Two-sided Wilcoxon signed-rank test; 1 where no subject differs.
        corrected: Holm's, over the models of this data set and score that are tested together.
    """

    dataset: str
    metric: Metric
    model: str
    reference: str
    differences: tuple[float, ...]
    interval: tuple[float, float]
    of_seeds: tuple[float, ...]
    p: float
    corrected: float = 1.0

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(np.mean(self.differences))

    @property
    def seeds(self) -> int:
        """Number of backbones that both have."""
        return len(self.of_seeds)

    @property
    def same_sign(self) -> int:
        """Number of seeds whose mean difference has the sign of the overall one."""
        return sum(bool(one) and np.sign(one) == np.sign(self.mean) for one in self.of_seeds)

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


def paired_tests(runs: Sequence[Run], reference: str | None = None, sweep: bool = False) -> list[PairedTest]:
    """Test every model against the reference, for every score that both have, over the backbones that both have.

    The default reference is the fine-tuned control, else the deterministic model, else the first. With `sweep` the
    models of a sweep over the number of bases are tested, else all others.

    Raises:
        SettingsError: Two models were scored on different cases, or a data set lacks the reference.
    """
    tests: list[PairedTest] = []
    for dataset in datasets(runs):
        own = [run for run in runs if run.dataset == dataset]
        _check_same_cases(own)
        groups, swept = (by_model([run for run in own if run.sweep is part]) for part in (False, True))
        if not groups:
            continue
        controls = [name for name in groups if name.startswith(CONTROL)]  # plain, or a variant such as (temperature)
        usual = CONTROL if CONTROL in groups else controls[0] if len(controls) == 1 else ORDER[0]
        base = reference or (usual if usual in groups else next(iter(groups)))
        if base not in groups:
            raise SettingsError(f"{dataset} has no model {base}; choose one of {', '.join(groups)}.")
        models = swept if sweep else {name: seeds for name, seeds in groups.items() if name != base}
        for metric in (metric for _, metrics in GROUPS.values() for metric in metrics if metric.tested):
            family = []
            for model, seeds in models.items():
                if pairs := _paired(seeds, groups[base], metric):
                    table = pd.DataFrame([ours.mean() - theirs.mean() for ours, theirs in pairs])
                    differences, of_seeds = tuple(table.mean()), tuple(table.mean(axis=1))
                    interval, p = bootstrap_interval(*zip(*pairs, strict=True)), signed_rank(differences)
                    family.append(PairedTest(dataset, metric, model, base, differences, interval, of_seeds, p))
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


def bootstrap_interval(ours: Sequence[pd.DataFrame], theirs: Sequence[pd.DataFrame] = ()) -> tuple[float, float]:
    """Compute the 95 % interval of a mean, less that of `theirs` if any, over other subjects and other trainings.

    Both hold the scores on each backbone, (heads, subjects), as `by_backbone` returns them. Backbones, heads on each of
    those drawn, and subjects are drawn with replacement: subjects once for all backbones (the pigeonhole bootstrap;
    Owen 2007, Annals of Applied Statistics 1), or within each where no subject has two, as in a cross-validation.

    It is too narrow if few backbones differ much more than their heads do: with three it then holds in 75 %, which is
    the chance that their means lie on both sides. With one it says nothing about other backbones.
    """
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(ours), size=(RESAMPLES, len(ours)))
    subjects = pd.concat(ours).columns
    own = [np.flatnonzero(subjects.isin(scores.columns)) for scores in ours]
    nested = len(ours) > 1 and sum(map(len, own)) == len(subjects)
    if nested:
        places = np.array([*zip_longest(*own, fillvalue=-1)]).T
        columns = places[chosen[..., None], _picks(np.array([*map(len, own)])[chosen], generator)]
    else:
        columns = generator.integers(len(subjects), size=(RESAMPLES, len(subjects)))[:, None]
    drawn = _draw_heads(ours, subjects, chosen, columns, generator)
    if theirs:
        drawn = drawn - _draw_heads(theirs, subjects, chosen, columns, generator)
    means = drawn.mean(axis=(1, 2)) if nested else drawn.mean(axis=1).mean(axis=1)  # a subject counts once
    low, high = np.percentile(means.compressed(), (2.5, 97.5))
    return float(low), float(high)


def _draw_heads(
    scores: Sequence[pd.DataFrame],
    subjects: pd.Index,
    chosen: np.ndarray,
    columns: np.ndarray,
    generator: np.random.Generator,
) -> np.ma.MaskedArray:
    """Average heads drawn on the chosen backbones, at some columns of the subjects: (resamples, backbones, columns)."""
    counts = np.array([*map(len, scores)])
    padded = np.full((len(scores), counts.max() + 1, len(subjects) + 1), np.nan)  # the last head and subject, -1
    for own, heads in zip(padded, scores, strict=True):
        own[: len(heads), :-1] = heads.reindex(columns=subjects)
    picked = _picks(counts[chosen], generator)
    return np.ma.masked_invalid(padded[chosen[..., None, None], picked[..., None], columns[..., None, :]]).mean(axis=2)


def _picks(counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw from each 0 .. count - 1 as many with replacement, and -1 up to the largest count: (*counts, largest)."""
    drawn = generator.random((*counts.shape, counts.max())) * counts[..., None]
    return np.where(np.arange(counts.max()) < counts[..., None], drawn.astype(int), -1)


def by_backbone(runs: Sequence[Run], key: str) -> list[pd.DataFrame]:
    """Return the scores on each backbone that has any, averaged over the cases of each subject, (heads, subjects)."""
    groups = [[run for run in runs if run.backbone == backbone] for backbone in (*backbones(runs), None)]
    tables = [_of_heads(heads, key) for heads in groups]
    return [scores for scores in tables if scores.size]


def holm(p: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction: p_(i) times the hypotheses not yet rejected, monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def _paired(ours: Sequence[Run], theirs: Sequence[Run], metric: Metric) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return the scores of both on each backbone that both have, (heads, subjects), over the cases that both have.

    A run without a seed goes with every backbone. There are none where neither model has the score.
    """
    has = [any(run.per_case(metric.key) for run in runs) for runs in (ours, theirs)]
    if not any(has):
        return []
    own, other = (metric.key if scored else metric.against or metric.key for scored in has)
    pairs = []
    for backbone in backbones((*ours, *theirs)) or (None,):
        heads, others = ([run for run in runs if run.backbone in (backbone, None)] for runs in (ours, theirs))
        if heads and others:
            cases = (over_seeds(heads, own) - over_seeds(others, other)).dropna().sort_index().index
            pairs.append((_of_heads(heads, own, cases), _of_heads(others, other, cases)))
    return [pair for pair in pairs if pair[0].size]


def _of_heads(runs: Sequence[Run], key: str, cases: Sequence[str] | None = None) -> pd.DataFrame:
    """Average a score over the cases of each subject, all or some, for each run that has it: (heads, subjects)."""
    scores = [pd.Series(run.per_case(key), cases, float) for run in runs]
    return pd.DataFrame([over_subjects([run], own) for run, own in zip(runs, scores, strict=True)]).dropna(how="all")


def _check_same_cases(runs: Sequence[Run]) -> None:
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.description["dataset"], run)
        if run.cases.keys() != other.cases.keys():
            raise SettingsError(
                f"{run.model} and {other.model} were scored on different cases of {run.dataset}; "
                "evaluate both on the same data set."
            )
