"""What is written of a reviewed case: report, corrected segmentation, DICOM objects, in one folder or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ReviewError, SettingsError, reporting_out_of_memory
from MoBUncertaintyLib.base.integrity import IntegrityError, check_manifest, check_seal, make_manifest, seal
from MoBUncertaintyLib.base.json_input import JsonError, read_object
from MoBUncertaintyLib.base.names import is_system_file
from MoBUncertaintyLib.base.publishing import absolute
from MoBUncertaintyLib.images.grid import grid_of, image_on
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.folders import FolderKind, Parts
from MoBUncertaintyLib.output.formats import DEFAULT, DICOM, Format, check_source, read_formats
from MoBUncertaintyLib.output.pages.templates import require_installed
from MoBUncertaintyLib.output.report import (
    CLICK_COLUMNS,
    COLUMNS,
    SCHEMA,
    build_report,
    write_html,
    write_json,
    write_measurements,
    write_table,
)
from MoBUncertaintyLib.output.segment_nrrd import values_in, write_segmentation_nrrd, write_whole
from MoBUncertaintyLib.review.outcome import decided_voxels
from MoBUncertaintyLib.review.refinement.evidence import Evidence
from MoBUncertaintyLib.review.region import Verdict

if TYPE_CHECKING:
    import numpy as np

RECORD, SEGMENTATION, REGIONS = "report.json", "segmentation.seg.nrrd", "regions.nrrd"
NIFTI_SEGMENTATION = "segmentation.nii.gz"
SIGNATURE = f"{RECORD}.sig"
"""What `ssh-keygen -Y sign` writes beside the record, whose SHA-256 cover all other files."""
DECIDED = "decided_voxels"
"""What a calibration needs, in the record: another name, an older rule of what is decided (`outcome`)."""


@dataclass(frozen=True)
class Exported:
    """What was written: paths, warnings, what could not be written and why, and what the report says."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    report: dict[str, Any]


FOLDER = FolderKind(
    noun="review", one="a review", earlier="an earlier review", main=SEGMENTATION, record=RECORD, schema=SCHEMA
)


@reporting_out_of_memory()
def write_export(
    case: Case,
    folder: str | Path,
    formats: Iterable[str] = DEFAULT,
    *,
    patient_fields: bool = False,
    overwrite: bool = False,
    keep: bool = False,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Exported:
    """Write what the reader wants of a reviewed case into a folder of its own, whole or not at all.

    Args:
        formats: Of `Format`. What cannot be made is left out, which is a problem, and the rest is written.
        patient_fields: The report may name the patient; DICOM objects always do, since they join the image's study.
        overwrite, keep: Replace an older export, or move it to another name, which a warning says.
        progress: Called with the fraction that is done.

    Raises:
        SettingsError: No format or an unknown one, or DICOM of an image without DICOM files.
        OutputError: The folder cannot be written; nothing of it is left, and an older export is as it was.
    """
    wanted = read_formats(formats)
    if not wanted:
        raise SettingsError("There is nothing to export; choose a format.")
    check_source(wanted, case.source.dicom_files, "choose segmentation or nifti instead")
    if Format.REPORT in wanted:
        require_installed()
    folder = absolute(folder)
    with FOLDER.reserve(folder, overwrite, keep) as place, place.writing() as partial:
        parts, corrected = Parts(partial), case.review.corrected()
        decided, series = _evidence(case, corrected), _read_dicom(case, patient_fields, parts)
        if case.measured:
            write_measurements(partial / "measurements.csv", case.measured)
        report = build_report(case, **series) | {DECIDED: decided}
        for done, kind in enumerate(wanted):
            progress(done / len(wanted))
            if kind in _WRITERS:
                name, files, write = _WRITERS[kind]
                with parts.part(name, *files):
                    write(partial, case, corrected)
        if not DICOM.keys().isdisjoint(wanted):
            with parts.part("The DICOM part"):  # the packages that it needs may be damaged
                from MoBUncertaintyLib.output.dicom.objects import write_objects

                write_objects(wanted, parts, case, corrected, report)
        # Last, so that the report lists the warnings, and its record all other files.
        report["warnings"] += parts.sentences
        before = len(parts.problems)
        if Format.REPORT in wanted:
            with parts.part("The report", "report.html"):
                write_html(partial / "report.html", report, case, corrected)
            with parts.part("The table of the report", "report.csv", "clicks.csv"):
                write_table(partial / "report.csv", COLUMNS, report["regions"])
                if report["clicks"]:
                    write_table(partial / "clicks.csv", CLICK_COLUMNS, report["clicks"])
        report["warnings"] += parts.problems[before:]
        report = seal(report | {"files": make_manifest(partial)})
        write_json(partial / RECORD, report)
        names = sorted(path.name for path in partial.iterdir())
    progress(1.0)
    warnings = (*parts.warnings, *place.warnings)
    return Exported(tuple(folder / name for name in names), warnings, tuple(parts.problems), report)


def _read_dicom(case: Case, patient_fields: bool, parts: Parts) -> dict[str, dict[str, str]]:
    """Read which series the image is and, if asked for, which patient it shows, in the report's words."""
    if not case.source.dicom_files:
        if patient_fields:
            parts.warnings.append("The report does not name the patient, because the image did not come from DICOM.")
        return {}
    with parts.part("What the report says of the image's DICOM series"):
        from MoBUncertaintyLib.output.dicom.headers import describe_file

        series, patient = describe_file(case.source.dicom_files[0])
        return {"dicom": series} | ({"patient": patient} if patient_fields else {})
    return {}


def _evidence(case: Case, corrected: np.ndarray) -> dict[str, str]:
    """Count what was predicted where the reader has decided, for each label by its value: for a calibration."""
    prediction, decided = case.review.prediction, decided_voxels(case.review)
    labels, maps = corrected[decided], zip(prediction.probability, prediction.variance, strict=True)
    return {
        str(label.value): Evidence.of(p, v, decided, labels == label.value).to_text()
        for label, (p, v) in zip(prediction.labels, maps, strict=True)
    }


def read_export(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Read the record of an export, and who signed it off, when (or None).

    Raises `ReviewError`, which names the export, unless it is whole and as it was written.
    """
    try:
        record = read_object(folder / RECORD)
        if record.get("schema") != SCHEMA:
            raise IntegrityError(f"{RECORD} was not written by an export")
        check_seal(record)
        files: Any = record.get("files")
        if files != {}:
            check_manifest(folder, files)
        names = {path.name for path in folder.iterdir()}
        others = {name for name in names if not name.startswith(".") and not is_system_file(name)}
        for name in sorted(others - {RECORD, SIGNATURE} - set(files)):
            raise IntegrityError(f"{name} is not part of it")
        return record, _signed_off(record)
    except (OSError, JsonError, IntegrityError) as error:
        missing = isinstance(error, FileNotFoundError) and f"{Path(error.filename or '').name} is missing"
        reason = missing or getattr(error, "strerror", None) or error
        raise ReviewError(f"The review in {folder} cannot be verified: {reason}.") from error


def _signed_off(record: Mapping[str, Any]) -> str | None:
    try:
        review = record["review"]
        signature = review["signature"]
        if signature is None:
            return None
        if any(region["verdict"] == Verdict.PENDING and not region["resolved"] for region in review["regions"]):
            raise IntegrityError("it is signed off although regions are undecided")
        return f"{signature['name']}, {signature['time']}"
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"the review in {RECORD} is damaged") from error


def _write_nrrd(folder: Path, case: Case, corrected: np.ndarray) -> None:
    status = "completed" if case.review.signature else "inprogress"
    grid, labels = grid_of(case.image), case.review.prediction.labels
    write_segmentation_nrrd(folder / SEGMENTATION, corrected, grid, labels, status=status)
    write_whole(image_on(grid, case.review.listed().whole_map()), folder / REGIONS)


def _write_nifti(folder: Path, case: Case, corrected: np.ndarray) -> None:
    values_in(corrected, [label.value for label in case.review.prediction.labels])
    write_whole(image_on(grid_of(case.image), corrected), folder / NIFTI_SEGMENTATION)


_WRITERS: dict[Format, tuple[str, tuple[str, ...], Callable[[Path, Case, np.ndarray], None]]] = {
    Format.SEGMENTATION: ("The segmentation", (SEGMENTATION, REGIONS), _write_nrrd),
    Format.NIFTI: ("The segmentation as NIfTI", (NIFTI_SEGMENTATION,), _write_nifti),
}
"""Its name, its files, and what writes them into a folder, of a case and its corrected label map (z, y, x)."""
