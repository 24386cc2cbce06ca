"""The threshold of doubtful regions after a change of temperature."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from MoBUncertaintyLib.refinement.evidence import Evidence
from MoBUncertaintyLib.regions.settings import MAX_VARIANCE

WINDOW = 0.25
"""Voxels whose variance differs by this factor's logarithm from a threshold are called at it."""
CANDIDATES = 2.0 ** (np.arange(-48, 49) / 16)


def fit_threshold(
    evidence: Iterable[Evidence], temperature: float, threshold: float, keep_probability: bool = False
) -> float:
    """Find the variance at which as much error is expected as the model expected at its threshold before.

    Temperature scales the variances of all voxels, so that the same threshold would list other regions.

    Args:
        evidence: Of all cases and labels.
        temperature: By which the logits are divided.
        threshold: Of the variance, before.
        keep_probability: As for `Evidence.moments`.

    Returns:
        The threshold; that before if no voxel was at it.
    """
    given = list(evidence)
    counts = np.concatenate([each.counts.sum(axis=0) for each in given])

    def error_at(scaled_by: float, thresholds: np.ndarray) -> np.ndarray:
        moments = [each.moments(scaled_by, keep_probability) for each in given]
        p, variance = (np.concatenate(values) for values in zip(*moments, strict=True))
        error, logarithm = np.minimum(p, 1 - p), np.log(np.maximum(variance, 1e-12))
        near = counts * (np.abs(logarithm - np.log(thresholds)[:, None]) < WINDOW)
        voxels = near.sum(axis=1)
        return np.where(voxels > 0, near @ error / np.maximum(voxels, 1), np.nan)

    (wanted,) = error_at(1.0, np.array([threshold]))
    candidates = threshold * CANDIDATES
    candidates = candidates[candidates < MAX_VARIANCE]
    found = error_at(temperature, candidates)
    if temperature == 1 or np.isnan(wanted) or np.isnan(found).all():
        return threshold
    return float(f"{candidates[np.nanargmin(np.abs(found - wanted))]:.3g}")
