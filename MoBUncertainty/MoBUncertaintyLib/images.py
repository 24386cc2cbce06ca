"""Reading and checking the input: one scalar 3D volume with sane geometry, or an `ImageError` that says what to do.

Volumes are SimpleITK images; their arrays are (z, y, x); spacing is in mm, origin and direction in LPS mm.
SimpleITK alone is not enough for files that are damaged: it reads what a truncated NIfTI file lacks, and NaN or
infinity in one, as zeros and a spacing of 0 or NaN as 1 mm, all without a word, so NIfTI files are checked here too.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.errors import ImageError

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")

# Finer than any clinical CT, or a header in other units than mm; coarser than any organ can be resolved.
SPACING_MM = (0.2, 15.0)

AIR_HU = -1024.0
# Below this an image can only be in Hounsfield units: other modalities have no negative values of that size.
HOUNSFIELD_BELOW = -100.0
# By which products of two axes may differ from 0, and of an axis with itself from 1; cosines in files are rounded.
LARGEST_SHEAR = 1e-3
# mm by which slices of a DICOM series may lie beside each other; positions in files are rounded.
LARGEST_SHIFT = 1.0

_SERIES_DESCRIPTION, _IMAGE_POSITION, _IMAGE_ORIENTATION = "0008|103e", "0020|0032", "0020|0037"


def volume_stem(path: str | Path) -> str:
    """The name of a volume without its suffix, .nii.gz whole; a DICOM folder's name as it is."""
    name = Path(path).name
    suffixes = sorted(VOLUME_SUFFIXES, key=len, reverse=True)
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def list_inputs(path: str | Path) -> list[Path]:
    """What there is to predict at `path`: a file, a DICOM folder, or each volume (or DICOM folder) in a folder.

    Raises:
        ImageError: There is nothing at `path`, or no volume in it.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path.")
    if path.is_file():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    volumes = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(VOLUME_SUFFIXES)]
    if volumes:
        return volumes
    if _series_ids(path):
        return [path]
    folders = [entry for entry in entries if entry.is_dir() and _series_ids(entry)]
    if not folders:
        raise ImageError(
            f"{path} holds no image; give a folder with DICOM slices or {', '.join(VOLUME_SUFFIXES)} files."
        )
    return folders


def read_image(path: str | Path, series: str | None = None) -> tuple[sitk.Image, list[str]]:
    """Read a NIfTI, NRRD or MetaImage file or a folder with one DICOM series, and check it.

    Args:
        path: File or DICOM folder.
        series: Series instance UID, where a DICOM folder has several.

    Returns:
        The image as `check_image` leaves it, and warnings for the user.

    Raises:
        ImageError: Missing, unreadable or truncated, several series, or not a volume that `check_image` accepts.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path.")
    image, warnings = _read_series(path, series) if path.is_dir() else (_read_file(path), [])
    image, more = check_image(image)
    return image, warnings + more


def check_image(image: sitk.Image) -> tuple[sitk.Image, list[str]]:
    """Check that an image is one scalar 3D volume that can be segmented.

    Returns:
        The image as int16 or float32, with non-finite voxels set to air (-1024 HU in CT, which is recognised by values
        below -100; elsewhere the smallest value), and warnings for the user.

    Raises:
        ImageError: 2D or a single slice, several components or time points, complex, every voxel alike, or a geometry
            that `check_geometry` refuses.
    """
    image = _scalar_3d(image)
    check_geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if image.GetPixelID() in (sitk.sitkInt8, sitk.sitkUInt8):
        image = sitk.Cast(image, sitk.sitkInt16)
    elif image.GetPixelID() != sitk.sitkInt16:
        image = sitk.Cast(image, sitk.sitkFloat32)
    image, warnings = _without_non_finite(image)
    values = sitk.GetArrayViewFromImage(image)
    if values.min() == values.max():
        raise ImageError(f"Every voxel of the image has the value {values.min():g}; choose an image with content.")
    return image, warnings


def _scalar_3d(image: sitk.Image) -> sitk.Image:
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise ImageError("The image has complex values; give a magnitude image or a CT.")
    _check_layout(image.GetSize(), image.GetNumberOfComponentsPerPixel())
    if "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
    return image


def _check_layout(size: tuple[int, ...], components: int) -> None:
    """Checks that need only the header, so that a huge wrong file is refused before it is read."""
    shape = " x ".join(str(n) for n in size)
    if len(size) == 4 and size[3] > 1:
        raise ImageError(f"The image has four dimensions ({shape}); extract one time point as a 3D volume.")
    if components != 1:
        raise ImageError(f"The image has {components} values per voxel, like a colour image; give a scalar volume.")
    if len(size) < 3 or min(size[:3]) < 2:
        raise ImageError(f"The image is a single slice ({shape}); give a 3D volume or the folder of its DICOM series.")


def check_geometry(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> None:
    """Check where voxels are said to be: spacing and origin in mm, direction as nine cosines (either hand).

    Raises:
        ImageError: One of them is not a number, the spacing is not within 0.2 to 15 mm, or the axes are sheared.
    """
    if not np.isfinite([*spacing, *origin, *direction]).all():
        raise ImageError("The image's spacing, origin or direction is not a number; correct the header.")
    low, high = SPACING_MM
    if not all(low <= step <= high for step in spacing):
        found = " x ".join(f"{step:.3g}" for step in spacing)
        raise ImageError(
            f"The voxels measure {found} mm, outside {low:g} to {high:g} mm; correct the header or resample."
        )
    axes = np.reshape(direction, (3, 3))
    if np.abs(axes.T @ axes - np.eye(3)).max() > LARGEST_SHEAR:  # a voxel's volume would not be its spacings' product
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


def _read_file(path: Path) -> sitk.Image:
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    if is_nifti:
        _check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _quiet():
            reader.ReadImageInformation()
            _check_layout(reader.GetSize(), reader.GetNumberOfComponents())
            image = reader.Execute()
            return _with_non_finite(image, path) if is_nifti else image
    except RuntimeError as error:
        raise ImageError(
            f"{path.name} cannot be read ({reason_of(error)}); give an intact NIfTI, NRRD, MetaImage or DICOM file."
        ) from error


def _check_nifti(path: Path) -> None:
    """Refuse what SimpleITK would silently repair: missing bytes (read as zeros), spacing 0 or NaN (read as 1 mm)."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.openers import ImageOpener
    from nibabel.spatialimages import HeaderDataError

    try:
        header_class = nibabel.load(path).header_class
        with ImageOpener(str(path)) as stream:
            header = header_class.from_fileobj(stream, check=False)
        # Reading to the end also verifies the checksum of a compressed file.
        present = _count_bytes(path)
        sizes = [int(n) for n in header.get_data_shape()]
        needed = int(header["vox_offset"]) + math.prod(sizes) * header.get_data_dtype().itemsize
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path.name} is truncated or damaged; copy or download it again.") from error
    except (ImageFileError, HeaderDataError, gzip.BadGzipFile, OSError, ValueError) as error:
        raise ImageError(f"{path.name} is not a readable NIfTI image ({reason_of(error)}); export it again.") from error
    if present < needed:
        raise ImageError(f"{path.name} is truncated ({present} of {needed} bytes); copy or download it again.")
    spacing = header["pixdim"][1:4]
    if not (np.isfinite(spacing) & (spacing != 0)).all():
        found = " x ".join(f"{s:g}" for s in spacing)
        raise ImageError(f"The header of {path.name} states a spacing of {found} mm; correct the header.")


def _with_non_finite(image: sitk.Image, path: Path) -> sitk.Image:
    """SimpleITK reads NaN and infinity in NIfTI files as 0 (water in CT), without a word: put NaN back."""
    import nibabel

    stored = nibabel.load(path).dataobj
    if not np.issubdtype(stored.dtype, np.floating):
        return image
    bad = ~np.isfinite(np.asanyarray(stored)).T  # nibabel's axes are x, y, z
    if not bad.any():
        return image
    values = sitk.GetArrayFromImage(image)
    values[bad.reshape(values.shape)] = np.nan
    restored = sitk.GetImageFromArray(values)
    restored.CopyInformation(image)
    return restored


def _count_bytes(path: Path) -> int:
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    count = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(1 << 22):
            count += len(chunk)
    return count


def _series_ids(folder: Path) -> tuple[str, ...]:
    with _quiet():
        return tuple(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _read_series(folder: Path, series: str | None) -> tuple[sitk.Image, list[str]]:
    found = _series_ids(folder)
    if not found:
        raise ImageError(f"{folder} holds no DICOM series; give a DICOM folder or a volume file.")
    if series is None and len(found) > 1:
        names = "; ".join(f"{uid} ({_describe(folder, uid)})" for uid in found)
        raise ImageError(f"{folder} holds {len(found)} DICOM series; choose one with --series: {names}.")
    if series is not None and series not in found:
        raise ImageError(f"{folder} holds no DICOM series {series}; choose one with --series: {'; '.join(found)}.")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series or found[0])
    if len(names) == 1:  # enhanced CT: one file with all slices
        return _read_file(Path(names[0])), []
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        with _quiet():
            image = reader.Execute()
    except RuntimeError as error:
        reason = reason_of(error)
        raise ImageError(f"The DICOM series in {folder} cannot be read ({reason}); export it again.") from error
    return image, _check_slices(reader, len(names))


def _check_slices(reader: sitk.ImageSeriesReader, count: int) -> list[str]:
    """Warn of slices that are unevenly spaced: SimpleITK spreads them evenly, so sizes along that axis are wrong.

    Raises:
        ImageError: Slices do not say where they lie, lie in one place, or beside each other: SimpleITK would stack them
            straight, and 1 mm apart where nothing is said.
    """
    positions = _numbers(reader, count, _IMAGE_POSITION, 3)
    row, column = _numbers(reader, count, _IMAGE_ORIENTATION, 6)[0].reshape(2, 3)
    normal = np.cross(row, column)
    gaps = np.abs(np.diff(positions @ normal))
    usual = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise ImageError("Slices of the DICOM series lie in the same place; export one time point or phase only.")
    offsets = positions - positions[0]
    shift = float(np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1).max())
    if shift > LARGEST_SHIFT:
        raise ImageError(
            f"Slices of the DICOM series are shifted beside each other by up to {shift:.3g} mm (a tilted gantry); "
            "resample the series to a straight volume first, in 3D Slicer for example."
        )
    if np.abs(gaps - usual).max() > 0.05 * usual:
        return [f"Slices are missing or unevenly spaced ({gaps.min():.3g} to {gaps.max():.3g} mm): sizes may be wrong."]
    return []


def _numbers(reader: sitk.ImageSeriesReader, count: int, tag: str, length: int) -> np.ndarray:
    """What each slice states in a tag, (count, length).

    Raises:
        ImageError: A slice lacks the tag, or states anything but so many numbers.
    """
    stated = [reader.GetMetaData(i, tag).split("\\") if reader.HasMetaDataKey(i, tag) else [] for i in range(count)]
    try:
        numbers = np.array(stated, dtype=float).reshape(count, length)
    except ValueError:
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all():
        raise ImageError(
            f"Slices of the DICOM series do not say where they lie ({tag.replace('|', ',')} is missing or malformed); "
            "export the series again, or give it as a NIfTI or NRRD file."
        )
    return numbers


def _describe(folder: Path, uid: str) -> str:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
    reader = sitk.ImageFileReader()
    reader.SetFileName(names[0])
    reader.ReadImageInformation()
    description = reader.GetMetaData(_SERIES_DESCRIPTION).strip() if reader.HasMetaDataKey(_SERIES_DESCRIPTION) else ""
    return f"{description or 'no description'}, {len(names)} slices"


def reason_of(error: Exception) -> str:
    """The last line of a library's message, without its source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("ERROR: ")[-1].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """ITK's warnings go to stderr; what matters of them is reported as a warning of ours."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
