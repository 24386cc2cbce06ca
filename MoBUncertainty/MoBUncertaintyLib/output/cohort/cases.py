"""What the table of a cohort says of one case: its results, the reviews there (see `readers`), or why it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError, OutputError, ReviewError
from MoBUncertaintyLib.base.json_input import read_object
from MoBUncertaintyLib.base.names import printable, text_of
from MoBUncertaintyLib.base.publishing import KEPT
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.measurements.drawn import Agreement
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.output.cohort.readers import PREFIX, SUFFIX, CaseReview, CaseState, reader_in_name, review_file
from MoBUncertaintyLib.output.report import measurement_rows
from MoBUncertaintyLib.output.results_record import read_labels, read_record
from MoBUncertaintyLib.output.review_export import RECORD, SEGMENTATION, read_export
from MoBUncertaintyLib.output.review_files import Decisions, read_decisions
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.review.record import read_mask
from MoBUncertaintyLib.review.region import Verdict


class Outcome(StrEnum):
    """What became of a case."""

    PREDICTED = "predicted"
    KEPT = "kept"  # it had results already
    FAILED = "failed"


@dataclass(frozen=True)
class Organ:
    """One label of a case."""

    name: str
    volume_ml: float
    expected_error_ml: float | None
    interval: Interval | None = None  # where the model can tell
    expected: Agreement | None = None  # with the truth, where the label is drawn or predicted


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
    findings: tuple[str, ...] | None = None  # what is plainly wrong with a segmentation that was checked
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    measurements: tuple[Mapping[str, Any], ...] = ()  # rows of `report.measurement_rows`
    suitability: Suitability | None = None
    reviews: tuple[CaseReview, ...] = ()  # one of each reader
    agreement: ReaderAgreement | None = None  # of the readers who have signed; None if they are fewer than two

    @property
    def state(self) -> CaseState:
        """How far it is."""
        return CaseState.FAILED if self.outcome is Outcome.FAILED else CaseState.of(self.reviews)

    @property
    def expected_dice(self) -> float | None:
        """Mean of the Dice that is expected of its labels."""
        values = [organ.expected.dice for organ in self.organs if organ.expected]
        return sum(values) / len(values) if values else None

    @property
    def badness(self) -> tuple[bool, bool, float, float]:
        """Sort by this, largest first: failed cases, those not usable, then by expected Dice and by expected error."""
        foreign = self.suitability is not None and self.suitability.level is Level.NOT_USABLE
        error = self.expected_error_ml or self.expected_error_in_regions_ml or 0.0
        return self.outcome is Outcome.FAILED, foreign, -(self.expected_dice or 0.0), error


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
    organs, agreements = [], record.get("agreement", {})
    for label in record["labels"]:
        interval, expected = Interval.from_dict(label.get("interval_ml")), agreements.get(label["name"])
        agreement = expected and Agreement(**expected)
        organs.append(Organ(label["name"], label["volume_ml"], label.get("expected_error_ml"), interval, agreement))
    return CohortCase(
        name=printable(name),
        outcome=outcome,
        folder=folder,
        organs=tuple(organs),
        expected_error_ml=record.get("expected_error_ml"),
        regions=record["regions"]["count"],
        expected_error_in_regions_ml=record["regions"]["expected_error_mm3"] / 1000,
        findings=tuple(each["sentence"] for each in record["checked"]["findings"]) if "checked" in record else None,
        warnings=tuple(record["warnings"]),
        seconds=sum(record.get("timings_s", {}).values()) or None,
        measurements=tuple(measurement_rows([from_json(Measured, each) for each in record.get("measured", ())])),
        suitability=Suitability.from_dict(record["suitability"]) if "suitability" in record else None,
    )


def read_review(results: Path, reader: str) -> Decisions | None:
    """Read a reader's decisions file; None if there is none yet. Raises `ReviewError` if it is damaged."""
    path = review_file(results, reader)
    return read_decisions(path) if path.exists() else None


def reviews_of(results: Path) -> tuple[tuple[CaseReview, ...], tuple[str, ...]]:
    """Find the reviews in a results folder, and one sentence on each that is damaged.

    Of one reader's, the decisions file counts, which is the newest.
    """
    reviews: dict[str, CaseReview] = {}
    problems = []
    exports = [path for path in sorted(results.glob(f"*/{RECORD}")) if not KEPT.fullmatch(path.parent.name)]
    for path in (*exports, *sorted(results.glob(f"{PREFIX}*{SUFFIX}"))):
        try:
            if path.name == RECORD:
                review = CaseReview.of(read_export(path.parent)[0]["review"], "", path.parent)
            else:
                name = path.name.removesuffix(SUFFIX)
                export, reader = path.with_name(name), text_of(name.removeprefix(PREFIX))
                review = CaseReview.of(read_decisions(path).data, reader, export if export.is_dir() else None)
        except ReviewError as error:
            problems.append(printable(str(error)))
        else:
            reviews[reader_in_name(review.reader) if review.reader else str(path)] = review
    return tuple(reviews.values()), tuple(problems)


@dataclass(frozen=True)
class ReaderAgreement:
    """Agreement of readers who have signed; of more than two, of all pairs."""

    readers: tuple[str, ...]  # names of those who are compared
    dice: Mapping[str, float]  # mean Dice between two readers' segmentations of each label, by its name
    regions: int  # number of regions that all of them had in their lists
    regions_different: int  # number of these whose voxels two of them gave other labels


class _Reading(NamedTuple):
    """What one reader made of a case: the segmentation, and the regions by where they lie."""

    segmentation: np.ndarray
    regions: Mapping[tuple[Any, ...], Mapping[str, Any]]


def agreement_of(reviews: Sequence[CaseReview], labels: Sequence[Label]) -> ReaderAgreement | None:
    """Compare the exports of signed reviews of a case; None for fewer than two. Raises `ReviewError`."""
    exports = {each.reader: each.export for each in reviews if each.signed and each.export}
    exports = {reader: export for reader, export in exports.items() if (export / SEGMENTATION).is_file()}
    if len(exports) < 2:
        return None
    try:
        pairs = list(combinations(map(_read, exports.values()), 2))
        overlaps = {
            label.name: float(np.mean([dice(label.mask(a.segmentation), label.mask(b.segmentation)) for a, b in pairs]))
            for label in labels
        }
        common = set.intersection(*(set(each.regions) for pair in pairs for each in pair))
        different = sum(any(_differ(place, a, b) for a, b in pairs) for place in common)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImageError) as error:
        names = " and ".join(map(str, exports.values()))
        raise ReviewError(f"The reviews {names} cannot be compared; they belong to different results.") from error
    return ReaderAgreement(tuple(exports), overlaps, len(common), different)


def _read(export: Path) -> _Reading:
    record = read_object(export / RECORD)["review"]
    segmentation = sitk.GetArrayFromImage(read_volume(export / SEGMENTATION))
    regions = {(*each["first_voxel"], *each["size"], each["voxels"]): each for each in record["regions"]}
    return _Reading(segmentation, regions)


def _differ(place: tuple[Any, ...], a: _Reading, b: _Reading) -> bool:
    one, other = (
        ("resolved" if entry["resolved"] else entry["verdict"], entry["label"])
        for entry in (a.regions[place], b.regions[place])
    )
    if one == other != (Verdict.EDIT, None):
        return False
    box, mask = read_mask(a.regions[place], a.segmentation.shape)
    return bool((a.segmentation[box] != b.segmentation[box])[mask].any())
