"""The logits of a prediction: the normal distributions whose moments its maps hold."""

from __future__ import annotations

import numpy as np
from scipy.special import logit

from MoBUncertaintyLib.logistic_normal import logistic_normal_moments
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION

SURE = 20.0
"""p = 0 and p = 1 stand for the logits -20 and 20: they say no more than that it was rounded."""


def logits_of(probability: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find mean and variance of the logit from mean and variance of the probability; both float32, any shape."""
    mean = np.where(probability < 0.5, np.float32(-SURE), np.float32(SURE))
    spread = np.zeros_like(mean)
    between = (probability > 0) & (probability < 1)
    certain = between & (variance <= 0)
    mean[certain] = logit(probability[certain])
    between &= variance > 0
    mean[between], spread[between] = normal_from_moments(probability[between], variance[between])
    return mean, spread


def movable(spread: np.ndarray, prior_deviation: float | None) -> np.ndarray:
    """Return the deviation that a click can move, from the variance of the logit."""
    if prior_deviation is not None:
        return np.full_like(spread, prior_deviation)
    return np.asarray(np.where(spread > 0, np.sqrt(spread), np.float32(DEFAULT_PRIOR_DEVIATION)))


def normal_from_moments(p: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert `logistic_normal_moments`."""
    p, variance = p.astype(float), np.minimum(variance.astype(float), 0.999 * p.astype(float) * (1 - p.astype(float)))
    low, high = np.full_like(p, -12.0), np.full_like(p, 4.0)  # log s

    def mean_of(s2: np.ndarray) -> np.ndarray:
        m = logit(p) * np.sqrt(1 + np.pi / 8 * s2)
        for _ in range(6):
            e, v = logistic_normal_moments(m, s2)
            m = m + np.clip((p - e) / np.maximum(e * (1 - e) - v, 1e-12), -1, 1)
        return np.asarray(m)

    for _ in range(26):
        middle = (low + high) / 2
        s2 = np.exp(2 * middle)
        small = logistic_normal_moments(mean_of(s2), s2)[1] < variance
        low, high = np.where(small, middle, low), np.where(small, high, middle)
    return mean_of(np.exp(low + high)).astype(np.float32), np.exp(low + high).astype(np.float32)
