"""Which DICOM objects there are, and how each is made of a reviewed case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import OutputError, SettingsError
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.parts import Parts
from MoBUncertaintyLib.output.pictures.style import brightest_variance
from MoBUncertaintyLib.output.report import build_report

if TYPE_CHECKING:
    import numpy as np

    from MoBUncertaintyLib.output.dicom.series import DicomSeries


class DicomFormat(StrEnum):
    """The objects, in the order in which they are written: a later one may refer to an earlier one."""

    SEG = "dicom_seg"
    """`segmentation.dcm`, binary."""
    PROBABILITY = "dicom_seg_fractional"
    """`probability.dcm`: SEG of type FRACTIONAL."""
    STRUCTURE_SET = "rtstruct"
    """`structures.dcm`: contours for radiotherapy."""
    REPORT = "dicom_sr"
    """`report.dcm`: Structured Report by TID 1500, on `segmentation.dcm`."""
    PARAMETRIC_MAP = "parametric_map"
    """`variance.dcm`; with several labels one for each."""


NAMES = {
    DicomFormat.SEG: "The DICOM segmentation",
    DicomFormat.PROBABILITY: "The DICOM segmentation of probabilities",
    DicomFormat.STRUCTURE_SET: "The RT Structure Set",
    DicomFormat.REPORT: "The DICOM structured report",
    DicomFormat.PARAMETRIC_MAP: "The DICOM parametric map",
}
SEGMENTATION = "segmentation.dcm"
_FILES = {
    DicomFormat.SEG: SEGMENTATION,
    DicomFormat.PROBABILITY: "probability.dcm",
    DicomFormat.STRUCTURE_SET: "structures.dcm",
    DicomFormat.REPORT: "report.dcm",
}


def read_dicom_formats(names: Iterable[str], reviewed: bool = True) -> list[DicomFormat]:
    """Read the names of objects, in their order; hyphens stand for underscores.

    A report brings the segmentation that it refers to.

    Args:
        names: What the user wants.
        reviewed: There is a review to report.

    Raises:
        SettingsError: There is no such object.
    """
    plain = {name.replace("-", "_") for name in names}
    offered = [kind for kind in DicomFormat if reviewed or kind is not DicomFormat.REPORT]
    if unknown := sorted(plain - set(offered)):
        choices = ", ".join(kind.replace("_", "-") for kind in offered)
        raise SettingsError(f"There is no DICOM format {unknown[0].replace('_', '-')!r} here; choose among {choices}.")
    if DicomFormat.REPORT in plain:
        plain.add(DicomFormat.SEG)
    return [kind for kind in DicomFormat if kind in plain]


def check_dicom_source(formats: Iterable[DicomFormat], files: Sequence[Path], instead: str) -> None:
    """Refuse objects that the CT cannot have, before anything is computed.

    Args:
        formats: The objects.
        files: The CT's DICOM files; none: it came from elsewhere.
        instead: What the user can do, as the end of a sentence.

    Raises:
        SettingsError: The CT has no DICOM files.
    """
    for kind in formats:
        if not files:
            reason = "because the image did not come from DICOM"
            raise SettingsError(f"{NAMES[kind]} cannot be written, {reason}; {instead}.")


def file_names(kind: DicomFormat, values: Sequence[int]) -> list[str]:
    """Name the files of an object; `values` are those of the labels."""
    if kind is DicomFormat.PARAMETRIC_MAP:
        return [f"variance_{value}.dcm" for value in values] if len(values) > 1 else ["variance.dcm"]
    return [_FILES[kind]]


def write_objects(
    formats: Iterable[DicomFormat],
    parts: Parts,
    case: Case,
    corrected: np.ndarray | None = None,
) -> None:
    """Write objects, each a part of an export.

    Args:
        formats: The objects, in their order.
        parts: Of the export.
        case: The case.
        corrected: `case.review.corrected()`, if it is at hand.

    Raises:
        OSError: The disk is full or broken.
    """
    wanted = list(formats)
    if not wanted:
        return
    from MoBUncertaintyLib.output.dicom.series import read_series

    corrected = case.review.corrected() if corrected is None else corrected
    values, series = [label.value for label in case.review.prediction.labels], None
    for kind in wanted:
        with parts.part(NAMES[kind], *file_names(kind, values)):
            series = series or read_series(case.source.dicom_files)
            _write(kind, parts.folder, case, series, corrected)
    if series and series.left_out:
        parts.warnings.append(
            f"The image's DICOM files state {', '.join(series.left_out)} as DICOM does not allow; the DICOM objects "
            "leave that empty, so check that they reach the right patient."
        )


def _write(kind: DicomFormat, folder: Path, case: Case, files: DicomSeries, corrected: np.ndarray) -> None:
    from MoBUncertaintyLib.output.dicom.common import Origin
    from MoBUncertaintyLib.output.dicom.structure_set import write_structure_set
    from MoBUncertaintyLib.output.dicom.structured_report import write_structured_report
    from MoBUncertaintyLib.output.dicom.voxels import write_dicom_probability, write_dicom_seg, write_parametric_map

    review, labels = case.review, case.review.prediction.labels
    corrected_by_reader = review.reviewed[0] > 0 or bool(review.clicks)
    reader = review.signature.name if review.signature else None
    origin = Origin(model_of(case), labels, corrected_by_reader, reader, review.digest)
    paths = [folder / name for name in file_names(kind, [label.value for label in labels])]
    if kind is DicomFormat.SEG:
        write_dicom_seg(paths[0], files, _image(corrected, case), origin)
    elif kind is DicomFormat.PROBABILITY:
        images = [_image(each, case) for each in review.current().probability]
        write_dicom_probability(paths[0], files, images, origin)
    elif kind is DicomFormat.STRUCTURE_SET:
        write_structure_set(paths[0], files, _image(corrected, case), origin, review.signature)
    elif kind is DicomFormat.REPORT:
        if not (folder / SEGMENTATION).exists():
            raise OutputError(f"It refers to the segmentation in {SEGMENTATION}, which was not written.")
        rows = build_report(case, corrected=corrected)["labels"]
        write_structured_report(paths[0], files, folder / SEGMENTATION, case, rows, model=origin.model)
    else:
        brightest = brightest_variance(review.settings.variance_threshold)
        for path, label, variance in zip(paths, labels, review.current().variance, strict=True):
            write_parametric_map(path, files, _image(variance, case), origin, label=label, brightest=brightest)


def model_of(case: Case) -> dict[str, str]:
    """Name and digest of the model that a case was predicted with, and a word before what viewers list of the case."""
    stated, found = case.review.prediction.provenance.get("model", {}), case.review.prediction.suitability
    unlike = found.level.upper() if found and found.sentence else ""
    return {key: stated.get(key) or "not stated" for key in ("name", "digest")} | {"suitability": unlike}


def _image(array: np.ndarray, case: Case) -> sitk.Image:
    """Make an image that lies exactly where the CT does."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(case.image)
    return image
