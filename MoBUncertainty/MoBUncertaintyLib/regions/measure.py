"""How uncertain each voxel of a prediction is, by one of the measures; needs no scipy, as `region.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.region_settings import Measure

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Maps, Prediction


def values_in(box: Box, maps: Maps) -> list[np.ndarray]:
    """Return what each map holds in a box."""
    return [label_map[box] for label_map in maps]


def uncertainty_in(box: Box, prediction: Prediction, measure: Measure) -> np.ndarray:
    """Compute the uncertainty of each voxel in a box."""
    return voxel_uncertainty(measure, values_in(box, prediction.probability), values_in(box, prediction.variance))


def voxel_uncertainty(
    measure: Measure, probability: Sequence[np.ndarray], variance: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute how uncertain each voxel is, in the measure's unit, from arrays of one shape for each label."""
    if measure is Measure.VARIANCE:
        return reduce(np.maximum, variance)
    if measure is Measure.BERNOULLI:
        return reduce(np.maximum, [p * (1 - p) for p in probability])
    background = np.clip(1 - sum(probability[1:], probability[0]), 0, 1)
    terms = (p * np.log(np.maximum(p, np.float32(1e-12))) for p in (*probability, background))  # 0 ln 0 is 0
    return np.asarray(-sum(terms))
