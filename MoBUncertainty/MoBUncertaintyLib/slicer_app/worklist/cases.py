"""The cases of a worklist, as the worker has read them from the disk, and where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.names import text_of
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.output.cohort.readers import CaseReview, CaseState, reader_in_name
from MoBUncertaintyLib.slicer_app.requests import MODALITY, dicomDatabase
from MoBUncertaintyLib.slicer_app.widgets.dialogs import askFolder, showError
from MoBUncertaintyLib.slicer_app.widgets.work import ask
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.worker.protocol import Command

MODALITIES = ("CT", "MR")
KIND = "0008,0008"
NAMED_BY = ("0010,0020", "0008,0020", "0020,0011", "0008,103e")
"""The patient's ID, the study's date, the series' number and description."""


@dataclass(frozen=True)
class WorklistCase:
    """One case."""

    case: Mapping[str, Any]  # the fields of its `images.inputs.Input`
    folder: Path
    row: Mapping[str, Any] | None  # of the cohort's table, see `CohortCase`; None without results or a reason for that
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

    def reviewsOf(self, reader: str) -> list[CaseReview]:
        """Return the review of a reader, if there is one; without a name, those of all."""
        names = {reader, text_of(reader_in_name(reader))} if reader else {review.reader for review in self.reviews}
        return [review for review in self.reviews if review.reader in names]

    def state(self, reader: str) -> CaseState:
        """How far it is for a reader; without a name, for all."""
        if self.row is None:
            return CaseState.NOT_RUN
        return CaseState.of(self.reviewsOf(reader)) if self.hasResults else CaseState.FAILED

    def regionsLeft(self, reader: str) -> int | None:
        """Count the regions that a reader has to decide; without a name, the most that a reader has left."""
        reviews = self.reviewsOf(reader)
        regions = self.row["regions"] if self.hasResults else None
        return max((review.regions_left for review in reviews), default=regions)


@dataclass
class Cases:
    """The cases of one worklist."""

    cohort: Path
    title: str
    source: Path | None = None  # folder that holds them; None where they are listed
    listed: Sequence[Mapping[str, Any]] | None = None  # fields of all inputs, once the worker has listed the source's
    cases: list[WorklistCase] = field(default_factory=list)  # in the order of the table; those without results last
    failed: dict[str, str] = field(default_factory=dict)  # why, by name, since the worklist was opened
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
            "table": table,
        }

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take the worker's answer to `request`."""
        self.listed = answer["listed"]
        self.cases = [WorklistCase.of(fields) for fields in answer["cases"]]
        self.page = Path(answer["table"]) if answer["table"] else None

    def ended(self, name: str, reason: str | None) -> None:
        """Note how the prediction of a case has ended, with the reason if it failed; it is read before it is shown."""
        self.failed.pop(name, None)
        if reason is not None:
            self.failed[name] = reason

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


class CaseSource:
    """The cases of the worklist that is open, which the client's worker reads; None before a source is chosen.

    `channels` returns the number of images that a case has, `mayLeave` asks whether the open case may be left, and
    `onChanged` is called when there is something else to show, with what is to be said of it, if anything.
    """

    def __init__(
        self,
        client: WorkerClient,
        channels: Callable[[], int],
        mayLeave: Callable[[], bool],
        onChanged: Callable[[str | None], None],
    ) -> None:
        self._client, self._channels, self._mayLeave, self._onChanged = client, channels, mayLeave, onChanged
        self.cases: Cases | None = None

    def chooseFolder(self, window) -> None:
        """Choose a folder of images; what was begun of it is on disk, and goes on."""
        folder = askFolder(window, _("Choose a folder of images"))
        if folder:
            self._list(Cases(folder.parent / f"{folder.name} results", folder.name, folder))

    def choosePatients(self) -> None:
        """List the CT and MR series of the DICOM database."""
        database = dicomDatabase()
        inputs = listPatients(database) if database and database.isOpen else []
        if not inputs:
            raise ImageError(_("Slicer's DICOM database holds no CT or MR series; import some in the module DICOM."))
        documents = Path(qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation))
        self._list(Cases(documents / _("Worklist results"), _("DICOM database"), listed=inputs))

    def chooseResults(self, window) -> None:
        """Choose the folder that the results of all cases go to."""
        folder = askFolder(window, _("Choose a folder for the results"))
        if folder:
            self._list(Cases(folder, self.cases.title, self.cases.source, self.cases.listed))

    def read(self, table: bool = False, summarise: bool = False) -> None:
        """Let the worker read all cases anew; write the cohort's table, and say how far the cases are, if asked to."""
        cases = self.cases

        def take(answer: dict[str, Any]) -> None:
            if cases is self.cases:
                cases.take(answer)
                self._onChanged(_summary(cases) if summarise else None)

        def fail(_code: str, message: str, details: str) -> None:
            if cases is self.cases:
                self._onChanged(message)
                showError(message, details)

        ask(self._client, cases.request(self._channels(), table), take, fail)
        self._onChanged(None)

    def reviewed(self, name: str, review: CaseReview) -> None:
        """Take the review of a case that its reader has gone on with."""
        self.cases.reviewed(name, review)
        self._onChanged(None)

    def _list(self, cases: Cases) -> None:
        if self._mayLeave():
            self.cases = cases
            self._onChanged(_("Reading the cases..."))
            self.read(summarise=True)


def _summary(cases: Cases) -> str:
    """Say how many cases there are, and how many of them are still to be predicted."""
    left = len(cases.toRun())
    text = _("{count} cases; {left} of them without results.") if left else _("{count} cases, all with results.")
    return text.format(count=len(cases.cases), left=left)


def listPatients(database) -> list[dict[str, Any]]:
    """List the fields of the inputs (`images.inputs.Input`), one of each series; scout images are left out."""
    inputs = []
    for series, files in _series(database):
        value = partial(database.fileValue, files[0])
        if value(MODALITY) in MODALITIES and "LOCALIZER" not in value(KIND):
            name = " ".join(filter(None, (value(tag).strip() for tag in NAMED_BY))) or series
            inputs.append(_input(name, series, [Path(file) for file in files]))
    counts = Counter(fields["entry"] for fields in inputs)
    for fields in inputs:
        if counts[fields["entry"]] > 1:
            fields["entry"] = fields["name"] = f"{fields['entry']} {fields['series']}"
    return inputs


def _series(database) -> Iterator[tuple[str, Sequence[str]]]:
    for patient in database.patients():
        for study in database.studiesForPatient(patient):
            for series in database.seriesForStudy(study):
                files = database.filesForSeries(series)
                if files:
                    yield series, files


def _input(name: str, series: str, files: Sequence[Path]) -> dict[str, Any]:
    """Name one series: its folder, or its only file, which may have several frames."""
    folders = sorted({file.parent for file in files})
    problem = _("its DICOM files lie in several folders; let the DICOM database copy them when you import them")
    return {
        "path": str(files[0] if len(files) == 1 else folders[0]),
        "entry": name,
        "name": name,
        "problem": problem if len(folders) > 1 else "",
        "is_case": True,
        "channels": [],
        "series": series,
    }
