"""Overlap of two masks, and of distributions of segmentations with several raters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import lcm

import numpy as np
from scipy.optimize import linear_sum_assignment

from MoBUncertaintyLib.base.errors import InstallationError


def surface_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | np.ndarray, tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Compare two surfaces, whose elements are weighed by their area in mm2, by the library `surface-distance`.

    Args:
        prediction: Mask (z, y, x).
        truth: Likewise.
        spacing: Of the voxels in mm, (z, y, x).
        tolerance_mm: Distance up to which surfaces agree.

    Returns:
        `nsd`, the normalised surface distance (Nikolov et al. 2018): the surface fraction within the tolerance, 1 where
        both masks are empty, 0 where one is. `median_mm` and `hd95_mm`, the 50th and 95th percentile of the distance
        from one surface to the other, whichever direction has more; NaN where a mask is empty.

    Raises:
        InstallationError: The library is not installed.
    """
    try:
        import surface_distance
    except ImportError as error:
        raise InstallationError("surface-distance is missing; install it with: pip install -e '.[training]'") from error
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if not prediction.any() or not truth.any():
        return {"nsd": float(prediction.any() == truth.any()), "median_mm": np.nan, "hd95_mm": np.nan}
    distances = surface_distance.compute_surface_distances(truth, prediction, np.asarray(spacing, float).tolist())
    return {
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        "median_mm": float(surface_distance.compute_robust_hausdorff(distances, 50)),
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(distances, 95)),
    }


def generalised_energy_distance(
    samples: Sequence[np.ndarray], raters: Sequence[np.ndarray], labels: Sequence[int] = (1,)
) -> float:
    """Compute the squared GED 2 E d(S, Y) - E d(S, S') - E d(Y, Y'), with d = 1 - IoU (Kohl et al. 2018).

    S are label maps of the model, one only if it has no samples, Y those of the raters, in one shape; d is the mean
    over the foreground classes. Expectations are means over all pairs, a mask with itself included, as in Stochastic
    Segmentation Networks. Two empty masks have the distance 0; without a sample or a rater it is NaN.
    """
    if not samples or not raters:
        return float("nan")
    drawn, rated = (_masks(maps, labels) for maps in (samples, raters))
    return 2 * _mean_distance(drawn, rated) - _mean_distance(drawn, drawn) - _mean_distance(rated, rated)


def matched_iou(samples: Sequence[np.ndarray], raters: Sequence[np.ndarray], labels: Sequence[int] = (1,)) -> float:
    """Compute the Hungarian-matched IoU: the mean IoU of samples and raters, paired so that it is highest.

    Both are repeated until there are equally many of them (Kohl et al. 2019, A hierarchical probabilistic U-Net). NaN
    without a sample or a rater.
    """
    if not samples or not raters:
        return float("nan")
    drawn, rated = (_masks(maps, labels) for maps in (samples, raters))
    distances = np.array([[_distance(a, b) for b in rated] for a in drawn])
    pairs = lcm(*distances.shape)
    repeated = distances.repeat(pairs // len(drawn), axis=0).repeat(pairs // len(rated), axis=1)
    return 1 - float(repeated[linear_sum_assignment(repeated)].mean())


def probability_error(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Compute the error of a predicted probability p against the raters' q, in a mask of the same shape, if any.

    Return `mae` (mean of |p - q|), `rmse` and `bias` (mean of p - q); NaN without a voxel.
    """
    predicted, true = (np.asarray(a, np.float64) for a in (predicted, true))
    difference = (predicted - true).ravel() if mask is None else (predicted - true)[np.asarray(mask, bool)]
    if not difference.size:
        return dict.fromkeys(("mae", "rmse", "bias"), float("nan"))
    return {
        "mae": float(np.abs(difference).mean()),
        "rmse": float(np.sqrt(np.square(difference).mean())),
        "bias": float(difference.mean()),
    }


def _masks(maps: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray]:
    return [np.stack([np.asarray(one) == label for label in labels]).reshape(len(labels), -1) for one in maps]


def _mean_distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return float(np.mean([_distance(a, b) for a, b in product(first, second)]))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute 1 - IoU of two bool arrays (classes, voxels), mean over the classes."""
    union = np.count_nonzero(a | b, axis=1)
    return float(np.mean(np.where(union, 1 - np.count_nonzero(a & b, axis=1) / np.maximum(union, 1), 0.0)))
