"""Predictions of a ball whose border is blurred in places, and what is measured of regions by brute force."""

from dataclasses import replace

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist
from scipy.special import expit

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from support.fake_case import PANCREAS

BERNOULLI = RegionSettings(measure=Measure.BERNOULLI)


STRAIGHT = tuple(np.eye(3).ravel())


def prediction(
    probability, variance=None, segmentation=None, spacing=(2.0, 2.0, 2.0), origin=(0.0, 0.0, 0.0), direction=STRAIGHT
):
    """A prediction of an array (z, y, x), or (C - 1, z, y, x), on a grid that is given as images have it (LPS)."""
    p = np.asarray(probability, np.float32)
    p = p if p.ndim == 4 else p[None]
    lps_to_ras = LPS_TO_RAS[:, None] * np.asarray(direction, float).reshape(3, 3)[:, ::-1]
    grid = Grid(np.array(spacing, float)[::-1], lps_to_ras, LPS_TO_RAS * origin)
    labels = tuple(replace(PANCREAS, value=value, name=f"organ {value}") for value in range(1, len(p) + 1))
    variance = 0.6 * p * (1 - p) if variance is None else variance
    segmentation = (p[0] > 0.5).astype(np.uint8) if segmentation is None else segmentation
    return Prediction(segmentation, p, variance, grid, labels)


def ras_grid(size, spacing, origin, direction):
    """RAS mm (z, y, x, 3) of every voxel."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    lps = np.asarray(origin) + (index * spacing) @ np.asarray(direction).reshape(3, 3).T
    return lps * (-1, -1, 1)


def anatomy(ras, zones=((28.0, 0.0, 0.0),), width=5.0, reach=7.0):
    """A ball of 28 mm at the origin, its border 0.8 mm and `width` mm in zones of `reach` mm on its surface."""
    distance = np.linalg.norm(ras, axis=-1) - 28
    closest = np.min([np.linalg.norm(ras - np.asarray(zone), axis=-1) for zone in zones], axis=0)
    return expit(-distance / (0.8 + (width - 0.8) * np.exp(-0.5 * (closest / (reach / 2)) ** 2)))


def ball(zones=((28.0, 0.0, 0.0),), size=(44, 44, 44), spacing=(2.0, 2.0, 2.0), direction=STRAIGHT, **shape):
    """A prediction of `anatomy` on a grid centred at the origin."""
    half = (np.array(size) - 1) * spacing / 2
    origin = -np.asarray(direction).reshape(3, 3) @ half
    geometry = {"spacing": spacing, "origin": origin.tolist(), "direction": list(np.asarray(direction, float))}
    return prediction(anatomy(ras_grid(size, **geometry), zones, **shape), **geometry)


def farthest_corners(points, spacing):
    """Largest distance between corners of the voxels at `points` (N, 3), in mm; brute force over the convex hull."""
    corners = (points[:, None] + np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, 8).T * spacing).reshape(-1, 3)
    outer = corners[ConvexHull(corners).vertices]
    return cdist(outer, outer).max()
