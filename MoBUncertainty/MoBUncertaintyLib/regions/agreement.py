"""A segmentation against a truth: Dice, distance of surfaces, and how much of the error is inside doubtful regions.

Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import occupied
from MoBUncertaintyLib.regions.region import Regions

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction


def dice(segmentation: np.ndarray, truth: np.ndarray, label: int = 1) -> float:
    """Compute the Dice overlap of one label, 1 where neither has it; raises `ImageError` if the shapes differ."""
    _check_shapes(segmentation, truth)
    a, b = segmentation == label, truth == label
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def surface_distance(a: np.ndarray, b: np.ndarray, spacing: Sequence[float] | np.ndarray) -> float | None:
    """Compute the mean distance of two masks' surfaces, in mm, both ways: from a border voxel to the nearest other one.

    Args:
        a, b: Masks (z, y, x) of one shape.
        spacing: Of the voxels in mm, (z, y, x).

    Returns:
        At least 0; None where a mask is empty.
    """
    if not (a.any() and b.any()):
        return None
    box = occupied(a | b)
    borders = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b)]
    away_from_a, away_from_b = (ndimage.distance_transform_edt(~border, spacing) for border in borders)
    return float(np.concatenate([away_from_b[borders[0]], away_from_a[borders[1]]]).mean())


def error_split(segmentation: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where the labels differ, and where that error is thicker than one voxel: two bool arrays (z, y, x).

    Thick is every error voxel in some block of 2 x 2 x 2 error voxels (a morphological opening): a layer of one voxel
    along a border, on a plane or a staircase, has no such block. Raises `ImageError` if the shapes differ.
    """
    _check_shapes(segmentation, truth)
    error = segmentation != truth
    return error, ndimage.binary_opening(error, np.ones((2, 2, 2), bool))


def error_fraction(prediction: Prediction, regions: Regions, truth: np.ndarray) -> dict[str, float | None]:
    """Measure how much of the segmentation's true error lies inside the doubtful regions; raises `ImageError`.

    `error_mm3` and `thick_error_mm3` are volumes, `error_fraction` and `thick_error_fraction` their fractions inside
    the regions (None where there is no such error), `regions_mm3` is the volume to review.
    """
    error, thick = error_split(prediction.segmentation, truth)
    inside = regions.map > 0
    voxel = prediction.grid.voxel_mm3
    result: dict[str, float | None] = {"regions_mm3": voxel * int(inside.sum())}
    for name, mask in (("error", error), ("thick_error", thick)):
        count = int(mask.sum())
        result[f"{name}_mm3"] = voxel * count
        result[f"{name}_fraction"] = int((mask[regions.box] & inside).sum()) / count if count else None
    return result


def _check_shapes(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        sizes = " and ".join(" x ".join(map(str, reversed(one.shape))) for one in (a, b))
        raise ImageError(f"The segmentations to compare differ in size: {sizes} voxels.")
