"""The voxels of a case as DICOM: SEG, binary or with the probability of each label (FRACTIONAL), and Parametric Map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK as sitk
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE
from MoBUncertaintyLib.output.dicom.common import (
    MANUFACTURER,
    PROBABILITY_SERIES_NUMBER,
    SEG_SERIES_NUMBER,
    VARIANCE_SERIES_NUMBER,
    Origin,
    code_of,
    equipment,
    line,
    own_code,
    person,
    save,
    tracking_uid,
)
from MoBUncertaintyLib.output.dicom.series import DicomSeries, read_series
from MoBUncertaintyLib.output.segment_nrrd import values_in

PROBABILITY_STEPS = 255
"""A stored 255 is a probability of 1."""

# DICOM has codes for several variances, none of them for that of a predicted probability.
PREDICTIVE_VARIANCE = own_code("PREDVAR", "Predictive variance of the organ's probability")

_SIDES = {codes.SCT.Left.value: "L", codes.SCT.Right.value: "R", codes.SCT.RightAndLeft.value: "B"}


def write_dicom_seg(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    segmentation: sitk.Image,
    origin: Origin,
) -> None:
    """Write the segmentation as DICOM SEG: binary, one segment for each label, on the CT's slices.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        segmentation: uint8, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        origin: Labels that are nowhere in the segmentation are left out.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, it has a value that no label stands for, or the file
            cannot be written.
    """
    values = values_in(sitk.GetArrayViewFromImage(segmentation), origin.labels)
    series = read_series(files)
    frames = series.frames(segmentation)
    # A label that is nowhere is left out; if all are, their frames say so.
    present = [label for label in origin.labels if label.value in values] or origin.labels
    numbers = np.zeros(256, np.uint8)  # DICOM counts segments from 1 without gaps
    for number, label in enumerate(present, 1):
        numbers[label.value] = number
    dataset = Segmentation(
        source_images=series.datasets,
        pixel_array=numbers[frames],
        segmentation_type="BINARY",
        omit_empty_frames=bool(values),
        segment_descriptions=[_describe(number, label, origin) for number, label in enumerate(present, 1)],
        series_number=SEG_SERIES_NUMBER,
        content_creator_name=person(origin.reader),
        content_description="Segmentation",
        **equipment(origin.model, "Segmentation"),
    )
    _save(dataset, path)


def write_dicom_probability(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    probability: Sequence[sitk.Image],
    origin: Origin,
) -> None:
    """Write the probabilities as DICOM SEG: FRACTIONAL, in steps of 1 / 255.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        probability: Image of each label, float32, in the CT's geometry (LPS mm), as for `write_dicom_seg`.
        origin: Each of its labels is a segment.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: A volume does not lie on the files' slices, or the file cannot be written.
    """
    series = read_series(files)
    steps = np.stack([np.rint(np.clip(series.frames(each), 0, 1) * PROBABILITY_STEPS) for each in probability], axis=-1)
    dataset = Segmentation(
        source_images=series.datasets,
        pixel_array=steps.astype(np.float32, copy=False) / np.float32(PROBABILITY_STEPS),
        segmentation_type="FRACTIONAL",
        fractional_type="PROBABILITY",
        max_fractional_value=PROBABILITY_STEPS,
        omit_empty_frames=bool(steps.any()),
        segment_descriptions=[_describe(number, label, origin) for number, label in enumerate(origin.labels, 1)],
        series_number=PROBABILITY_SERIES_NUMBER,
        content_creator_name=person(origin.reader),
        content_description="Probability",
        **equipment(origin.model, "Probability"),
    )
    _save(dataset, path)


def _save(dataset: Segmentation, path: str | Path) -> None:
    if "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = None  # may be empty, not missing
    save(dataset, path)


def _describe(number: int, label: Label, origin: Origin) -> SegmentDescription:
    category, structure, modifier = (code_of(label, part) for part in ("category", "type", "modifier"))
    assert category is not None
    assert structure is not None  # a label has both
    description = SegmentDescription(
        segment_number=number,
        segment_label=line(label.name),
        segmented_property_category=category,
        segmented_property_type=structure,
        algorithm_type="SEMIAUTOMATIC" if origin.corrected else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=line(origin.model["name"]),
            family=codes.DCM.ArtificialIntelligence,
            version=line(origin.model["digest"]),
            source=MANUFACTURER,
        ),
        tracking_id=line(label.name) if origin.prediction else None,
        tracking_uid=tracking_uid(origin.prediction, label.name) if origin.prediction else None,
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def write_parametric_map(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    variance: sitk.Image,
    origin: Origin,
    *,
    label: Label,
    brightest: float,
) -> None:
    """Write the variance as DICOM Parametric Map: float32, without unit.

    Slices above and below all variance have no frame: voxels are not compressed, and organs are small.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        variance: Scalar, float32, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        origin: Of its labels, if there are several, the description names the one.
        label: The label whose variance it is.
        brightest: Variance that viewers show as white, 0 being black.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, or the file cannot be written.
    """
    series = read_series(files)
    whole = series.frames(variance).astype(np.float32, copy=False)
    part = _extent(whole, series)
    description = f"Predictive variance ({label.name})" if len(origin.labels) > 1 else "Predictive variance"
    parametric_map = ParametricMap(
        source_images=series.datasets if len(series.datasets) == 1 else series.datasets[part],
        pixel_array=np.ascontiguousarray(whole[part]),
        plane_positions=[
            highdicom.PlanePositionSequence(highdicom.CoordinateSystemNames.PATIENT, position.tolist())
            for position in series.positions[part]
        ],
        series_number=VARIANCE_SERIES_NUMBER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="VARIANCE",
                lut_explanation=line(description),
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, MAX_VARIANCE),
                slope=1.0,
                intercept=0.0,
                quantity_definition=PREDICTIVE_VARIANCE,
            )
        ],
        content_description=line(description),
        # Any other function demands a window of at least 1.
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(brightest / 2, brightest, voi_lut_function="LINEAR_EXACT")
        ],
        **equipment(origin.model, description),
    )
    parametric_map.ContentCreatorName = None  # may be empty, not missing
    for name in ("BodyPartExamined", "Laterality"):  # of the series, where the CT states them
        if value := series.datasets[0].get(name):
            setattr(parametric_map, name, value)
    # Neither is demanded, but dcmqi, which reads parametric maps in 3D Slicer, crashes without the one, and turns the
    # map upside down without the other.
    parametric_map.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(label)]
    _order_frames(parametric_map, series.orientation[:, 2])
    save(parametric_map, path)


def _extent(frames: np.ndarray, series: DicomSeries) -> slice:
    """Find the frames, in order of their positions, from the first to the last that hold anything; two at least."""
    if len(series.datasets) == 1:  # the frames of one file lie in any order
        return slice(None)
    used = np.flatnonzero(frames.any(axis=(1, 2)))
    start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    start = min(start, len(frames) - 2)
    return slice(start, max(stop, start + 2))


def _anatomy(label: Label) -> Dataset:
    """Say which organ a map is about, and of which side; an organ whose code names no side counts as unpaired."""
    modifier = code_of(label, "modifier")
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [code_of(label, "type")]
    anatomy.FrameLaterality = _SIDES.get(modifier.value if modifier else "", "U")
    return anatomy


def _order_frames(parametric_map: ParametricMap, normal: np.ndarray) -> None:
    """Store the frames in the order of their positions along the slices' normal."""
    groups = parametric_map.PerFrameFunctionalGroupsSequence
    heights = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float) @ normal
    order = np.argsort(heights, kind="stable")
    frames = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(len(groups), -1)
    parametric_map.FloatPixelData = frames[order].tobytes()
    parametric_map.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    for number, group in enumerate(parametric_map.PerFrameFunctionalGroupsSequence, 1):
        group.FrameContentSequence[0].DimensionIndexValues = number
