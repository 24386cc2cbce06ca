"""How good the samples of a model are: the volumes that they have, and how far they are correlated beside errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

from MoBUncertaintyLib.base.wording import percent

LEVELS = (0.5, 0.8, 0.9)
"""Of the intervals that are scored."""
STEP_MM = 1.0
LAGS = 16
"""Distances 0, 1, ... in steps of `STEP_MM`."""


def crps(samples: Sequence[float] | np.ndarray, truth: float) -> float:
    """Compute the continuous ranked probability score of samples V and the truth v, E|V - v| - E|V - V'| / 2.

    Pairs of a sample with itself do not count, so that the score does not depend on how many there are (the "fair"
    form; Ferro 2014, Quarterly Journal of the Royal Meteorological Society 140). One sample has its absolute error.
    """
    values = np.sort(np.asarray(samples, float))
    count = len(values)
    error = float(np.abs(values - truth).mean())
    if count == 1:
        return error
    # The k-th of n sorted values is the larger one in k pairs and the smaller one in n - 1 - k.
    spread = 2 * float((2 * np.arange(count) - count + 1) @ values) / (count * (count - 1))
    return error - 0.5 * spread


def interval(samples: Sequence[float] | np.ndarray, level: float) -> tuple[float, float]:
    """Return the interval between two of the sorted samples that holds a further sample with this probability.

    With n samples, that of the k-th smallest and the k-th largest holds it with 1 - 2 k / (n + 1): exactly, whatever
    the distribution. 19, 39, 99 or 199 samples have all of `LEVELS`.

    Raises:
        ValueError: There are too few samples for the level.
    """
    values = np.sort(np.asarray(samples, float))
    rank = round((1 - level) / 2 * (len(values) + 1))
    if rank < 1:
        raise ValueError(f"{len(values)} samples have no interval of {percent(level)}")
    return float(values[rank - 1]), float(values[-rank])


def volume_scores(samples: Sequence[float] | np.ndarray, truth: float) -> dict[str, float]:
    """Score the distribution of a volume.

    Returns:
        `crps`; for each of `LEVELS`, in percent, `covered_90`, 1 or 0, whether the interval holds the truth, and
        `width_90`; and the samples' standard `deviation`; in the unit of the volume.
    """
    scores = {"crps": crps(samples, truth), "deviation": float(np.std(samples, ddof=1))}
    for level in LEVELS:
        low, high = interval(samples, level)
        scores[f"covered_{100 * level:g}"] = float(low <= truth <= high)
        scores[f"width_{100 * level:g}"] = high - low
    return scores


def autocovariance(residual: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Sum the products of all pairs of voxels by their distance, mean over the directions of one distance.

    The residual (z, y, x) has mean 0, and is 0 outside; spacing is in mm. Return (LAGS,) in the bins around 0, 1, 2,
    ... times `STEP_MM`; NaN where no two voxels are that far apart. Sums of several residuals add up; divided by its
    first entry it is the correlation.
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
    """Compute the correlation length, in mm: the integral of the correlation (`autocovariance`) over the distance.

    It is half a step where neighbours have nothing in common, and grows both with how far errors reach and with how
    much of them does: what is white besides, as labels are, counts for nothing. NaN entries are interpolated; without
    any residual it is NaN.
    """
    if not covariance[0] > 0:
        return float("nan")
    defined = np.flatnonzero(np.isfinite(covariance))
    correlation = np.interp(np.arange(defined[-1] + 1), defined, covariance[defined] / covariance[0])
    return float(STEP_MM * np.trapezoid(correlation))
