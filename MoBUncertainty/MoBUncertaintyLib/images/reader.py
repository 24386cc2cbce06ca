"""Read and check the input: one scalar 3D volume with sane geometry, or an `ImageError` that says what to do.

Volumes are SimpleITK images; their arrays are (z, y, x); spacing is in mm, origin and direction in LPS mm. SimpleITK
reads volume files once `volume_files` has found all of their voxels intact; `images.dicom` reads DICOM. Nothing else
in the program opens an image of a user: what is read here is the file of that very name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import begins_as_dicom, digest_of_file, digest_of_series, unchanged
from MoBUncertaintyLib.base.names import is_unicode, printable
from MoBUncertaintyLib.images import memory
from MoBUncertaintyLib.images.code_pages import read_by_itk
from MoBUncertaintyLib.images.hounsfield import AIR_HU, HOUNSFIELD_BELOW
from MoBUncertaintyLib.images.modality import modality_of, set_modality
from MoBUncertaintyLib.images.volume_files import check_voxels
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES, VolumeHeader, is_volume_name, read_header

# Finer than any clinical CT, or a header in other units than mm; coarser than any organ can be resolved.
SPACING_MM = (0.2, 15.0)
# More than any scanner makes, and all that a 32-bit index can count.
MAX_VOXELS = 2**31 - 1

_COMPLEX = "The image has complex values; give a magnitude image or a CT."
_PIECE = 1 << 22  # voxels

# By how much the axes' dot products may differ from 0, or from 1 with themselves; cosines in files are rounded.
MAX_SHEAR = 1e-3


@dataclass(frozen=True)
class ReadImage:
    """An image and where it came from.

    Attributes:
        image: As `check_image` leaves it.
        warnings: Sentences for the user.
        files: Files that were read: the volume file, or the series' DICOM files.
        sha256: Digest of these files; see `digest`.
        is_dicom: Whether the files are DICOM.
    """

    image: sitk.Image
    warnings: list[str]
    files: tuple[Path, ...]
    sha256: str
    is_dicom: bool


def volume_stem(path: str | Path) -> str:
    """Strip the suffix, such as .nii.gz, from a volume's name; a DICOM folder keeps its name."""
    name = Path(path).name
    suffixes = sorted(VOLUME_SUFFIXES, key=len, reverse=True)
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def read_image(path: str | Path, series: str | None = None) -> ReadImage:
    """Read a NIfTI, NRRD or MetaImage file, a DICOM file or a folder with one DICOM series, and check it.

    Args:
        path: File or DICOM folder.
        series: Series instance UID, where a DICOM folder has several.

    Raises:
        ImageError: Missing, unreadable, truncated or damaged, several series, changed while it was read, or not a
            volume that `check_image` accepts.
        SettingsError: There is less memory than the image takes.

    Example:
        >>> from MoBUncertaintyLib import read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> read = read_image(RESOURCES / "SampleData" / "PhantomCT.nii.gz")
        >>> read.image.GetSize(), read.image.GetSpacing(), read.warnings
        ((128, 112, 80), (2.5, 2.5, 3.0), [])
    """
    path = _existing(path)
    files: Sequence[Path] = _dicom_files(path, series)
    is_dicom = bool(files)
    if is_dicom:
        from MoBUncertaintyLib.images.dicom import read_slices

        image, warnings, digests = read_slices(files)
        sha256 = digest_of_series(files, digests) if path.is_dir() else digests[0]
    else:
        image, warnings, files, sha256 = _read_file(path)
    image, more = check_image(image)
    return ReadImage(image, warnings + more, tuple(files), sha256, is_dicom)


def read_volume(path: str | Path) -> sitk.Image:
    """Read a NIfTI, NRRD or MetaImage file as it is stored: a label map, say, or a map of a results folder.

    Raises:
        ImageError: Missing, unreadable, truncated or damaged, changed while it was read, or not one scalar volume.
        SettingsError: There is less memory than the image takes.
    """
    return _read_file(_existing(path))[0]


def stored_orientation(path: str | Path) -> str:
    """Return the orientation of a volume file's stored axes, such as `LPS`, without reading its voxels.

    Raises:
        ImageError: Missing or unreadable.
    """
    with _opened(read_header(_existing(path))) as reader:
        return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(reader.GetDirection()))


def digest(path: str | Path, series: str | None = None) -> str:
    """Compute the SHA-256 of an input, the same as `read_image` returns, without reading its voxels.

    For one file it is the file's own. For a DICOM series (sorted by file name), it is that of the list of the files'
    own, one hexadecimal line each. Other files in a DICOM folder do not count.

    Raises:
        ImageError: As for `read_image`.
    """
    path = _existing(path)
    files = _dicom_files(path, series)
    if not files:
        return digest_of_file(path)
    digests = [digest_of_file(file) for file in files]
    return digest_of_series(files, digests) if path.is_dir() else digests[0]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.exists(path):
        raise ImageError(f"{printable(str(path))} does not exist; check the path.")
    if not is_unicode(str(path.absolute())):  # ITK would end the process
        raise ImageError(f"{printable(str(path))} is not a name in UTF-8; rename the file or its folder.")
    return path


def _dicom_files(path: Path, series: str | None) -> list[Path]:
    """List the DICOM files to read; none for a volume file."""
    if path.is_dir():
        from MoBUncertaintyLib.images.dicom import choose_series  # needs pydicom, which Slicer may lack at first

        return choose_series(path, series).files
    return [path] if not is_volume_name(path.name) and begins_as_dicom(path) else []


def check_image(image: sitk.Image) -> tuple[sitk.Image, list[str]]:
    """Check that an image is one scalar 3D volume that can be segmented.

    Returns:
        The image as int16 or float32, with non-finite voxels set to air (-1024 HU in CT, which is recognised by values
        below -100; elsewhere the smallest value), and warnings for the user.

    Raises:
        ImageError: 2D or a single slice, several components or time points, complex, every voxel alike, or a geometry
            that `check_geometry` refuses.
    """
    modality = modality_of(image)
    image = _scalar_3d(image)
    check_geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if image.GetPixelID() in (sitk.sitkInt8, sitk.sitkUInt8):
        image = sitk.Cast(image, sitk.sitkInt16)
    elif image.GetPixelID() != sitk.sitkInt16:
        image = sitk.Cast(image, sitk.sitkFloat32)
    image, warnings = _without_non_finite(image)
    values = sitk.GetArrayViewFromImage(image)
    few = values[::8, ::8, ::8]  # which differ in nearly every image
    if few.min() == few.max() and values.min() == values.max():
        raise ImageError(f"Every voxel of the image has the value {values.min():g}; choose an image with content.")
    set_modality(image, modality)
    return image, warnings


def _scalar_3d(image: sitk.Image) -> sitk.Image:
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise ImageError(_COMPLEX)
    _check_layout(image.GetSize(), image.GetNumberOfComponentsPerPixel())
    if "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
    return image


def _check_layout(size: tuple[int, ...], components: int) -> None:
    """Check what the header states, so that a huge wrong file is refused before it is read."""
    shape = " x ".join(str(n) for n in size)
    if len(size) == 4 and size[3] > 1:
        raise ImageError(f"The image has four dimensions ({shape}); extract one time point as a 3D volume.")
    if components != 1:
        raise ImageError(f"The image has {components} values per voxel, like a colour image; give a scalar volume.")
    if math.prod(size) > MAX_VOXELS:
        raise ImageError(f"The image is larger than any scanner's ({shape}); correct the header, or crop the image.")
    if len(size) < 3 or min(size[:3]) < 2:
        raise ImageError(f"The image is a single slice ({shape}); give a 3D volume or the folder of its DICOM series.")


def check_geometry(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> None:
    """Check spacing and origin (mm), and direction (nine cosines, left- or right-handed).

    Raises:
        ImageError: One of them is not a number, the spacing is not within 0.2 to 15 mm, or the axes are sheared.
    """
    if not np.isfinite([*spacing, *origin, *direction]).all():
        raise ImageError("The image's spacing, origin or direction is not a number; correct the header.")
    low, high = SPACING_MM
    if not all(low <= step <= high for step in spacing):
        steps = " x ".join(f"{step:.3g}" for step in spacing)
        raise ImageError(
            f"The voxels measure {steps} mm, outside {low:g} to {high:g} mm; correct the header or resample."
        )
    axes = np.reshape(direction, (3, 3))
    if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SHEAR:  # a voxel's volume would not be its spacings' product
        raise ImageError(
            "The image's axes are not at right angles or not of length one (a tilted gantry, or a wrong header); "
            "resample the image to a straight volume first, in 3D Slicer for example."
        )


def _without_non_finite(image: sitk.Image) -> tuple[sitk.Image, list[str]]:
    if image.GetPixelID() == sitk.sitkInt16:
        return image, []
    values = sitk.GetArrayViewFromImage(image)
    finite = np.isfinite(values)
    if finite.all():
        return image, []
    if not finite.any():
        raise ImageError("No voxel of the image has a finite value; convert it again from its source.")
    smallest = float(values[finite].min())
    air = AIR_HU if smallest < HOUNSFIELD_BELOW else smallest
    filled = sitk.GetImageFromArray(np.where(finite, values, np.float32(air)))
    filled.CopyInformation(image)
    count = int(finite.size - finite.sum())
    return filled, [f"{count} voxels are not finite numbers and were set to air ({air:g})."]


def _read_file(path: Path) -> tuple[sitk.Image, list[str], tuple[Path, ...], str]:
    """Read a volume file, its warnings, the files of it, and their digest."""
    with unchanged([path]):
        return *_read_volume(read_header(path)), (path,), digest_of_file(path)


def _read_volume(header: VolumeHeader) -> tuple[sitk.Image, list[str]]:
    _check_layout(header.shape, header.components)
    memory.check_image(header.voxels.length)
    voxels, noticed = check_voxels(header)
    warnings = [*header.warnings, *noticed]
    try:
        with _opened(header) as reader:
            _check_layout(reader.GetSize(), reader.GetNumberOfComponents())
            image = reader.Execute() if voxels is None else _image_of(voxels, header, reader)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"{header.path.name} cannot be read ({sitk_reason(error)}); give an intact NIfTI, NRRD, MetaImage or DICOM "
            "file."
        ) from error
    return image, warnings


@contextmanager
def _opened(header: VolumeHeader) -> Iterator[sitk.ImageFileReader]:
    """Open a volume file with SimpleITK: of NIfTI the header alone, in a private place where it has no neighbours."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.reader)
    with _quiet(), ExitStack() as stack:
        if header.block:
            folder = TemporaryDirectory(prefix="mob-uncertainty-", ignore_cleanup_errors=True)
            file = Path(stack.enter_context(folder), "header.nii")
            file.write_bytes(header.block + bytes(4))
            reader.SetFileName(str(file))
        else:
            reader.SetFileName(stack.enter_context(read_by_itk(header.path)))
        reader.ReadImageInformation()
        yield reader


def _image_of(voxels: np.ndarray, header: VolumeHeader, reader: sitk.ImageFileReader) -> sitk.Image:
    """Make the image of stored voxels in the geometry that the reader found; NaN and infinity stay what they are."""
    if voxels.dtype.kind == "c":
        raise ImageError(_COMPLEX)
    image = sitk.GetImageFromArray(_rescaled(voxels, header).reshape(reader.GetSize()[::-1]))
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    return image


def _rescaled(voxels: np.ndarray, header: VolumeHeader) -> np.ndarray:
    """Multiply by the slope and add the intercept that a NIfTI file states, as SimpleITK does."""
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) == (1, 0):
        return native
    scaled = native.astype(np.float64 if native.dtype == np.float64 else np.float32)
    for start in range(0, scaled.size, _PIECE):  # in double precision, but not all at once
        part = scaled[start : start + _PIECE]
        part[:] = part.astype(np.float64) * header.slope + header.intercept
    return scaled


def sitk_reason(error: Exception) -> str:
    """Quote an error of SimpleITK: the last line of its message, without positions in the source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("ERROR: ")[-1].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ITK's warnings on stderr; those that matter are reported as warnings of ours."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
