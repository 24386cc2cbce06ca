"""The temperature that suits decided voxels best, and whether it is better than none, by leaving each case out.

Each case counts alike, however many voxels its reader has decided. Several labels count each against the rest. Readers
decide where a model is in doubt, and errors there are of one piece: those voxels ask for more temperature than all
others, of which nobody has said anything. For them the model is taken at its word: their labels are as probable as it
says. Without them, the temperature would be too high for the whole image.

A reader who is shown a segmentation tends to accept it. So agreement may be worth nothing, and with a review among the
cases no temperature below 1 is tried: reviews show that a model is too sure, never that it is not sure enough. Labels
that were drawn without the model show both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from MoBUncertaintyLib.refinement.evidence import Evidence

TEMPERATURES = 2.0 ** (np.arange(-96, 97) / 32)
"""Those tried, 1/8 to 8, in steps of 2 %."""
CLIP = 2.0**-23
"""Probabilities are held this far from 0 and 1, as for the scores of `mob-training evaluate`."""
BINS = 15


@dataclass(frozen=True)
class Scores:
    """Calibration over cases: NLL per voxel (mean over the cases), and the expected calibration error."""

    nll: float
    ece: float


@dataclass(frozen=True)
class Fit:
    """A temperature, and what leaving each case out says of it.

    Attributes:
        temperature: Fitted to all cases.
        before: Scores of the model as it is.
        after: Scores of each case with the temperature that the other cases give.
        p_value: That NLL, in the voxels not decided as the model expects it, improves no more than by chance
            (Wilcoxon's signed-rank test over the cases, one-sided).
    """

    temperature: float
    before: Scores
    after: Scores
    p_value: float


def fit_temperature(cases: Sequence[Sequence[Evidence]], keep_probability: bool = False, lowest: float = 1.0) -> Fit:
    """Find the temperature with the lowest NLL of decided voxels, and of the others as the model expects it.

    Args:
        cases: The evidence of each case, label by label; two or more.
        keep_probability: As for `Evidence.moments`.
        lowest: Of the temperatures that are tried.
    """
    kinds, weights = _pooled(cases)
    tried = TEMPERATURES[lowest <= TEMPERATURES]
    as_it_is = int(np.searchsorted(tried, 1.0))
    probability = np.stack([kinds.moments(t, keep_probability)[0] for t in tried])
    p = np.clip(probability, CLIP, 1 - CLIP)
    without, labelled, undecided = weights
    decided = _nll(without, labelled, p)
    expected = _nll(undecided * (1 - p[as_it_is]), undecided * p[as_it_is], p)
    losses = (decided + expected) / weights.sum(axis=(0, 2))[:, None]
    every, total = np.arange(len(cases)), losses.sum(axis=0)
    others = np.argmin(total - losses, axis=1)  # for each case, what the others choose
    before, after = decided[:, as_it_is], decided[every, others]
    gain = losses[:, as_it_is] - losses[every, others]
    return Fit(
        float(tried[np.argmin(total)]),
        Scores(float(before.mean()), _ece(weights, probability[np.full_like(others, as_it_is)])),
        Scores(float(after.mean()), _ece(weights, probability[others])),
        float(wilcoxon(gain, alternative="greater").pvalue) if gain.any() else 1.0,
    )


def _nll(without: np.ndarray, labelled: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Sum -ln p up, from weights (cases, K) and probabilities (temperatures, K); returns (cases, temperatures)."""
    nll: np.ndarray = -(without @ np.log1p(-p).T + labelled @ np.log(p).T)
    return nll


def _pooled(cases: Sequence[Sequence[Evidence]]) -> tuple[Evidence, np.ndarray]:
    """List all kinds of voxels once, and how many each case has of them, over those decided.

    Returns:
        The kinds, without their counts; and (3, cases, K) as `Evidence.counts`, of which the first two sum to the
        number of labels of a case.
    """
    every = [evidence for case in cases for evidence in case]
    steps, index = np.unique(np.concatenate([each.kinds[:, :2] for each in every]), axis=0, return_inverse=True)
    owners = np.repeat(np.arange(len(cases)), [sum(len(each.kinds) for each in case) for case in cases])
    counts = np.concatenate([each.counts / max(each.voxels, 1) for each in every], axis=1)
    weights = np.zeros((3, len(cases), len(steps)))
    for row, values in zip(weights, counts, strict=True):
        np.add.at(row, (owners, index.ravel()), values)
    return Evidence(np.column_stack([steps, np.zeros((len(steps), 3), np.int64)])), weights


def _ece(weights: np.ndarray, probability: np.ndarray) -> float:
    """Compute the gap between mean probability and fraction of the label, in bins of probability, mean over voxels.

    Args:
        weights: From `_pooled`.
        probability: Of each kind, by case, (cases, K).
    """
    index = np.minimum((probability * BINS).astype(int), BINS - 1).ravel()
    both = weights[:2].sum(axis=0)
    confidence, labelled = (np.bincount(index, each.ravel(), BINS) for each in (both * probability, weights[1]))
    return float(np.abs(confidence - labelled).sum() / both.sum())
