"""A review as DICOM Structured Report: measurements and verdicts by template TID 1500, on the segments of a SEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import highdicom.sr as sr
import numpy as np
import pydicom
from highdicom import UID
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.base.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.output.dicom.study import MANUFACTURER, Study, own_code
from MoBUncertaintyLib.output.formats import DICOM, Format
from MoBUncertaintyLib.output.pictures.planes import central_voxel
from MoBUncertaintyLib.output.report import VERDICTS
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review

# No public scheme has codes for these.
EXPECTED_ERROR = own_code("EXPERR", "Expected error: volume expected to be labelled wrongly")
PREDICTED_VOLUME = own_code("PREDVOL", "Volume as predicted")
DOUBTFUL_REGION = own_code("DOUBTREG", "Doubtful region of a segmentation")
VERDICT = own_code("VERDICT", "Reader's verdict")
SUITABILITY = own_code("SUITABILITY", "Suitability of the case to the model")

_ML, _MM3 = sr.CodedConcept("ml", "UCUM", "milliliter"), codes.UCUM.CubicMillimeter
_UNITS = {
    "ml": _ML,
    "mm": sr.CodedConcept("mm", "UCUM", "millimeter"),
    "mm²": sr.CodedConcept("mm2", "UCUM", "square millimeter"),
    "Gy": sr.CodedConcept("Gy", "UCUM", "gray"),
    "%": sr.CodedConcept("%", "UCUM", "percent"),
}
_NO_UNITS = sr.CodedConcept("1", "UCUM", "no units")
_LONGEST_CODE, _LONGEST_MEANING = 10, 64  # a code has 16 characters, six of them for the end of an interval
_PROCEDURES = {"CT": codes.LN.CTUnspecifiedBodyRegion, "MR": codes.LN.MRIUnspecifiedBodyRegion}


def make_structured_report(
    study: Study, folder: Path, review: Review, report: Mapping[str, Any], equipment: Mapping[str, Any]
) -> sr.Comprehensive3DSR:
    """Make a Comprehensive 3D SR of the review: a group of measurements for each label and for each doubtful region.

    A label's group refers to its segment in the SEG that is in the folder (`OutputError` if there is none), a region's
    has a point in its middle. Both have identifiers that stay the same whenever the review is exported.
    """
    files = [folder / DICOM[kind][1] for kind in (Format.DICOM_SEG, Format.DICOM_SEG_BINARY)]
    segmentation = next((file for file in files if file.exists()), None)
    if segmentation is None:
        raise OutputError("It refers to the DICOM segmentation, which was not written.")
    headers, segments = study.series.headers, pydicom.dcmread(segmentation)
    source = sr.SourceSeriesForSegmentation(headers[0].SeriesInstanceUID)
    regions = zip(review.regions, report["regions"], strict=True)
    person = None
    if study.reader:
        person = sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(study.reader))
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=str(generate_uid(entropy_srcs=[study.digest, MANUFACTURER])),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=study.model,
        serial_number=study.digest,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=person,
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
        ),
        procedure_reported=_PROCEDURES.get(
            headers[0].Modality, sr.CodedConcept("363679005", "SCT", "Imaging procedure")
        ),
        imaging_measurements=[
            *_labels(study, report, segments, source),
            *(_region(region, row, review.prediction.grid, study, source) for region, row in regions),
        ],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=headers,
    )
    return sr.Comprehensive3DSR(
        evidence=[*headers, segments],
        content=content[0],
        is_complete=study.signature is not None,
        **equipment,
    )


def _labels(
    study: Study, report: Mapping[str, Any], segments: pydicom.Dataset, source: sr.SourceSeriesForSegmentation
) -> Iterator[sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations]:
    """Describe each label; one that is nowhere in the segmentation has no segment to refer to."""
    # A label map has a background, without an identifier.
    numbers = {segment.get("TrackingUID"): segment.SegmentNumber for segment in segments.SegmentSequence}
    for label, row in zip(study.labels, report["labels"], strict=True):
        common: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(UID(label.uid), label.name),
            "finding_type": label.structure,
            "finding_category": label.category,
            "measurements": [
                sr.Measurement(codes.SCT.Volume, row["corrected_ml"], _ML),
                sr.Measurement(PREDICTED_VOLUME, row["predicted_ml"], _ML),
                sr.Measurement(EXPECTED_ERROR, row["expected_error_ml"], _ML),
                *_ends(row["corrected_interval"], "VOL", "Volume"),
                *_ends(row["predicted_interval"], "PREDVOL", "Volume as predicted"),
                *_measurements(report, label.name),
            ],
            "qualitative_evaluations": [sr.QualitativeEvaluation(SUITABILITY, study.suitability)]
            if study.suitability
            else None,
        }
        number = numbers.get(label.uid)
        if number is None:
            yield sr.MeasurementsAndQualitativeEvaluations(**common)
        else:
            # Not highdicom's own `from_segmentation`, which knows no segmentation of one segment.
            segment = sr.ReferencedSegment(segments.SOPClassUID, segments.SOPInstanceUID, number, source_series=source)
            yield sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)


def _measurements(report: Mapping[str, Any], label: str) -> Iterator[sr.Measurement]:
    """State what was measured of a label, alone or with others, each with its interval, if one is promised."""
    for row in report["measurements"]:
        kind, *labels = row["name"].split(":")
        if labels[0] != label or row["value"] is None:
            continue
        unit = _UNITS.get(row["unit"], _NO_UNITS)
        meaning = f"{' to '.join([kind, *labels[1:]])} as {report['measured_as']}"
        value = f"{kind.upper()[: _LONGEST_CODE - 4]}{crc32(meaning.encode()) & 0xFFFF:04X}"  # one meaning for a code
        yield sr.Measurement(own_code(value, meaning[:_LONGEST_MEANING]), row["value"], unit)
        yield from _ends(row["interval"], value, meaning, unit)


def _ends(
    interval: Mapping[str, float] | None, value: str, meaning: str, unit: sr.CodedConcept = _ML
) -> list[sr.Measurement]:
    """State both ends of an interval, if there is one."""
    if interval is None:
        return []
    level = interval["level"]
    measurements = []
    for end, words in (("low", "lower"), ("high", "upper")):
        of_end = f", {words} end of its {percent(level)} interval"
        text = meaning[: _LONGEST_MEANING - len(of_end)] + of_end
        code = own_code(f"{value}{end[:3].upper()}{100 * level:.0f}", text)
        measurements.append(sr.Measurement(code, interval[end], unit))
    return measurements


def _region(
    region: ReviewRegion, row: Mapping[str, Any], grid: Grid, study: Study, source: sr.SourceSeriesForSegmentation
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    mask = region.mask if region.mask.any() else region.found.mask  # clicks may have left nothing doubtful
    voxel = central_voxel(mask, grid.spacing) + [part.start for part in region.box]
    verdict = own_code(row["verdict"].upper(), VERDICTS[row["verdict"]])
    uid = UID(generate_uid(entropy_srcs=[study.prediction, region.region_id]))
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, f"Doubtful region {row['rank']}"),
        referenced_volume_surface=sr.VolumeSurface(
            graphic_type=sr.GraphicTypeValues3D.POINT,
            graphic_data=(LPS_TO_RAS * grid.to_ras(np.asarray(voxel)))[None],
            frame_of_reference_uid=study.series.headers[0].FrameOfReferenceUID,
            source_series=source,
        ),
        finding_type=DOUBTFUL_REGION,
        measurements=[
            sr.Measurement(codes.SCT.Volume, round(row["volume_mm3"], 3), _MM3),
            sr.Measurement(EXPECTED_ERROR, round(row["expected_error_mm3"], 3), _MM3),
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(VERDICT, verdict)],
    )
