"""The segmentation as DICOM SEG: binary, or the probability of each label (FRACTIONAL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import SimpleITK as sitk
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.dicom.common import (
    MANUFACTURER,
    PROBABILITY_SERIES_NUMBER,
    SEG_SERIES_NUMBER,
    code_of,
    equipment,
    line,
    person,
    save,
    tracking_uid,
)
from MoBUncertaintyLib.output.dicom.series import DicomSeries, read_series
from MoBUncertaintyLib.output.segment_nrrd import values_in

PROBABILITY_STEPS = 255
"""A stored 255 is a probability of 1."""


def write_dicom_seg(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    segmentation: sitk.Image,
    labels: Sequence[Label],
    *,
    model: Mapping[str, Any],
    corrected: bool = False,
    reader: str | None = None,
    prediction: str | None = None,
    series_description: str = "Segmentation",
) -> None:
    """Write the segmentation as DICOM SEG: binary, one segment for each label, on the CT's slices.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        segmentation: uint8, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        labels: Those of the model; those that are nowhere in the segmentation are left out.
        model: `name` and `digest` of the model.
        corrected: A reader has reviewed it: the segments are semi-automatic.
        reader: Who signed, for the content creator's name.
        prediction: SHA-256 of the predicted segmentation, which gives the segments the identifiers that other objects
            know them by.
        series_description: What viewers list.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, it has a value that no label stands for, or the file
            cannot be written.
    """
    found = values_in(sitk.GetArrayViewFromImage(segmentation), labels)
    series = read_series(files)
    frames = series.frames(segmentation)
    # A label that is nowhere is left out; if all are, their frames say so.
    present = [label for label in labels if label.value in found] or labels
    numbers = np.zeros(256, np.uint8)  # DICOM counts segments from 1 without gaps
    for number, label in enumerate(present, 1):
        numbers[label.value] = number
    dataset = Segmentation(
        source_images=series.datasets,
        pixel_array=numbers[frames],
        segmentation_type="BINARY",
        omit_empty_frames=bool(found),
        segment_descriptions=_descriptions(present, model, corrected, prediction),
        series_number=SEG_SERIES_NUMBER,
        content_creator_name=person(reader),
        content_description=line(series_description),
        **equipment(model, series_description),
    )
    _save(dataset, path)


def write_dicom_probability(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    probability: Sequence[sitk.Image],
    labels: Sequence[Label],
    *,
    model: Mapping[str, Any],
    corrected: bool = False,
    reader: str | None = None,
    prediction: str | None = None,
    series_description: str = "Probability",
) -> None:
    """Write the probabilities as DICOM SEG: FRACTIONAL, in steps of 1 / 255.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        probability: Image of each label, float32, in the CT's geometry (LPS mm), as for `write_dicom_seg`.
        labels: Those of the model, each of which is a segment.
        model, corrected, reader, prediction, series_description: As for `write_dicom_seg`.

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
        segment_descriptions=_descriptions(labels, model, corrected, prediction),
        series_number=PROBABILITY_SERIES_NUMBER,
        content_creator_name=person(reader),
        content_description=line(series_description),
        **equipment(model, series_description),
    )
    _save(dataset, path)


def _save(dataset: Segmentation, path: str | Path) -> None:
    if "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = None  # may be empty, not missing
    save(dataset, path)


def _descriptions(
    labels: Sequence[Label], model: Mapping[str, Any], corrected: bool, prediction: str | None
) -> list[SegmentDescription]:
    kind = SegmentAlgorithmTypeValues.SEMIAUTOMATIC if corrected else SegmentAlgorithmTypeValues.AUTOMATIC
    return [_describe(number, label, kind, model, prediction) for number, label in enumerate(labels, 1)]


def _describe(
    number: int, label: Label, kind: SegmentAlgorithmTypeValues, model: Mapping[str, Any], prediction: str | None
) -> SegmentDescription:
    category, structure, modifier = (code_of(label, part) for part in ("category", "type", "modifier"))
    assert category is not None
    assert structure is not None  # a label has both
    description = SegmentDescription(
        segment_number=number,
        segment_label=line(label.name),
        segmented_property_category=category,
        segmented_property_type=structure,
        algorithm_type=kind,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=line(model["name"]),
            family=codes.DCM.ArtificialIntelligence,
            version=line(model["digest"]),
            source=MANUFACTURER,
        ),
        tracking_id=line(label.name) if prediction else None,
        tracking_uid=tracking_uid(prediction, label.name) if prediction else None,
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description
