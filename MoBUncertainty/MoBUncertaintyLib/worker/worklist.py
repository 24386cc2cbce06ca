"""What the worker does for a worklist: read its cases, hand one over for review, sign a review off; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.worker.protocol import Fields, ProtocolError, understanding
from MoBUncertaintyLib.worker.server import Report

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.output.cohort.cases import CohortCase


def input_of(fields: Fields) -> Input:
    """Read an input of a request.

    Raises:
        ProtocolError: It is none.
    """
    from MoBUncertaintyLib.images.inputs import Input

    with understanding("case"):
        return from_json(Input, fields)


class CaseList:
    """Answers `cases`, and keeps what it has read of a case as long as its files are as they were."""

    def __init__(self) -> None:
        self._rows: dict[Path, tuple[object, CohortCase]] = {}

    def __call__(self, request: Fields, report: Report) -> Fields:
        """Read all cases, the worst first and those without results last, and write the cohort's table if asked to.

        Returns:
            `cases`: each the input's fields as `case`, its `folder`, and its `row` (a `CohortCase` and its `state`), or
            null; `listed`: the fields of all inputs, also of those that are no cases, for the next request; `table`:
            where the cohort's page is, or null.

        Raises:
            UserError: There is no image, or another table than the cohort's is in its place.
        """
        from MoBUncertaintyLib.base.errors import OutputError
        from MoBUncertaintyLib.images.inputs import case_folders
        from MoBUncertaintyLib.output.cohort.table import PAGE, check_table, failed_before, write_cohort

        cohort = Path(request["cohort"])
        cases = case_folders(_inputs(request, cohort), cohort)
        failed = request.get("failed")
        failed = failed_before(cohort) if failed is None else failed
        listed: list[tuple[Input, Path, CohortCase | None]] = []
        for done, (case, folder) in enumerate(cases):
            report.progress(_progress("cases", done, len(cases)))
            if case.is_case:
                row = self._row(case, folder, failed.get(case.entry), case.entry in request["predicted"])
                listed.append((case, folder, row))
        report.progress(_progress("cases", len(cases), len(cases)))
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

    def _row(self, case: Input, folder: Path, reason: str | None, predicted: bool) -> CohortCase | None:
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
                row = read_case(case.entry, folder, Outcome.KEPT)
            except UserError as error:
                return failed_case(case.entry, str(error))
            self._rows[folder] = stamp, row
        return replace(row, outcome=Outcome.PREDICTED) if predicted else row


def open_case(request: Fields, report: Report) -> Fields:
    """Hand a case over for review.

    Returns:
        The entries of a prediction, see `output.results_record`; `ct`, an array's file; `ijk_to_ras`; `name`; `review`,
        what the reader has decided so far, or null; `dicom_files`, or null.

    Raises:
        UserError: The results, their image or the review cannot be read.
    """
    import SimpleITK as sitk

    from MoBUncertaintyLib.images.grid import grid_of
    from MoBUncertaintyLib.output.cohort.cases import read_review
    from MoBUncertaintyLib.output.results_record import write_prediction
    from MoBUncertaintyLib.output.review_files import open_case as read_case
    from MoBUncertaintyLib.worker.arrays import write_array

    report.progress(_progress("open", 0, 1))
    results = Path(request["results"])
    decisions = read_review(results, request["reader"])
    case = read_case(results)
    fields = write_prediction(case.prediction, case.regions, lambda *named: write_array(request["folder"], *named))
    report.progress(_progress("open", 1, 1))
    return fields | {
        "ct": write_array(request["folder"], "ct", sitk.GetArrayViewFromImage(case.image)),
        "ijk_to_ras": grid_of(case.image).matrix().tolist(),
        "name": case.source.name or None,
        "review": decisions and decisions.data,
        "dicom_files": list(map(str, case.source.dicom_files)) or None,
    }


def sign_case(request: Fields, report: Report) -> Fields:
    """Write the export of a review that is signed off; then keep the review. An earlier export is kept, too.

    Returns:
        `files`, the paths of the export's, and `warnings`: where an earlier one is, and what could not be written.

    Raises:
        UserError: The review is not of these results, another window has changed it, or it cannot be written.
    """
    from MoBUncertaintyLib.output.cohort.readers import check_version, export_folder, review_file, write_review
    from MoBUncertaintyLib.output.review_export import write_export
    from MoBUncertaintyLib.output.review_files import Decisions
    from MoBUncertaintyLib.output.review_files import open_case as read_case

    report.progress(_progress("export", 0, 1))
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


def _progress(stage: str, done: int, total: int) -> Fields:
    fraction = done / total if total else 1.0
    return {"stage": stage, "done": done, "total": total, "fraction": fraction, "seconds_left": None}
