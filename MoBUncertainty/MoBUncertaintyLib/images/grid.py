"""Arrays on a grid, and SimpleITK images of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid


class Volume(NamedTuple):
    """What a file, or a series of them, holds: voxels (z, y, x), DICOM's term for it, sentences for the user."""

    voxels: np.ndarray
    grid: Grid
    modality: str | None
    warnings: list[str]

    def image(self) -> sitk.Image:
        """Make an image; raises `ImageError` if the grid is flat."""
        try:
            return image_on(self.grid, self.voxels)
        except RuntimeError as error:
            raise ImageError("The image has a spacing or direction of 0; export it again.") from error


def grid_of(image: sitk.Image) -> Grid:
    """Return the grid on which an image's voxels lie; of four axes, that of the first three."""
    axes = np.reshape(image.GetDirection(), (image.GetDimension(), -1))[:3, 2::-1]
    spacing, origin = np.array(image.GetSpacing())[2::-1], image.GetOrigin()[:3]
    return Grid(spacing, LPS_TO_RAS[:, None] * axes, LPS_TO_RAS * origin)


def image_on(grid: Grid, array: np.ndarray) -> sitk.Image:
    """Make an image of a copy of an array (z, y, x), or (z, y, x, components), on a grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(LPS_TO_RAS * grid.origin)
    image.SetDirection((LPS_TO_RAS[:, None] * grid.rotation[:, ::-1]).ravel())
    return image
