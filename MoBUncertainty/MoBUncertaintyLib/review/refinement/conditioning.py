"""A Gaussian process over logits, conditioned on labels at a few voxels: Laplace's approximation.

The logit at voxel n is m_n + u_n with u ~ GP(0, K), K(n, m) = c_n c_m k(n, m): a standard deviation c for each voxel
and a correlation k. A label y = +1 or -1 at a voxel has the likelihood sigma(y (m + u))^beta: the power beta, the
*strength*, makes one click count as beta equal ones. The mode of the posterior and its curvature there are found by
Newton's method in the dual, where all matrices are of the size (clicks, clicks): Rasmussen & Williams (2006), Gaussian
Processes for Machine Learning, chapter 3, algorithms 3.1 and 3.2, with a mean and a power besides.

The logits of a prediction are the normal distributions whose moments its maps hold. Their correlation k, the kernel, is
stationary, 1 at distance 0, positive definite in three dimensions, and has compact support: far clicks do not meet, and
a click has a box of influence. A Gaussian that is cut off is not positive definite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.linalg.lapack import dpotri
from scipy.special import expit

from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM, ClickSettings
from MoBUncertaintyLib.model.covariance import HALF_OF_GAUSSIAN, REACH, axis_correlation
from MoBUncertaintyLib.regions.prediction import Prediction

HALF_OF_WENDLAND = 0.31381017045569753
"""(1 - r)^4 (4 r + 1) is 1/2 here."""

Offsets = Sequence[np.ndarray]
"""How far apart voxels are along each axis, mm: three arrays (P, ...) that broadcast, in the precision wanted."""


def offsets_mm(points: np.ndarray, axes: Sequence[np.ndarray], spacing: np.ndarray) -> Offsets:
    """Compute how far points (P, 3) are from voxels whose coordinates broadcast; float32."""
    dimensions = np.broadcast(*axes).ndim
    return [
        (coordinate - place.reshape(-1, *(1,) * dimensions)).astype(np.float32) * step
        for coordinate, place, step in zip(axes, points.T, spacing, strict=True)
    ]


def pairs_mm(places: np.ndarray, others: np.ndarray) -> Offsets:
    """Compute how far places (P, 3) are from others (N, 3), all in mm."""
    return [place[:, None] - other for place, other in zip(places.T, others.T, strict=True)]


@dataclass(frozen=True)
class Spline:
    """The correlation of a model of the scope `local`: a length for each axis of the array (see `model.covariance`)."""

    lengths_mm: tuple[float, float, float]

    @property
    def length_mm(self) -> float:
        """The geometric mean of the lengths."""
        return float(prod(self.lengths_mm) ** (1 / 3))

    @property
    def box_mm(self) -> np.ndarray:
        """Distance along each axis from which on the correlation is 0, (3,)."""
        return np.multiply(self.lengths_mm, REACH)

    def between(self, offsets: Offsets) -> np.ndarray:
        """Return the correlation at each offset, in their precision."""
        return np.asarray(prod(map(axis_correlation, offsets, self.lengths_mm), start=np.float32(1)))

    def reached(self, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
        """Find the voxels that any of P points reaches: flat indices (N,), and their correlations (P, N)."""
        correlation = self.between(offsets)
        correlation = correlation.reshape(len(correlation), -1)
        voxels = np.flatnonzero(correlation.max(0) > 0)
        return voxels, correlation[:, voxels]


@dataclass(frozen=True)
class Wendland:
    """Wendland's C2 function, (1 - r)^4 (4 r + 1) for r = d / reach < 1.

    Of the functions of compact support that are positive definite in three dimensions and twice differentiable, it has
    the smallest degree (Wendland 1995, Advances in Computational Mathematics 4). It falls to 1/2 where a Gaussian
    exp(-d^2 / 2 length^2) does, at 1.18 lengths; its reach is 3.75 lengths.
    """

    length_mm: float

    @property
    def reach_mm(self) -> float:
        """Distance from which on the correlation is 0."""
        return self.length_mm * (HALF_OF_GAUSSIAN / HALF_OF_WENDLAND)

    @property
    def box_mm(self) -> np.ndarray:
        """As of `Spline`, like what follows."""
        return np.full(3, self.reach_mm)

    def between(self, offsets: Offsets) -> np.ndarray:
        return self(np.sqrt(_squares(offsets)))

    def reached(self, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
        squares = _squares(offsets)
        voxels = np.flatnonzero(squares.min(0) < self.reach_mm**2)
        return voxels, self(np.sqrt(squares.reshape(len(squares), -1)[:, voxels]))

    def __call__(self, distances_mm: np.ndarray) -> np.ndarray:
        """Return the correlation at each distance, any shape, in the precision of the distances."""
        r = distances_mm * (1 / self.reach_mm)
        np.minimum(r, 1, out=r)
        result = 1 - r
        for _ in range(2):
            np.multiply(result, result, out=result)
        r *= 4
        r += 1
        result *= r
        return np.asarray(result)


def _squares(offsets: Offsets) -> np.ndarray:
    total: np.ndarray | float = 0.0
    for offset in offsets:
        total = total + offset * offset
    return np.asarray(total)


Kernel = Spline | Wendland


def kernel_of(prediction: Prediction, settings: ClickSettings) -> Kernel:
    """Choose a stationary correlation of the stated length; where none is stated the model's own, of a local model."""
    if settings.length_mm is None and prediction.correlation_mm is not None:
        return Spline(prediction.correlation_mm)
    return Wendland(settings.length_mm or DEFAULT_LENGTH_MM)


MAX_STEPS = 200
CONVERGED = 1e-10
SMALLEST_STEP = 2.0**-30


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
