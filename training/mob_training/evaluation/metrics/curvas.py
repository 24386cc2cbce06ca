"""The metrics of the CURVAS challenge, which scores probabilities against several raters.

Definitions: github.com/SYCAI-Technologies/curvas-challenge, CURVAS_2024/evaluation_metrics/metrics.py, of 2025. The
numbers are those of that code, not of a text about it, where the two differ:

- *DSC on consensus* is not of the volume. It is of each row of voxels of each slice in which the raters agree on any
  foreground, without the first row; the mean over the rows of a slice, then over slices.
- *ECE* is that of the most probable class, in 50 bins, against each rater in turn; the mean over the raters. Their sums
  are float32, so that those of more than some thousand voxels lose digits, and stop at 2^24 voxels; ours are exact.
- *CRPS* is of one number, the sum of the probability, against a normal distribution with the mean and the standard
  deviation of the raters' volumes. Its distribution function is linear between 100 points; scipy's `quad` integrates up
  to three deviations from the mean, with an error of up to 1e-3 of the value, which is part of their numbers.

All are computed in the rows and columns of the image that have any value above 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.integrate import IntegrationWarning, quad
from scipy.stats import norm

BINS = 50
POINTS = 100
"""Of the distribution function of a volume."""


def curvas_scores(
    segmentation: np.ndarray,
    probability: np.ndarray,
    raters: Sequence[np.ndarray],
    image: np.ndarray,
    voxel_mm3: float,
    labels: Sequence[int],
) -> dict[str, float]:
    """Score a prediction as the challenge does.

    Args:
        segmentation: Label map (slices, rows, columns).
        probability: (C - 1, slices, rows, columns).
        raters: Their label maps.
        image: HU, (slices, rows, columns).
        voxel_mm3: Volume of a voxel.
        labels: Values of the foreground classes, in the order of `probability`.

    Returns:
        `dsc` and `crps` (mm3), means over the classes in which they are defined, and `ece`.
    """
    box = (slice(None), *_box(image > 0))
    segmentation, probability = segmentation[box], probability[(slice(None), *box)]
    rated = np.stack([one[box] for one in raters])
    scores: dict[str, list[float]] = {"dsc": [], "crps": []}
    for label, p in zip(labels, probability, strict=True):
        own = rated == label
        volumes = [voxel_mm3 * np.count_nonzero(one) for one in own]
        scores["dsc"].append(consensus_dice(segmentation == label, own))
        scores["crps"].append(volume_crps(float(p.sum()) * voxel_mm3, volumes))
    order = np.zeros(int(max(labels)) + 1, int)
    order[list(labels)] = np.arange(1, len(labels) + 1)
    errors = [expected_calibration_error(probability, order[one.astype(int)]) for one in rated]
    return {name: _mean(values) for name, values in (*scores.items(), ("ece", errors))}


def consensus_dice(predicted: np.ndarray, raters: np.ndarray) -> float:
    """Compute the Dice where all raters agree, as published; NaN if they agree on no foreground.

    Args:
        predicted: (slices, rows, columns) bool.
        raters: (raters, slices, rows, columns) bool.
    """
    inside, outside = raters.all(axis=0), ~raters.any(axis=0)
    predicted = predicted & (inside | outside)
    both, total = predicted & inside, predicted.sum(axis=2, dtype=int) + inside.sum(axis=2, dtype=int)
    counted = inside.any(axis=2)
    counted[:, 0] = False
    rows = np.where(counted, 2 * both.sum(axis=2) / np.maximum(total, 1), 0)
    number = counted.sum(axis=1)
    slices = rows.sum(axis=1)[number > 0] / number[number > 0]
    return float(slices.mean()) if slices.size else float("nan")


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray) -> float:
    """Compute the mean difference between the most probable class's probability and how often it is right.

    Args:
        probability: Of the foreground classes, (C - 1, *S).
        truth: Classes 0 to C - 1, (*S).
    """
    every = np.concatenate((np.clip(1 - probability.sum(axis=0, keepdims=True), 0, 1), probability))
    right, confidence = (every.argmax(axis=0) == truth).ravel(), every.max(axis=0).ravel()
    edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
    bins = np.digitize(confidence, edges) - 1
    surplus = np.bincount(bins, right - confidence.astype(float), BINS + 1)
    return float(np.abs(surplus).sum() / confidence.size)


def volume_crps(predicted: float, volumes: Sequence[float]) -> float:
    """Compute the CRPS of a volume; NaN if all raters' volumes are equal."""
    mean, deviation = float(np.mean(volumes)), float(np.std(volumes))
    if not deviation:
        return float("nan")
    distribution = norm(mean, deviation)
    x = np.linspace(distribution.ppf(0.01), distribution.ppf(0.99), POINTS)
    y = distribution.cdf(x)

    def squared(volume: float) -> float:
        fraction = np.interp(volume, x, y, left=0.0, right=1.0)
        return float(fraction - np.heaviside(volume - predicted, 0.5)) ** 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IntegrationWarning)
        return float(quad(squared, mean - 3 * deviation, mean + 3 * deviation)[0])


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Find the rows and columns that have any voxel of a mask; all if there is none."""
    parts = []
    for axis in (1, 2):
        at = np.flatnonzero(mask.any(axis=(0, 3 - axis)))
        parts.append(slice(at[0], at[-1] + 1) if at.size else slice(None))
    return parts[0], parts[1]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
