"""The module's own dialogs and message boxes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ctk
import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.model.licences import Terms, agree
from MoBUncertaintyLib.model.listing import ListedModel


def loadUI(name: str):
    """Load a widget of the extension's folder of .ui files."""
    return slicer.util.loadUI(str(RESOURCES / "UI" / f"{name}.ui"))


def askFolder(window, title: str) -> Path | None:
    """Ask for a folder; None if the user cancels."""
    dialog = qt.QFileDialog(window, title)
    dialog.setFileMode(qt.QFileDialog.Directory)
    return Path(dialog.selectedFiles()[0]) if dialog.exec_() else None


def showError(message: str, details: str = "") -> None:
    """Show one sentence, with the details, if any, behind a button.

    `slicer.util.errorDisplay` pads the title of a message with details with blanks, which show as dots.
    """
    if not details or slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
        slicer.util.errorDisplay(message, windowTitle=_("MoB Uncertainty"))
        return
    box = _box(qt.QMessageBox.Critical, message, qt.QMessageBox.Ok)
    box.detailedText = details
    box.exec_()


def confirmLoss(question: str) -> bool:
    """Ask whether to go on although something will be lost, or is not right; Enter cancels."""
    if slicer.app.testingEnabled():
        return slicer.util.confirmOkCancelDisplay(question)
    box = _box(qt.QMessageBox.Warning, question, qt.QMessageBox.Ok | qt.QMessageBox.Cancel)
    box.setDefaultButton(qt.QMessageBox.Cancel)
    return box.exec_() == qt.QMessageBox.Ok


def agreeToLicences(models: Iterable[ListedModel]) -> None:
    """Ask the user to agree to licences, see `licences.agree`. Do nothing while Slicer is testing.

    Raises `Cancelled` if they do not.
    """

    def ask(terms: Terms) -> None:
        # Its first line cannot be taken for markup, whatever a model's card says.
        question = _("Agree to the licence of this model?\n\n{terms}\n\nIf you press OK, you are not asked again.")
        question = question.format(terms="\n".join(terms.lines))
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("MoB Uncertainty")):
            raise Cancelled(_("Nothing was computed. Press Apply again to be asked again, or choose another model."))

    if not slicer.app.testingEnabled():
        agree([model.path for model in models], ask, showError)


def _box(icon, text: str, buttons):
    box = ctk.ctkMessageBox(slicer.util.mainWindow())
    box.windowTitle = _("MoB Uncertainty")
    box.icon, box.text, box.standardButtons = icon, text, buttons
    box.deleteLater()  # when control returns to the event loop
    return box
