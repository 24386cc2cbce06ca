"""True axial, coronal and sagittal planes of the patient, sampled out of a volume by each pixel's place in space.

So flipped, permuted, oblique and anisotropic volumes come out right. Patient's right is on the left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.geometry import Box, intersection, whole, within

_AIR = -1024.0


@dataclass(frozen=True)
class Plane:
    """A plane of the patient: where columns and rows run to (LPS), and the letters at left, right, top and bottom."""

    name: str
    right: tuple[int, int, int]
    down: tuple[int, int, int]
    letters: str

    @property
    def normal(self) -> int:
        """The axis, of L, P and S, that runs through the plane."""
        return 3 - int(np.abs(self.right).argmax()) - int(np.abs(self.down).argmax())

    def title(self, point: np.ndarray) -> str:
        """Its name and where it is if it goes through a point (LPS mm): `axial, S 33.0 mm`."""
        place = float(point[self.normal])
        return f"{self.name}, {('LR', 'PA', 'SI')[self.normal][int(place < 0)]} {abs(place):.1f} mm"


PLANES = (
    Plane("axial", (1, 0, 0), (0, 1, 0), "RLAP"),
    Plane("coronal", (1, 0, 0), (0, 0, -1), "RLSI"),
    Plane("sagittal", (0, 1, 0), (0, 0, -1), "APSI"),
)


def extent(image: sitk.Image, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest coordinates (LPS mm) of a box of voxels, from outer corner to outer corner."""
    ends = np.array([(part.start, part.stop) for part in box[::-1]]) - 0.5
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.array([image.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners])
    return points.min(axis=0), points.max(axis=0)


def central_voxel(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Find the voxel of a mask nearest to its centroid, which can lie outside of it; (z, y, x)."""
    voxels = np.argwhere(mask)
    distance = (((voxels - voxels.mean(axis=0)) * spacing) ** 2).sum(axis=1)
    return np.asarray(voxels[np.argmin(distance)])


class Camera:
    """Samples three planes through a focus, of the part `box` of the volume that is seen.

    The `middle` (LPS mm, as the focus) should lie in the middle of square pictures, `width` mm wide; no more beyond the
    volume is shown than must be.
    """

    def __init__(self, image: sitk.Image, focus: np.ndarray, middle: np.ndarray, width: float, pixels: int) -> None:
        low, high = extent(image, whole(image.GetSize()[::-1]))
        self.width = min(width, float((high - low).max()))
        inner = np.minimum(self.width / 2, (high - low) / 2)
        self.focus, self.middle, self.pixels = focus, np.clip(middle, low + inner, high - inner), pixels
        self._image = image
        self.box = _surroundings(image, self.middle, self.width)
        # Only looked at: a filter would share the image's voxels while other threads look at them, too.
        voxels = sitk.GetArrayViewFromImage(image)[self.box]
        self.image_sections = [self._section(voxels, self.box, plane, _AIR) for plane in PLANES]

    def sections(self, values: np.ndarray, box: Box) -> list[np.ndarray]:
        """Sample values of a box of the volume in each of `PLANES`, 0 beyond the box."""
        return [self._section(values, box, plane, 0.0) for plane in PLANES]

    def pixel(self, plane: Plane, point: np.ndarray | None = None) -> tuple[float, float]:
        """Column and row of a point (LPS mm), of the focus if not given."""
        away = ((self.focus if point is None else point) - self.middle) / self._step
        middle = (self.pixels - 1) / 2
        return middle + float(away @ plane.right), middle + float(away @ plane.down)

    @property
    def _step(self) -> float:
        return self.width / self.pixels

    def _section(self, values: np.ndarray, box: Box, plane: Plane, outside: float) -> np.ndarray:
        right, down = np.array(plane.right, float), np.array(plane.down, float)
        middle = self.middle.copy()
        middle[plane.normal] = self.focus[plane.normal]
        corner = middle - (self.pixels - 1) / 2 * self._step * (right + down)
        direction = np.stack([right, down, np.cross(right, down)], axis=1)
        side = (self.pixels - 1) * self._step
        ends = [corner + a * side * right + b * side * down for a in (0, 1) for b in (0, 1)]
        near = intersection(_around(self._image, ends), box)  # a few voxels on each side of the plane
        if near is None:
            return np.full((self.pixels, self.pixels), outside, np.float32)
        part = sitk.GetImageFromArray(np.ascontiguousarray(values[within(near, box)], np.float32))
        part.SetSpacing(self._image.GetSpacing())
        part.SetDirection(self._image.GetDirection())
        part.SetOrigin(self._image.TransformIndexToPhysicalPoint([int(side.start) for side in near[::-1]]))
        section = sitk.Resample(
            part,
            [self.pixels, self.pixels, 1],
            sitk.Transform(),
            sitk.sitkLinear,
            corner.tolist(),
            [self._step] * 3,
            direction.ravel().tolist(),
            outside,
        )
        return np.asarray(sitk.GetArrayFromImage(section)[0])


def _surroundings(image: sitk.Image, middle: np.ndarray, width: float) -> Box:
    """Find the box of voxels that holds a cube about a point, as far as the volume goes."""
    corners = middle + width / 2 * (np.indices((2, 2, 2)).reshape(3, 8).T * 2 - 1)
    box = []
    for part, size in zip(_around(image, corners), image.GetSize()[::-1], strict=True):
        start = min(max(part.start, 0), size - 1)
        box.append(slice(start, max(min(part.stop, size), start + 1)))
    return tuple(box)


def _around(image: sitk.Image, points: Iterable[np.ndarray]) -> Box:
    """Find the box that holds points (LPS mm) and a voxel around them; it may reach beyond the volume."""
    index = np.array([image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in points])[:, ::-1]
    ends = zip(np.floor(index.min(axis=0)), np.ceil(index.max(axis=0)), strict=True)
    return tuple(slice(int(low) - 1, int(high) + 2) for low, high in ends)
