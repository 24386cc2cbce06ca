"""A field conditioned on labels, all of its voxels at once."""

from __future__ import annotations

import numpy as np

from MoBUncertaintyLib.refinement.conditioning import Field, solve, spread
from MoBUncertaintyLib.refinement.kernel import Kernel, pairs_mm


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
