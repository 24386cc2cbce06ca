"""Export: which files, where to."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.panel.run import WorkButton
from MoBUncertaintyLib.slicer_app.panel.section import allow, write
from MoBUncertaintyLib.slicer_app.requests import dicomFiles


class ExportSection:
    """The panel's part for what is written of one CT's review.

    Args:
        ui: The panel's widgets.
        onExport: Writes the files: called with folder, formats and whether the patient may be named.
        onCancel: Ends the writing.
    """

    def __init__(self, ui, onExport: Callable[[Path, list[str], bool], None], onCancel: Callable[[], None]) -> None:
        self._ui = ui
        self._onExport = onExport
        self._session = None
        self._fromDicom = False
        self._busy = False
        self._tips = {box.name: box.toolTip for box in self._formats().values()}
        tip = _("Stop the export; nothing is left of it.")
        self.work = WorkButton(
            ui.exportButton, ui.exportProgressBar, ui.exportStatusLabel, self._onClicked, onCancel, tip
        )
        if not ui.exportDirectoryEdit.currentPath:
            ui.exportDirectoryEdit.currentPath = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
        for box in self._formats().values():
            box.toggled.connect(self.refresh)
        ui.exportDirectoryEdit.currentPathChanged.connect(self.refresh)
        ui.exportStatusLabel.linkActivated.connect(lambda link: qt.QDesktopServices.openUrl(qt.QUrl(link)))
        self.refresh()

    def setSession(self, session) -> None:
        """Offer the export of another CT, or of none."""
        if session is not self._session:
            self.work.say("")
        self._session = session
        self._fromDicom = bool(session and dicomFiles(session.ctNode))
        self.refresh()

    def setBusy(self, busy: bool) -> None:
        """The worker has something to do."""
        self._busy = busy
        self.refresh()

    def showResult(self, files: list[str], warnings: list[str]) -> None:
        """Say what was written, with links to it, and what was not."""
        paths = [Path(file) for file in files]
        links = [_link(paths[0].parent, _("Open the folder"))]
        links += [_link(path, _("Open the report")) for path in paths if path.suffix == ".html"]
        text = _("{count} files written.").format(count=len(paths)) + " " + " ".join(links)
        label = self._ui.exportStatusLabel
        label.textFormat = qt.Qt.RichText
        write(label, "<br>".join([text, *map(escape, warnings)]))
        label.visible = True

    def refresh(self, *_args) -> None:
        """Enable what can be done."""
        noDicom = None if self._fromDicom else _("Only for a CT that was loaded from Slicer's DICOM database.")
        for name, box in self._formats().items():
            allow(box, noDicom if name in ("dicom_seg", "parametric_map") else None, self._tips[box.name])
        self.work.allow(self._whyNot())

    def _formats(self) -> dict:
        ui = self._ui
        return {
            "report": ui.reportCheckBox,
            "segmentation": ui.segmentationCheckBox,
            "nifti": ui.niftiCheckBox,
            "dicom_seg": ui.dicomSegCheckBox,
            "parametric_map": ui.parametricMapCheckBox,
        }

    def _chosen(self) -> list[str]:
        return [name for name, box in self._formats().items() if box.checked and box.enabled]

    def _whyNot(self) -> str | None:
        if not self._session:
            return _("Segment a CT first.")
        if self._busy:
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
