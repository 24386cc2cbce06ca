"""What the table of a cohort says of one case: read from its results folder and the reviews there, or why it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import OutputError, ReviewError
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort.readers import CaseReview, CaseState
from MoBUncertaintyLib.output.cohort.reviews import Agreement, agreement_of, reviews_of
from MoBUncertaintyLib.output.results_record import read_labels, read_record


class Outcome(StrEnum):
    """What became of a case."""

    PREDICTED = "predicted"
    KEPT = "kept"
    """It had results already."""
    FAILED = "failed"


@dataclass(frozen=True)
class Organ:
    """One label of a case; the interval is None where the model cannot tell."""

    name: str
    volume_ml: float
    expected_error_ml: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class CohortCase:
    """One row of the table."""

    name: str
    outcome: Outcome
    reason: str = ""  # why it failed, in one sentence; else empty
    folder: Path | None = None  # results folder; None if the case failed
    organs: tuple[Organ, ...] = ()  # of each label, in the model's order
    expected_error_ml: float | None = None  # volume of the whole image expected to be labelled wrongly
    # regions, expected_error_in_regions_ml: doubtful regions, and the part of that error in them
    regions: int | None = None
    expected_error_in_regions_ml: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    suitability: Suitability | None = None
    reviews: tuple[CaseReview, ...] = ()  # one of each reader
    agreement: Agreement | None = None  # of the readers who have signed; None if they are fewer than two

    @property
    def state(self) -> CaseState:
        """How far it is."""
        return CaseState.FAILED if self.outcome is Outcome.FAILED else CaseState.of(self.reviews)

    @property
    def badness(self) -> tuple[bool, int, float, float]:
        """Sort by this, largest first: failed cases, then by suitability, then by expected error."""
        level = list(Level).index(self.suitability.level) if self.suitability else 0
        error = self.expected_error_ml or self.expected_error_in_regions_ml or 0.0
        return self.outcome is Outcome.FAILED, level, error, sum(organ.volume_ml for organ in self.organs)


def failed_case(name: str, reason: str) -> CohortCase:
    """Make the row of a case that has no results."""
    return CohortCase(printable(name), Outcome.FAILED, printable(reason))


def problem_case(case: Input) -> CohortCase:
    """Make the row of a case that cannot be predicted, as its input says."""
    return failed_case(case.entry, f"{case.problem[:1].upper()}{case.problem[1:]}.")


def read_intact(folder: Path) -> dict[str, Any]:
    """Read the record of a results folder; raises `OutputError` unless all files are as they were written."""
    try:
        record = read_record(folder)
        row_of(record, "", folder)
    except (OSError, TypeError, ValueError) as error:
        raise OutputError(
            f"The results in {folder} are damaged ({error}); predict again with --overwrite, without --skip-existing."
        ) from error
    return record


def read_case(
    name: str, folder: Path, outcome: Outcome, warnings: Sequence[str] = (), record: Mapping[str, Any] | None = None
) -> CohortCase:
    """Make the row of a case from its results folder, whose record may be at hand; raises `OutputError` if damaged."""
    record = record or read_intact(folder)
    row, (reviews, problems) = row_of(record, name, folder, outcome), reviews_of(folder)
    try:
        agreement = agreement_of(reviews, read_labels(record["labels"]))
    except ReviewError as error:
        agreement, problems = None, (*problems, printable(str(error)))
    return replace(row, warnings=(*warnings, *row.warnings, *problems), reviews=reviews, agreement=agreement)


def row_of(record: Mapping[str, Any], name: str, folder: Path, outcome: Outcome = Outcome.PREDICTED) -> CohortCase:
    """Make the row of a case from the record of its results, which nobody has reviewed."""
    return CohortCase(
        name=printable(name),
        outcome=outcome,
        folder=folder,
        organs=tuple(
            Organ(
                label["name"],
                label["volume_ml"],
                label.get("expected_error_ml"),
                Interval.from_dict(label.get("interval_ml")),
            )
            for label in record["labels"]
        ),
        expected_error_ml=record.get("expected_error_ml"),
        regions=record["regions"]["count"],
        expected_error_in_regions_ml=record["regions"]["expected_error_mm3"] / 1000,
        warnings=tuple(record["warnings"]),
        seconds=sum(record.get("timings_s", {}).values()) or None,
        suitability=Suitability.from_dict(record["suitability"]) if "suitability" in record else None,
    )
