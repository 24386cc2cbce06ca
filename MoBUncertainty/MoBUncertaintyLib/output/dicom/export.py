"""Results as DICOM objects that belong to the CT they were made from: segmentation (SEG) and variance (Parametric Map).

Both carry the patient and study fields of the CT's files, because DICOM demands it: the objects are part of the same
study. They are as identifiable as the CT itself. Voxels are never resampled: they are put in the order of the slices,
however the volume's axes are permuted or flipped, and a volume that does not lie on the slices is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
import SimpleITK as sitk
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.dicom.series import DicomSeries, read_series
from MoBUncertaintyLib.output.segment_nrrd import values_in
from MoBUncertaintyLib.regions.settings import MAX_VARIANCE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "MoB Uncertainty"
SEG_SERIES_NUMBER, VARIANCE_SERIES_NUMBER = 9001, 9002  # after those of the scanner

# DICOM has codes for several variances, none of them for that of a predicted probability.
PREDICTIVE_VARIANCE = CodedConcept("PREDVAR", "99MOB", "Predictive variance of the organ's probability")

_LONGEST = 64  # characters of DICOM's long strings


def write_dicom_seg(
    path: str | Path,
    files: Sequence[str | Path],
    segmentation: sitk.Image,
    labels: Sequence[Label],
    *,
    model: Mapping[str, Any],
    corrected: bool = False,
    reader: str | None = None,
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
        series_description: What viewers list.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, it has a value that no label stands for, or the file
            cannot be written.
    """
    found = values_in(sitk.GetArrayViewFromImage(segmentation), labels)
    series = read_series(files)
    frames = series.frames(segmentation)
    kind = SegmentAlgorithmTypeValues.SEMIAUTOMATIC if corrected else SegmentAlgorithmTypeValues.AUTOMATIC
    # A label that is nowhere is left out; if all are, their frames say so.
    present = [label for label in labels if label.value in found] or labels
    numbers = np.zeros(256, np.uint8)  # DICOM counts segments from 1 without gaps
    for number, label in enumerate(present, 1):
        numbers[label.value] = number
    dataset = Segmentation(
        pixel_array=numbers[frames],
        segmentation_type="BINARY",
        omit_empty_frames=bool(found),
        segment_descriptions=[_describe_segment(number, label, kind, model) for number, label in enumerate(present, 1)],
        series_number=SEG_SERIES_NUMBER,
        content_creator_name=_person(reader),
        content_description=_line(series_description),
        **_common(series, model, series_description),
    )
    _save(dataset, path)


def write_parametric_map(
    path: str | Path,
    files: Sequence[str | Path],
    variance: sitk.Image,
    *,
    model: Mapping[str, Any],
    brightest: float,
    label: str | None = None,
    series_description: str = "Predictive variance",
) -> None:
    """Write the variance as DICOM Parametric Map: float32, without unit, one frame for each of the CT's slices.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        variance: Scalar, float32, in the CT's geometry (LPS mm); axes may be permuted or flipped against the slices.
        model: `name` and `digest` of the model.
        brightest: Variance that viewers show as white, 0 being black.
        label: Name of the label whose variance it is, where there are several.
        series_description: What viewers list.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The volume does not lie on the files' slices, or the file cannot be written.
    """
    series = read_series(files)
    frames = series.frames(variance).astype(np.float32, copy=False)
    description = f"{series_description} ({label})" if label else series_description
    parametric_map = ParametricMap(
        pixel_array=np.ascontiguousarray(frames),
        series_number=VARIANCE_SERIES_NUMBER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="VARIANCE",
                lut_explanation=_line(description),
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, MAX_VARIANCE),
                slope=1.0,
                intercept=0.0,
                quantity_definition=PREDICTIVE_VARIANCE,
            )
        ],
        content_description=_line(description),
        voi_lut_transformations=[highdicom.VOILUTTransformation(brightest / 2, brightest)],
        **_common(series, model, description),
    )
    _save(parametric_map, path)


def _common(series: DicomSeries, model: Mapping[str, Any], series_description: str) -> dict[str, Any]:
    """Gather what both objects are made with. There is no device: the model's digest stands for its serial number."""
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
    }


def _describe_segment(
    number: int, label: Label, kind: SegmentAlgorithmTypeValues, model: Mapping[str, Any]
) -> SegmentDescription:
    category, structure, modifier = (_code(label.terminology.get(key)) for key in ("category", "type", "modifier"))
    assert category is not None
    assert structure is not None  # a label has both
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
    return CodedConcept(code[1], code[0], _line(code[2])) if code else None


def _line(text: str) -> str:
    """Text as DICOM's long strings can hold it: a backslash would part two values, an escape begin another script."""
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text))
    return " ".join(plain.replace("\\", "/").split())[:_LONGEST].strip()


def _person(name: str | None) -> str | None:
    """Write a name in plain text as the family name, which `^` ends and `=` would part from another spelling."""
    return _line(name.replace("^", " ").replace("=", " "))[: _LONGEST - 1] + "^" if name else None


def _save(dataset: Dataset, path: str | Path) -> None:
    path = Path(path)
    if "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = None  # may be empty, not missing
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of labels and readers may be in any script
    try:
        dataset.save_as(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder."
        ) from error
