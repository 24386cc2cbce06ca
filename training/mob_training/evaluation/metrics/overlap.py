"""Surfaces of two masks, compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from MoBUncertaintyLib.base.errors import InstallationError


def surface_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | np.ndarray, tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Compare the surfaces of two masks (z, y, x) by `surface-distance`; elements count by their area in mm2.

    Return `nsd`, the normalised surface distance (Nikolov et al. 2018): the surface fraction within the tolerance, 1
    where both masks are empty, 0 where one is. `median_mm` and `hd95_mm`, the 50th and 95th percentile of the distance
    from one surface to the other, whichever direction has more; NaN where a mask is empty.

    Raises:
        InstallationError: `surface-distance` is not installed.
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
