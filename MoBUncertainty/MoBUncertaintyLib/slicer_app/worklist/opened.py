"""The case of a worklist that is open for review: put into the scene, and its review kept on disk as it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import OutputError, ReviewError
from MoBUncertaintyLib.base.integrity import digest_of, seal
from MoBUncertaintyLib.base.names import unique_names
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.output.cohort.readers import CaseReview, export_folder, write_decisions, write_review
from MoBUncertaintyLib.slicer_app.requests import dicomDatabase
from MoBUncertaintyLib.slicer_app.scene.views import giveWindow
from MoBUncertaintyLib.slicer_app.sessions import Sessions
from MoBUncertaintyLib.slicer_app.widgets.dialogs import showError
from MoBUncertaintyLib.slicer_app.widgets.section import timer
from MoBUncertaintyLib.slicer_app.widgets.work import ask
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.slicer_app.worklist.cases import CaseSource, WorklistCase
from MoBUncertaintyLib.worker.protocol import Command

KEEP_MS = 500  # after a change: quick clicks are kept together


class KeptReview:
    """The review of one reader of a case, which is kept in its results folder, where a record may be stored already.

    `isNew` says whether there is something to keep; `versions` are digests of the record on disk, as it was read or
    written here, if it exists.
    """

    def __init__(self, case: WorklistCase, reader: str, review, stored: dict[str, Any] | None) -> None:
        self.case, self.reader, self.review = case, reader, review
        self.isNew = False
        self.versions: set[str | None] = {digest_of(stored) if stored else None}
        self._kept, self._began = _state(review), datetime.now()

    def follow(self, review) -> bool:
        """Take the review as it is now; say whether it has changed since it was kept."""
        self.review = review
        return any(now is not before for now, before in zip(_state(review), self._kept, strict=True))

    def keep(self) -> CaseReview:
        """Write it; as signed it is kept with its export only.

        Raises `OutputError` if it cannot be written; the next step, and whatever would remove the case, tries again.
        Raises `ReviewError` if another window has changed it; what was decided here is in a file of its own.
        """
        self._kept, record = _state(self.review), self._record()
        try:
            review = write_review(self.case.folder, self.reader, record, self.versions)
        except ReviewError as error:
            raise ReviewError(f"{error} {self.rescue()}") from error
        self.isNew, self.versions = False, {digest_of(record)}
        return review

    def signed(self) -> dict[str, Any]:
        """Make the request to the worker that exports and keeps it as signed."""
        self._kept, record = _state(self.review), self.review.to_dict()
        versions, self.versions = list(self.versions), self.versions | {digest_of(record)}
        return {
            "command": Command.SIGN_CASE,
            "results": str(self.case.folder),
            "reader": self.reader,
            "review": record,
            "versions": versions,
            "output": str(export_folder(self.case.folder, self.reader)),
        }

    def rescue(self) -> str:
        """Write what is not kept to a file elsewhere; return a sentence that says where.

        Raises `OutputError` if there is no place for it.
        """
        (name,) = unique_names([f"Rescued review {self.case.name}, {self.reader}, {self._began:%Y-%m-%d %H.%M.%S}"])
        documents = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
        here = [self.case.folder] if self.case.folder.is_dir() else []
        for folder in (*here, documents, slicer.app.temporaryPath):
            path = Path(folder, f"{name}.json")
            with suppress(OSError, OutputError):
                write_file(path, lambda partial: write_decisions(partial, self._record()))
                self.isNew = False
                return _("The decisions made here are in {path}.").format(path=path)
        raise OutputError(_("The decisions made here cannot be saved anywhere; free some disk space."))

    def _record(self) -> dict[str, Any]:
        return seal(self.review.to_dict() | {"signature": None})


class OpenedCase:
    """The case that is open, of one reader: its image, `ctNode`, and its review, `kept`."""

    def __init__(
        self, sessions: Sessions, client: WorkerClient, source: CaseSource, say: Callable[[str], None]
    ) -> None:
        self._sessions, self._client, self._source, self._say = sessions, client, source, say
        self.opening = False
        self.ctNode = self._previous = None
        self.kept: KeptReview | None = None
        self._timer = timer(KEEP_MS, self._keep)

    @property
    def name(self) -> str | None:
        """The name of the case; None where none is open, or its image was removed."""
        return self.kept.case.name if self.ctNode is not None and self.ctNode.GetScene() is not None else None

    def open(self, case: WorklistCase, reader: str, onOpened: Callable[[Any], None]) -> None:
        """Open another case in place of this one; `onOpened` is called with its image."""

        def finish(ct) -> None:
            self.opening = False
            onOpened(ct)

        def fail(_code: str, message: str, details: str) -> None:
            self.opening = False
            self._say(message)
            showError(message, details)

        message = {"command": Command.OPEN_CASE, "results": str(case.folder), "reader": reader}
        ask(self._client, message, finish, fail, partial(self._show, case, reader))
        self.opening = True
        self._say(_("Opening {name}...").format(name=case.name))

    def _show(self, case: WorklistCase, reader: str, answer: dict[str, Any]) -> Iterator[None]:
        """Put what the worker has handed over into the scene; returns the image, in steps.

        The case before stays until `removePrevious`: without it Slicer would show another image of the scene meanwhile.
        """
        ct = slicer.util.addVolumeFromArray(answer["ct"], np.array(answer["ijk_to_ras"]), case.name)
        ct.SetName(case.name)  # also where the case is opened again, and is in the scene still
        try:
            giveWindow(ct)
            yield
            session = yield from self._sessions.begin(ct, {"ct": {"ijk_to_ras": answer["ijk_to_ras"]}}, answer)
            if answer["review"]:
                session = self._sessions.restore(ct, answer["review"])
            _nameInstances(ct, answer["dicom_files"])
            self._keep()  # what was decided meanwhile
        except BaseException:
            slicer.mrmlScene.RemoveNode(ct)
            raise
        self._previous, self.ctNode = self.ctNode, ct
        self.kept = KeptReview(case, reader, session.review, answer["review"])
        return ct

    def isOf(self, session) -> bool:
        """Tell whether a review is that of the open case."""
        return session is not None and self.ctNode is not None and session.results.ctNode is self.ctNode

    def follow(self, session) -> None:
        """Keep the review, soon, if it is that of the open case and has changed."""
        if not self.isOf(session) or not self.kept.follow(session.review):
            return
        if not session.review.signature:
            self.kept.isNew = True
            if not self._timer.active:  # else quick clicks would put it off for ever
                self._timer.start()
            return
        self._timer.stop()
        with suppress(OutputError):  # the worker will say so, too
            self._keep()
        ask(self._client, self.kept.signed(), partial(self._onExported, self.name), self._onExportFailed)
        self._say(_("Exporting the review of {name}...").format(name=self.name))

    def _keep(self) -> None:
        """Write what has changed, if anything, at once; errors as of `KeptReview.keep`."""
        if self.kept and self.kept.isNew:
            self._source.reviewed(self.kept.case.name, self.kept.keep())

    def settle(self, mayStay: bool = False) -> bool:
        """Keep the review; where that cannot be, stay with the case or, if that cannot be, write the review elsewhere.

        Returns whether to go on.
        """
        try:
            self._keep()
        except ReviewError as error:
            showError(str(error))  # it says where the review is
        except OutputError as error:
            text = str(error)
            if not mayStay:
                try:
                    text = f"{text} {self.kept.rescue()}"
                except OutputError as lost:
                    if slicer.util.confirmRetryCloseDisplay(str(lost)):  # the user may free some space
                        return self.settle()
                    text = str(lost)
                logging.error(text)  # nobody may be there any more to see the dialog
            showError(text)
            return not mayStay
        return True

    def _onExported(self, name: str, result: dict[str, Any]) -> None:
        if name == self.name and self.kept.review.signature:
            self.kept.isNew = False  # nothing more is to be kept of a review that the worker has kept as signed
        self._say(" ".join([_("{name} is signed and exported.").format(name=name), *result["warnings"]]))
        self._source.read(table=True)

    def _onExportFailed(self, _code: str, message: str, details: str) -> None:
        text = _("{message} The review is not stored as signed; reopen it and sign off again.").format(message=message)
        self._say(text)
        showError(text, details)

    def forget(self) -> None:
        """Follow the case no more; what is not kept is lost."""
        self._timer.stop()
        self.ctNode = self.kept = None

    def removePrevious(self) -> None:
        """Remove the case that was open before this one from the scene."""
        ct, self._previous = self._previous, None
        remove(ct)


def remove(ct) -> None:
    """Remove an image from the scene, if it is there."""
    if ct is not None and ct.GetScene() is not None:
        slicer.mrmlScene.RemoveNode(ct)


def _state(review) -> tuple:
    """Return what a review is now; each step makes other objects."""
    return review.regions, review.clicks, review.signature


def _nameInstances(ct, files: list[str] | None) -> None:
    """Tell Slicer which DICOM files an image is, if they are in its database."""
    database = dicomDatabase()
    instances = [database.instanceForFile(file) for file in files or ()] if database else []
    if instances and all(instances):
        ct.SetAttribute("DICOM.instanceUIDs", " ".join(instances))
