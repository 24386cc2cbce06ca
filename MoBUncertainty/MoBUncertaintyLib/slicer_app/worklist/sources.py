"""Where a worklist's cases come from: a folder of images, or Slicer's DICOM database; the worker reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.output.cohort.readers import CaseReview
from MoBUncertaintyLib.slicer_app.requests import MODALITY, dicomDatabase
from MoBUncertaintyLib.slicer_app.widgets.dialogs import askFolder, showError
from MoBUncertaintyLib.slicer_app.worklist.cases import Cases
from MoBUncertaintyLib.slicer_app.worklist.workers import RequestQueue

MODALITIES = ("CT", "MR")
KIND = "0008,0008"
NAMED_BY = ("0010,0020", "0008,0020", "0020,0011", "0008,103e")
"""The patient's ID, the study's date, the series' number and description."""


class CaseSource:
    """The cases of the worklist that is open.

    Attributes:
        cases: None before a source is chosen.
    """

    def __init__(
        self,
        queue: RequestQueue,
        channels: Callable[[], int],
        mayLeave: Callable[[], bool],
        onChanged: Callable[[str | None], None],
    ) -> None:
        self._queue, self._channels, self._mayLeave, self._onChanged = queue, channels, mayLeave, onChanged
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
        message = cases.request(self._channels(), table)
        self._queue.ask(message, partial(self._onRead, cases, summarise), partial(self._onFailed, cases))
        self._onChanged(None)

    def ended(self, name: str, reason: str | None, predicted: bool) -> None:
        """Note how the prediction of a case has ended, see `Cases.ended`."""
        self.cases.ended(name, reason, predicted)
        self.read(table=True)

    def reviewed(self, name: str, review: CaseReview) -> None:
        """Take the review of a case that its reader has gone on with."""
        self.cases.reviewed(name, review)
        self._onChanged(None)

    def _list(self, cases: Cases) -> None:
        if self._mayLeave():
            self.cases = cases
            self._onChanged(_("Reading the cases..."))
            self.read(summarise=True)

    def _onRead(self, cases: Cases, summarise: bool, answer: dict[str, Any]) -> None:
        if cases is self.cases:
            cases.take(answer)
            self._onChanged(_summary(cases) if summarise else None)

    def _onFailed(self, cases: Cases, _code: str, message: str, details: str) -> None:
        if cases is self.cases:
            self._onChanged(message)
            showError(message, details)


def _summary(cases: Cases) -> str:
    """Say how many cases there are, and how many of them are still to be predicted."""
    left = len(cases.toRun())
    text = _("{count} cases; {left} of them without results.") if left else _("{count} cases, all with results.")
    return text.format(count=len(cases.cases), left=left)


def listPatients(database) -> list[dict[str, Any]]:
    """List the fields of the inputs (`images.inputs.Input`), one of each series; scout images are left out."""
    found = []
    for series, files in _series(database):
        if database.fileValue(files[0], MODALITY) in MODALITIES and "LOCALIZER" not in database.fileValue(
            files[0], KIND
        ):
            words = (database.fileValue(files[0], tag).strip() for tag in NAMED_BY)
            name = " ".join(filter(None, words)) or series
            found.append(_input(name, series, [Path(file) for file in files]))
    counts = Counter(each["entry"] for each in found)
    for each in found:
        if counts[each["entry"]] > 1:
            each["entry"] = each["name"] = f"{each['entry']} {each['series']}"
    return found


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
    problem = _("its DICOM files lie in several folders; import them into the database with a copy of the files")
    return {
        "path": str(files[0] if len(files) == 1 else folders[0]),
        "entry": name,
        "name": name,
        "problem": problem if len(folders) > 1 else "",
        "is_case": True,
        "channels": [],
        "series": series,
    }
