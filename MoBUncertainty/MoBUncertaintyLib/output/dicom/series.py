"""The DICOM files of a CT: where each slice lies, and a volume's voxels in the slices' order. Headers only, no pixels.

Voxels are never resampled: they are reordered, however the volume's axes are permuted or flipped against the slices,
and a volume that does not lie on them is refused. Positions are LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from pydicom.valuerep import DSfloat

from MoBUncertaintyLib.base.errors import ImageError, OutputError
from MoBUncertaintyLib.images.dicom import MAX_SHIFT, places_of
from MoBUncertaintyLib.output.dicom.headers import NEEDED, read_header

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TOLERANCE = 0.1  # of the smallest side of a voxel: positions in files are rounded
_ANGLE = 1e-3  # of a direction cosine


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one series.

    Attributes:
        datasets: Headers: one for each slice, in the order of their positions, or a single one with all frames.
        orientation: Directions along a row, along a column and of their normal, as columns.
        spacing: Between the pixels of a row and of a column.
        size: Pixels in a row and in a column.
        positions: Of the first pixel of each slice, in the order of `datasets` or, of a single one, of its frames.
        left_out: Keywords of fields that the files state as DICOM does not allow.
    """

    datasets: list[Dataset]
    orientation: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    positions: np.ndarray
    left_out: tuple[str, ...] = ()

    def frames(self, image: sitk.Image) -> np.ndarray:
        """Return the voxels of an image as (frame, row, column); a view into the image where it is so already.

        Raises:
            OutputError: The image does not lie on the slices.
        """
        # Cosines between the series' axes (rows) and the image's (columns): 1 or -1 where one is along the other.
        cosines = self.orientation.T @ np.reshape(image.GetDirection(), (3, 3))
        signs = np.round(cosines)
        if not (np.abs(cosines - signs).max() < _ANGLE and (np.abs(signs).sum(0) == 1).all()):
            raise _mismatch("its axes are turned against the slices")
        axes = np.abs(signs).argmax(1)
        backwards = signs.sum(1) < 0
        size, spacing = np.array(image.GetSize())[axes], np.array(image.GetSpacing())[axes]
        corner = np.zeros(3, int)
        corner[axes] = np.where(backwards, size - 1, 0)
        order = self._match(np.array(image.TransformIndexToPhysicalPoint(corner.tolist())), size, spacing)
        # Axis a of an image is axis 2 - a of its array.
        array = sitk.GetArrayViewFromImage(image).transpose([2 - axis for axis in reversed(axes)])
        array = array[tuple(slice(None, None, -1 if back else 1) for back in reversed(backwards))]
        return array if (np.diff(order) == 1).all() else array[order]

    def _match(self, start: np.ndarray, size: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Compare a volume's grid, its axes turned as ours, with the slices; the place in it of each slice."""
        if tuple(size[:2]) != self.size:
            ours = "{} x {}".format(*self.size)
            raise _mismatch(f"its slices have {size[0]} x {size[1]} pixels, the files' have {ours}")
        if size[2] != len(self.positions):
            raise _mismatch(f"it has {size[2]} slices, the files {len(self.positions)}")
        heights = self.positions @ self.orientation[:, 2]
        order = np.argsort(np.argsort(heights, kind="stable"))
        expected = start + order[:, None] * spacing[2] * self.orientation[:, 2]
        away = expected - self.positions
        beside = away - np.outer(away @ self.orientation[:, 2], self.orientation[:, 2])
        if np.linalg.norm(beside - beside[order == 0], axis=1).max() <= MAX_SHIFT:
            # So they were stacked straight when they were read, and each has its own voxels; where the first is counts.
            away = away - beside + beside[order == 0]
        # Of the in-plane spacing the last pixel counts, where small differences have added up.
        off = max(np.abs(away).max(), (np.abs(spacing[:2] - self.spacing) * size[:2]).max())
        if not off < TOLERANCE * spacing.min():
            raise _mismatch("its voxels lie elsewhere, or slices are missing or unevenly spaced")
        return order


def read_series(files: Sequence[str | Path] | DicomSeries) -> DicomSeries:
    """Read the headers of a CT's DICOM files: all of its slices, or the one file of an enhanced CT.

    Args:
        files: In any order; or the series itself, which was read before.

    Raises:
        ImageError: One cannot be read or lacks what a derived object must repeat; they are not one series of parallel
            slices of one size.
    """
    if isinstance(files, DicomSeries):
        return files
    headers = [read_header(Path(file)) for file in files]
    datasets = [dataset for dataset, _ in headers]
    for file, dataset in zip(files, datasets, strict=True):
        if missing := next((name for name in NEEDED if not dataset.get(name)), None):
            raise ImageError(f"{file} has no {missing}, which results in DICOM must repeat; export as NRRD.")
    if not datasets:
        raise ImageError("There are no DICOM files of this image; export as NRRD, or load it from its DICOM series.")
    if len({dataset.SeriesInstanceUID for dataset in datasets}) > 1:
        raise ImageError("The DICOM files belong to several series; give those of the image's series alone.")
    enhanced = any("NumberOfFrames" in dataset for dataset in datasets)
    if enhanced and len(datasets) > 1:
        raise ImageError("The image lies in several multi-frame DICOM files; export as NRRD.")
    try:
        planes = [place[:3] for dataset in datasets for place in places_of(dataset)]
        sizes = {(int(dataset.Columns), int(dataset.Rows)) for dataset in datasets}
        cosines, positions, spacings = (np.array(values, dtype=float) for values in zip(*planes, strict=True))
        rows, columns = np.moveaxis(cosines.reshape(-1, 2, 3), 1, 0)
    except (ImageError, AttributeError, TypeError, ValueError) as error:
        raise ImageError("The DICOM files do not say where their slices lie; export as NRRD.") from error
    if len(sizes) > 1 or np.ptp(cosines, axis=0).max() > _ANGLE or np.ptp(spacings, axis=0).max() > 1e-3:
        raise ImageError("The slices of the DICOM series differ in size, direction or spacing; export as NRRD.")
    orientation = np.stack([rows[0], columns[0], np.cross(rows[0], columns[0])], axis=1)
    if not enhanced:
        order = np.argsort(positions @ orientation[:, 2], kind="stable")
        datasets, positions = [datasets[index] for index in order], positions[order]
        _state_distances(datasets, positions)
    left_out = tuple(dict.fromkeys(name for _, names in headers for name in names))
    spacing = spacings[0][1], spacings[0][0]
    return DicomSeries(datasets, orientation, spacing, sizes.pop(), positions, left_out)


def _state_distances(datasets: list[Dataset], positions: np.ndarray) -> None:
    """State thickness and distance of slices, which derived objects copy and files may lack or state wrongly."""
    distance = float(np.linalg.norm(positions[-1] - positions[0])) / max(len(positions) - 1, 1)
    for dataset in datasets:
        if not dataset.get("SliceThickness"):
            dataset.SliceThickness = DSfloat(distance, auto_format=True)
        dataset.SpacingBetweenSlices = DSfloat(distance, auto_format=True)


def _mismatch(reason: str) -> OutputError:
    return OutputError(f"The volume does not lie on the slices of the image's DICOM files ({reason}); export as NRRD.")
