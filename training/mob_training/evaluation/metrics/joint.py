"""The joint log likelihood of a segmentation: how probable a model holds the whole of it, not voxel by voxel.

Given the logits, the labels of voxels are independent, P(y | t) = prod_n sigma(y_n t_n); the logits are Gaussian, with
a covariance that says what errors come together. Their integral is Laplace's approximation, one for every model:

1. Voxels whose true label is nearly certain, sigma(6) or more, stand alone: they add the logarithm of their marginal.
2. The covariance of the others becomes G^T G + diag(w), with G (rank, N) from a partial Cholesky decomposition (exact
   where the model is of low rank, empty where it is white) and what it leaves, w, as white noise. Marginals are exact.
3. Laplace's approximation over the latents z of t = m + G^T z, at their mode; white noise is integrated voxel by voxel.
4. It is corrected by each voxel's own integral: in the posterior without it, its true likelihood takes the place of the
   quadratic one. With that the estimate is exact where voxels are independent, and so continuous from white noise to
   noise that a whole tile shares (Cseke and Heskes 2011, JMLR 12, section 3; the form is that of expectation
   propagation, Rasmussen and Williams 2006, eq. 3.65).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.special import expit

from mob_training.contrasts import Contrast
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments

CERTAIN = float(expit(6.0))
"""A voxel whose true label has this marginal probability or more stands alone."""
MAX_RANK, MAX_WORK = 1500, 1.44e10
"""Of the Cholesky decomposition; its square times the voxels is the work: from 6400 voxels on the rank is lower."""
LEFT = 0.002
"""The decomposition ends where it leaves this fraction of the variance."""
BLOCK = 50
"""Columns of the decomposition at once."""
NODES = np.linspace(-8, 8, 129)
"""Of the trapezoidal rule for white noise, in standard deviations; it holds up to a deviation of 15."""
WIDE, COARSER = 4.0, 4
"""Up to this variance of the white noise every fourth of them is enough."""
MAX_STEPS = 100
SMALLEST_STEP = 1e-6
CONVERGED = 1e-3
"""Nats that a step of Newton's method still gains."""
TINY = 1e-300
ROUNDING = 1e-5
"""The decomposition also ends where it leaves this fraction of each variance: single precision says no more."""
NOTHING = 1e-9
"""What is smaller counts as 0 in single precision: products that underflow take a hundred times as long."""


def joint_log_likelihood(contrast: Contrast) -> float:
    """Compute the logarithm of the probability that a model gives to a whole segmentation, of all voxels.

    Returns:
        Nats, at most 0.
    """
    signs, mean, variance = (
        part.double().numpy() for part in (contrast.signs, contrast.signs * contrast.mean, contrast.variance())
    )
    alone = logistic_normal_moments(mean, variance)[0]
    joined = np.flatnonzero(alone < CERTAIN)
    max_rank = min(MAX_RANK, int(np.sqrt(MAX_WORK / max(len(joined), 1))))
    certain = float(np.log(np.maximum(np.delete(alone, joined), TINY)).sum())
    factor, white = decompose(contrast.at(torch.from_numpy(joined)), max_rank)
    return certain + laplace(mean[joined], signs[joined].astype(factor.dtype) * factor, white)


def decompose(contrast: Contrast, max_rank: int = MAX_RANK, left: float = LEFT) -> tuple[np.ndarray, np.ndarray]:
    """Split the covariance into G^T G + diag(w), G (rank, N): a partial Cholesky decomposition with random pivots.

    Each pivot is drawn with a probability in proportion to the variance that is left (Chen, Epperly, Tropp and Webber
    2025, Comm. Pure Appl. Math. 78), a block of them at once; the seed is fixed. w, (N,), holds the white part, too.
    G is in single precision, which takes three quarters of the time. Its rounding can draw other pivots, and change a
    likelihood by less than another seed would.
    """
    variance = contrast.shared().double().numpy()
    count, total = len(variance), variance.sum()
    rest, rank = variance.copy(), 0
    generator = np.random.default_rng(0)
    factor = np.empty((min(max_rank, count), count), np.float32)
    while rank < len(factor) and rest.sum() > left * total:
        weights = rest / rest.sum()
        block = min(BLOCK, len(factor) - rank, np.count_nonzero(weights))
        pivots = np.sort(generator.choice(count, block, replace=False, p=weights))
        explained = factor[:rank]
        columns = contrast.columns(torch.from_numpy(pivots)).float().numpy()
        columns -= (explained[:, pivots].T @ explained).T
        pivots, columns = _independent(columns, pivots, ROUNDING * variance[pivots])
        if not len(pivots):
            break
        triangle = cholesky(columns[pivots], lower=True)
        added = solve_triangular(triangle, columns.T, lower=True)
        factor[rank : rank + len(added)] = added
        rank += len(added)
        rest = np.maximum(rest - np.square(added).sum(axis=0, dtype=float), 0)
        rest[pivots] = 0
    return factor[:rank], contrast.white.double().numpy() + rest


def _independent(columns: np.ndarray, pivots: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the pivots of whose variance others of the same block leave no more than `least`."""
    matrix = columns[pivots].copy()
    diagonal, chosen_pivots = matrix.diagonal().copy(), []
    while (best := int(diagonal.argmax())) not in chosen_pivots and diagonal[best] > least[best]:
        chosen_pivots.append(best)
        row = matrix[best] / np.sqrt(matrix[best, best])
        matrix -= np.outer(row, row)
        diagonal = np.where(np.isin(np.arange(len(pivots)), chosen_pivots), 0, matrix.diagonal())
        if len(chosen_pivots) == len(pivots):
            break
    chosen = np.sort(np.array(chosen_pivots, int))
    return pivots[chosen], columns[:, chosen]


def laplace(mean: np.ndarray, factor: np.ndarray, white: np.ndarray) -> float:
    """Compute ln of the integral of prod_n sigma(t_n), t = m + G^T z + white noise of these variances, (N,).

    By Laplace's approximation, corrected voxel by voxel; G is (rank, N), and z standard normal.
    """
    # Single precision is enough for a direction; how probable the place is that it leads to is computed in double.
    factor = np.where(np.abs(factor) > NOTHING, factor, 0).astype(np.float32)
    z, shift = np.zeros(len(factor)), np.zeros(len(mean))
    value, slope, curvature = _site(mean, white)
    best = float(value.sum())
    for _ in range(MAX_STEPS):
        lower = _precision(factor, np.where(curvature > NOTHING, curvature, 0))
        step = cho_solve((lower, True), factor @ slope.astype(np.float32) - z, check_finite=False)
        along, size, gain = factor.T @ step.astype(np.float32), 1.0, 0.0
        while True:
            moved = z + size * step
            value, slope, curvature = _site(mean + shift + size * along, white)
            gain = float(value.sum() - 0.5 * moved @ moved) - best
            if gain >= 0 or size < SMALLEST_STEP:
                break
            size /= 2
        z, shift, best = moved, shift + size * along, best + gain
        if not gain >= CONVERGED:
            break
    lower = _precision(factor, np.where(curvature > NOTHING, curvature, 0))
    # The variance of G^T z in the posterior, and in the posterior without the voxel's own likelihood, its cavity.
    explained = solve_triangular(lower, factor, lower=True, check_finite=False)
    own = np.einsum("rn,rn->n", explained, explained).astype(float)
    left = np.maximum(1 - own * curvature, 1e-12)
    others = own / left
    cavity = mean + shift - slope * others
    probability = logistic_normal_moments(cavity, others + white)[0]
    corrected = np.log(np.maximum(probability, TINY)) + 0.5 * np.square(slope) * others - 0.5 * np.log(left)
    return float(corrected.sum() - 0.5 * z @ z - np.log(lower.diagonal(), dtype=float).sum())


def _precision(factor: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Factor I + G W G^T, lower triangular."""
    root = factor * np.sqrt(curvature, dtype=factor.dtype)
    matrix = root @ root.T  # of a matrix and its own transpose numpy computes one half
    matrix.flat[:: len(matrix) + 1] += 1
    return np.asarray(cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)[0])


def _site(mean: np.ndarray, white: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute ln E[sigma(t)], t ~ N(mean, white), its slope and its negative second derivative, (N,) each."""
    integrals = np.empty((3, len(mean)))
    wide = white > WIDE
    for voxels, step in ((wide, 1), (~wide, COARSER)):
        integrals[:, voxels] = _integrals(mean[voxels], white[voxels], NODES[::step])
    value, slope, curvature = integrals
    return value, slope, curvature


def _integrals(mean: np.ndarray, white: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = expit(mean[:, None] + np.sqrt(white)[:, None] * nodes)
    weights = np.exp(-0.5 * nodes**2)
    tilted = p * (weights / weights.sum())
    total = np.maximum(tilted.sum(axis=1), TINY)
    tilted /= total[:, None]
    q = np.subtract(1, p)
    tilted *= q
    slope = tilted.sum(axis=1)
    q -= p  # 1 - 2 p
    second = np.einsum("nk,nk->n", tilted, q)
    return np.log(total), slope, np.maximum(np.square(slope) - second, 0)
