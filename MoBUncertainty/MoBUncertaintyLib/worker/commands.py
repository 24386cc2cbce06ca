"""What the worker does on request; nothing heavy is imported before a request needs it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.worker.predictions import connect, input_of
from MoBUncertaintyLib.worker.protocol import Command, Fields, ProtocolError, understanding
from MoBUncertaintyLib.worker.server import Report

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.output.case import Case
    from MoBUncertaintyLib.output.cohort.cases import CohortCase
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry
    from MoBUncertaintyLib.regions.prediction import Progress

DOWNLOAD = 0.95
"""Fraction of an installation that the download is taken to be."""


def export_review(request: Fields, report: Report) -> Fields:
    """Write what the reader wants of a reviewed case.

    The report names the image only where it may name the patient: the volume of a file that is called after its patient
    has that name too. The image's hash, and the number of its DICOM series, tell which one it is.

    The request has `ct`, {`array`, `ijk_to_ras`, `name`}; `prediction`, see `output.results_record`; `review`, from
    `Review.to_dict`; `measured`, what `measure_review` has answered of this review, or null; `dicom_files`, or null;
    `output`, `formats`, `patient_fields`, `overwrite`: as for `write_export`. Returns `files`, `warnings` and
    `problems`, as `Exported` has them, lists of text.
    """
    from MoBUncertaintyLib.measurements.distribution import Measured
    from MoBUncertaintyLib.output.case import Source
    from MoBUncertaintyLib.output.review_export import write_export

    case = _reviewed(request)
    patient_fields = bool(request.get("patient_fields"))
    origin = Source.of(case.prediction.provenance.get("input", {}))
    # Without a path, no file's name stands in for one that is left out.
    source = Source(
        name=(origin.name or request["ct"].get("name") or "") if patient_fields else "",
        sha256=origin.sha256,
        dicom_files=tuple(map(Path, request.get("dicom_files") or ())),
    )
    with understanding("measurements"):
        measured = tuple(from_json(Measured, each) for each in request.get("measured") or ())
    done = write_export(
        replace(case, source=source, measured=measured),
        request["output"],
        request["formats"],
        patient_fields=patient_fields,
        overwrite=bool(request.get("overwrite")),
        progress=lambda fraction: _tell(report, "export", 0, 1, fraction),
    )
    for warning in done.warnings:
        report.warning(warning)
    return {
        "files": [str(path) for path in done.files],
        "warnings": list(done.warnings),
        "problems": list(done.problems),
    }


def measure_review(request: Fields, report: Report) -> Fields:
    """Measure a case as reviewed.

    The request has `ct`, `prediction` and `review`, as for `export_review`; `measurements`, as `--measure` takes them;
    `dose`, a volume in Gy on a grid of its own, or null; `rank_by`, one of the measurements, or null. Returns
    `measured`, a `Measured` of each, and `effects`, what resolving each region does to that one, by the regions' ids.
    """
    from MoBUncertaintyLib.images.dose import place_dose
    from MoBUncertaintyLib.pipeline.cases import measure_case
    from MoBUncertaintyLib.worker.arrays import read_volume

    def tell(step: Progress) -> None:
        report.progress(asdict(step) | {"fraction": step.done / step.total})

    case, dose, gray = _reviewed(request), request.get("dose"), None
    if dose:
        gray = place_dose(read_volume(dose)[0], case.image, dose["name"])
    made = measure_case(case, request["measurements"], request.get("rank_by"), gray, tell)
    for warning in made.warnings:
        report.warning(warning)
    ids = {region.number: region.region_id for region in case.review.regions}
    effects = {ids[number]: effect for number, effect in made.effects.items()}
    return {"measured": to_json(made.measured), "effects": to_json(effects)}


def _reviewed(request: Fields) -> Case:
    """Read the case of a request, under review."""
    import numpy as np

    from MoBUncertaintyLib.base.errors import ReviewError
    from MoBUncertaintyLib.images.grid import grid_of
    from MoBUncertaintyLib.output.case import Case
    from MoBUncertaintyLib.output.results_record import RecordError, read_prediction
    from MoBUncertaintyLib.review.review import Review
    from MoBUncertaintyLib.worker.arrays import read_volume

    def load(name: str) -> np.ndarray:
        return np.asarray(np.load(name, mmap_mode="r", allow_pickle=False))

    image, _ = read_volume(request["ct"])
    try:
        prediction = read_prediction(request["prediction"], grid_of(image), load)
    except RecordError as error:
        raise ReviewError(f"The prediction stored in the scene is damaged ({error}); apply again.") from error
    return Case.of(image, Review.from_dict(request["review"], prediction))


def calibrate(request: Fields, report: Report) -> Fields:
    """Calibrate a model on reviews or labelled cases.

    Returns `name` of the new model, `calibration`, as its card has it, and `refused`, a sentence on each case not used.
    """
    from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model

    output = Path(request["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    began, done, total = time.monotonic(), 0, 1

    def tell(step: Progress) -> None:
        nonlocal done, total
        if step.stage == "cases":
            done, total = step.done, step.total
        elif step.stage != "network":  # which takes most of the time
            return
        fraction = (done + (step.done / step.total if step.stage == "network" and step.total else 0.0)) / total
        left = (time.monotonic() - began) / fraction * (1 - fraction) if done else None
        _tell(report, "calibrate", done, total, fraction, left)

    model, _, refused = calibrate_model(request["model"], map(Path, request["cases"]), output, progress=tell)
    return {"name": model.card.name, "calibration": model.card.training["calibration"], "refused": refused}


def list_catalogue(request: Fields, _report: Report) -> Fields:
    """List the models of a catalogue: `models`, as `Entry` has them."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    return {"models": to_json(Place.of(request["index"]).entries())}


def fetch_picture(request: Fields, _report: Report) -> Fields:
    """Fetch the picture of a model's sample: `picture`, the path of a file in the request's folder, or null."""
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    content = Place.of(request["index"]).preview(_entry(request))
    if content is None:
        return {"picture": None}
    picture = Path(request["folder"]) / "picture.png"
    picture.write_bytes(content)
    return {"picture": str(picture)}


def install_model(request: Fields, report: Report) -> Fields:
    """Install a model that the user has agreed to: `path`, where it is."""
    from MoBUncertaintyLib.pipeline.catalogue.install import install
    from MoBUncertaintyLib.pipeline.catalogue.place import Place

    def tell(step: Progress) -> None:
        downloads = step.stage == "download"
        fraction = DOWNLOAD * step.done / step.total if downloads else DOWNLOAD + (1 - DOWNLOAD) * step.done
        report.progress(asdict(step) | {"fraction": round(fraction, 4)})

    folder = Path(request["output"]).parent
    return {"path": str(install(Place.of(request["index"]), _entry(request), tell, folder=folder))}


def _entry(request: Fields) -> Entry:
    from MoBUncertaintyLib.pipeline.catalogue.place import Entry

    with understanding("entry"):
        return from_json(Entry, request["entry"])


class CaseList:
    """Answers `cases`, and keeps what it has read of a case as long as its files are as they were."""

    def __init__(self) -> None:
        self._rows: dict[Path, tuple[object, CohortCase]] = {}

    def __call__(self, request: Fields, report: Report) -> Fields:
        """Read all cases, the worst first and those without results last, and write the cohort's table if asked to.

        Returns `cases`: each the input's fields as `case`, its `folder`, and its `row` (a `CohortCase` and its
        `state`), or null; `listed`: the fields of all inputs, also of those that are no cases, for the next request;
        `table`: where the cohort's page is, or null. Raises `UserError` if there is no image, or another table than the
        cohort's is in its place.
        """
        from MoBUncertaintyLib.base.errors import OutputError
        from MoBUncertaintyLib.images.inputs import case_folders
        from MoBUncertaintyLib.output.cohort.table import PAGE, check_table, failed_before, write_cohort

        cohort = Path(request["cohort"])
        cases = case_folders(_inputs(request, cohort), cohort)
        failed = failed_before(cohort) | request["failed"]
        listed: list[tuple[Input, Path, CohortCase | None]] = []
        for done, (case, folder) in enumerate(cases):
            _tell(report, "cases", done, len(cases), done / len(cases))
            if case.is_case:
                row = self._row(case, folder, failed.get(case.entry))
                listed.append((case, folder, row))
        rows = [row for *_, row in listed if row]
        others = [(case.entry, f"{case.problem}.") for case, _ in cases if not case.is_case]
        if request["table"] and rows:
            check_table(cohort)
            try:
                write_cohort(cohort, request["title"], rows, others)
            except OutputError as error:  # the cases are there all the same
                report.warning(str(error))
        listed.sort(key=lambda each: (each[2] is not None, each[2].badness if each[2] else ()), reverse=True)
        return {
            "cases": [
                {
                    "case": to_json(case),
                    "folder": str(folder),
                    "row": row and to_json(row) | {"state": row.state.value},
                }
                for case, folder, row in listed
            ],
            "listed": [to_json(case) for case, _ in cases],
            "table": str(cohort / PAGE) if (cohort / PAGE).is_file() else None,
        }

    def _row(self, case: Input, folder: Path, reason: str | None) -> CohortCase | None:
        from MoBUncertaintyLib.base.errors import UserError
        from MoBUncertaintyLib.output.cohort.cases import Outcome, failed_case, problem_case, read_case
        from MoBUncertaintyLib.output.results_folder import FOLDER

        if case.problem:
            return problem_case(case)
        if not FOLDER.recognises(folder):
            return failed_case(case.entry, reason) if reason else None
        stamp, (earlier, row) = _stamp(folder), self._rows.get(folder, (None, None))
        if row is None or stamp != earlier:
            try:
                row = read_case(case.entry, folder, Outcome.PREDICTED)
            except UserError as error:
                return failed_case(case.entry, str(error))
            self._rows[folder] = stamp, row
        return row


def open_case(request: Fields, _report: Report) -> Fields:
    """Hand a case over for review.

    Returns the entries of a prediction, see `output.results_record`; `ct`, an array's file; `ijk_to_ras`; `name`;
    `review`, what the reader has decided so far, or null; `dicom_files`, or null. Raises `UserError` if the results,
    their image or the review cannot be read.
    """
    import SimpleITK as sitk

    from MoBUncertaintyLib.images.grid import grid_of
    from MoBUncertaintyLib.output.cohort.cases import read_review
    from MoBUncertaintyLib.output.results_record import write_prediction
    from MoBUncertaintyLib.output.review_files import open_case as read_case
    from MoBUncertaintyLib.worker.arrays import write_array

    results = Path(request["results"])
    decisions = read_review(results, request["reader"])
    case = read_case(results)
    fields = write_prediction(case.prediction, case.regions, lambda *named: write_array(request["folder"], *named))
    return fields | {
        "ct": write_array(request["folder"], "ct", sitk.GetArrayViewFromImage(case.image)),
        "ijk_to_ras": grid_of(case.image).matrix().tolist(),
        "name": case.source.name or None,
        "review": decisions and decisions.data,
        "dicom_files": list(map(str, case.source.dicom_files)) or None,
    }


def sign_case(request: Fields, _report: Report) -> Fields:
    """Write the export of a review that is signed off; then keep the review. An earlier export is kept, too.

    Returns `files`, the paths of the export's, and `warnings`: where an earlier one is, and what could not be written.
    Raises `UserError` if the review is not of these results, another window has changed it, or it cannot be written.
    """
    from MoBUncertaintyLib.output.cohort.readers import check_version, export_folder, review_file, write_review
    from MoBUncertaintyLib.output.review_export import write_export
    from MoBUncertaintyLib.output.review_files import Decisions
    from MoBUncertaintyLib.output.review_files import open_case as read_case

    results, reader, versions = Path(request["results"]), request["reader"], request["versions"]
    check_version(results, reader, versions)
    decisions = Decisions(review_file(results, reader), request["review"])
    done = write_export(read_case(results, decisions), export_folder(results, reader), overwrite=True, keep=True)
    write_review(results, reader, request["review"], versions)
    return {"files": [str(path) for path in done.files], "warnings": [*done.warnings, *done.problems]}


def _inputs(request: Fields, cohort: Path) -> Sequence[Input]:
    """List the inputs of a request; one that was named itself gets a name, and so a folder of its own."""
    from MoBUncertaintyLib.images.inputs import list_inputs
    from MoBUncertaintyLib.images.reader import volume_stem

    if request.get("cases") is not None:
        return [input_of(fields) for fields in request["cases"]]
    if request.get("source") is None:
        raise ProtocolError("The request names neither a source nor cases.")
    inputs = list_inputs(request["source"], cohort, request["channels"])
    return [one if one.entry else replace(one, entry=one.path.name, name=volume_stem(one.path)) for one in inputs]


def _stamp(folder: Path) -> object:
    """Tell whether a case's record or reviews have changed since it was read."""
    paths = [*folder.glob("*.json"), *folder.glob("*/report.json")]
    stamp: list[Any] = []
    for path in sorted(paths):
        status = path.stat()
        stamp.append((path, status.st_mtime_ns, status.st_size))
    return stamp


def ask_computer(request: Fields, report: Report) -> Fields:
    """Ask another computer what computes there."""
    with closing(connect(request["computer"])) as connection:
        return connection.ask({"command": Command.COMPUTER}, report)


def describe_computer(_request: Fields, _report: Report) -> Fields:
    """Say what computes here: `version`, the `device` that is taken unless another is asked for, and `cores`."""
    from MoBUncertaintyLib.inference.engines import may_have_gpu

    name = "CPU"
    if may_have_gpu():
        import torch

        from MoBUncertaintyLib.inference.devices import select_device

        device = select_device()
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else {"mps": "Apple GPU"}.get(device.type, name)
    return {"version": __version__, "device": name, "cores": os.cpu_count() or 1}


def has_model(request: Fields, _report: Report) -> Fields:
    """Answer another computer whether a model is `here`."""
    from MoBUncertaintyLib.worker.remote.models import find

    return {"here": find(request["digest"]) is not None}


def keep_model(request: Fields, _report: Report) -> Fields:
    """Keep a model that another computer has sent, its files in the order of `digests`."""
    from MoBUncertaintyLib.worker.remote.models import ModelFiles, keep

    digests = request["digests"]
    files = {name: Path(request["files"][f"{number}.part"]) for number, name in enumerate(digests)}
    keep(ModelFiles(request["name"], digests, files))
    return {}


def _tell(report: Report, stage: str, done: int, total: int, fraction: float, left: float | None = None) -> None:
    report.progress({"stage": stage, "done": done, "total": total, "fraction": fraction, "seconds_left": left})
