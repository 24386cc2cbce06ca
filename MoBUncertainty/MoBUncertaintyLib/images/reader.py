"""Read and check the input: one scalar 3D volume with sane geometry, or an `ImageError` that says what to do.

Volumes are SimpleITK images; their arrays are (z, y, x); spacing is in mm, origin and direction in LPS mm.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import BoundedReader, begins_as_dicom, check_regular, input_digest, reading
from MoBUncertaintyLib.base.names import is_unicode, printable
from MoBUncertaintyLib.images import memory
from MoBUncertaintyLib.images.grid import Volume, grid_of
from MoBUncertaintyLib.images.modality import AIR_HU, HOUNSFIELD_BELOW, modality_of, set_modality
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES, VolumeHeader, is_volume_name, read_header

SPACING_MM = (0.2, 15.0)  # finer is no clinical CT, or not in mm; coarser resolves no organ
MAX_VOXELS = 2**31 - 1  # more than any scanner makes, and all that a 32-bit index can count
MAX_SHEAR = 1e-3  # of the axes' dot products, from 0, or from 1 with themselves; cosines in files are rounded
_CHUNK = 1 << 22
# Up to this many bytes after uncompressed voxels, if fewer than a slice, are ignored with a warning. More of them, or
# any in a compressed stream, mean that the header states a wrong size.
_SURPLUS = 4096


@dataclass(frozen=True)
class ReadImage:
    """An image and where it came from."""

    image: sitk.Image  # as `check_image` leaves it
    warnings: list[str]  # sentences for the user
    files: tuple[Path, ...]  # files that were read: the volume file, or the series' DICOM files
    sha256: str  # digest of these files; see `digest`
    is_dicom: bool  # whether the files are DICOM


AnyImage = ReadImage | sitk.Image | np.ndarray | str | Path
"""What `as_image` takes."""


def volume_stem(path: str | Path) -> str:
    """Strip the suffix, such as .nii.gz, from a volume's name; a DICOM folder keeps its name."""
    name = Path(path).name
    suffixes = (suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix))
    return name[: len(name) - len(max(suffixes, key=len, default=""))]


def read_image(path: str | Path, series: str | None = None) -> ReadImage:
    """Read a NIfTI, NRRD or MetaImage file, a DICOM file or a folder with one DICOM series, and check it.

    Raises:
        ImageError: Missing, unreadable, truncated or damaged, several series and none chosen by its UID, changed while
            it was read, or not a volume that `check_image` accepts.
        SettingsError: There is less memory than the image takes.

    Example:
        >>> from MoBUncertaintyLib import read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> read = read_image(RESOURCES / "SampleData" / "HeadNeckCT.nii.gz")
        >>> read.image.GetSize(), read.image.GetSpacing(), read.warnings
        ((128, 81, 125), (3.9..., 3.9..., 2.5), [])
    """
    path = Path(path)
    files, is_dicom = _files(path, series)
    with reading(files):
        if is_dicom:
            from MoBUncertaintyLib.images.dicom import read_slices

            memory.check_image(sum(file.stat().st_size for file in files))
            volume = read_slices(files)
        else:
            volume = _read_file(path)
        image = volume.image()
        sha256 = input_digest(path, files)
    image, warnings = check_image(image)
    set_modality(image, volume.modality)
    return ReadImage(image, volume.warnings + warnings, files, sha256, is_dicom)


def as_image(image: AnyImage, spacing: Sequence[float] | None = None) -> tuple[sitk.Image, list[str]]:
    """Take an image in any form that people have it in; return it with the warnings of its file.

    Args:
        image: As `read_image` returns it, a SimpleITK image, the path of a file or DICOM folder, or an array (z, y, x)
            whose axes run to the patient's head, back and left.
        spacing: Size of the voxels of an array, in mm, (z, y, x).

    Raises:
        ImageError: It is none of these, or `spacing` is missing or not of an array; or as for `read_image`.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.dtype.kind not in "iuf":
            kind = f"{image.ndim} axes of {image.dtype}"
            raise ImageError(f"The argument image must be an array (z, y, x) of numbers, not one with {kind}.")
        if spacing is None or len(spacing) != 3:
            raise ImageError("An array needs the argument spacing: the size of its voxels in mm, (z, y, x).")
        made = sitk.GetImageFromArray(image.astype(np.float32) if image.dtype == np.float16 else image)
        made.SetSpacing(np.asarray(spacing, float)[::-1])
        return made, []
    if spacing is not None:
        raise ImageError("The argument spacing is only for an array; leave it out, since the image has its own.")
    if isinstance(image, (str, Path)):
        image = read_image(image)
    if isinstance(image, ReadImage):
        return image.image, image.warnings
    if not isinstance(image, sitk.Image):
        kinds = "a path, a SimpleITK image or a NumPy array"
        raise ImageError(f"The argument image must be {kinds}, not of the type {type(image).__name__}.")
    return image, []


def read_volume(path: str | Path) -> sitk.Image:
    """Read a NIfTI, NRRD or MetaImage file as it is stored: a label map, say; errors as for `read_image`."""
    path = Path(path)
    check_regular(path)
    with reading([path]):
        return _read_file(path).image()


def _read_file(path: Path) -> Volume:
    header = read_header(path)
    _check_layout(*header.layout)
    memory.check_image(header.length)
    return read_voxels(header)


def stored_orientation(path: str | Path) -> str:
    """Return the orientation of a volume file's stored axes, such as `LPS`, by its header; raises `ImageError`."""
    check_regular(Path(path))
    direction = read_header(Path(path)).geometry.GetDirection()
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction))


def digest(path: str | Path, series: str | None = None) -> str:
    """Compute the SHA-256 that `read_image` returns, without reading voxels; raises `ImageError`."""
    path = Path(path)
    files, _ = _files(path, series)
    with reading(files):
        return input_digest(path, files)


def _files(path: Path, series: str | None) -> tuple[tuple[Path, ...], bool]:
    """List the files of an input, and tell whether they are DICOM."""
    if not os.path.exists(path):
        raise ImageError(f"{printable(str(path))} does not exist; check the path.")
    if not is_unicode(str(path.absolute())):
        raise ImageError(f"{printable(str(path))} is not a name in UTF-8; rename the file or its folder.")
    if path.is_dir():
        from MoBUncertaintyLib.images.dicom import choose_series  # needs pydicom, which Slicer may lack at first

        return tuple(choose_series(path, series)), True
    check_regular(path)
    return (path,), not is_volume_name(path.name) and begins_as_dicom(path)


def check_image(image: sitk.Image) -> tuple[sitk.Image, list[str]]:
    """Check that an image is one scalar 3D volume that can be segmented, or raise `ImageError`.

    Returns:
        The image as int16 or float32, with non-finite voxels set to air (-1024 HU in CT, else the smallest value), and
        warnings for the user.
    """
    modality = modality_of(image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    _check_layout(image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())
    if "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
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


def _check_layout(size: tuple[int, ...], components: int, pixel_id: int) -> None:
    """Check what the header states, so that a huge wrong file is refused before it is read."""
    shape = " x ".join(str(n) for n in size)
    if pixel_id in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise ImageError("The image has complex values; give a magnitude image or a CT.")
    if len(size) == 4 and size[3] > 1:
        raise ImageError(f"The image has four dimensions ({shape}); extract one time point as a 3D volume.")
    if components != 1:
        raise ImageError(f"The image has {components} values per voxel, like a colour image; give a scalar volume.")
    if math.prod(size) > MAX_VOXELS:
        raise ImageError(f"The image is larger than any scanner's ({shape}); correct the header, or crop the image.")
    if len(size) < 3 or min(size[:3]) < 2:
        raise ImageError(f"The image is a single slice ({shape}); give a 3D volume or the folder of its DICOM series.")


def check_geometry(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> None:
    """Raise `ImageError` if spacing (mm, 0.2 to 15), origin and direction are not numbers, or the axes are sheared."""
    if not np.isfinite([*spacing, *origin, *direction]).all():
        raise ImageError("The image's spacing, origin or direction is not a number; correct the header.")
    low, high = SPACING_MM
    if not all(low <= step <= high for step in spacing):
        steps = " x ".join(f"{step:.3g}" for step in spacing)
        raise ImageError(
            f"The voxels measure {steps} mm, not the supported {low:g} to {high:g} mm; correct the header or resample."
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


def read_voxels(header: VolumeHeader) -> Volume:
    """Read a volume of one value for each voxel; raises `ImageError` unless there are as many as its header states."""
    geometry, name, needed = header.geometry, header.path.name, header.skip + header.length
    size = geometry.GetSize()
    voxels = np.empty(math.prod(size), header.dtype)
    surplus = min(_SURPLUS, header.length // size[-1] - 1) if header.packing == "raw" else 0
    try:
        present = _unpack(header, voxels.view(np.uint8), needed + surplus + 1)
    except (EOFError, zlib.error, IsalError, igzip.BadGzipFile) as error:  # type: ignore[misc]  # its stub has it as an instance
        raise ImageError(f"{name} is truncated or damaged; copy or download it again.") from error
    if present < needed:
        raise ImageError(f"{name} is truncated ({present} of {needed} bytes); copy or download it again.")
    if present > needed + surplus:
        raise ImageError(f"{name} contains more than the {needed} bytes that its header implies; export it again.")
    warnings = list(header.warnings)
    if present > needed:
        warnings.append(f"{name} contains {present - needed} extra bytes after its voxels, which were ignored.")
    values = _scaled(voxels, *header.scale).reshape(size[2::-1])
    return Volume(values, grid_of(geometry), modality_of(geometry), warnings)


def _unpack(header: VolumeHeader, voxels: np.ndarray, limit: int) -> int:
    """Read the bytes of the voxels, and count all bytes up to about a limit; a stream that ends before is verified."""
    with BoundedReader(header.path) as file:
        file.seek(header.start)
        if header.packing == "zlib":
            chunks = _inflated(file, header.packed)
        else:
            stream = igzip.GzipFile(fileobj=file) if header.packing == "gzip" else file
            chunks = iter(partial(stream.read, _CHUNK), b"")
        count = 0
        for chunk in chunks:
            part = np.frombuffer(chunk, np.uint8)[max(header.skip - count, 0) :]
            place = voxels[max(count - header.skip, 0) :][: len(part)]
            place[:] = part[: len(place)]
            count += len(chunk)
            if count >= limit:
                break
        return count


def _inflated(file: BinaryIO, packed: int | None) -> Iterator[bytes]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as MetaImage's own reader takes both
    start = file.tell()
    while not stream.eof:
        if not (block := stream.unconsumed_tail or file.read(_CHUNK)):
            raise EOFError("the stream has no end")
        yield stream.decompress(block, _CHUNK)
    if packed not in (None, file.tell() - start) or stream.unused_data or file.read(1):
        raise zlib.error("the stream has a different length from that in the header")


def _scaled(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Multiply by the slope and add the intercept that a NIfTI file states, as SimpleITK does."""
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (slope, intercept) == (1, 0):
        return native
    scaled = native.astype(np.float64 if native.dtype == np.float64 else np.float32)
    for start in range(0, scaled.size, _CHUNK):  # in double precision, but not all at once
        part = scaled[start : start + _CHUNK]
        part[:] = part.astype(np.float64) * slope + intercept
    return scaled
