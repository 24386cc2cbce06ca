"""Results as DICOM objects that belong to the CT they were made from: segmentation (SEG) and variance (Parametric Map).

Both carry the patient and study fields of the CT's files, because DICOM demands it: the objects are part of the same
study. They are as identifiable as the CT itself. Voxels are never resampled: they are put in the order of the slices,
however the volume's axes are permuted or flipped, and a volume that does not lie on the slices is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.color import CIELabColor
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.card import Label
from MoBUncertaintyLib.errors import ImageError, OutputError
from MoBUncertaintyLib.segment_nrrd import check_values

MANUFACTURER = "MoB Uncertainty"
SEG_SERIES_NUMBER, VARIANCE_SERIES_NUMBER = 9001, 9002  # after those of the scanner
VARIANCE_RANGE = (0.0, 0.25)  # 0.25 is the largest variance a probability can have

# DICOM has codes for several variances, none of them for that of a predicted probability.
PREDICTIVE_VARIANCE = CodedConcept("PREDVAR", "99MOB", "Predictive variance of the organ's probability")

_TOLERANCE = 0.1  # of a voxel: coordinates in files are rounded
_ANGLE = 1e-3  # of a direction cosine
_LONGEST = 64  # characters of DICOM's long strings

# What highdicom copies. DICOM demands that they be there, empty if unknown; not all files have them.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


@dataclass(frozen=True)
class _Series:
    """The CT's slices: headers, in the order of the slices' position, and where each lies.

    Attributes:
        datasets: One for each slice; a single one for an enhanced CT, whose frames are the slices.
        order: Index of each stored frame in the order of position.
        orientation: Directions of a row's and of a column's pixels and their normal, as columns; LPS.
        positions: Of each slice's first pixel, LPS mm, in the order of position.
        spacing: Of columns and of rows, mm.
        size: Columns and rows.
    """

    datasets: list[Dataset]
    order: np.ndarray
    orientation: np.ndarray
    positions: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]


def write_dicom_seg(
    path: str | Path,
    files: Sequence[str | Path],
    labels: sitk.Image,
    label_list: Sequence[Label],
    *,
    model: Mapping[str, Any],
    corrected: bool = False,
    reader: str | None = None,
    series_description: str = "Segmentation",
) -> None:
    """Write the segmentation as DICOM SEG: binary, one segment for each organ, on the CT's slices.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        labels: Label map, uint8, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        label_list: One for each organ; those that are nowhere in `labels` are left out.
        model: `name` and `digest` of the model.
        corrected: A reader has reviewed it: the segments are semi-automatic.
        reader: Who signed, for the content creator's name.
        series_description: What viewers list.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, `labels` has a value that `label_list` lacks, or the
            file cannot be written.
    """
    array = sitk.GetArrayViewFromImage(labels)
    check_values(array, label_list)
    series = _read_series(files)
    frames = _in_order_of_slices(labels, series)
    kind = SegmentAlgorithmTypeValues.SEMIAUTOMATIC if corrected else SegmentAlgorithmTypeValues.AUTOMATIC
    # An organ that is nowhere is left out; if all are, their frames say so.
    present = [label for label in label_list if (array == label.value).any()] or label_list
    numbers = np.zeros(256, np.uint8)  # DICOM counts segments from 1 without gaps
    for number, label in enumerate(present, 1):
        numbers[label.value] = number
    segmentation = Segmentation(
        pixel_array=numbers[frames],
        segmentation_type="BINARY",
        omit_empty_frames=bool(array.any()),
        segment_descriptions=[_describe_segment(number, label, kind, model) for number, label in enumerate(present, 1)],
        series_number=SEG_SERIES_NUMBER,
        content_creator_name=_person(reader),
        content_description=_line(series_description),
        **_common(series, model, series_description),
    )
    _save(segmentation, path)


def write_parametric_map(
    path: str | Path,
    files: Sequence[str | Path],
    variance: sitk.Image,
    *,
    model: Mapping[str, Any],
    organ: str | None = None,
    series_description: str = "Predictive variance",
) -> None:
    """Write the variance as DICOM Parametric Map: float32, without unit, one frame for each of the CT's slices.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        variance: Scalar, float32, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        model: `name` and `digest` of the model.
        organ: Whose variance it is, where there are several.
        series_description: What viewers list.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, or the file cannot be written.
    """
    series = _read_series(files)
    frames = _in_order_of_slices(variance, series).astype(np.float32, copy=False)
    description = f"{series_description} ({organ})" if organ else series_description
    low, high = VARIANCE_RANGE
    parametric_map = ParametricMap(
        pixel_array=np.ascontiguousarray(frames),
        series_number=VARIANCE_SERIES_NUMBER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="VARIANCE",
                lut_explanation=_line(description),
                unit=codes.UCUM.NoUnits,
                value_range=VARIANCE_RANGE,
                slope=1.0,
                intercept=0.0,
                quantity_definition=PREDICTIVE_VARIANCE,
            )
        ],
        voi_lut_transformations=[VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)],
        content_description=_line(description),
        **_common(series, model, description),
    )
    _save(parametric_map, path)


def _read_series(files: Sequence[str | Path]) -> _Series:
    if not files:
        raise ImageError("There are no DICOM files of the CT; export as NRRD, or load the CT from its DICOM series.")
    datasets = [_read_header(Path(file)) for file in files]
    if len({dataset.get("SeriesInstanceUID") for dataset in datasets}) > 1:
        raise ImageError("The DICOM files belong to several series; give those of the CT's series alone.")
    try:
        if "NumberOfFrames" in datasets[0]:
            if len(datasets) > 1:
                raise ImageError("The CT lies in several multi-frame DICOM files; export as NRRD.")
            geometry = _enhanced_geometry(datasets[0])
        else:
            geometry = [_slice_geometry(dataset) for dataset in datasets]
        first = datasets[0]
        size = (int(first.Columns), int(first.Rows))
        cosines, positions, spacings = (np.array(values, dtype=float) for values in zip(*geometry, strict=True))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ImageError(
            f"The DICOM files do not say where their slices lie ({error}); use the files as the scanner made them."
        ) from error
    same = np.abs(cosines - cosines[0]).max() < _ANGLE and np.abs(spacings - spacings[0]).max() < 1e-3
    if not same or any((d.Columns, d.Rows) != (first.Columns, first.Rows) for d in datasets):
        raise ImageError("The slices of the DICOM series differ in direction, size or spacing; export as NRRD.")
    row, column = cosines[0].reshape(2, 3)
    orientation = np.stack([row, column, np.cross(row, column)], axis=1)
    by_position = np.argsort(positions @ orientation[:, 2], kind="stable")
    frames = len(by_position)
    order = np.empty(frames, int)
    order[by_position] = np.arange(frames)
    if len(datasets) > 1:
        datasets, order = [datasets[index] for index in by_position], np.arange(frames)
    return _Series(datasets, order, orientation, positions[by_position], (spacings[0][1], spacings[0][0]), size)


def _read_header(path: Path) -> Dataset:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no DICOM file"
        raise ImageError(f"{path} cannot be read ({reason}); check the CT's DICOM files.") from error
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, None)
    return dataset


def _slice_geometry(dataset: Dataset) -> tuple[Any, Any, Any]:
    return dataset.ImageOrientationPatient, dataset.ImagePositionPatient, dataset.PixelSpacing


def _enhanced_geometry(dataset: Dataset) -> list[tuple[Any, Any, Any]]:
    """Of each frame; what all frames share may stand once."""
    shared = dataset.SharedFunctionalGroupsSequence[0]

    def group(frame: Dataset, name: str) -> Dataset:
        return (frame if name in frame else shared)[name].value[0]

    return [
        (
            group(frame, "PlaneOrientationSequence").ImageOrientationPatient,
            group(frame, "PlanePositionSequence").ImagePositionPatient,
            group(frame, "PixelMeasuresSequence").PixelSpacing,
        )
        for frame in dataset.PerFrameFunctionalGroupsSequence
    ]


def _in_order_of_slices(image: sitk.Image, series: _Series) -> np.ndarray:
    """The image's voxels as (frame, row, column) of the series: a view wherever that is enough.

    Raises:
        OutputError: The image does not lie on the slices.
    """
    # Cosines between the series' axes (rows: along a row, along a column, normal) and the image's (columns).
    cosines = series.orientation.T @ np.reshape(image.GetDirection(), (3, 3))
    signs = np.round(cosines)
    if np.abs(cosines - signs).max() > _ANGLE or not np.array_equal(np.abs(signs).sum(0), np.ones(3)):
        raise _mismatch("its axes are turned against the slices")
    axes = np.abs(signs).argmax(1)  # the image's axis along each of the series'
    flipped = [bool(signs[ours, theirs] < 0) for ours, theirs in enumerate(axes)]
    size, spacing = np.array(image.GetSize())[axes], np.array(image.GetSpacing())[axes]
    columns, rows, slices = size.tolist()
    if (columns, rows) != series.size:
        raise _mismatch(f"its slices have {columns} x {rows} pixels, the files {series.size[0]} x {series.size[1]}")
    if slices != len(series.positions):
        raise _mismatch(f"it has {slices} slices, the files {len(series.positions)}")
    corner = np.zeros(3, int)
    for theirs, flip in zip(axes, flipped, strict=True):
        corner[theirs] = image.GetSize()[theirs] - 1 if flip else 0
    start = np.array(image.TransformIndexToPhysicalPoint(corner.tolist()))
    expected = start + np.arange(slices)[:, None] * spacing[2] * series.orientation[:, 2]
    # The spacing is compared over the whole slice: a small difference adds up.
    stretch = np.abs(spacing[:2] - series.spacing) * size[:2]
    if (
        np.abs(expected - series.positions).max() > _TOLERANCE * spacing.min()
        or (stretch > _TOLERANCE * spacing.min()).any()
    ):
        raise _mismatch("its voxels lie elsewhere, or slices are missing or unevenly spaced")
    array = sitk.GetArrayViewFromImage(image)  # axis a of the image is axis 2 - a of the array
    frames = array.transpose([2 - axes[ours] for ours in (2, 1, 0)])
    frames = frames[tuple(slice(None, None, -1 if flipped[ours] else 1) for ours in (2, 1, 0))]
    return frames if len(series.datasets) > 1 else frames[series.order]


def _mismatch(reason: str) -> OutputError:
    return OutputError(
        f"The volume does not lie on the slices of the CT's DICOM files ({reason}); export as NRRD instead."
    )


def _common(series: _Series, model: Mapping[str, Any], series_description: str) -> dict[str, Any]:
    """What both objects are made with. There is no device: the model's digest stands for its serial number."""
    return {
        "source_images": series.datasets,
        "series_instance_uid": highdicom.UID(),
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": _line(model["name"]),
        "software_versions": __version__,
        "device_serial_number": _line(model["digest"]),
        "series_description": _line(series_description),
        "specific_character_set": "ISO_IR 192",  # UTF-8: names of labels and readers may be in any script
    }


def _describe_segment(
    number: int, label: Label, kind: SegmentAlgorithmTypeValues, model: Mapping[str, Any]
) -> SegmentDescription:
    category, structure, modifier = (_code(label.terminology.get(key)) for key in ("category", "type", "modifier"))
    description = SegmentDescription(
        segment_number=number,
        segment_label=_line(label.name),
        segmented_property_category=category,
        segmented_property_type=structure,
        algorithm_type=kind,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=_line(model["name"]),
            family=codes.DCM.ArtificialIntelligence,
            version=_line(model["digest"]),
            source=MANUFACTURER,
        ),
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _code(code: tuple[str, str, str] | None) -> CodedConcept | None:
    return CodedConcept(code[1], code[0], code[2]) if code else None


def _line(text: str) -> str:
    """Text as DICOM's long strings can hold it: a backslash would part two values."""
    return str(text).replace("\\", "/").strip()[:_LONGEST]


def _person(name: str | None) -> str | None:
    """A name in plain text as the first part of DICOM's: `^` and `=` would part it."""
    return _line(name).replace("^", " ").replace("=", " ") if name else None


def _save(dataset: Dataset, path: str | Path) -> None:
    path = Path(path)
    try:
        dataset.save_as(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder."
        ) from error
