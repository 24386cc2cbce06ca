"""The worklist's window, docked below Slicer's views: its cases, what runs in the background, and which one is open."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.measurements.interval import volume_number, volume_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.fingerprint import Suitability
from MoBUncertaintyLib.output.cohort.readers import CaseState
from MoBUncertaintyLib.slicer_app.clicks.devices import Shortcuts
from MoBUncertaintyLib.slicer_app.installation import whyPyTorch
from MoBUncertaintyLib.slicer_app.models import whyNotUse
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, loadUI, showError
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shown
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton, ask, stageText
from MoBUncertaintyLib.slicer_app.worker.client import Job
from MoBUncertaintyLib.slicer_app.worklist.cases import CaseSource, WorklistCase
from MoBUncertaintyLib.slicer_app.worklist.opened import OpenedCase, remove
from MoBUncertaintyLib.worker.protocol import Command

NEXT_KEY = "C"
HEIGHT = 210  # pixels at first: most of a laptop's screen is left to the views
OF_ALL = ("not_started", "installation", "model", "protocol", "connection")
"""Codes of errors that every other case would have too."""
CUT = "cut"
"""Of the error that the connection to another computer was lost."""


class WorklistDock:
    """The worklist of one panel.

    Two workers of its own serve it: one predicts, and keeps the model loaded; the other reads cases and writes reviews
    meanwhile.
    """

    def __init__(self, panel) -> None:
        self.panel = panel
        main, content = slicer.util.mainWindow(), loadUI("Worklist")
        self.ui = ui = slicer.util.childWidgetVariables(content)
        self.window = qt.QDockWidget(_("Worklist"), main)
        self.window.objectName = "MoBUncertaintyWorklist"
        self.window.setWidget(content)
        if main is not None:
            main.addDockWidget(qt.Qt.BottomDockWidgetArea, self.window)
            main.resizeDocks([self.window], [HEIGHT], qt.Qt.Vertical)
        self.client = panel.logic.client.another()
        self.source = CaseSource(
            self.client,
            lambda: len(model.channels) if (model := panel.inputs.selector.model) else 1,
            lambda: self.run.ready() and self.opened.settle(mayStay=True),
            self._onCases,
        )
        self.run = CaseRun(panel, ui, self.source, self.update)
        self.opened = OpenedCase(panel.logic.sessions, self.client, self.source, self._say)
        self.table = Table(ui.caseTable, (3, 4), 2, self.update)
        ui.caseTable.cellDoubleClicked.connect(lambda *_cell: ui.openButton.click())
        for button, act in (
            (ui.folderButton, lambda: self.source.chooseFolder(self.window)),
            (ui.patientsButton, self.source.choosePatients),
            (ui.resultsButton, lambda: self.source.chooseResults(self.window)),
            (ui.openButton, lambda: self._open(self.source.cases.find(self.table.selected))),
            (ui.nextButton, lambda: self._open(self.source.cases.next(self.opened.name, self.reader))),
            (ui.pageButton, lambda: qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.source.cases.page)))),
        ):
            button.clicked.connect(shown(lambda *_args, act=act: act()))
        inWorklist = _(
            "The reader of this review; to review as another one, enter their name in the worklist and open the case."
        )
        self._readerTips = {False: panel.ui.readerEdit.toolTip, True: inWorklist}
        ui.readerEdit.text = panel.ui.readerEdit.text
        ui.readerEdit.textChanged.connect(self._onReader)
        panel.ui.readerEdit.textChanged.connect(self._onPanelReader)
        self._keys = Shortcuts(main or self.window)
        self._keys.add(NEXT_KEY, lambda *_args: ui.nextButton.click() if self.window.visible else None)
        self.update()

    @property
    def reader(self) -> str:
        """The name that is entered."""
        return self.ui.readerEdit.text.strip()

    def close(self) -> None:
        """Keep the review, and end both workers; a case that is predicted is left out."""
        self.panel.ui.readerEdit.textChanged.disconnect(self._onPanelReader)
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (self.window.deleteLater, self.window.hide):
                stack.callback(end)
            for end in (self.client.close, self.run.client.close, self.opened.forget):
                stack.callback(end)
            self._keys.close()
            self.opened.follow(self.panel.review.session)  # what was typed or drawn last
            self.opened.settle()

    def follow(self) -> None:
        """Follow the panel: the review that it shows may be that of the open case."""
        self.opened.follow(self.panel.review.session)
        self.update()

    def leave(self) -> None:
        """Keep what was reviewed, and have no case open any more: the scene is about to be closed."""
        try:
            self.opened.settle()
        finally:
            self.opened.forget()
            self._say("")
            self._onReader()

    def _onReader(self, *_args) -> None:
        """Name the reader in the panel too, unless its review is that of a case which another reader has opened."""
        if not self.opened.isOf(self.panel.review.session):
            self.panel.ui.readerEdit.text = self.ui.readerEdit.text
        self._onCases()

    def _onPanelReader(self, *_args) -> None:
        if not self.opened.isOf(self.panel.review.session):
            self.ui.readerEdit.text = self.panel.ui.readerEdit.text

    def _open(self, case: WorklistCase) -> None:
        self.panel.review.leave()
        self.opened.follow(self.panel.review.session)
        if self.opened.settle(mayStay=True):
            self.opened.open(case, self.reader, self._onOpened)

    def _onOpened(self, ct: Any) -> None:
        if self.panel.parameters is None:  # the scene is being closed
            self.opened.forget()
            remove(ct)
            self.opened.removePrevious()
            return
        self.panel.parameters.ct = ct
        self.panel.refresh()  # the image may have been chosen before it had results
        self.opened.removePrevious()
        self.table.select(self.opened.name)
        self._onCases(_("{name} is open.").format(name=self.opened.name))

    def _onCases(self, text: str | None = None) -> None:
        """Show the cases, and say what has happened to them."""
        if self.source.cases is not None:
            cells = {case.name: _cells(case, self.reader) for case in self.source.cases.cases}
            self.table.show({name: Row(row, isBold=name == self.opened.name) for name, row in cells.items()})
        if text is not None:
            self._say(text)
        self.update()

    def _say(self, text: str) -> None:
        """Say what happens to the open case, unless the run has the line."""
        if not self.run.work.running:
            self.run.work.say(text)
        self.update()

    def update(self) -> None:
        """Set all widgets."""
        cases, ui, session = self.source.cases, self.ui, self.panel.review.session
        wait = _("Wait until the run has ended, or cancel it.") if self.run.work.running else None
        none = _("Choose a folder of images, or the DICOM database, first.") if cases is None else None
        for button in (ui.folderButton, ui.patientsButton, ui.resultsButton):
            allow(button, wait or (none if button is ui.resultsButton else None))
        ui.sourceLabel.text = str(cases.source or cases.title) if cases else _("No cases yet.")
        host = self.panel.logic.computer.host
        place = _("Results: {folder}, computed on {host}") if host else _("Results: {folder}")
        ui.resultsLabel.text = place.format(folder=cases.cohort, host=host) if cases else ""
        self.run.work.update(self.run.whyNot())
        selected = cases.find(self.table.selected) if cases else None
        reason = _whyNotOpen(self)
        noResults = None if selected and selected.hasResults else _("Select a case with results.")
        allow(ui.openButton, reason or noResults)
        nothing = None if cases and cases.next(self.opened.name, self.reader) else _("No case is left to review.")
        allow(ui.nextButton, reason or nothing)
        page = None if cases and cases.page else _("The table is written once a case is finished.")
        allow(ui.pageButton, page)
        edit, isOpen = self.panel.ui.readerEdit, self.opened.isOf(session)
        edit.readOnly = isOpen  # each reader's review has a file of its own
        edit.toolTip = self._readerTips[isOpen]
        if isOpen:
            edit.text = self.opened.kept.reader


class CaseRun:
    """The run and its button. A case that fails is reported, and the others go on, in another worker if theirs ended.

    A case is tried once more, after the others, if the connection to another computer is cut while it is predicted.
    The worker keeps its model loaded. `onChanged` is called when the run has begun, or ended.
    """

    def __init__(self, panel, ui, source: CaseSource, onChanged: Callable[[], None]) -> None:
        self._panel, self._source, self._onChanged = panel, source, onChanged
        self.client = panel.logic.client.another()
        self._done = self._count = 0  # cases
        self._began = 0.0
        self.job = Job()  # all of it
        self._text = ""  # which case it is, and what is done with it
        self.work = WorkButton(ui.runButton, ui.progressBar, ui.statusLabel, self._start, self._cancel)

    def ready(self) -> bool:
        """Install what is missing, if the user agrees: less where another computer predicts."""
        model = self._panel.inputs.selector.model
        # A training folder of nnU-Net, which has no card, is read with PyTorch.
        away = self._panel.logic.computer.host and (model is None or model.card)
        why = "" if away else whyPyTorch(self._panel.parameters, model)
        say = partial(self.work.say, _("Installing missing packages..."))
        try:
            self._panel.ensureReady(("report",) if away else (), say, why)
        except Cancelled as declined:
            self.work.say(str(declined))
            return False
        return True

    def whyNot(self) -> str | None:
        """Return the reason why it cannot begin now, if any."""
        if self._source.cases is None:
            return _("Choose a folder of images, or the DICOM database, first.")
        if problem := self._panel.logic.computer.problem or whyNotUse(self._panel.inputs.selector.model):
            return problem
        if self._panel.parameters is None:
            return _("Wait until the scene is loaded.")
        return None if self._source.cases.toRun() else _("All cases have results.")

    def _start(self) -> None:
        """Predict all cases that have no results, on the computer that the panel has chosen."""
        agreeToLicences([self._panel.inputs.selector.model])
        if not self.ready():
            return
        self._panel.computer.confirm()
        how = {
            "command": Command.PREDICT_CASE,
            "models": [str(self._panel.inputs.selector.model.path)],
            "settings": self._panel.settings | {"region_of_interest": None},
            "computer": self._panel.logic.computer.host or None,
        }
        cases = self._source.cases.toRun()
        self._done, self._count, self._began, self.job = 0, len(cases), time.monotonic(), Job()
        self.work.follow(self.job)
        self.job.progress.connect(lambda _step: self.work.say(self._text))
        for case in cases:
            self._predict(case, how)
        self._onChanged()

    def _cancel(self) -> None:
        """Stop; what was begun of a case is removed, and what is done stays."""
        self.client.cancel()
        self._source.read(table=True)
        self.work.stop(_("Cancelled; finished cases stay, and the next run continues with the others."))
        self._onChanged()

    def _predict(self, case: WorklistCase, how: dict[str, Any], isLast: bool = False) -> None:
        """Let the worker predict a case after those before; where the connection is cut, again unless `isLast`."""

        def fail(code: str, message: str, details: str) -> None:
            if code in OF_ALL:
                self._end(message, details)
            elif code == CUT and not isLast:
                self._predict(case, how, isLast=True)
            else:
                self._onDone(case, message)

        message = {**how, "case": case.case, "output": str(case.folder)}
        job = ask(self.client, message, lambda _result: self._onDone(case, None), fail)
        job.progress.connect(partial(self._onProgress, case))
        job.warning.connect(self.job.warning.emit)

    def _onProgress(self, case: WorklistCase, step: dict[str, Any]) -> None:
        """Tell how far the whole run is: the other cases are expected to take as long as those before, or as this."""
        taken, left, fraction = time.monotonic() - self._began, step["seconds_left"], step["fraction"]
        fraction = (self._done + fraction) / self._count
        if self._done:
            left = taken / fraction * (1 - fraction)
        elif left is not None:
            left += (self._count - 1) * (taken + left)
        what = stageText({**step, "stage": "export"} if step["stage"] == "write" else step)
        text = _("Case {number} of {count}, {name}. {step}")
        self._text = text.format(number=self._done + 1, count=self._count, name=case.name, step=what)
        self.job.progress.emit({**step, "fraction": fraction, "seconds_left": left})

    def _onDone(self, case: WorklistCase, reason: str | None) -> None:
        self._done += 1
        self._source.cases.ended(case.name, reason)
        self._source.read(table=True)
        if self._done == self._count:
            self._end()

    def _end(self, problem: str = "", details: str = "") -> None:
        self.client.cancel()
        self.work.stop(problem)
        if problem:
            showError(problem, details)
        else:
            self._source.read(summarise=True)
        self._onChanged()


def _whyNotOpen(dock: WorklistDock) -> str | None:
    """Return the reason why no case can be opened now, if any."""
    if not dock.reader:
        return _("Enter your name as the reader first.")
    if dock.panel.state.busy or dock.panel.parameters is None:
        return _("Wait for the running computation to finish.")
    return _("A case is being opened.") if dock.opened.opening else None


def _cells(case: WorklistCase, reader: str) -> list[tuple[str, str]]:
    """Make text and tooltip of each column."""
    row, state = case.row or {}, case.state(reader)
    readers = "\n".join(review.text for review in case.reviews)
    reason = row.get("reason", "")
    suitability = Suitability.from_dict(row["suitability"]).text if row.get("suitability") else ""
    organs, left = row.get("organs", ()), case.regionsLeft(reader)
    volumes = " / ".join(volume_number(organ["volume_ml"]) for organ in organs)
    named = "\n".join(f"{readable(organ['name'])}: {volume_text(organ['volume_ml'])}" for organ in organs)
    return [
        (case.name, str(case.folder)),
        (_stateText(state), readers),
        (reason or suitability, reason or "\n".join(row.get("warnings", ()))),
        (volumes, named),
        ("" if left is None else str(left), readers),
    ]


def _stateText(state: CaseState) -> str:
    words = {
        CaseState.NOT_RUN: _("Not run"),
        CaseState.FAILED: _("Failed"),
        CaseState.READY: _("Ready"),
        CaseState.IN_REVIEW: _("In review"),
        CaseState.SIGNED: _("Signed"),
    }
    return words[state]
