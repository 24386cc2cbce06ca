"""Read RT Structure Sets: contours of planning systems, as masks on the image that they were drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, require
from MoBUncertaintyLib.images.dicom import parsing

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_TILT = 0.1
"""Of the distance between slices: how far points may lie from the plane of their contour, and contours from it."""


def contours_of(dataset: Dataset, path: Path, frame_of_reference: str) -> dict[str, list[np.ndarray]]:
    """Return the closed contours of an RT Structure Set, (n, 3) LPS mm each, by the name of their region of interest.

    Regions without closed contours are left out. The frame of reference is not compared where it is empty.

    Raises:
        ImageError: The file is damaged, two of its regions have one name, or its contours lie in another frame of
            reference.
    """
    with parsing(path):
        names = {int(item.ROINumber): item for item in dataset.StructureSetROISequence}
        regions: dict[str, list[np.ndarray]] = {}
        for region in dataset.get("ROIContourSequence", []):
            item = names[int(region.ReferencedROINumber)]
            contours = [np.reshape(c.ContourData, (-1, 3)).astype(float) for c in _closed(region)]
            if not contours:
                continue
            require(all(np.isfinite(points).all() for points in contours), "a point is not finite")
            name, frame = str(item.ROIName), str(item.get("ReferencedFrameOfReferenceUID") or "")
            if name in regions:
                raise ImageError(f"{path} has two ROIs called {name!r}; rename one of them.")
            if frame_of_reference and frame and frame != frame_of_reference:
                raise ImageError(
                    f"{path} has a different frame of reference from the image; give the image that it was drawn on."
                )
            regions[name] = contours
    return regions


def _closed(region: Dataset) -> Iterator[Dataset]:
    """Yield the contours that enclose something."""
    for contour in region.get("ContourSequence", []):
        if contour.ContourGeometricType in _CLOSED and len(contour.ContourData) >= 9:
            yield contour


def fill(contours: Sequence[np.ndarray], image: sitk.Image, what: str) -> np.ndarray:
    """Fill closed contours (n, 3; LPS mm) of a region on an image's voxels, bool (z, y, x).

    Where contours of one slice lie within each other, what is inside an even number of them is a hole (even-odd rule).
    A slice of the image gets the contours of the nearest plane that is at most half the distance of the region's planes
    away: contours may be drawn on other slices than the image's, or on every other one. Raises `ImageError`, which says
    `what` they are, if they are oblique to the slices.
    """
    from skimage.draw import polygon  # which Slicer's Python may lack until contours are wanted

    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    indices = [np.linalg.solve(matrix, (points - image.GetOrigin()).T)[::-1].T for points in contours]  # z, y, x
    axis = int(np.argmin(np.max([np.ptp(points, axis=0) for points in indices], axis=0)))
    planes: dict[float, list[np.ndarray]] = {}
    plane = -np.inf
    for height, points in sorted(
        ((float(points[:, axis].mean()), points) for points in indices), key=lambda one: one[0]
    ):
        if np.ptp(points[:, axis]) > 2 * _TILT:
            raise ImageError(f"{what} has contours that are oblique to the slices; give the image it was drawn on.")
        if height - plane > _TILT:
            plane = height
        planes.setdefault(plane, []).append(np.delete(points, axis, axis=1))
    mask = np.zeros(image.GetSize()[::-1], bool)
    heights = np.array(list(planes))
    reach = max(1.0, float(np.median(np.diff(heights)))) / 2 if len(heights) > 1 else 0.5
    slices = np.moveaxis(mask, axis, 0)
    for index, slice_ in enumerate(slices):
        nearest = heights[np.abs(heights - index).argmin()]
        if abs(nearest - index) <= reach:
            for points in planes[nearest]:
                slice_[polygon(points[:, 0], points[:, 1], slice_.shape)] ^= True
    return mask
