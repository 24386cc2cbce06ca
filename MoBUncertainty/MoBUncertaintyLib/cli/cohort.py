"""Predict one image, or each image of a folder: one that fails is reported, the others go on, and a table lists all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.cli import console
from MoBUncertaintyLib.cli.programs import Result
from MoBUncertaintyLib.errors import Cancelled, ImageError, UserError
from MoBUncertaintyLib.output.cohort.cases import CohortCase, Outcome, failed_case, read_case
from MoBUncertaintyLib.output.cohort.table import CSV, PAGE, check_table, write_cohort

if TYPE_CHECKING:
    from MoBUncertaintyLib.images.inputs import Input
    from MoBUncertaintyLib.inference.predictor import Predictor
    from MoBUncertaintyLib.output.dicom.objects import DicomFormat
    from MoBUncertaintyLib.pipeline import CaseSummary
    from MoBUncertaintyLib.regions.settings import RegionSettings

OTHER_RESULTS = "Results of an earlier run, with another image, model or other settings, were kept."


@dataclass(frozen=True)
class Job:
    """What is done to each image alike.

    Attributes:
        predictor: Model and settings.
        regions: What counts as a doubtful region.
        series: Series instance UID, where a DICOM folder has several.
        channels: Files of the model's other input channels, by name, if the user has named them.
        scene: Write the Slicer scene too.
        formats: DICOM objects to write too.
        overwrite: Replace results that are there.
        skip_existing: Keep results that are there, whatever they are of.
    """

    predictor: Predictor
    regions: RegionSettings
    series: str | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    scene: bool = True
    formats: Sequence[DicomFormat] = ()
    overwrite: bool = False
    skip_existing: bool = False

    def run(self, case: Input, folder: Path, cancelled: Callable[[], bool]) -> CaseSummary:
        """Predict an image and show how it went; arguments and errors as for `pipeline.run_case`."""
        from MoBUncertaintyLib.pipeline import run_case

        with console.progress(case.entry or case.path.name) as progress:
            summary, _ = run_case(
                case.path,
                folder,
                self.predictor,
                self.regions,
                channels=self._channels(case),
                name=case.entry or None,
                series=self.series,
                scene=self.scene,
                formats=self.formats,
                overwrite=self.overwrite,
                progress=progress,
                cancelled=cancelled,
            )
        console.show_summary(summary)
        return summary

    def _channels(self, case: Input) -> Mapping[str, Path]:
        """Name the files of the other channels: as the user has, or as their numbers in nnU-Net's layout say."""
        return self.channels or dict(zip(self.predictor.model.channels[1:], case.channels, strict=False))

    def kept(self, case: Input, folder: Path) -> CohortCase | None:
        """Describe the results that are there already, if they need not be made again.

        Raises:
            UserError: They cannot be read, or the image cannot.
        """
        from MoBUncertaintyLib.output.results_folder import FOLDER
        from MoBUncertaintyLib.pipeline import is_done

        if self.overwrite or not FOLDER.recognises(folder):
            return None
        try:
            same = is_done(
                case.path,
                folder,
                self.predictor,
                self.regions,
                channels=self._channels(case),
                series=self.series,
                formats=self.formats,
            )
        except ImageError:
            if not self.skip_existing:
                raise
            same = False
        if not (same or self.skip_existing):
            return None
        return read_case(case.entry or case.path.name, folder, Outcome.KEPT, () if same else (OTHER_RESULTS,))


def predict_inputs(
    cases: Sequence[tuple[Input, Path]], source: Path, output: Path, job: Job, cancelled: Callable[[], bool]
) -> Result:
    """Predict what `list_inputs` has found.

    Args:
        cases: Each input and its results folder.
        source: What the user named.
        output: Folder for the results.
        job: What is done to each.
        cancelled: Function that tells whether the user has cancelled.

    Raises:
        Cancelled: The user has cancelled.
        UserError: The image that was named itself cannot be predicted, or the table cannot be written.
    """
    if len(cases) == 1 and not cases[0][0].entry:
        case, folder = cases[0]
        if job.skip_existing and (kept := job.kept(case, folder)):
            console.show_note(f"{folder} holds results already.")
            return Result({"case": asdict(kept)})
        return Result({"case": asdict(job.run(case, folder, cancelled))})
    check_table(output)
    rows = run_each(
        cases,
        lambda case, folder: _predicted(case, folder, job.run(case, folder, cancelled)),
        job.kept,
        cancelled,
        lambda rows: write_cohort(output, source.absolute().name, rows, _others(cases)),
    )
    others = _others(cases)
    console.show_note(f"The table of the cohort is {output / PAGE}, and {CSV} beside it.")
    facts: dict[str, Any] = {
        "cases": [asdict(row) for row in rows],
        "not_cases": [{"name": name, "reason": reason} for name, reason in others],
        "table": output / CSV,
        "page": output / PAGE,
    }
    failed = any(row.outcome is Outcome.FAILED for row in rows)
    return Result(facts, console.BAD_INPUT if failed or others else 0)


def run_each(
    cases: Sequence[tuple[Input, Path]],
    run: Callable[[Input, Path], CohortCase],
    kept: Callable[[Input, Path], CohortCase | None],
    cancelled: Callable[[], bool],
    write: Callable[[list[CohortCase]], None],
) -> list[CohortCase]:
    """Run every case of a folder; report one that fails, and go on.

    Args:
        cases: Input and results folder of each case.
        run: Function that predicts a case.
        kept: Function that describes results that a case has already.
        cancelled: Function that tells whether the user has cancelled; called before each case.
        write: Function that writes the table; called after each case that took time, and at the end.

    Returns:
        A row for each case; what is no case is reported only.

    Raises:
        Cancelled: The user has cancelled.
    """
    rows: list[CohortCase] = []
    for case, folder in cases:
        if cancelled():
            raise Cancelled("Cancelled between two cases.")
        row = _row(case, folder, run, kept)
        if case.is_case:
            rows.append(row)
            if row.outcome is Outcome.PREDICTED:
                write(rows)
    write(rows)
    _show_outcomes([case for case, _ in cases], rows)
    return rows


def _row(
    case: Input,
    folder: Path,
    run: Callable[[Input, Path], CohortCase],
    kept: Callable[[Input, Path], CohortCase | None],
) -> CohortCase:
    """Run one case, whatever comes of it."""
    if case.problem:
        console.show_error(f"skipped, because {case.problem}.", case.entry)
        return failed_case(case.entry, f"{case.problem[:1].upper()}{case.problem[1:]}.")
    try:
        return kept(case, folder) or run(case, folder)
    except Cancelled:
        raise
    except UserError as error:
        console.show_error(error, case.entry)
        return failed_case(case.entry, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases are waiting
        return failed_case(case.entry, console.show_unexpected(error, case.entry))


def _predicted(case: Input, folder: Path, summary: CaseSummary) -> CohortCase:
    """Make the row of a case that was predicted, with what was noticed after its record was written."""
    row = read_case(case.entry, folder, Outcome.PREDICTED)
    return replace(row, warnings=tuple(dict.fromkeys((*row.warnings, *summary.warnings))))


def _others(cases: Sequence[tuple[Input, Path]]) -> list[tuple[str, str]]:
    return [(case.entry, f"{case.problem}.") for case, _ in cases if not case.is_case]


def _show_outcomes(cases: Sequence[Input], rows: Sequence[CohortCase]) -> None:
    """Name the cases that were not predicted now, and why in a word."""
    skipped = [case.entry for case in cases if case.problem]
    kept = [row.name for row in rows if row.outcome is Outcome.KEPT]
    failed = [row.name for row in rows if row.outcome is Outcome.FAILED and row.name not in skipped]
    notes = (("had these results already", kept), ("failed", failed), ("were skipped", skipped))
    for what, names in notes:
        if names:
            console.show_note(f"{len(names)} of {len(cases)} cases {what}: {', '.join(names)}.", names is not kept)
