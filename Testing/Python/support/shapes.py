"""What two tests of regions measure by brute force."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist


def farthest_corners(points, spacing):
    """Largest distance between corners of the voxels at `points` (N, 3), in mm; brute force over the convex hull."""
    corners = (points[:, None] + np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, 8).T * spacing).reshape(-1, 3)
    outer = corners[ConvexHull(corners).vertices]
    return cdist(outer, outer).max()
