"""The normal distribution of a label's logit against the rest, by the maps of a prediction."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from MoBUncertaintyLib.gaussian.inverse import looked_up_normal, normal_from_moments
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION

SURE = 20.0
"""A probability below sigma(-20), 2e-9, or as near to 1, stands for the logit -20 or 20, without variance: it says no
more than that the network was sure, and a click must be able to contradict it."""


def logits_of(
    probability: np.ndarray, variance: np.ndarray, rough: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find mean and variance of the logit from mean and variance of the probability; float32, of one shape.

    Where a mask `rough` says so, which is of probabilities below 1/2, they are but looked up in a table.
    """
    mean = np.where(probability < 0.5, np.float32(-SURE), np.float32(SURE))
    spread = np.zeros_like(mean)
    between = (probability > expit(-SURE)) & (probability < expit(SURE))
    varies = between & (variance > 0)
    between &= ~varies
    mean[between] = logit(probability[between].astype(float))
    if rough is not None:
        far = varies & rough
        mean[far], spread[far] = looked_up_normal(probability[far], variance[far])
        varies &= ~rough
    mean[varies], spread[varies] = normal_from_moments(probability[varies], variance[varies])
    return mean, spread


def movable(spread: np.ndarray, prior_deviation: float | None) -> np.ndarray:
    """Return the deviation that a click can move, from the variance of the logit."""
    if prior_deviation is not None:
        return np.full_like(spread, prior_deviation)
    return np.asarray(np.where(spread > 0, np.sqrt(spread), np.float32(DEFAULT_PRIOR_DEVIATION)))
