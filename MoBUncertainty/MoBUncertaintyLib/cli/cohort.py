"""Predict one image, or each image of a folder: one that fails is reported, the others go on, and a table lists all.

A case that cannot be written because the disk is full, say, is the last: the others would be predicted for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import Cancelled, DiskError, OutputError, UserError
from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.programs import Result
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome, failed_case, problem_case, row_of
from MoBUncertaintyLib.output.cohort.table import CSV, PAGE, check_table, write_cohort
from MoBUncertaintyLib.pipeline.cases import Job, kept_case, run_case

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.output.results_folder import Written


def _run(
    job: Job, case: Input, folder: Path, cancelled: Callable[[], bool], place: str = ""
) -> tuple[dict[str, Any], Written]:
    """Predict an image and show how it went, at its `place` in the cohort; the rest as for `pipeline.run_case`."""
    shown: list[str] = []

    def warn(sentence: str) -> None:
        shown.append(sentence)
        console.show_warnings([sentence])

    with console.progress(case.entry or case.path.name, place) as progress:
        predicted, written = run_case(job, case, folder, progress, cancelled, warn)
    return console.show_case(predicted, written, folder, shown), written


def predict_inputs(
    cases: Sequence[tuple[Input, Path]], source: Path, output: Path, job: Job, cancelled: Callable[[], bool]
) -> Result:
    """Predict what `list_inputs` has found at `source`, each input into its results folder in `output`.

    Raises `Cancelled`, and `UserError` if the only image cannot be predicted, or the table not be written.
    """
    if len(cases) == 1 and not cases[0][0].entry:
        case, folder = cases[0]
        if job.skip_existing and (row := kept_case(job, case, folder)):
            console.show_note(f"{folder} already contains results.")
            return Result({"case": asdict(row)})
        facts, written = _run(job, case, folder, cancelled)
        return Result({"case": facts}, console.BAD_INPUT if written.problems else 0)
    check_table(output)
    places = {folder: f"Case {number} of {len(cases)}" for number, (_, folder) in enumerate(cases, 1)}
    others = [(case.entry, f"{case.problem}.") for case, _ in cases if not case.is_case]
    problems: list[str] = []

    def run(case: Input, folder: Path) -> CohortCase:
        if row := kept_case(job, case, folder):
            return row
        _, written = _run(job, case, folder, cancelled, places[folder])
        problems.extend(written.problems)
        row = row_of(written.record, case.entry, folder)
        return replace(row, warnings=tuple(dict.fromkeys((*row.warnings, *written.warnings))))

    rows = run_each(cases, run, cancelled, lambda rows: write_cohort(output, source.absolute().name, rows, others))
    console.show_note(f"The table of the cohort is {output / PAGE}, and {CSV} beside it.")
    table: dict[str, Any] = {
        "cases": [asdict(row) for row in rows],
        "not_cases": [{"name": name, "reason": reason} for name, reason in others],
        "table": output / CSV,
        "page": output / PAGE,
    }
    failed = any(row.outcome is Outcome.FAILED for row in rows)
    return Result(table, console.BAD_INPUT if failed or others or problems else 0)


def run_each(
    cases: Sequence[tuple[Input, Path]],
    run: Callable[[Input, Path], CohortCase],
    cancelled: Callable[[], bool],
    write: Callable[[list[CohortCase]], None],
) -> list[CohortCase]:
    """Run every case of a folder, report one that fails, and go on; return the rows of the cases.

    `write` writes the table after each case that was predicted, and at the end. Raises `Cancelled`; `DiskError` for
    what the other cases would meet as well; and `OutputError` if the table cannot be written at the end either.
    """
    rows: list[CohortCase] = []
    for case, folder in cases:
        if cancelled():
            raise Cancelled("Cancelled between two cases.")
        try:
            row = _row(case, folder, run)
        except DiskError:
            console.show_note(f"Stopped at {case.entry}; run this command again to continue from there.", True)
            raise
        if case.is_case:
            rows.append(row)
            if row.outcome is Outcome.PREDICTED:
                try:
                    write(rows)
                except OutputError as error:  # somebody has opened it, say: the other cases do not wait for that
                    console.show_warnings([str(error)])
    skipped = [case.entry for case, _ in cases if case.problem]
    unchanged = [row.name for row in rows if row.outcome is Outcome.KEPT]
    failed = [row.name for row in rows if row.outcome is Outcome.FAILED and row.name not in skipped]
    for what, names in (("had these results already", unchanged), ("failed", failed), ("were skipped", skipped)):
        if names:
            console.show_note(f"{len(names)} of {len(cases)} cases {what}: {', '.join(names)}.", names is not unchanged)
    write(rows)
    return rows


def _row(case: Input, folder: Path, run: Callable[[Input, Path], CohortCase]) -> CohortCase:
    """Run one case, whatever comes of it."""
    if case.problem:
        console.show_error(f"skipped, because {case.problem}.", case.entry)
        return problem_case(case)
    try:
        return run(case, folder)
    except (Cancelled, DiskError):
        raise
    except UserError as error:
        console.show_error(error, case.entry)
        return failed_case(case.entry, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases are waiting
        return failed_case(case.entry, console.show_unexpected(error, case.entry))
