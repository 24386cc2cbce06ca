"""The segmentation as DICOM RT Structure Set, for radiotherapy: closed contours in the image's slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds
from skimage.measure import approximate_polygon, find_contours, points_in_poly

from MoBUncertaintyLib.output.dicom.study import CodedLabel, DicomSeries, Study

_DIGITS = 3  # of a coordinate in mm
_STRAIGHT = 1e-3  # pixels by which points on a straight line may be off


def make_structure_set(study: Study, equipment: Mapping[str, Any]) -> Dataset:
    """Make an RT Structure Set of the segmentation: a region of interest for each label, an organ, on the slices.

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
    header = series.headers[0]
    images = [_reference(own) for own in series.headers]
    one = _items(SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=images)
    study = _items(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # retired, but demanded
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[one],
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
