"""Overlap of two masks: Dice, and the fraction of their surfaces that are close to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.errors import InstallationError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute the Dice overlap 2 |A and B| / (|A| + |B|) of two masks of one shape; 1 if both are empty."""
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else 1.0


def surface_dice(prediction: np.ndarray, truth: np.ndarray, spacing: ArrayLike, tolerance_mm: float = 2.0) -> float:
    """Compute the normalised surface distance (Nikolov et al. 2018): the surface fraction within a tolerance.

    Surface elements are weighed by their area in mm2 (marching cubes), by the library `surface-distance`.

    Args:
        prediction: Mask (z, y, x).
        truth: Likewise.
        spacing: Of the voxels in mm, (z, y, x).
        tolerance_mm: Distance up to which surfaces agree.

    Returns:
        From 0 to 1; 1 where both masks are empty, 0 where one is.

    Raises:
        InstallationError: The library is not installed.
    """
    try:
        import surface_distance
    except ImportError as error:
        raise InstallationError("surface-distance is missing; install it with: pip install -e '.[training]'") from error
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    distances = surface_distance.compute_surface_distances(truth, prediction, np.asarray(spacing, float).tolist())
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm))
