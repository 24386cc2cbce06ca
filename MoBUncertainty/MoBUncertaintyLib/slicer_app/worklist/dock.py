"""The worklist's window, docked below Slicer's views: its cases, what runs in the background, and which one is open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.measurements.interval import volume_number, volume_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.cohort.readers import CaseState
from MoBUncertaintyLib.slicer_app.clicks.devices import Shortcuts
from MoBUncertaintyLib.slicer_app.installation import whyPyTorch
from MoBUncertaintyLib.slicer_app.models import whyNotUse
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, loadUI, showError
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shown
from MoBUncertaintyLib.slicer_app.widgets.table import Row, Table
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton
from MoBUncertaintyLib.slicer_app.worklist.cases import Cases, CaseSource, WorklistCase
from MoBUncertaintyLib.slicer_app.worklist.opened import OpenedCase
from MoBUncertaintyLib.slicer_app.worklist.workers import BackgroundRun, RequestQueue

NEXT_KEY = "C"
HEIGHT = 210  # pixels at first: most of a laptop's screen is left to the views


class WorklistDock:
    """The worklist of one panel.

    Two workers of its own serve it: one predicts, and keeps the model loaded; the other reads cases and writes reviews
    meanwhile.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self._queue = RequestQueue(panel.logic.client.another())
        self._source = CaseSource(
            self._queue,
            lambda: len(model.channels) if (model := panel.inputs.selector.model) else 1,
            lambda: self._ready() and self.opened.settle(mayStay=True),
            self._onCases,
        )
        self._run = BackgroundRun(panel.logic.client.another(), self._source.ended, self._onRunEnd)
        self.opened = OpenedCase(panel.logic.sessions, self._queue, self._source, self._say)
        inWorklist = _(
            "The reader of this review; to review as another one, enter their name in the worklist and open the case."
        )
        self._readerTips = {False: panel.ui.readerEdit.toolTip, True: inWorklist}
        main, content = slicer.util.mainWindow(), loadUI("Worklist")
        self.ui = ui = slicer.util.childWidgetVariables(content)
        self.window = qt.QDockWidget(_("Worklist"), main)
        self.window.objectName = "MoBUncertaintyWorklist"
        self.window.setWidget(content)
        if main is not None:
            main.addDockWidget(qt.Qt.BottomDockWidgetArea, self.window)
            main.resizeDocks([self.window], [HEIGHT], qt.Qt.Vertical)
        self.table = Table(ui.caseTable, (3, 4), 2, self.update)
        ui.caseTable.cellDoubleClicked.connect(lambda *_cell: ui.openButton.click())
        self.work = WorkButton(ui.runButton, ui.progressBar, ui.statusLabel, self._onRun, self._onCancel)
        for button, act in (
            (ui.folderButton, lambda: self._source.chooseFolder(self.window)),
            (ui.patientsButton, self._source.choosePatients),
            (ui.resultsButton, lambda: self._source.chooseResults(self.window)),
            (ui.openButton, lambda: self._open(self.cases.find(self.table.selected))),
            (ui.nextButton, lambda: self._open(self.cases.next(self.opened.name, self._reader))),
            (ui.pageButton, lambda: qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.cases.page)))),
        ):
            button.clicked.connect(shown(lambda *_args, act=act: act()))
        ui.readerEdit.text = panel.ui.readerEdit.text
        ui.readerEdit.textChanged.connect(self._onReader)
        panel.ui.readerEdit.textChanged.connect(self._onPanelReader)
        self._keys = Shortcuts(main or self.window)
        self._keys.add(NEXT_KEY, lambda *_args: ui.nextButton.click() if self.window.visible else None)
        self.update()

    @property
    def cases(self) -> Cases | None:
        """The cases; None before a source is chosen."""
        return self._source.cases

    @property
    def _reader(self) -> str:
        return self.ui.readerEdit.text.strip()

    def show(self) -> None:
        """Show the worklist."""
        self.window.show()
        self.window.raise_()

    def close(self) -> None:
        """Keep the review, and end both workers; a case that is predicted is left out."""
        self._panel.ui.readerEdit.textChanged.disconnect(self._onPanelReader)
        with ExitStack() as stack:  # whatever goes wrong, the rest is done
            for end in (self.window.deleteLater, self.window.hide):
                stack.callback(end)
            for end in (self._queue.close, self._run.close, self.opened.forget):
                stack.callback(end)
            self._keys.close()
            self.opened.settle()

    def follow(self) -> None:
        """Follow the panel: the review that it shows may be that of the open case."""
        self.opened.follow(self._panel.review.session)
        self.update()

    def leave(self) -> None:
        """Keep what was reviewed, and have no case open any more: the scene is about to be closed."""
        try:
            self.opened.settle()
        finally:
            self.opened.forget()
            self._say("")
            self._onReader()

    # The run

    def _ready(self) -> bool:
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

    def _onRun(self) -> None:
        """Predict all cases that have no results, on the computer that the panel has chosen."""
        agreeToLicences([self._panel.inputs.selector.model])
        if not self._ready():
            return
        self._panel.computer.confirm()
        settings = self._panel.settings | {"region_of_interest": None}
        models = [str(self._panel.inputs.selector.model.path)]
        job = self._run.start(self.cases.toRun(), models, settings, self._panel.logic.computer.host or None)
        self.work.follow(job)
        job.progress.connect(lambda _step: self.work.say(self._run.text))
        self.update()

    def _onCancel(self) -> None:
        """Stop the run."""
        self._run.cancel()
        self._source.read(table=True)
        self.work.stop(_("Cancelled; finished cases stay, and the next run continues with the others."))
        self.update()

    def _onRunEnd(self, error: tuple[str, str] | None) -> None:
        self.work.stop(error[0] if error else "")
        if error:
            showError(*error)
        else:
            self._source.read(summarise=True)
        self.update()

    # The open case

    def _onReader(self, *_args) -> None:
        """Name the reader in the panel too, unless its review is that of a case which another reader has opened."""
        if not self.opened.isOf(self._panel.review.session):
            self._panel.ui.readerEdit.text = self.ui.readerEdit.text
        self._onCases()

    def _onPanelReader(self, *_args) -> None:
        if not self.opened.isOf(self._panel.review.session):
            self.ui.readerEdit.text = self._panel.ui.readerEdit.text

    def _open(self, case: WorklistCase) -> None:
        self._panel.review.leave()
        self.opened.follow(self._panel.review.session)
        if self.opened.settle(mayStay=True):
            self.opened.open(case, self._reader, self._onOpened)

    def _onOpened(self, ct: Any) -> None:
        if self._panel.parameters is None:  # the scene is being closed
            self.opened.remove()
            self.opened.removePrevious()
            return
        self._panel.parameters.ct = ct
        self._panel.refresh()  # the CT may have been chosen before it had results
        self.opened.removePrevious()
        self.table.select(self.opened.name)
        self._onCases(_("{name} is open.").format(name=self.opened.name))

    # What is shown

    def _onCases(self, text: str | None = None) -> None:
        """Show the cases, and say what has happened to them."""
        if self.cases is not None:
            self.table.show(_rows(self.cases.cases, self._reader, self.opened.name))
        if text is not None:
            self._say(text)
        self.update()

    def _say(self, text: str) -> None:
        """Say what happens to the open case, unless the run has the line."""
        if not self._run.running:
            self.work.say(text)
        self.update()

    def update(self) -> None:
        """Set all widgets."""
        running, cases, ui = self._run.running, self.cases, self.ui
        wait = _("Wait until the run has ended, or cancel it.") if running else None
        none = _("Choose a folder of images, or the DICOM database, first.") if cases is None else None
        for button in (ui.folderButton, ui.patientsButton, ui.resultsButton):
            allow(button, wait or (none if button is ui.resultsButton else None))
        ui.sourceLabel.text = str(cases.source or cases.title) if cases else _("No cases yet.")
        host = self._panel.logic.computer.host
        place = _("Results: {folder}, computed on {host}") if host else _("Results: {folder}")
        ui.resultsLabel.text = place.format(folder=cases.cohort, host=host) if cases else ""
        self.work.update(self._whyNotRun())
        selected = cases.find(self.table.selected) if cases else None
        reason = self._whyNotOpen()
        noResults = None if selected and selected.hasResults else _("Select a case with results.")
        allow(ui.openButton, reason or noResults)
        nothing = None if cases and cases.next(self.opened.name, self._reader) else _("No case is left to review.")
        allow(ui.nextButton, reason or nothing)
        page = None if cases and cases.page else _("The table is written once a case is finished.")
        allow(ui.pageButton, page)
        edit, isOpen = self._panel.ui.readerEdit, self.opened.isOf(self._panel.review.session)
        edit.readOnly = isOpen  # each reader's review has a file of its own
        edit.toolTip = self._readerTips[isOpen]
        if isOpen:
            edit.text = self.opened.reader

    def _whyNotRun(self) -> str | None:
        if self.cases is None:
            return _("Choose a folder of images, or the DICOM database, first.")
        if problem := self._panel.logic.computer.problem or whyNotUse(self._panel.inputs.selector.model):
            return problem
        if self._panel.parameters is None:
            return _("Wait until the scene is loaded.")
        return None if self.cases.toRun() else _("All cases have results.")

    def _whyNotOpen(self) -> str | None:
        if not self._reader:
            return _("Enter your name as the reader first.")
        if self._panel.state.busy or self._panel.parameters is None:
            return _("Wait for the running computation to finish.")
        return _("A case is being opened.") if self.opened.opening else None


def _rows(cases: Sequence[WorklistCase], reader: str, opened: str | None) -> dict[str, Row]:
    """Make the rows of the table of cases by their names, as they are for a reader; the open one stands out."""
    return {case.name: Row(_cells(case, reader), isBold=case.name == opened) for case in cases}


def _cells(case: WorklistCase, reader: str) -> list[tuple[str, str]]:
    """Make text and tooltip of each column."""
    row, state = case.row or {}, case.state(reader)
    readers = "\n".join(review.text for review in case.reviews)
    reason = row.get("reason", "")
    organs, left = row.get("organs", ()), case.regionsLeft(reader)
    volumes = " / ".join(volume_number(organ["volume_ml"]) for organ in organs)
    named = "\n".join(f"{readable(organ['name'])}: {volume_text(organ['volume_ml'])}" for organ in organs)
    return [
        (case.name, str(case.folder)),
        (_stateText(state), readers),
        (reason or _suitabilityText(row), reason or "\n".join(row.get("warnings", ()))),
        (volumes, named),
        ("" if left is None else str(left), readers),
    ]


def _suitabilityText(row) -> str:
    suitability = row.get("suitability")
    if not suitability:
        return ""
    words = {"ordinary": _("ordinary"), "unusual": _("unusual"), "not usable": _("not usable")}
    if not suitability["judged"] and not suitability["reasons"]:
        return _("not compared")
    text = words[suitability["level"]]
    return f"{text}: {suitability['reasons'][0]}" if suitability["reasons"] else text


def _stateText(state: CaseState) -> str:
    words = {
        CaseState.NOT_RUN: _("Not run"),
        CaseState.FAILED: _("Failed"),
        CaseState.READY: _("Ready"),
        CaseState.IN_REVIEW: _("In review"),
        CaseState.SIGNED: _("Signed"),
    }
    return words[state]
