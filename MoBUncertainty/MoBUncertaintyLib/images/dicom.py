"""Read CT and MR from DICOM: a series of slices, or multi-frame files, as one straight volume. Positions are LPS mm.

Each slice has its own rescaling and geometry, and all of its pixels, or is refused. Frames that neither pydicom nor
highdicom can decompress (mostly lossless JPEG) are decompressed by SimpleITK's GDCM. Voxels are rescaled by slope and
intercept; an image that is to be shown inverted (MONOCHROME1) keeps its values.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from MoBUncertaintyLib.base.errors import ImageError, reason_of
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.base.input_files import BoundedReader, begins_as_dicom
from MoBUncertaintyLib.images.grid import Volume

MAX_SHIFT = 1.0  # mm by which slices may be shifted in their plane
_NOTICED_SHIFT = 0.1
_SAME_SPACING = 1e-3  # mm by which their pixel spacings may differ: files hold rounded numbers
_SAME_DIRECTION = 1e-3  # by which their direction cosines may differ
_MAX_PIXELS = 1 << 26  # of a slice; a damaged header can state up to 65535 x 65535
_SUFFIXES = (".dcm", ".ima", ".dicom")  # of files that should be DICOM
_HEADER = ("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Rows", "Columns")
_PLACE = {
    "PlaneOrientation": ("ImageOrientationPatient", 6),
    "PlanePosition": ("ImagePositionPatient", 3),
    "PixelMeasures": ("PixelSpacing", 2),
}


@dataclass
class Series:
    """One series in a folder: its description and the files that hold images, sorted by name."""

    description: str
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Slice:
    modality: str
    frame: str  # UID of the frame of reference, in which places can be compared
    place: np.ndarray  # as `places_of` yields it
    rescaled: bool
    values: np.ndarray


def find_series(folder: Path) -> dict[str, Series]:
    """Find the series in a folder by their UID; raises `ImageError` if a file with a name for DICOM is damaged."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise ImageError(f"{folder} cannot be listed ({error.strerror}); check the path.") from error
    series: dict[str, Series] = {}
    for path in paths:
        should_be_dicom = path.name.lower().endswith(_SUFFIXES) and not path.name.startswith(".")
        if not begins_as_dicom(path):
            if should_be_dicom:
                raise ImageError(f"{path} is not a DICOM file, although its name says so; copy it again, or remove it.")
            continue
        with BoundedReader(path) as file:
            try:
                uid, description = _read_series(path, file)
            except ImageError:
                file.seek(128)
                if should_be_dicom or file.read(4) == b"DICM":
                    raise
                continue  # another file that happens to begin so
        if uid is not None:
            series.setdefault(uid, Series(description)).files.append(path)
    return series


def _read_series(path: Path, file: BinaryIO) -> tuple[str | None, str]:
    """Read UID and description of a file's series; no UID where it holds no image but, say, a report or contours."""
    with parsing(path):
        header = pydicom.dcmread(file, force=True, specific_tags=list(_HEADER), stop_before_pixels=True)
        if "Rows" not in header or "Columns" not in header:
            kind = UID(str(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or ""))
            is_registered = kind.name != kind
            # A damaged header may lack anything, and its kind may be damaged, too.
            if "Image Storage" in kind.name or not (is_registered or (kind.is_private and kind.is_valid)):
                raise ImageError(f"{path} is damaged (its header has no size); copy or export it again.")
            return None, ""
        description = str(header.get("SeriesDescription", "") or "").strip()
        return str(header.get("SeriesInstanceUID", "")), description or "no description"


def choose_series(folder: Path, uid: str | None = None) -> list[Path]:
    """List the files of the only series in a folder, or of the one with this UID; else raises `ImageError`."""
    series = find_series(folder)
    if not series:
        raise ImageError(f"{folder} holds no DICOM series; give a DICOM folder or a volume file.")
    if uid is None and len(series) > 1:
        names = "; ".join(f"{key} ({one.description}, {len(one.files)} slices)" for key, one in series.items())
        raise ImageError(f"{folder} holds {len(series)} DICOM series; choose one with --series: {names}.")
    if uid is not None and uid not in series:
        raise ImageError(f"{folder} holds no DICOM series {uid}; choose one with --series: {'; '.join(series)}.")
    return series[next(iter(series)) if uid is None else uid].files


def read_slices(files: Sequence[Path]) -> Volume:
    """Read a series from all of its files as int16 or float32, its slices along the normal of the first.

    Raises `ImageError` if a file is damaged or lacks pixels, or slices form no straight volume, and `OSError`.
    """
    return _stack([slice_ for path in files for slice_ in _slices_of(path)])


def frame_of_reference(files: Sequence[Path]) -> str:
    """Read the UID of the frame in which an image lies, by its first file; empty where it has none, or is no DICOM."""
    if not files or not begins_as_dicom(files[0]):
        return ""
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).get("FrameOfReferenceUID") or "")


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Report any error of pydicom, which parses elements at their first use and fails in many ways on damaged ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise ImageError(f"{path.name} is damaged ({reason_of(error)}); copy or export it again.") from error


def _slices_of(path: Path) -> list[_Slice]:
    with BoundedReader(path) as file, parsing(path):
        dataset = pydicom.dcmread(file, force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            implicit, little = dataset.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        _check_slice(path, dataset)
        places = list(places_of(dataset))
        values = _values(path, dataset, len(places))
        modality, frame = (str(dataset.get(name) or "") for name in ("Modality", "FrameOfReferenceUID"))
        return [_Slice(modality, frame, *place, plane) for place, plane in zip(places, values, strict=True)]


def _check_slice(path: Path, dataset: Dataset) -> None:
    absent = [name for name in ("Rows", "Columns", "PhotometricInterpretation") if name not in dataset]
    if absent:
        raise ImageError(f"{path.name} is damaged (it has no {absent[0]}); copy or export it again.")
    if int(dataset.Rows) * int(dataset.Columns) > _MAX_PIXELS:
        raise ImageError(
            f"{path.name} has {dataset.Rows} x {dataset.Columns} pixels according to its header, more than any "
            "scanner's slice; export it again."
        )
    grey = dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or not grey:
        raise ImageError(f"{path.name} has several values per voxel, like a colour image; give a scalar volume.")
    if ("RescaleSlope" in dataset) != ("RescaleIntercept" in dataset):
        raise ImageError(f"{path.name} has only one of RescaleSlope and RescaleIntercept; export it again.")


def places_of(dataset: Dataset) -> Iterator[tuple[np.ndarray, bool]]:
    """Read where each frame lies, and whether it is rescaled; raises `ImageError` if one does not say where it lies.

    Yields:
        Eleven numbers: cosines of a row and a column, position of the first pixel, spacing between rows and columns.
    """
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        rescaled = "ModalityLUTSequence" in dataset or "RescaleSlope" in dataset
        yield np.concatenate([_numbers(dataset, *element) for element in _PLACE.values()]), rescaled
        return
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        *groups, transform = (
            (frame.get(f"{name}Sequence") or shared.get(f"{name}Sequence") or [Dataset()])[0]
            for name in (*_PLACE, "PixelValueTransformation")
        )
        place = [_numbers(group, *element) for group, element in zip(groups, _PLACE.values(), strict=True)]
        yield np.concatenate(place), "RescaleSlope" in transform


def _numbers(dataset: Dataset, keyword: str, count: int) -> np.ndarray:
    try:
        numbers = np.array(dataset.get(keyword), dtype=float).reshape(count)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all():
        tag = Tag(keyword)
        raise ImageError(
            f"Slices of the DICOM series have no valid position ({tag.group:04x},{tag.element:04x} is missing or "
            "malformed); export the series again, or give it as a NIfTI or NRRD file."
        )
    return numbers


def _values(path: Path, dataset: Dataset, count: int) -> np.ndarray:
    """Read the voxels of a file's frames, (frame, row, column), rescaled."""
    if int(dataset.get("NumberOfFrames", 1) or 1) != count:
        raise ImageError(f"{path.name} has {dataset.NumberOfFrames} frames but positions for {count}; export it again.")
    if not _can_unpack(dataset):
        values = _unpacked_by_gdcm(path, dataset)
    elif "PerFrameFunctionalGroupsSequence" in dataset:
        import highdicom

        image = highdicom.Image.from_dataset(dataset, copy=False)
        values = image.get_frames(
            dtype=np.float32, apply_real_world_transform=False, apply_presentation_lut=False, apply_voi_transform=False
        )
    else:
        values = apply_modality_lut(dataset.pixel_array, dataset)[None]
    if values.shape != (count, dataset.Rows, dataset.Columns):
        raise ImageError(f"The pixel data of {path.name} do not match its header; copy or export it again.")
    return _narrow(values)


def _can_unpack(dataset: Dataset) -> bool:
    """Whether pydicom can decompress the pixels."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEGExtended12Bit and int(dataset.BitsAllocated) > 8:
        return False  # pillow stops at 8 bits
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _unpacked_by_gdcm(path: Path, dataset: Dataset) -> np.ndarray:
    """Read frames with SimpleITK, which rescales all frames of a file alike and inverts MONOCHROME1."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    scales = {str(group.get("PixelValueTransformationSequence")) for group in groups}
    kind = dataset.file_meta.TransferSyntaxUID.name
    refusal = ImageError(f"{path.name} is compressed as {kind}, which cannot be read; export it uncompressed.")
    if len(scales) > 1 or dataset.PhotometricInterpretation != "MONOCHROME2":
        raise refusal
    for frame in pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=max(len(groups), 1)):
        if b"\xff\xd9" not in frame[-4:]:  # the end of a JPEG image
            raise ImageError(f"{path.name} is truncated; copy or export it again.")
    with TemporaryDirectory(prefix="mob-uncertainty-", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "slice.dcm")  # a name that ITK can open on Windows, too
        shutil.copyfile(path, file)
        try:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise refusal from error
    return values.reshape(-1, *values.shape[-2:])


def _narrow(values: np.ndarray) -> np.ndarray:
    """Convert to int16 if that holds all values, as it does a CT's, else to float32."""
    whole = values if values.dtype.kind in "iu" else np.round(values)
    limits = np.iinfo(np.int16)
    fits = limits.min <= whole.min() and whole.max() <= limits.max and (whole is values or (whole == values).all())
    return whole.astype(np.int16) if fits else values.astype(np.float32)


def _stack(slices: list[_Slice]) -> Volume:
    """Stack slices evenly to one volume, with a warning if need be; raises `ImageError` if they differ or coincide."""
    first = slices[0]
    size = "{1} x {0}".format(*first.values.shape)
    if len(slices) == 1:
        raise ImageError(f"The image is a single slice ({size}); give a 3D volume or the folder of its DICOM series.")
    cosines, positions, spacings = np.split(np.array([slice_.place for slice_ in slices]), [6, 9], axis=1)
    differences = {
        "number of pixels": len({slice_.values.shape for slice_ in slices}) > 1,
        "direction": np.ptp(cosines, axis=0).max() > _SAME_DIRECTION,
        "pixel spacing": np.ptp(spacings, axis=0).max() > _SAME_SPACING,
        "frame of reference": len({slice_.frame for slice_ in slices}) > 1,
        "having a rescale slope and intercept": len({slice_.rescaled for slice_ in slices}) > 1,
    }
    if different := [name for name, differs in differences.items() if differs]:
        raise ImageError(
            f"Slices of the DICOM series differ in their {' and '.join(different)}; export only those of one volume."
        )
    row, column = cosines[0].reshape(2, 3)
    normal = np.cross(row, column)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    sentences = _check_positions(positions, normal)
    kind = np.result_type(*{slice_.values.dtype for slice_ in slices})
    voxels = np.empty((len(slices), *first.values.shape), kind)
    for plane, index in zip(voxels, order, strict=True):
        plane[:] = slices[index].values
    distance = (positions[-1] - positions[0]) @ normal / (len(slices) - 1)
    axes = LPS_TO_RAS[:, None] * np.stack([normal, column, row], axis=1)
    grid = Grid(np.array([distance, *spacings[0]]), axes, LPS_TO_RAS * positions[0])
    return Volume(voxels, grid, first.modality or None, sentences)


def _check_positions(positions: np.ndarray, normal: np.ndarray) -> list[str]:
    """Warn of slices that are not quite straight, or unevenly spaced: they are stacked straight and evenly."""
    gaps = np.abs(np.diff(positions @ normal))
    usual = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise ImageError("Slices of the DICOM series have the same position; export only one time point or phase.")
    offsets = positions - positions[0]
    shift = float(np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1).max())
    if shift > MAX_SHIFT:
        raise ImageError(
            f"Slices of the DICOM series are shifted against each other by up to {shift:.3g} mm (a tilted gantry); "
            "resample the series to a straight volume first, in 3D Slicer for example."
        )
    sentences = []
    if shift > _NOTICED_SHIFT:
        sentences.append(
            f"Slices of the DICOM series are shifted against each other by up to {shift:.2g} mm and were stacked "
            "straight: positions may be off by that much, except in DICOM objects."
        )
    if np.abs(gaps - usual).max() > 0.05 * usual:
        sizes = f"{gaps.min():.3g} to {gaps.max():.3g} mm"
        sentences.append(f"Slices are missing or unevenly spaced ({sizes}): sizes may be wrong.")
    return sentences
