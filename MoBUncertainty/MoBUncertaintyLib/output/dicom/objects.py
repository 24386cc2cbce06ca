"""Write a case as DICOM objects, each a part of its results or export; here those with its voxels or outlines.

SEG, as a label map, binary or with the probability of each label (FRACTIONAL), Parametric Map and RT Structure Set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.dicom.study import MANUFACTURER, CodedLabel, DicomSeries, Study, line, own_code, save
from MoBUncertaintyLib.output.folders import Parts
from MoBUncertaintyLib.output.formats import DICOM, Format, dicom_names
from MoBUncertaintyLib.output.pictures.style import brightest_variance
from MoBUncertaintyLib.output.segment_nrrd import values_in
from MoBUncertaintyLib.regions.prediction import Maps
from MoBUncertaintyLib.review.review import Review

PROBABILITY_STEPS = 255
"""A stored 255 is a probability of 1."""
_DIGITS = 3  # of a coordinate in mm
_STRAIGHT = 1e-3  # pixels by which points on a straight line may be off

# Series numbers after those of the scanner, and what viewers list.
_SERIES = {
    Format.DICOM_SEG: (9001, "Segmentation"),
    Format.DICOM_SEG_BINARY: (9006, "Segmentation, binary"),
    Format.DICOM_SEG_FRACTIONAL: (9003, "Probability"),
    Format.RTSTRUCT: (9005, "Segmentation"),
    Format.DICOM_SR: (9004, "Review of a segmentation"),
    Format.PARAMETRIC_MAP: (9002, "Predictive variance"),
}

# DICOM has codes for several variances, none of them for that of a predicted probability.
PREDICTIVE_VARIANCE = own_code("PREDVAR", "Predictive variance of the organ's probability")

_SIDES = {codes.SCT.Left.value: "L", codes.SCT.Right.value: "R", codes.SCT.RightAndLeft.value: "B"}


def write_objects(
    formats: Iterable[Format], parts: Parts, case: Case, corrected: np.ndarray, report: Mapping[str, Any] | None = None
) -> None:
    """Write those of the formats that are DICOM objects, each a part; raises `OSError` if the disk is full or broken.

    `corrected` is that of the case's review; a structured report needs what `build_report` gathers.
    """
    wanted = {kind for kind in formats if kind in DICOM}
    if Format.DICOM_SR in wanted and Format.DICOM_SEG_BINARY not in wanted:
        wanted.add(Format.DICOM_SEG)  # to which it refers
    study: Study | None = None
    for kind in DICOM:
        if kind in wanted:
            name, files = DICOM[kind]
            with parts.part(name, files):
                study = study or Study.of(case, corrected)
                _write(kind, parts.folder, study, case.review, report)
    if study and study.series.left_out:
        parts.warnings.append(
            f"The image's DICOM files have invalid values for {', '.join(study.series.left_out)}, which the DICOM "
            "objects leave empty; check that they are filed under the right patient."
        )


def _write(kind: Format, folder: Path, study: Study, review: Review, report: Mapping[str, Any] | None) -> None:
    names = dicom_names(kind, [label.value for label in study.labels])
    number, title = _SERIES[kind]
    titles = [title] if len(names) == 1 else [line(f"{title} ({label.name})") for label in study.labels]
    equipment = [study.equipment(number, title) for title in titles]
    objects: Iterable[Dataset]
    if kind in (Format.DICOM_SEG, Format.DICOM_SEG_BINARY):
        objects = [make_dicom_seg(study, equipment[0], kind is Format.DICOM_SEG_BINARY)]
    elif kind is Format.DICOM_SEG_FRACTIONAL:
        objects = [make_dicom_probability(study, review.current().probability, equipment[0])]
    elif kind is Format.RTSTRUCT:
        objects = [make_structure_set(study, equipment[0])]
    elif kind is Format.DICOM_SR:
        from MoBUncertaintyLib.output.dicom.structured_report import make_structured_report

        assert report is not None
        objects = [make_structured_report(study, folder, review, report, equipment[0])]
    else:
        brightest = brightest_variance(review.settings.variance_threshold)
        maps = zip(study.labels, review.current().variance, titles, equipment, strict=True)
        objects = (make_parametric_map(study, *each, brightest) for each in maps)
    for name, dataset in zip(names, objects, strict=True):
        save(dataset, folder / name)


def make_dicom_seg(study: Study, equipment: Mapping[str, Any], binary: bool = False) -> Segmentation:
    """Make a DICOM SEG of the segmentation, with a segment for each label that is somewhere in it.

    Several labels make a label map (Supplement 243), with one frame a slice, unless it is to be `binary`, with one for
    each label and slice. Raises `OutputError` for a value that no label stands for.
    """
    values = values_in(study.segmentation, [label.value for label in study.labels])
    # A label that is nowhere is left out; if all are, their frames say so.
    present = [label for label in study.labels if label.value in values] or study.labels
    numbers = np.zeros(256, np.uint8)  # DICOM counts segments from 1 without gaps
    for number, label in enumerate(present, 1):
        numbers[label.value] = number
    binary = binary or len(study.labels) == 1
    return _segmentation(
        study,
        present,
        pixel_array=numbers[study.segmentation],
        segmentation_type="BINARY" if binary else "LABELMAP",
        transfer_syntax_uid=ExplicitVRLittleEndian if binary else RLELossless,
        omit_empty_frames=bool(values),
        content_description="Segmentation",
        **equipment,
    )


def make_dicom_probability(study: Study, probability: Maps, equipment: Mapping[str, Any]) -> Segmentation:
    """Make a DICOM SEG of the probability of each label (z, y, x): FRACTIONAL, in steps of 1 / 255."""
    frames = [np.clip(study.series.frames(p), 0, 1) for p in probability]
    steps = np.stack([np.rint(p * PROBABILITY_STEPS) for p in frames], axis=-1)
    return _segmentation(
        study,
        study.labels,
        pixel_array=steps.astype(np.float32, copy=False) / np.float32(PROBABILITY_STEPS),
        segmentation_type="FRACTIONAL",
        fractional_type="PROBABILITY",
        max_fractional_value=PROBABILITY_STEPS,
        omit_empty_frames=bool(steps.any()),
        content_description="Probability",
        **equipment,
    )


def _segmentation(study: Study, labels: Sequence[CodedLabel], **content: Any) -> Segmentation:
    dataset = Segmentation(
        source_images=study.series.headers,
        segment_descriptions=[_describe(number, label, study) for number, label in enumerate(labels, 1)],
        content_creator_name=study.reader,
        **content,
    )
    if "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = None  # may be empty, not missing
    return dataset


def _describe(number: int, label: CodedLabel, study: Study) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=label.name,
        segmented_property_category=label.category,
        segmented_property_type=deepcopy(label.structure),  # a side is added to it
        algorithm_type="SEMIAUTOMATIC" if study.corrected else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=study.model, family=codes.DCM.ArtificialIntelligence, version=study.digest, source=MANUFACTURER
        ),
        tracking_id=label.name,
        tracking_uid=label.uid,
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if label.modifier is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [label.modifier]
    return description


def make_parametric_map(
    study: Study, label: CodedLabel, variance: np.ndarray, title: str, equipment: Mapping[str, Any], brightest: float
) -> ParametricMap:
    """Make a DICOM Parametric Map of the variance of a label (z, y, x): float32, without unit.

    Slices above and below all variance have no frame: voxels are not compressed, and organs are small. Viewers show the
    brightest variance as white, and 0 as black.
    """
    series, whole = study.series, study.series.frames(variance).astype(np.float32, copy=False)
    part = _extent(whole, series)
    meaning = RealWorldValueMapping(
        lut_label="VARIANCE",
        lut_explanation=title,
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, MAX_VARIANCE),
        slope=1.0,
        intercept=0.0,
        quantity_definition=PREDICTIVE_VARIANCE,
    )
    patient = highdicom.CoordinateSystemNames.PATIENT
    parametric_map = ParametricMap(
        source_images=series.headers if len(series.headers) == 1 else series.headers[part],
        pixel_array=np.ascontiguousarray(whole[part]),
        plane_positions=[highdicom.PlanePositionSequence(patient, at.tolist()) for at in series.positions[part]],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[meaning],
        content_description=title,
        # Any other function demands a window of at least 1.
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(brightest / 2, brightest, voi_lut_function="LINEAR_EXACT")
        ],
        **equipment,
    )
    parametric_map.ContentCreatorName = None  # may be empty, not missing
    for name in ("BodyPartExamined", "Laterality"):  # of the series, where the CT states them
        if value := series.headers[0].get(name):
            setattr(parametric_map, name, value)
    # Neither is demanded, but dcmqi, which reads parametric maps in 3D Slicer, crashes without the one, and turns the
    # map upside down without the other.
    # An organ whose code names no side counts as unpaired.
    side = _SIDES.get(label.modifier.value if label.modifier else "", "U")
    anatomy = _items(AnatomicRegionSequence=[label.structure], FrameLaterality=side)
    parametric_map.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    _order_frames(parametric_map, series.orientation[:, 2])
    return parametric_map


def _extent(frames: np.ndarray, series: DicomSeries) -> slice:
    """Find the frames, in order of their positions, from the first to the last that hold anything; two at least."""
    if len(series.headers) == 1:  # the frames of one file lie in any order
        return slice(None)
    used = np.flatnonzero(frames.any(axis=(1, 2)))
    start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    start = min(start, len(frames) - 2)
    return slice(start, max(stop, start + 2))


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


def make_structure_set(study: Study, equipment: Mapping[str, Any]) -> Dataset:
    """Make a DICOM RT Structure Set of the segmentation: a region of interest for each label, an organ, on the slices.

    A contour runs between voxels (marching squares at one half). A hole is joined to what is around it by a channel
    without width, since few programs read the type for holes (PS3.3, C.8.8.6.3). A label that is nowhere has no
    contours. The reader's signature is an approval.
    """
    series, signature, now = study.series, study.signature, datetime.now()
    header = series.headers[0]
    dataset = highdicom.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        transfer_syntax_uid=ImplicitVRLittleEndian,  # an explicit one has no room for 2,800 points and more
        **equipment,
    )
    dataset.copy_patient_and_study_information(header)
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
    dataset.OperatorsName = study.reader
    dataset.StructureSetLabel = "Segmentation"
    dataset.StructureSetDate, dataset.StructureSetTime = now.date(), now.time()
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    for number, label in enumerate(study.labels, 1):
        contours = [
            _contour(points, series, index)
            for index, frame in enumerate(study.segmentation)
            for points in outlines(frame == label.value)
        ]
        _add(dataset, number, label, contours, "SEMIAUTOMATIC" if study.corrected else "AUTOMATIC")
    dataset.ApprovalStatus = "APPROVED" if signature else "UNAPPROVED"
    if signature:
        time = signature.time.astimezone()
        dataset.ReviewDate, dataset.ReviewTime = time.date(), time.time()
        dataset.ReviewerName = study.reader
    return dataset


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Trace the closed contours around a mask (rows, columns), each with its holes, along a channel without width.

    Points (n, 2) are row and column, in pixels from the centre of the first one; the last is not the first again.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    corner = np.array([rows[0], columns[0]])
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    traced = [approximate_polygon(points, _STRAIGHT) for points in find_contours(part.astype(np.uint8), 0.5)]
    around = sorted((points for points in traced if _area(points) > 0), key=_area)
    within: list[list[np.ndarray]] = [[] for _ in around]
    for hole in (points for points in traced if _area(points) < 0):
        # The smallest contour around it is its own.
        within[next(i for i, points in enumerate(around) if points_in_poly(hole[:1], points)[0])].append(hole)
    for points, holes in zip(around, within, strict=True):
        for hole in holes:
            distances = np.linalg.norm(points[:, None] - hole, axis=2)
            here, there = np.unravel_index(distances.argmin(), distances.shape)
            points = np.concatenate([points[: here + 1], hole[there:], hole[1 : there + 1], points[here:]])
        yield points[:-1] + corner - 1


def _area(points: np.ndarray) -> float:
    """Compute the area within a closed contour in pixels; negative around a hole."""
    rows, columns = points.T
    return float(np.sum(rows[1:] * columns[:-1] - rows[:-1] * columns[1:]) / 2)


def _frame_of_reference(series: DicomSeries) -> Dataset:
    header, images = series.headers[0], [_reference(own) for own in series.headers]
    study = _items(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # retired, but demanded
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[_items(SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=images)],
    )
    return _items(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference(header: Dataset, frame: int | None = None) -> Dataset:
    image = _items(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if frame is not None:
        image.ReferencedFrameNumber = frame + 1
    return image


def _contour(points: np.ndarray, series: DicomSeries, frame: int) -> Dataset:
    """Make a contour (n, 2; row and column) of the frame with this index; positions are LPS mm."""
    along = points[:, ::-1] * series.spacing  # columns lie along a row
    positions = series.positions[frame] + along @ series.orientation[:, :2].T
    single = len(series.headers) == 1
    image = _reference(series.headers[0 if single else frame], frame if single else None)
    return _items(
        ContourImageSequence=[image],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[format_number_as_ds(value) for value in np.round(positions, _DIGITS).ravel().tolist()],
    )


def _add(dataset: Dataset, number: int, label: CodedLabel, contours: list[Dataset], algorithm: str) -> None:
    """Add a region of interest: what it is called, its contours and what it is."""
    dataset.StructureSetROISequence.append(
        _items(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID,
            ROIName=label.name,
            ROIGenerationAlgorithm=algorithm,
        )
    )
    outline = _items(ReferencedROINumber=number, ROIDisplayColor=list(label.colour))
    if contours:
        outline.ContourSequence = contours
    dataset.ROIContourSequence.append(outline)
    dataset.RTROIObservationsSequence.append(
        _items(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIInterpretedType="ORGAN",
            ROIInterpreter=None,
            RTROIIdentificationCodeSequence=[label.structure],
        )
    )


def _items(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
