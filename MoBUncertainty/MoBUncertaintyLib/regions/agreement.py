"""A segmentation against a truth: Dice, and how much of the error lies inside doubtful regions."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.regions.finder import Regions


def dice(segmentation: sitk.Image, truth: sitk.Image, label: int = 1) -> float:
    """Dice overlap of one label; 1 where neither image has it.

    Raises:
        ImageError: The images differ in size.
    """
    a, b = (array == label for array in _arrays(segmentation, truth))
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def error_split(segmentation: sitk.Image, truth: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Where the labels differ, and where that error is thicker than one voxel.

    Thick is every error voxel that belongs to some block of 2 x 2 x 2 error voxels (a morphological opening): a layer
    of one voxel along a border, on a plane or a staircase, has no such block.

    Returns:
        Two bool arrays (z, y, x), the second part of the first.

    Raises:
        ImageError: The images differ in size.
    """
    a, b = _arrays(segmentation, truth)
    error = a != b
    return error, ndimage.binary_opening(error, np.ones((2, 2, 2), bool))


def error_fraction(regions: Regions, segmentation: sitk.Image, truth: sitk.Image) -> dict[str, float | None]:
    """How much of the segmentation's true error lies inside the doubtful regions.

    Returns:
        `error_mm3` and `thick_error_mm3`, the volumes; `error_fraction` and `thick_error_fraction`, the fractions of
        them inside the regions (None where there is no such error); `regions_mm3`, the volume to be looked at.

    Raises:
        ImageError: The images differ in size.
    """
    error, thick = error_split(segmentation, truth)
    inside, _ = _arrays(regions.labels, segmentation)
    inside = inside > 0
    voxel = float(np.prod(segmentation.GetSpacing()))
    result: dict[str, float | None] = {"regions_mm3": voxel * int(inside.sum())}
    for name, mask in (("error", error), ("thick_error", thick)):
        count = int(mask.sum())
        result[f"{name}_mm3"] = voxel * count
        result[f"{name}_fraction"] = int((mask & inside).sum()) / count if count else None
    return result


def _arrays(a: sitk.Image, b: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    if a.GetSize() != b.GetSize():
        raise ImageError(f"The images to compare differ in size: {a.GetSize()} and {b.GetSize()} voxels.")
    return sitk.GetArrayViewFromImage(a), sitk.GetArrayViewFromImage(b)
