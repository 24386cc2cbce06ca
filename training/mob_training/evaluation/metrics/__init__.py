"""Scores of a prediction against the truth: small functions on arrays, without models or files.

What is undefined is NaN (`null` in JSON) and is left out of means:

| score | undefined | special cases |
| --- | --- | --- |
| Dice, NSD | never | both masks empty: 1; one empty: 0 |
| distance of surfaces | where a mask is empty | |
| NLL, Brier, ECE, MCE | without a voxel | p is clipped to [2^-23, 1 - 2^-23] in NLL; empty bins do not count |
| AUROC | unless there are both right and wrong voxels | all equally uncertain: 0.5 |
| AUPRC | without a wrong voxel | all equally uncertain: the fraction of wrong voxels |
| AURC, AUGRC | without a voxel | without a wrong voxel: 0 |
| GED, HM-IoU | without a sample or a rater | two empty masks have the distance 0 |
| CRPS and intervals of a volume | never | |
| correlation length | without a residual | |
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def defined_mean(values: Iterable[float]) -> float:
    """Average what is defined; NaN if nothing is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
