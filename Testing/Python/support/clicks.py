"""Clicks as a reader gives them, second by second, and what they do to all voxels of a field at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.refinement.clicks import Click
from MoBUncertaintyLib.refinement.conditioning import Field, solve, spread
from MoBUncertaintyLib.refinement.kernel import Kernel, pairs_mm

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


def click_at(prediction: Prediction, number: int, label: int, *voxels: tuple[int, int, int]) -> Click:
    """Click number 1, 2, ... on a voxel (z, y, x), or a stroke through several."""
    points = tuple(tuple(prediction.grid.to_ras(voxel).tolist()) for voxel in voxels)
    return Click(f"c{number}", points, label, START + timedelta(seconds=number))


def condition(
    field: Field,
    kernel: Kernel,
    at: np.ndarray,
    signs: np.ndarray,
    strength: float = 1.0,
    variance_strength: float | None = None,
) -> Field:
    """Condition a field on labels at some of its voxels.

    Args:
        field: All voxels.
        kernel: The correlation.
        at: (P,) indices of voxels; one may stand there more than once.
        signs: (P,) +1: the voxel is in; -1: it is not.
        strength: Power of the likelihood.
        variance_strength: The same for the deviation. Default: `strength`.
    """
    own = Field(field.mean[at], field.deviation[at], field.places_mm[at])
    weights, explaining = solve(own, kernel, signs, strength, variance_strength or strength)
    shift, kept = spread(kernel.between(pairs_mm(own.places_mm, field.places_mm)), weights, explaining)
    return Field(field.mean + field.deviation * shift, field.deviation * np.sqrt(kept), field.places_mm)
