"""The worklist's window, docked below Slicer's views: its cases, what runs in the background, and which one is open."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import Cancelled, ImageError, OutputError, ReviewError
from MoBUncertaintyLib.files.resources import RESOURCES
from MoBUncertaintyLib.slicer_app.clicks.keys import Shortcuts
from MoBUncertaintyLib.slicer_app.requests import dicomDatabase
from MoBUncertaintyLib.slicer_app.widgets.dialogs import askUnkept, showError
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shown
from MoBUncertaintyLib.slicer_app.widgets.table import Table
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton
from MoBUncertaintyLib.slicer_app.worklist.background import Asking, BackgroundRun
from MoBUncertaintyLib.slicer_app.worklist.cases import Cases, WorklistCase
from MoBUncertaintyLib.slicer_app.worklist.opened import OpenedCase
from MoBUncertaintyLib.slicer_app.worklist.patients import listPatients
from MoBUncertaintyLib.slicer_app.worklist.table import caseColumns, caseRows
from MoBUncertaintyLib.worker.protocol import Command

NEXT_KEY = "C"
HEIGHT = 210  # pixels at first: most of a laptop's screen is left to the views


class WorklistDock:
    """The worklist of one panel.

    Two workers of its own serve it: one predicts, and keeps the model loaded; the other reads cases and writes reviews
    meanwhile.

    Args:
        panel: Shows and reviews the case that is open; its model and its settings hold for all cases.
    """

    def __init__(self, panel) -> None:
        self._panel = panel
        self.cases: Cases | None = None  # None before a source is chosen
        self._asking = Asking(panel.logic.client.another())
        self._run = BackgroundRun(panel.logic.client.another(), self._onCase, self._onRunEnd)
        self.opened = OpenedCase(panel.logic.sessions, self._onKept, self._onSigned)
        self._opening = False
        inWorklist = _(
            "Whose review this is; to review as another reader, name them in the worklist and open the case."
        )
        self._readerTips = {False: panel.ui.readerEdit.toolTip, True: inWorklist}
        main = slicer.util.mainWindow()
        self.window = qt.QDockWidget(_("Worklist"), main)
        self.window.objectName = "MoBUncertaintyWorklist"
        content = slicer.util.loadUI(str(RESOURCES / "UI" / "Worklist.ui"))
        self.ui = slicer.util.childWidgetVariables(content)
        self.window.setWidget(content)
        if main is not None:
            main.addDockWidget(qt.Qt.BottomDockWidgetArea, self.window)
            main.resizeDocks([self.window], [HEIGHT], qt.Qt.Vertical)
        sources = (self.ui.folderButton, self.ui.patientsButton, self.ui.resultsButton)
        opening = (self.ui.openButton, self.ui.nextButton, self.ui.pageButton)
        self._tips = {button: button.toolTip for button in (*sources, *opening)}
        self.table = Table(self.ui.caseTable, caseColumns(), self.update)
        self.ui.caseTable.cellDoubleClicked.connect(shown(lambda *_cell: self.onOpen()))
        self.work = WorkButton(
            (self.ui.runButton, self.ui.progressBar, self.ui.statusLabel),
            self.onRun,
            self.onCancel,
            _("Loading the model..."),
            _("Stop; what is done stays, and the next run goes on there."),
        )
        for button, act in (
            (self.ui.folderButton, self.onFolder),
            (self.ui.patientsButton, self.onPatients),
            (self.ui.resultsButton, self.onResults),
            (self.ui.openButton, self.onOpen),
            (self.ui.nextButton, self.onNext),
            (self.ui.pageButton, self.onPage),
        ):
            button.clicked.connect(shown(lambda *_args, act=act: act()))
        self.ui.readerEdit.text = panel.ui.readerEdit.text
        self.ui.readerEdit.textChanged.connect(self._onReader)
        panel.ui.readerEdit.textChanged.connect(self._onPanelReader)
        self._keys = Shortcuts(slicer.util.mainWindow() or self.window)
        self._keys.add(NEXT_KEY, shown(self._onKey))
        self.update()

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
            for end in (self._asking.close, self._run.close, self.opened.forget):
                stack.callback(end)
            self._keys.close()
            self._settle(mayAsk=False)

    def follow(self) -> None:
        """Follow the panel: the review that it shows may be that of the open case."""
        self.opened.follow(self._panel.review.session)
        self.update()

    def leave(self) -> None:
        """Keep what was reviewed, and have no case open any more: the scene is about to be closed."""
        try:
            self._settle()
        finally:
            self.opened.forget()
            self._say("")
            self._onReader()

    def _settle(self, mayCancel: bool = False, mayAsk: bool = True) -> bool:
        """Keep the review; where that cannot be, ask what becomes of it, or write it elsewhere.

        Args:
            mayCancel: The user may choose to stay with the case.
            mayAsk: The user can be asked.

        Returns:
            Whether to go on.
        """
        mayAsk = mayAsk and slicer.util.mainWindow() is not None and not slicer.app.testingEnabled()
        while True:
            try:
                self.opened.keep()
                return True
            except ReviewError as error:
                showError(str(error))  # it says where the review is
                return True
            except OutputError as error:
                choice, text = askUnkept(str(error), mayCancel) if mayAsk else qt.QMessageBox.Save, str(error)
            if choice not in (qt.QMessageBox.Retry, qt.QMessageBox.Discard, qt.QMessageBox.Cancel):
                try:
                    text = f"{text} {self.opened.rescue()}"
                except OutputError as error:
                    choice, text = qt.QMessageBox.Retry, str(error)
                logging.error(text)  # nobody may be there any more to see the dialog
                showError(text)
            if choice == qt.QMessageBox.Discard:
                self.opened.discard()
            if choice != qt.QMessageBox.Retry or not mayAsk:
                return choice != qt.QMessageBox.Cancel

    # Which cases

    def onFolder(self) -> None:
        """Choose a folder of images; what was begun of it is on disk, and goes on."""
        folder = self._chooseFolder(_("Choose a folder of images"))
        if folder:
            self._list(Cases(folder.parent / f"{folder.name} results", folder.name, folder))

    def onPatients(self) -> None:
        """List the CT and MR series of the DICOM database."""
        database = dicomDatabase()
        found = listPatients(database) if database and database.isOpen else []
        if not found:
            raise ImageError(_("Slicer's DICOM database holds no CT or MR series; import some in the module DICOM."))
        documents = Path(qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation))
        self._list(Cases(documents / _("Worklist results"), _("DICOM database"), listed=found))

    def onResults(self) -> None:
        """Choose the folder that the results of all cases go to."""
        folder = self._chooseFolder(_("Choose a folder for the results"))
        if folder:
            self._list(Cases(folder, self.cases.title, self.cases.source, self.cases.listed))

    def _chooseFolder(self, title: str) -> Path | None:
        dialog = qt.QFileDialog(self.window, title)
        dialog.setFileMode(qt.QFileDialog.Directory)
        return Path(dialog.selectedFiles()[0]) if dialog.exec_() else None

    def _list(self, cases: Cases) -> None:
        """Open a worklist: the worker lists its cases and reads what is there of them."""
        if not self._ready() or not self._settle(mayCancel=True):
            return
        self.cases = cases
        self.work.say(_("Reading the cases..."))
        self._read(summarise=True)

    def _ready(self) -> bool:
        """Install what is missing, if the user agrees: less where another computer predicts."""
        # A training folder of nnU-Net, which has no card, is read with PyTorch.
        away = self._panel.logic.computer.host and all(model.card for model in self._panel.inputs.models)
        formats = ("report",) if away else ()
        try:
            self._panel.ensureReady(formats, lambda: self.work.say(_("Installing what is missing...")))
        except Cancelled as declined:
            self.work.say(str(declined))
            return False
        return True

    def _read(self, table: bool = False, summarise: bool = False) -> None:
        """Let the worker read all cases anew; write the cohort's table, and say how far the cases are, if asked to."""
        cases, model = self.cases, self._panel.inputs.selector.model
        message = cases.request(len(model.channels) if model else 1, table)
        self._asking.ask(message, partial(self._onRead, cases, summarise), partial(self._onReadFailed, cases))
        self.update()

    def _onRead(self, cases: Cases, summarise: bool, answer: dict[str, Any]) -> None:
        if cases is not self.cases:
            return
        cases.take(answer)
        if summarise:
            self._say(self._summary())
        self._show()

    def _onReadFailed(self, cases: Cases, _code: str, message: str, details: str) -> None:
        if cases is self.cases:
            self.work.say(message)
            self.update()
            showError(message, details)

    # The run

    def onRun(self) -> None:
        """Predict all cases that have no results, on the computer that the panel has chosen."""
        if not self._ready():
            return
        try:
            self._panel.computer.confirm()
        except Cancelled as declined:
            self.work.say(str(declined))
            return
        settings = self._panel.settings | {"region_of_interest": None}
        models = [str(model.path) for model in self._panel.inputs.models]
        job = self._run.start(self.cases.toRun(), models, settings, self._panel.logic.computer.host or None)
        self.work.follow(job)
        job.progress.connect(lambda _step: self.work.say(self._run.text))
        self.update()

    def onCancel(self) -> None:
        """Stop the run."""
        self._run.cancel()
        self._read(table=True)
        self.work.stop(_("Cancelled; what was done stays, and the next run goes on there."))
        self.update()

    def _onCase(self, name: str, reason: str | None, predicted: bool) -> None:
        self.cases.ended(name, reason, predicted)
        self._read(table=True)

    def _onRunEnd(self, error: tuple[str, str] | None) -> None:
        self.work.stop(error[0] if error else "")
        if error:
            showError(*error)
        else:
            self._read(summarise=True)
        self.update()

    # The open case

    def onOpen(self) -> None:
        """Open the selected case."""
        self._open(self.cases.find(self.table.selected))

    def onNext(self) -> None:
        """Open the next case that the reader has not signed off."""
        self._open(self.cases.next(self.opened.name, self._reader))

    def onPage(self) -> None:
        """Open the cohort's table in a browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.cases.page)))

    def _onKey(self, *_args) -> None:
        if self.ui.nextButton.enabled and self.window.visible:
            self.onNext()

    def _onReader(self, *_args) -> None:
        """Name the reader in the panel too, unless its review is that of a case which another reader has opened."""
        if not self.opened.isOf(self._panel.review.session):
            self._panel.ui.readerEdit.text = self.ui.readerEdit.text
        self._show()

    def _onPanelReader(self, *_args) -> None:
        if not self.opened.isOf(self._panel.review.session):
            self.ui.readerEdit.text = self._panel.ui.readerEdit.text

    @property
    def _reader(self) -> str:
        return self.ui.readerEdit.text.strip()

    def _open(self, case: WorklistCase) -> None:
        self._panel.review.leave()
        self.opened.follow(self._panel.review.session)
        if not self._settle(mayCancel=True):
            return
        message = {"command": Command.OPEN_CASE, "results": str(case.folder), "reader": self._reader}
        show = partial(self.opened.show, case, self._reader)
        self._asking.ask(message, self._onOpened, self._onOpenFailed, show)
        self._opening = True
        self._say(_("Opening {name}...").format(name=case.name))

    def _onOpened(self, ct) -> None:
        self._opening = False
        if self._panel.parameters is None:  # the scene is being closed
            self.opened.remove()
            self.opened.removePrevious()
            return
        self._panel.parameters.ct = ct
        self._panel.refresh()  # the CT may have been chosen before it had results
        self.opened.removePrevious()
        self.table.select(self.opened.name)
        self._say(_("{name} is open.").format(name=self.opened.name))
        self._show()

    def _onOpenFailed(self, _code: str, message: str, details: str) -> None:
        self._opening = False
        self._say(message)
        showError(message, details)

    def _onKept(self, name: str, review) -> None:
        self.cases.reviewed(name, review)
        self._show()

    def _onSigned(self, message: dict[str, Any]) -> None:
        name = self.opened.name
        self._asking.ask(message, partial(self._onExported, name), self._onExportFailed)
        self._say(_("Exporting the review of {name}...").format(name=name))

    def _onExported(self, name: str, result: dict[str, Any]) -> None:
        if name == self.opened.name:
            self.opened.settleSigned()
        self._say(" ".join([_("{name} is signed and exported.").format(name=name), *result["warnings"]]))
        self._read(table=True)

    def _onExportFailed(self, _code: str, message: str, details: str) -> None:
        text = _("{message} The review is not kept as signed; reopen it and sign off again.").format(message=message)
        self._say(text)
        showError(text, details)

    # What is shown

    def _show(self) -> None:
        """Show the cases."""
        if self.cases is not None:
            self.table.show(caseRows(self.cases.cases, self._reader, self.opened.name))
        self.update()

    def _say(self, text: str) -> None:
        """Say what happens to the open case, unless the run has the line."""
        if not self._run.running:
            self.work.say(text)
        self.update()

    def _summary(self) -> str:
        """Say how many cases there are, and how many of them are still to be predicted or read."""
        count, toRun = len(self.cases.cases), len(self.cases.toRun())
        text = _("{count} cases; {left} of them without results.")
        return (
            text.format(count=count, left=toRun) if toRun else _("{count} cases, all with results.").format(count=count)
        )

    def update(self) -> None:
        """Set all widgets."""
        running, cases = self._run.running, self.cases
        wait = _("Wait until the run has ended, or cancel it.") if running else None
        none = _("Choose a folder of images, or the DICOM database, first.") if cases is None else None
        ui, tips = self.ui, self._tips
        for button in (ui.folderButton, ui.patientsButton, ui.resultsButton):
            allow(button, wait or (none if button is ui.resultsButton else None), tips[button])
        self.ui.sourceLabel.text = str(cases.source or cases.title) if cases else _("No cases yet.")
        host = self._panel.logic.computer.host
        place = _("Results: {folder}, computed on {host}") if host else _("Results: {folder}")
        self.ui.resultsLabel.text = place.format(folder=cases.cohort, host=host) if cases else ""
        self.work.update(running, None if running else self._whyNotRun())
        selected = cases.find(self.table.selected) if cases else None
        reason = self._whyNotOpen()
        noResults = None if selected and selected.hasResults else _("Select a case with results.")
        allow(ui.openButton, reason or noResults, tips[ui.openButton])
        nothing = None if cases and cases.next(self.opened.name, self._reader) else _("No case is left to review.")
        allow(ui.nextButton, reason or nothing, tips[ui.nextButton])
        page = None if cases and cases.page else _("The table is written when a case is done.")
        allow(ui.pageButton, page, tips[ui.pageButton])
        edit, isOpen = self._panel.ui.readerEdit, self.opened.isOf(self._panel.review.session)
        edit.readOnly = isOpen  # each reader's review has a file of its own
        edit.toolTip = self._readerTips[isOpen]
        if isOpen:
            edit.text = self.opened.reader

    def _whyNotRun(self) -> str | None:
        if self.cases is None:
            return _("Choose a folder of images, or the DICOM database, first.")
        if problem := self._panel.logic.computer.problem or self._panel.inputs.problem:
            return problem
        if self._panel.parameters is None:
            return _("Wait until the scene is loaded.")
        return None if self.cases.toRun() else _("All cases have results.")

    def _whyNotOpen(self) -> str | None:
        if not self._reader:
            return _("Enter your name as the reader first.")
        if self._panel.state.busy or self._panel.parameters is None:
            return _("Wait for the running computation to finish.")
        return _("A case is being opened.") if self._opening else None
