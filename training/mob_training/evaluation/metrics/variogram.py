"""How far errors are correlated, and how far what a model draws is: their autocorrelation by distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

STEP_MM = 1.0
LAGS = 16
"""Distances 0, 1, ... in steps of `STEP_MM`."""


def autocovariance(residual: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Sum the products of all pairs of voxels by their distance, mean over the directions of one distance.

    Args:
        residual: (z, y, x), of mean 0; what is outside is 0.
        spacing: mm.

    Returns:
        (LAGS,) in the bins around 0, 1, 2, ... times `STEP_MM`; NaN where no two voxels are that far apart. Sums of
        several residuals add up; divided by its first entry it is the correlation.
    """
    reach = [min(n - 1, int(LAGS * STEP_MM / mm)) for n, mm in zip(residual.shape, spacing, strict=True)]
    shape = [fft.next_fast_len(n + r, real=True) for n, r in zip(residual.shape, reach, strict=True)]
    power = np.square(np.abs(fft.rfftn(residual.astype(float), shape)))
    products = fft.irfftn(power, shape)
    axes = [np.arange(-r, r + 1) for r in reach]
    products = products[np.ix_(*axes)]  # negative lags are at the end
    squares = [np.square(axis * mm) for axis, mm in zip(axes, spacing, strict=True)]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    bins = np.rint(distance / STEP_MM).astype(int).ravel()
    counts = np.bincount(bins, minlength=LAGS)[:LAGS]
    sums = np.bincount(bins, products.ravel(), LAGS)[:LAGS]
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def correlation_length(covariance: np.ndarray) -> float:
    """Compute the correlation length, in mm: the integral of the correlation over the distance.

    It is half a step where neighbours have nothing in common, and grows both with how far errors reach and with how
    much of them does: what is white besides, as labels are, counts for nothing.

    Args:
        covariance: As `autocovariance` returns it, or a sum of such; where it is NaN, linear between its neighbours.

    Returns:
        NaN without any residual.
    """
    if not covariance[0] > 0:
        return float("nan")
    known = np.flatnonzero(np.isfinite(covariance))
    correlation = np.interp(np.arange(known[-1] + 1), known, covariance[known] / covariance[0])
    return float(STEP_MM * np.trapezoid(correlation))
