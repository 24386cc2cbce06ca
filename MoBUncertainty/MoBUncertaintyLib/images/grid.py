"""SimpleITK images as arrays on a grid, and back."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid


def grid_of(image: sitk.Image) -> Grid:
    """Return the grid on which an image's voxels lie."""
    rotation = LPS_TO_RAS[:, None] * np.array(image.GetDirection()).reshape(3, 3)[:, ::-1]
    return Grid(np.array(image.GetSpacing())[::-1], rotation, LPS_TO_RAS * image.GetOrigin())


def image_on(grid: Grid, array: np.ndarray) -> sitk.Image:
    """Make an image of a copy of an array (z, y, x), or (z, y, x, components), on a grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(LPS_TO_RAS * grid.origin)
    image.SetDirection((LPS_TO_RAS[:, None] * grid.rotation[:, ::-1]).ravel())
    return image
