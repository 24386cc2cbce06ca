"""Export: which files, where to."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.output.formats import DICOM
from MoBUncertaintyLib.slicer_app.requests import dicomFiles
from MoBUncertaintyLib.slicer_app.scene.nodes import isBent
from MoBUncertaintyLib.slicer_app.widgets.section import State, allow, warnOfSuitability, write
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton


class ExportSection:
    """The panel's section for the files of one image's review."""

    def __init__(
        self,
        ui,
        onExport: Callable[[Path, list[str], bool], None],
        onCancel: Callable[[], None],
        onChange: Callable[[], None],
    ) -> None:
        self._ui, self._onExport = ui, onExport
        # In the .ui file the dynamic property ExportFormat says what a box stands for.
        self._formats = {name: box for box in vars(ui).values() if (name := box.property("ExportFormat"))}
        self._session = None
        self._whyNoDicom: str | None = None
        bar, label = ui.exportProgressBar, ui.exportStatusLabel
        self.work = WorkButton(ui.exportButton, bar, label, self._onClicked, onCancel)
        if not ui.exportDirectoryEdit.currentPath:
            ui.exportDirectoryEdit.currentPath = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
        for box in self._formats.values():
            box.toggled.connect(lambda *_args: onChange())
        ui.exportDirectoryEdit.currentPathChanged.connect(lambda *_args: onChange())
        ui.exportStatusLabel.linkActivated.connect(lambda link: qt.QDesktopServices.openUrl(qt.QUrl(link)))

    def setSession(self, session) -> None:
        """Offer the export of another image, or of none."""
        if session is not self._session:
            self.work.say("")
        self._session = session
        warnOfSuitability(self._ui.exportSuitabilityLabel, session.review.prediction.suitability if session else None)
        self._whyNoDicom = None
        if session and isBent(session.results.ctNode):
            self._whyNoDicom = _("DICOM needs evenly spaced slices, which this image does not have; choose NRRD.")
        if not (session and dicomFiles(session.results.ctNode)):  # asks for each slice, so not at each update
            self._whyNoDicom = _("Only for an image that was loaded from Slicer's DICOM database.")

    def showResult(self, files: list[str], warnings: list[str]) -> None:
        """Show what was written, with links, and what was not."""
        paths = [Path(file) for file in files]
        links = [_link(paths[0].parent, _("Open the folder"))]
        links += [_link(path, _("Open the report")) for path in paths if path.suffix == ".html"]
        text = _("{count} files written.").format(count=len(paths)) + " " + " ".join(links)
        label = self._ui.exportStatusLabel
        label.textFormat = qt.Qt.RichText
        write(label, "<br>".join([text, *map(escape, warnings)]))
        label.visible = True

    def update(self, state: State) -> None:
        """Enable what can be exported in a state of the panel."""
        for name, box in self._formats.items():
            allow(box, self._whyNoDicom if name in DICOM else None)
        self.work.update(self._whyNot(state))

    def _chosen(self) -> list[str]:
        return [name for name, box in self._formats.items() if box.checked and box.enabled]

    def _whyNot(self, state: State) -> str | None:
        if not self._session:
            return _("Segment an image first.")
        if state.busy:
            return _("Wait for the running computation to finish.")
        if not self._chosen():
            return _("Choose at least one kind of file.")
        return None if self._ui.exportDirectoryEdit.currentPath else _("Choose a folder.")

    def _onClicked(self) -> None:
        self._ui.exportDirectoryEdit.addCurrentPathToHistory()
        folder = Path(self._ui.exportDirectoryEdit.currentPath)
        self._onExport(folder, self._chosen(), self._ui.patientFieldsCheckBox.checked)


def _link(path: Path, text: str) -> str:
    return f'<a href="{path.absolute().as_uri()}">{text}</a>'
