"""Read a planned dose in Gy, on the voxels of an image: DICOM RT Dose, or a volume file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import RTDoseStorage

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.base.input_files import BoundedReader, begins_as_dicom, check_regular, reading
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.dicom import frame_of_reference, parsing
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.images.reader import check_geometry, read_volume
from MoBUncertaintyLib.images.volume_headers import is_volume_name

HIGHEST_GY = 1000.0
"""More is hardly a dose in Gy, but one in cGy, or stored numbers without their scale."""
_EVEN = 0.01  # mm by which distances of frames may differ: files hold rounded numbers


def read_dose(path: str | Path, image: sitk.Image, files: Sequence[Path] = ()) -> np.ndarray:
    """Read a dose, and interpolate it linearly on the image's voxels: Gy, float32 (z, y, x), NaN beyond the dose.

    `files` are those that the image was read from: if they are DICOM, the frame of reference must be the same.

    Raises:
        ImageError: It cannot be read, is no dose in Gy of a whole plan, has another frame of reference, or lies beyond
            the image.

    Example:
        >>> from MoBUncertaintyLib import read_dose, read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> read = read_image(RESOURCES / "SampleData" / "HeadNeckCT.nii.gz")
        >>> gray = read_dose(RESOURCES / "SampleData" / "HeadNeckCT-dose.nii.gz", read.image, read.files)
        >>> gray.shape, f"{gray.max():.1f} Gy"
        ((125, 81, 128), '75.5 Gy')
    """
    path = Path(path)
    check_regular(path)
    with reading([path]):
        if is_volume_name(path.name) or not begins_as_dicom(path):
            dose = read_volume(path)
        else:
            dose = _read_rtdose(path, frame_of_reference(files))
    return place_dose(dose, image, path.name)


def place_dose(dose: sitk.Image, image: sitk.Image, name: str) -> np.ndarray:
    """Interpolate a dose in Gy, of which messages give the name, on an image's voxels; as for `read_dose`."""
    if dose.GetDimension() != 3 or dose.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError(f"{name} is no dose, which has one number for each voxel of a volume; give one, in Gy.")
    check_geometry(dose.GetSpacing(), dose.GetOrigin(), dose.GetDirection())
    values = sitk.GetArrayViewFromImage(dose)
    if not np.isfinite(values).all() or values.min() < 0 or not 0 < values.max() <= HIGHEST_GY:
        raise ImageError(
            f"{name} is no dose in Gy (its values are {values.min():g} to {values.max():g}); export it in Gy."
        )
    dose = sitk.Cast(dose, sitk.sitkFloat32)
    if not on_same_grid(dose, image):
        dose = sitk.Resample(dose, image, sitk.Transform(), sitk.sitkLinear, np.nan, sitk.sitkFloat32)
    gray: np.ndarray = sitk.GetArrayFromImage(dose)
    if np.isnan(gray).all():
        raise ImageError(f"{name} lies beyond the image; give the dose of the plan on this image.")
    return gray


def _read_rtdose(path: Path, frame: str) -> sitk.Image:
    """Read the grid and the doses of a DICOM RT Dose."""
    with parsing(path):
        with BoundedReader(path) as file:
            stored = pydicom.dcmread(file)
        if stored.get("SOPClassUID") != RTDoseStorage:
            raise ImageError(f"{path.name} is no DICOM RT Dose; give the file of the planned dose.")
        if stored.DoseUnits != "GY" or stored.DoseType not in ("PHYSICAL", "EFFECTIVE"):
            kind = f"{stored.DoseType} {stored.DoseUnits}".lower()
            raise ImageError(f"{path.name} holds no dose in Gy ({kind}); export the dose in Gy.")
        if stored.DoseSummationType not in ("PLAN", "MULTI_PLAN", "PLAN_OVERVIEW"):
            part = stored.DoseSummationType.lower()
            raise ImageError(f"{path.name} is not the dose of a whole plan ({part}); export that of the plan.")
        own = str(stored.get("FrameOfReferenceUID") or "")
        if frame and own != frame:
            raise ImageError(f"{path.name} has another frame of reference than the image; give the dose planned on it.")
        row, column = np.reshape(stored.ImageOrientationPatient, (2, 3)).astype(float)
        normal, position = np.cross(row, column), np.array(stored.ImagePositionPatient, float)
        heights = np.array(stored.GridFrameOffsetVector, float)
        if heights[0]:  # positions along the patient's axis, not distances from the first frame
            heights = (heights - heights[0]) * np.sign(normal[2])
        order = np.argsort(heights)
        steps = np.diff(heights[order])
        if not steps.size or steps.min() <= 0 or np.ptp(steps) > _EVEN:
            raise ImageError(f"{path.name} has frames at uneven distances; export the dose on an even grid.")
        gray = stored.pixel_array[order] * float(stored.DoseGridScaling)
        spacing = np.array([steps.mean(), *stored.PixelSpacing], float)
        axes = LPS_TO_RAS[:, None] * np.stack([normal, column, row], axis=1)
        origin = LPS_TO_RAS * (position + heights[order][0] * normal)
        return image_on(Grid(spacing, axes, origin), gray.astype(np.float32))
