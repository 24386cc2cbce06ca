"""A review as DICOM Structured Report: measurements and verdicts by template TID 1500, on the segments of a SEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom.sr as sr
import numpy as np
import pydicom
from highdicom import UID
from pydicom.sr.codedict import codes

from MoBUncertaintyLib.base.geometry import LPS_TO_RAS
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.dicom.common import (
    MANUFACTURER,
    REPORT_SERIES_NUMBER,
    code_of,
    equipment,
    line,
    own_code,
    person,
    save,
    tracking_uid,
)
from MoBUncertaintyLib.output.dicom.series import DicomSeries, read_series
from MoBUncertaintyLib.output.pictures.planes import central_voxel
from MoBUncertaintyLib.output.report import RESOLVED, VERDICTS
from MoBUncertaintyLib.review.region import ReviewRegion

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# No public scheme has codes for these.
EXPECTED_ERROR = own_code("EXPERR", "Expected error: volume expected to be labelled wrongly")
PREDICTED_VOLUME = own_code("PREDVOL", "Volume as predicted")
DOUBTFUL_REGION = own_code("DOUBTREG", "Doubtful region of a segmentation")
VERDICT = own_code("VERDICT", "Reader's verdict")
SUITABILITY = own_code("SUITABILITY", "Suitability of the case to the model")

_ML, _MM3 = sr.CodedConcept("ml", "UCUM", "milliliter"), codes.UCUM.CubicMillimeter
_PROCEDURES = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MR": codes.LN.MRIUnspecifiedBodyRegion}


def write_structured_report(
    path: str | Path,
    files: Sequence[str | Path] | DicomSeries,
    segmentation: str | Path,
    case: Case,
    labels: Sequence[Mapping[str, Any]],
    *,
    model: Mapping[str, Any],
) -> None:
    """Write the review as Comprehensive 3D SR: a group of measurements for each label and for each doubtful region.

    A label's group refers to its segment; a region's has a point in its middle. Both have identifiers that stay the
    same whenever the review is exported.

    Args:
        path: The file, in a folder that exists.
        files: The CT's DICOM files, in any order.
        segmentation: The SEG of the corrected segmentation, by `write_dicom_seg`.
        case: The review.
        labels: What the report says of each label: `name`, `predicted_ml`, `corrected_ml`, `expected_error_ml`, and the
            intervals `predicted_interval` and `corrected_interval`, or None.
        model: `name` and `digest` of the model.

    Raises:
        ImageError: The files cannot be read or are not one CT series.
        OutputError: The file cannot be written.
    """
    series, segments = read_series(files), pydicom.dcmread(segmentation)
    signature = case.review.signature
    source = sr.SourceSeriesForSegmentation(series.datasets[0].SeriesInstanceUID)
    groups = [
        *_labels(case, labels, segments, source),
        *(_region(region, case, series) for region in case.review.regions),
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=_observer_person(signature.name) if signature else None,
            observer_device_context=_observer_device(model),
        ),
        procedure_reported=_PROCEDURES.get(
            series.datasets[0].Modality, sr.CodedConcept("363679005", "SCT", "Imaging procedure")
        ),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=series.datasets,
    )
    document = sr.Comprehensive3DSR(
        evidence=[*series.datasets, segments],
        content=report[0],
        series_number=REPORT_SERIES_NUMBER,
        is_complete=signature is not None,
        **equipment(model, "Review of a segmentation"),
    )
    save(document, path)


def _labels(
    case: Case,
    rows: Sequence[Mapping[str, Any]],
    segments: Dataset,
    source: sr.SourceSeriesForSegmentation,
) -> Iterator[sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations]:
    """Describe each label; one that is nowhere in the segmentation has no segment to refer to."""
    numbers = {segment.TrackingUID: segment.SegmentNumber for segment in segments.SegmentSequence}
    for label, row in zip(case.review.prediction.labels, rows, strict=True):
        uid = tracking_uid(case.review.digest, label.name)
        common: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(UID(uid), line(label.name)),
            "finding_type": code_of(label, "type"),
            "finding_category": code_of(label, "category"),
            "measurements": [
                sr.Measurement(codes.SCT.Volume, row["corrected_ml"], _ML),
                sr.Measurement(PREDICTED_VOLUME, row["predicted_ml"], _ML),
                sr.Measurement(EXPECTED_ERROR, row["expected_error_ml"], _ML),
                *_ends(row["corrected_interval"], "VOL", "Volume"),
                *_ends(row["predicted_interval"], "PREDVOL", "Volume as predicted"),
            ],
            "qualitative_evaluations": _suitability(case),
        }
        number = numbers.get(uid)
        if number is None:
            yield sr.MeasurementsAndQualitativeEvaluations(**common)
        else:
            # Not highdicom's own `from_segmentation`, which knows no segmentation of one segment.
            segment = sr.ReferencedSegment(segments.SOPClassUID, segments.SOPInstanceUID, number, source_series=source)
            yield sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)


def _suitability(case: Case) -> list[sr.QualitativeEvaluation]:
    """State whether the model suits the case, if that is known."""
    found = case.review.prediction.suitability
    if found is None:
        return []
    return [sr.QualitativeEvaluation(SUITABILITY, own_code(found.level.upper().replace(" ", "_"), line(found.text)))]


def _ends(interval: Mapping[str, float] | None, value: str, meaning: str) -> list[sr.Measurement]:
    """State both ends of a volume's interval, if there is one."""
    if interval is None:
        return []
    level = interval["level"]
    ends = {
        end: own_code(
            f"{value}{end[:3].upper()}{100 * level:.0f}", f"{meaning}, {words} end of its {percent(level)} interval"
        )
        for end, words in (("low", "lower"), ("high", "upper"))
    }
    return [sr.Measurement(code, interval[end], _ML) for end, code in ends.items()]


def _region(
    region: ReviewRegion, case: Case, series: DicomSeries
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    grid, found = case.review.prediction.grid, region.region
    mask = region.mask if region.mask.any() else region.found.mask  # clicks may have left nothing doubtful
    voxel = central_voxel(mask, grid.spacing) + [part.start for part in region.box]
    name = f"Doubtful region {found.rank}"
    verdict = RESOLVED if region.resolved else region.verdict.value
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(UID(tracking_uid(case.review.digest, region.region_id)), name),
        referenced_volume_surface=sr.VolumeSurface(
            graphic_type=sr.GraphicTypeValues3D.POINT,
            graphic_data=(LPS_TO_RAS * grid.to_ras(np.asarray(voxel)))[None],
            frame_of_reference_uid=series.datasets[0].FrameOfReferenceUID,
            source_series=sr.SourceSeriesForSegmentation(series.datasets[0].SeriesInstanceUID),
        ),
        finding_type=DOUBTFUL_REGION,
        measurements=[
            sr.Measurement(codes.SCT.Volume, round(found.volume_mm3, 3), _MM3),
            sr.Measurement(EXPECTED_ERROR, round(found.expected_error_mm3, 3), _MM3),
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(VERDICT, own_code(verdict.upper(), VERDICTS[verdict]))],
    )


def _observer_person(name: str) -> sr.ObserverContext:
    return sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(person(name) or ""))


def _observer_device(model: Mapping[str, Any]) -> sr.ObserverContext:
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=tracking_uid(str(model["digest"]), MANUFACTURER),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=line(model["name"]),
        serial_number=line(model["digest"]),
    )
    return sr.ObserverContext(codes.DCM.Device, attributes)
