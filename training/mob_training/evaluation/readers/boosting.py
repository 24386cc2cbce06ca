"""Boosting of symmetric trees, for `MoBUncertaintyLib.model.click_trees`.

Newton's steps on the logistic loss (Friedman 2001; Chen & Guestrin 2016), from the scores of another model. All nodes
of a level ask the same question, as in CatBoost (Prokhorenkova et al. 2018), which comparisons of arrays answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from MoBUncertaintyLib.model.click_trees import ClickTrees

BINS = 64


@dataclass(frozen=True)
class Boosting:
    """How trees are fitted: how many, their levels, the length of a step, and what limits small leaves.

    A tree may ask for `fraction` of the features, chosen at random.
    """

    trees: int = 100
    levels: int = 5
    rate: float = 0.12
    ridge: float = 20.0
    fraction: float = 0.33
    seed: int = 0

    def fit(self, features: np.ndarray, start: np.ndarray, truth: np.ndarray) -> ClickTrees:
        """Fit trees to N voxels: features (F, N), the scores (N,) that the trees add to, and the truth (N,), bool."""
        random = np.random.default_rng(self.seed)
        edges = [_edges(values) for values in features]
        binned = np.array([np.searchsorted(own, values) for own, values in zip(edges, features, strict=True)], np.int16)
        score, grown = start.astype(np.float64), []
        for _ in range(self.trees):
            q = expit(score)
            sums = q - truth, q * (1 - q)
            chosen = [n for n in random.permutation(len(features)) if len(edges[n])]
            chosen = chosen[: max(1, round(self.fraction * len(features)))]
            leaf, asked = np.zeros(len(truth), np.int32), []
            for level in range(self.levels):
                answers = {n: (binned[n], len(edges[n])) for n in chosen}
                feature, threshold = self._question(leaf, 2**level, answers, sums)
                leaf = 2 * leaf + (binned[feature] > threshold)
                asked.append((feature, edges[feature][threshold]))
            slope, curvature = (np.bincount(leaf, each, 2**self.levels) for each in sums)
            values = (-self.rate * slope / (curvature + self.ridge)).astype(np.float16)
            score += values[leaf]
            grown.append((*zip(*asked, strict=True), values))
        return ClickTrees.of(*(np.array(each) for each in zip(*grown, strict=True)))

    def _question(
        self,
        leaf: np.ndarray,
        leaves: int,
        answers: dict[int, tuple[np.ndarray, int]],
        sums: tuple[np.ndarray, np.ndarray],
    ) -> tuple[int, int]:
        """Choose the feature, and the bin above which the answer is yes, that lower the loss of all leaves most.

        For each feature there are the bins of the voxels, and the number of thresholds.
        """
        best = (-np.inf, 0, 0)
        place = leaf * BINS
        for feature, (bins, thresholds) in answers.items():
            at = place + bins
            slope, curvature = (np.bincount(at, each, leaves * BINS).reshape(leaves, BINS).cumsum(1) for each in sums)
            gain = sum(
                (g**2 / (h + self.ridge)).sum(0)
                for g, h in ((slope, curvature), (slope[:, -1:] - slope, curvature[:, -1:] - curvature))
            )[:thresholds]
            threshold = int(gain.argmax())
            best = max(best, (float(gain[threshold]), feature, threshold))
        return best[1:]


def _edges(values: np.ndarray) -> np.ndarray:
    """Choose thresholds between the values of a feature, about as many values between one and the next."""
    quantiles = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    return quantiles[quantiles < values.max()].astype(np.float32)
