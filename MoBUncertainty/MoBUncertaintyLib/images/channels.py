"""Bring the images of a case, one for each input channel of a model, onto one grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.images.reader import check_image

SAME_GRID = 0.1  # of a voxel, by which corners of two images on one grid may lie apart: headers are rounded


def aligned(images: Mapping[str, sitk.Image], grid: sitk.Image) -> tuple[dict[str, sitk.Image], list[str]]:
    """Check images, by channel, and resample those on another grid; return them, and sentences for the user.

    Raises `ImageError` if one cannot be used, or does not overlap the grid.
    """
    checked, warnings = {}, []
    for name, image in images.items():
        try:
            checked[name], notes = check_image(image)
        except ImageError as error:
            raise ImageError(f"The image of {printable(name)}: {error}") from error
        warnings += [f"The image of {printable(name)}: {note}" for note in notes]
        if not on_same_grid(checked[name], grid):
            checked[name], covered = _resampled(checked[name], grid)
            if not covered:
                raise ImageError(
                    f"The image of {printable(name)} does not overlap the first image; check that both show the same "
                    "patient in the same position."
                )
            part = "" if covered > 0.99 else f", of which it covers {percent(covered)}"
            warnings.append(
                f"The image of {printable(name)} has a different grid; it was resampled to the first image's{part}."
            )
    return checked, warnings


def on_same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether the voxels of two images lie in the same places, as far as headers tell."""
    if one.GetSize() != other.GetSize():
        return False
    corners = itertools.product(*((0, size - 1) for size in one.GetSize()))
    places = [[image.TransformIndexToPhysicalPoint(corner) for image in (one, other)] for corner in corners]
    apart = [np.subtract(*pair) for pair in places]
    return bool(np.linalg.norm(apart, axis=1).max() <= SAME_GRID * min(other.GetSpacing()))


def _resampled(image: sitk.Image, grid: sitk.Image) -> tuple[sitk.Image, float]:
    """Interpolate linearly; what lies outside the image gets its smallest value. Returns the fraction inside too."""
    smallest = float(sitk.GetArrayViewFromImage(image).min())
    moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, np.nan, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(moved)
    outside = np.isnan(values)
    values[outside] = smallest
    filled = sitk.GetImageFromArray(values)
    filled.CopyInformation(grid)
    return filled, 1 - float(outside.mean())
