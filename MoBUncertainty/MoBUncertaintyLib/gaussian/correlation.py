"""Smooth white noise over a few voxels, so that it has the correlation of `MoBUncertaintyLib.model.covariance`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from MoBUncertaintyLib.gaussian.arrays import Array, like, namespace
from MoBUncertaintyLib.model.covariance import axis_correlation

Lengths = Sequence[float] | Array
"""Correlation length along each of the three axes, in voxels; a tensor where it is learned."""

RIDGE = 1e-6
"""White noise that is mixed in, as a fraction of the variance: very smooth fields have singular covariances."""


def smooth(white: Array, lengths: Lengths) -> Array:
    """Turn white noise (..., *S) into fields with the covariance k; differentiable in the lengths.

    k is a product over the axes, so its Cholesky factor is one, too: each axis is multiplied by the factor of its own
    small covariance. So the fields are exactly stationary, at borders and corners as elsewhere, without any padding.
    """
    depth, height, width = (
        like(axis_factor(size, length), white) for size, length in zip(white.shape[-3:], lengths, strict=True)
    )
    rows = height @ (white @ width.T)
    return (depth @ rows.reshape(*rows.shape[:-2], -1)).reshape(white.shape)


def axis_factor(size: int, length: float | Array) -> Array:
    """Compute the Cholesky factor F of the covariance along an axis, F F^T = k; (size, size), float64 on the CPU."""
    return _fixed_factor(size, length) if isinstance(length, (int, float)) else _factor(size, length.cpu().double())


@lru_cache(maxsize=64)
def _fixed_factor(size: int, length: float) -> np.ndarray:
    factor: np.ndarray = _factor(size, np.asarray(length, float))
    return factor


def _factor(size: int, length: Array) -> Array:
    xp = namespace(length)
    place = xp.arange(size, dtype=xp.float64)
    covariance = axis_correlation(place[:, None] - place, length)
    return xp.linalg.cholesky((covariance + RIDGE * xp.eye(size, dtype=xp.float64)) / (1 + RIDGE))
