"""Shapes for the phantom: signed distances (mm, negative inside) on a grid, and smooth random fields.

Positions are RAS in mm (x to the patient's right, y anterior, z superior), the origin in the middle of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FAR = 30.0  # mm; a tube's distance is not computed beyond this: nothing asks for more
FloatArray = np.ndarray


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a volume, axis by axis; its extent and spacing are (x, y, z) in mm."""

    extent: tuple[float, float, float]
    spacing: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (x, y, z)."""
        x, y, z = (max(1, round(e / s)) for e, s in zip(self.extent, self.spacing, strict=True))
        return x, y, z

    @property
    def axes(self) -> list[FloatArray]:
        """RAS coordinate in mm of the voxel centres along x, y and z."""
        return [
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s)
            for n, s in zip(self.size, self.spacing, strict=True)
        ]

    def points(self) -> FloatArray:
        """Return the RAS coordinates in mm, shape (3, z, y, x), float32."""
        x, y, z = self.axes
        zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
        return np.stack([xx, yy, zz])

    def smooth_noise(self, rng: np.random.Generator, scale: float) -> FloatArray:
        """Draw a smooth random field of variance about 1, float32, (z, y, x): the same field whatever the spacing.

        A cubic spline joins random knots that are `scale` mm apart.
        """
        weights = []
        for coordinates, extent in zip(self.axes, self.extent, strict=True):
            knots = int(np.ceil(extent / scale)) + 3
            positions = coordinates / scale + (knots - 1) / 2
            weights.append(CubicSpline(np.arange(knots), np.eye(knots))(positions).astype(np.float32))
        wx, wy, wz = weights
        field = rng.standard_normal((wz.shape[1], wy.shape[1], wx.shape[1]), dtype=np.float32)
        field = np.tensordot(field, wx, axes=(2, 1))
        field = np.tensordot(field, wy, axes=(1, 1)).transpose(0, 2, 1)
        return 1.3 * np.tensordot(wz, field, axes=(1, 0))  # interpolation between knots loses variance: (1 / 1.3)^2


def ellipsoid(points: FloatArray, centre: tuple[float, ...], radii: tuple[float, ...]) -> FloatArray:
    """Approximate the signed distance in mm to an ellipsoid (exact at its surface to first order)."""
    scaled = np.zeros(points.shape[1:], np.float32)
    gradient = np.zeros(points.shape[1:], np.float32)
    for coordinate, c, r in zip(points, centre, radii, strict=True):
        square = ((coordinate - np.float32(c)) / np.float32(r)) ** 2
        scaled += square
        gradient += square / np.float32(r * r)
    k = np.sqrt(scaled)
    return k * (k - 1) / np.maximum(np.sqrt(gradient), 1e-6)


@dataclass(frozen=True, eq=False)
class Tube:
    """A tube along a smooth curve: points of its axis, (n, 3), RAS mm, dense, and its radius in mm at each, (n,)."""

    line: FloatArray
    radius: FloatArray

    @classmethod
    def through(cls, knots: ArrayLike, radii: ArrayLike, samples: int = 160) -> Tube:
        """Make a tube through `knots` (k, 3) in RAS mm with the radii (mm) `radii` (k,), or a constant radius."""
        line = np.asarray(knots, float)
        steps = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
        at = np.linspace(0, steps[-1], samples)
        radius = np.broadcast_to(np.asarray(radii, float), len(line))
        return cls(CubicSpline(steps, line)(at), np.interp(at, steps, radius))

    def distance(self, points: FloatArray) -> FloatArray:
        """Compute the signed distance in mm to the tube's surface, shape of `points[0]`, clipped at `FAR`."""
        reach = self.radius.max() + FAR
        lower, upper = self.line.min(0) - reach, self.line.max(0) + reach
        near = np.ones(points.shape[1:], bool)
        for coordinate, low, high in zip(points, lower, upper, strict=True):
            near &= (coordinate > low) & (coordinate < high)
        result = np.full(points.shape[1:], FAR, np.float32)
        away, index = cKDTree(self.line).query(points[:, near].T, distance_upper_bound=reach)
        reached = np.isfinite(away)
        values = np.full(away.shape, FAR)
        values[reached] = np.minimum(FAR, away[reached] - self.radius[index[reached]])
        result[near] = values
        return result
