"""Find the smooth noise that explains a label map best: the mode of the posterior of a Gaussian field on a grid.

The logit at voxel n is m_n + s_n (h + v_n): a habit h, one number for all voxels, and a field v of unit variance with
the correlation of `model.covariance`, v = F z with z standard normal. The label y_n = +1 or -1 has the likelihood
sigma(y_n (m_n + s_n (h + v_n))). What is maximised over h and z,

    sum_n ln sigma(y_n (m_n + s_n (h + v_n))) - |z|^2 / 2 - h^2 / (2 `HABIT`^2),

is concave. The correlation is a product over the axes, so F is one, too, and a smooth field needs few eigenvectors of
each axis. Voxels that are finer than the network's add nothing that it knows, only time: the sum may be over one in so
many of them along each axis, each with a weight, and the field is linear between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from MoBUncertaintyLib.model.covariance import axis_correlation

HABIT = 10.0
"""Standard deviation of h: a reader's margin is hardly a reason to call a segmentation improbable."""
NEGLIGIBLE = 1e-3
"""Eigenvectors with less than this fraction of the largest variance are left out."""
ITERATIONS = 8
"""Of Newton's method, whose steps solve by conjugate gradients; a few of them suffice."""


def explain(
    mean: np.ndarray,
    deviation: np.ndarray,
    labelled: np.ndarray,
    lengths: Sequence[float],
    counted: np.ndarray | None = None,
    every: Sequence[int] = (1, 1, 1),
    weight: float = 1.0,
) -> np.ndarray:
    """Compute by how much the noise that explains a label map best moves the logit of each voxel, (z, y, x).

    Args:
        mean, deviation: m and s, (z, y, x).
        labelled: Where the label is, bool.
        lengths: Correlation length along each axis, in voxels; infinite ones make v a number, too.
        counted: Where the label is to be explained, bool. Default: everywhere.
        every: Along each axis one voxel in so many is summed over.
        weight: Of each of these in the sum.
    """
    whole, places = deviation, [np.arange(0, size, n) for size, n in zip(mean.shape, every, strict=True)]
    some = np.ix_(*places)
    mean, deviation = mean[some], deviation[some]
    sign = np.where(labelled[some], np.float32(1), np.float32(-1))
    if counted is not None:
        sign = np.where(counted[some], sign, np.float32(0))  # it adds a number to the sum, whatever h and z are
    factors = [_factor(place, length) for place, length in zip(places, lengths, strict=True)]
    shape = tuple(factor.shape[1] for factor in factors)

    def field(factors: Sequence[np.ndarray], unknown: np.ndarray) -> np.ndarray:
        (depth, height, width), unknown = factors, unknown.astype(np.float32)
        rows = height @ (unknown[1:].reshape(shape) @ width.T)
        return np.asarray(unknown[0] + np.tensordot(depth, rows, 1))

    def noise(unknown: np.ndarray) -> np.ndarray:
        return np.asarray(deviation * field(factors, unknown))

    def gathered(slope: np.ndarray) -> np.ndarray:
        """Apply the transpose of `noise`."""
        depth, height, width = factors
        slope = np.float32(weight) * deviation * slope
        rows = np.tensordot(depth.T, slope, 1)
        return np.append(slope.sum(dtype=float), height.T @ (rows @ width))

    penalty = np.append(HABIT**-2, np.ones(int(np.prod(shape))))

    def cost(unknown: np.ndarray) -> tuple[float, np.ndarray]:
        against = -sign * (mean + noise(unknown))
        odds = np.exp(-np.abs(against))  # of the less probable label
        value = np.maximum(against, 0).sum(dtype=float) + np.log1p(odds).sum(dtype=float)
        value = weight * value + 0.5 * penalty @ unknown**2
        wrong = np.where(against > 0, 1, odds) / (1 + odds)
        return float(value), gathered(-sign * wrong) + penalty * unknown

    @lru_cache(maxsize=1)  # a step of Newton's method asks for it again and again
    def weights(unknown: bytes) -> np.ndarray:
        p = expit(mean + noise(np.frombuffer(unknown)))
        return np.asarray(sign * sign * p * (1 - p))

    def curved(unknown: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return np.asarray(gathered(weights(unknown.tobytes()) * noise(direction)) + penalty * direction)

    options = {"maxiter": ITERATIONS, "xtol": 1e-3}
    best = minimize(cost, np.zeros(len(penalty)), jac=True, hessp=curved, method="Newton-CG", options=options)
    axes = zip(whole.shape, places, factors, strict=True)
    between = [np.stack([np.interp(np.arange(size), place, each) for each in f.T], 1) for size, place, f in axes]
    return np.asarray(whole * field([each.astype(np.float32) for each in between], best.x))


def _factor(place: np.ndarray, length: float) -> np.ndarray:
    """Compute F of places along an axis, F F^T = k but for what is `NEGLIGIBLE`: (places, few)."""
    variances, vectors = np.linalg.eigh(axis_correlation(place[:, None] - place, length))
    large = variances > NEGLIGIBLE * variances[-1]
    return np.asarray(vectors[:, large] * np.sqrt(variances[large]), np.float32)
