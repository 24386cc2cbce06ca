"""The outline of a mask, and the set around it in which the true surface is expected to lie (see `margin`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.geometry import Box, occupied, widened

_ROUNDING_MM = 1e-6


def outline(mask: np.ndarray) -> np.ndarray:
    """Mark the voxels of a mask that touch what is outside of it, (z, y, x) bool."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def around(mask: np.ndarray, spacing: Sequence[float] | np.ndarray, margin_mm: float) -> tuple[Box, np.ndarray]:
    """Mark the voxels that lie within a margin of the outline, measured as `SurfaceLoss` is.

    Args:
        mask: (z, y, x) bool.
        spacing: Of the voxels, mm.
        margin_mm: Distance from the outline.

    Returns:
        A box of the array, and what is marked in it; a voxel that is not marked, if the mask is empty.
    """
    spacing = np.asarray(spacing, float)
    box = widened(occupied(mask), np.ceil(margin_mm / spacing).tolist(), mask.shape)
    edge = outline(mask[box])
    if not edge.any():
        return box, edge
    return box, np.asarray(ndimage.distance_transform_edt(~edge, spacing) <= margin_mm + _ROUNDING_MM)
