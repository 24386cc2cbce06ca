"""The module's own message boxes, and what waits until a scene is loaded."""

from __future__ import annotations

from collections.abc import Callable

import ctk
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

LOOK_MILLISECONDS = 100


def showError(message: str, details: str = "") -> None:
    """Show one sentence, and behind a button the details, if there are any.

    Not by `slicer.util.errorDisplay` where there are: it fills the title with blanks, of which dots are shown.
    """
    if not details or slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
        slicer.util.errorDisplay(message, windowTitle=_("MoB Uncertainty"))
        return
    box = _box(qt.QMessageBox.Critical, message, qt.QMessageBox.Ok)
    box.detailedText = details
    box.exec_()


def confirmLoss(question: str) -> bool:
    """Ask whether to go on where something is lost then; who just presses Enter does not."""
    if slicer.app.testingEnabled():
        return slicer.util.confirmOkCancelDisplay(question)
    box = _box(qt.QMessageBox.Warning, question, qt.QMessageBox.Ok | qt.QMessageBox.Cancel)
    box.setDefaultButton(qt.QMessageBox.Cancel)
    return box.exec_() == qt.QMessageBox.Ok


def _box(icon, text: str, buttons):
    box = ctk.ctkMessageBox(slicer.util.mainWindow())
    box.windowTitle = _("MoB Uncertainty")
    box.icon, box.text, box.standardButtons = icon, text, buttons
    box.deleteLater()  # once this call is completed
    return box


class AfterLoading:
    """Does things when a scene is whole: amid loading there is half of it, and a dialog would stop the loading.

    Args:
        guard: What each is called through.
    """

    def __init__(self, guard: Callable[[Callable], Callable]) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._timer = qt.QTimer()
        self._timer.timeout.connect(guard(self._onTimeout))

    def later(self, act: Callable[[], None]) -> None:
        """Do it in a later turn of the event loop; once, if it waits already."""
        if act not in self._waiting:
            self._waiting.append(act)
        self._timer.start(0)

    def stop(self) -> None:
        """Do none of it any more."""
        self._timer.stop()
        self._waiting.clear()

    def _onTimeout(self) -> None:
        if isLoading():
            self._timer.start(LOOK_MILLISECONDS)
            return
        act = self._waiting.pop(0) if self._waiting else None
        if not self._waiting:
            self._timer.stop()
        if act:
            act()


def isLoading() -> bool:
    """Whether the scene is being changed as a whole, or a dialog is open, as Slicer's own is while it loads."""
    return bool(slicer.mrmlScene.IsBatchProcessing() or qt.QApplication.activeModalWidget())
