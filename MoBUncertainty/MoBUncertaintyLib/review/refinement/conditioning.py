"""A Gaussian process over logits, conditioned on labels at a few voxels: Laplace's approximation.

The logit at voxel n is m_n + u_n with u ~ GP(0, K), K(n, m) = c_n c_m k(n, m): a standard deviation c for each voxel
and a correlation k. A label y = +1 or -1 at a voxel has the likelihood sigma(y (m + u))^beta: the power beta, the
*strength*, makes one click count as beta equal ones. The mode of the posterior and its curvature there are found by
Newton's method in the dual, where all matrices are of the size (clicks, clicks): Rasmussen & Williams (2006), Gaussian
Processes for Machine Learning, chapter 3, algorithms 3.1 and 3.2, with a mean and a power besides.

The logits of a prediction are the normal distributions whose moments its maps hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.linalg.lapack import dpotri
from scipy.special import expit, logit

from MoBUncertaintyLib.gaussian.inverse import normal_from_moments
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION
from MoBUncertaintyLib.review.refinement.kernel import Kernel, pairs_mm

MAX_STEPS = 200
CONVERGED = 1e-10
SMALLEST_STEP = 2.0**-30

SURE = 20.0
"""A probability below sigma(-20), 2e-9, or as near to 1, stands for the logit -20 or 20, without variance: it says no
more than that the network was sure, and a click must be able to contradict it."""


def logits_of(probability: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find mean and variance of the logit from mean and variance of the probability; float32, of one shape."""
    mean = np.where(probability < 0.5, np.float32(-SURE), np.float32(SURE))
    spread = np.zeros_like(mean)
    between = (probability > expit(-SURE)) & (probability < expit(SURE))
    varies = between & (variance > 0)
    between &= ~varies
    mean[between] = logit(probability[between].astype(float))
    mean[varies], spread[varies] = normal_from_moments(probability[varies], variance[varies])
    return mean, spread


def movable(spread: np.ndarray, prior_deviation: float | None) -> np.ndarray:
    """Return the deviation that a click can move, from the variance of the logit."""
    if prior_deviation is not None:
        return np.full_like(spread, prior_deviation)
    return np.asarray(np.where(spread > 0, np.sqrt(spread), np.float32(DEFAULT_PRIOR_DEVIATION)))


@dataclass(frozen=True, eq=False)
class Field:
    """The logits of N voxels: mean and standard deviation, (N,) each, and the places, (N, 3)."""

    mean: np.ndarray
    deviation: np.ndarray
    places_mm: np.ndarray


def solve(
    clicked: Field, kernel: Kernel, signs: np.ndarray, strength: float, variance_strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find what `spread` needs: weights (P,) and their precision (P, P), both in units of the deviation at a voxel.

    With the strength that moves the outline best, the uncertainty that is left is not right: that has one of its own.
    """
    c = clicked.deviation.astype(float)
    covariance = c[:, None] * kernel.between(pairs_mm(clicked.places_mm, clicked.places_mm)) * c
    mean = clicked.mean.astype(float)
    weights, curvature = mode(mean, covariance, signs, strength)
    if variance_strength != strength:
        _, curvature = mode(mean, covariance, signs, variance_strength)
    return c * weights, c[:, None] * precision(covariance, curvature) * c


def spread(correlation: np.ndarray, weights: np.ndarray, explaining: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the shift of the mean (N,), in units of the voxel's deviation, and the fraction left of the variance.

    `correlation` (P, N) is that of each click with each voxel; `weights` and `explaining` are what `solve` gives.
    """
    explained = np.einsum("in,in->n", explaining @ correlation, correlation)
    return weights @ correlation, np.clip(1 - explained, 0, 1)


def mode(mean: np.ndarray, covariance: np.ndarray, signs: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the mode of the posterior at P labelled voxels by damped Newton steps.

    Mean (P,) and covariance (P, P), which may be singular, are the prior's, signs (P,) +1 or -1. Returns weights a: the
    mean at a voxel n moves by sum_i K(n, i) a_i; and W, minus the second derivative of the log likelihood; (P,) each.
    """
    signs = np.asarray(signs, float)

    def slope_and_curvature(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wrong = expit(-signs * (mean + u))
        return strength * signs * wrong, strength * wrong * (1 - wrong)

    def objective(a: np.ndarray, u: np.ndarray) -> float:
        return float(-strength * np.logaddexp(0, -signs * (mean + u)).sum() - 0.5 * a @ u)

    a, u = np.zeros_like(mean), np.zeros_like(mean)
    best = objective(a, u)
    slope, w = slope_and_curvature(u)
    for _ in range(MAX_STEPS):
        root = np.sqrt(w)
        b = w * u + slope
        step = b - root * cho_solve((_factor(covariance, root), True), root * (covariance @ b), check_finite=False) - a
        along = covariance @ step
        size = 1.0
        while size > SMALLEST_STEP and objective(a + size * step, u + size * along) < best - 1e-12 * abs(best):
            size /= 2
        a = a + size * step
        u = covariance @ a
        best = objective(a, u)
        slope, w = slope_and_curvature(u)
        # How far u is from what its slope makes of it, and whether no step betters what rounding leaves.
        if np.abs(covariance @ (slope - a)).max() < CONVERGED * (1 + np.abs(u).max()) or size <= SMALLEST_STEP:
            break
    return a, w


def precision(covariance: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Compute (K + W^-1)^-1, (P, P): the variance at n falls by the quadratic form of K(n, i) with it."""
    root = np.sqrt(curvature)
    inverse, _ = dpotri(_factor(covariance, root), lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    return np.asarray(root[:, None] * inverse * root)


def _factor(covariance: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Factor I + W^1/2 K W^1/2, which is well conditioned whatever K is."""
    matrix = root[:, None] * covariance * root
    matrix.flat[:: len(root) + 1] += 1
    return np.asarray(cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))
