"""The cases of a worklist, as the worker has read them from the disk. Knows no widgets, and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.names import text_of
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.output.cohort.readers import CaseReview, CaseState, reader_in_name
from MoBUncertaintyLib.worker.protocol import Command


@dataclass(frozen=True)
class WorklistCase:
    """One case.

    Attributes:
        case: The fields of its `images.inputs.Input`.
        folder: Its results folder.
        row: What the cohort's table says of it, see `CohortCase`; None without results or a reason for that.
        reviews: Of its readers.
    """

    case: Mapping[str, Any]
    folder: Path
    row: Mapping[str, Any] | None
    reviews: tuple[CaseReview, ...] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> WorklistCase:
        """Read one of the `cases` of the worker's answer."""
        reviews = (answer["row"] or {}).get("reviews", [])
        readers = tuple(from_json(CaseReview, review) for review in reviews)
        return cls(answer["case"], Path(answer["folder"]), answer["row"], readers)

    @property
    def name(self) -> str:
        """As the user knows it."""
        return self.case["entry"]

    @property
    def hasResults(self) -> bool:
        """Whether it can be reviewed."""
        return self.row is not None and self.row["state"] != CaseState.FAILED

    def state(self, reader: str) -> CaseState:
        """How far it is for a reader; without a name, for all."""
        if self.row is None:
            return CaseState.NOT_RUN
        if not self.hasResults:
            return CaseState.FAILED
        own = self._review(reader)
        return CaseState.of([*filter(None, [own])] if reader else self.reviews)

    def regionsLeft(self, reader: str) -> int | None:
        """Count the regions that a reader has to decide; without a name, the most that a reader has left."""
        own = self._review(reader)
        if own is not None:
            return own.regions_left
        if not reader and self.reviews:
            return max(review.regions_left for review in self.reviews)
        return self.row["regions"] if self.hasResults else None

    def _review(self, reader: str) -> CaseReview | None:
        names = {reader, text_of(reader_in_name(reader))}
        return next((review for review in self.reviews if review.reader in names), None) if reader else None


@dataclass
class Cases:
    """The cases of one worklist.

    Attributes:
        cohort: Folder of their results folders.
        title: Of the cohort's table.
        source: Folder that holds them; None where they are listed.
        listed: The fields of all inputs; None before the worker has listed those of `source`.
        cases: In the order of the cohort's table: the worst first, those without results last.
        failed: Why a case failed, by name; None: as the table on disk says.
        predicted: Names of those that were predicted since the worklist was opened.
        page: The cohort's table, if it is there.
    """

    cohort: Path
    title: str
    source: Path | None = None
    listed: Sequence[Mapping[str, Any]] | None = None
    cases: list[WorklistCase] = field(default_factory=list)
    failed: dict[str, str] | None = None
    predicted: set[str] = field(default_factory=set)
    page: Path | None = None

    def request(self, channels: int, table: bool) -> dict[str, Any]:
        """Ask the worker to read all cases."""
        return {
            "command": Command.CASES,
            "cohort": str(self.cohort),
            "source": str(self.source) if self.source else None,
            "cases": self.listed,
            "channels": channels,
            "title": self.title,
            "failed": self.failed,
            "predicted": sorted(self.predicted),
            "table": table,
        }

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take the worker's answer to `request`."""
        self.listed = answer["listed"]
        self.cases = [WorklistCase.of(fields) for fields in answer["cases"]]
        self.page = Path(answer["table"]) if answer["table"] else None
        if self.failed is None:
            self.failed = {case.name: case.row["reason"] for case in self.cases if case.row and case.row["reason"]}

    def ended(self, name: str, reason: str | None, predicted: bool = False) -> None:
        """Note how the prediction of a case has ended; it is read anew before it is shown.

        Args:
            reason: Why it failed; None: it has not.
        """
        failed = self.failed = self.failed or {}
        failed.pop(name, None)
        if reason is not None:
            failed[name] = reason
        if predicted:
            self.predicted.add(name)

    def find(self, name: str | None) -> WorklistCase | None:
        """Return the case of a name."""
        return next((case for case in self.cases if case.name == name), None)

    def toRun(self) -> list[WorklistCase]:
        """List the cases that have no results yet, and in which there is something to predict."""
        return [case for case in self.cases if not (case.hasResults or case.case["problem"])]

    def next(self, after: str | None, reader: str) -> WorklistCase | None:
        """Return the first case below another, and then from the top, that a reader has not signed off."""
        names = [case.name for case in self.cases]
        start = names.index(after) + 1 if after in names else 0
        turned = [*self.cases[start:], *self.cases[:start]]
        open_ = (CaseState.READY, CaseState.IN_REVIEW)
        return next((case for case in turned if case.state(reader) in open_ and case.name != after), None)

    def reviewed(self, name: str, review: CaseReview) -> None:
        """Take the review of a case that its reader has gone on with."""
        case = self.find(name)
        if case is not None:
            others = tuple(other for other in case.reviews if other.reader != review.reader)
            self.cases[self.cases.index(case)] = replace(case, reviews=(*others, review))
