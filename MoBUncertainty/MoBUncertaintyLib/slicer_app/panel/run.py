"""Run: how to compute and on which computer, Apply and Cancel, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.slicer_app.computer import Computer
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.scene.roi import fitRoi
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shown, write
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.worker.protocol import Command


class RunSection:
    """How to compute, and Apply.

    Args:
        ui: The panel's widgets.
        onApply: Starts the computation.
        onCancel: Ends it.
    """

    def __init__(self, ui, onApply: Callable[[], None], onCancel: Callable[[], None]) -> None:
        self._ui = ui
        self.work = WorkButton(
            (ui.applyButton, ui.progressBar, ui.statusLabel),
            onApply,
            onCancel,
            _("Preparing the image..."),
            _("Stop the computation; the scene stays as it is."),
        )
        ui.roiSelector.nodeAddedByUserAction.connect(shown(self._onRoiAdded))
        ui.runCollapsibleButton.contentsCollapsed.connect(lambda collapsed: self.showRoi(not collapsed))

    def showRoi(self, visible: bool) -> None:
        """Show the region of interest in the views, or hide it, so that its handles do not cover the regions."""
        roi = self._ui.roiSelector.currentNode()
        if roi and roi.GetDisplayNode():
            roi.GetDisplayNode().SetVisibility(visible)

    def update(self, state: State, whyNot: str | None) -> None:
        """Set the widgets; `whyNot` is the reason not to run, if any."""
        ui = self._ui
        ui.roiSelector.enabled = ui.advancedCollapsibleButton.enabled = not state.busy
        self.work.update(whyNot, isShown=not state.busy)

    def _onRoiAdded(self, roi) -> None:
        """Fit a new region of interest, which has no size yet, to the CT."""
        fitRoi(roi, self._ui.ctSelector.currentNode())


class ComputerSection:
    """The rows of *Advanced* that say which computer segments.

    Args:
        ui: The panel's widgets.
        computer: The choice.
        onChanged: Called when it has changed.
    """

    def __init__(self, ui, computer: Computer, onChanged: Callable[[], None]) -> None:
        self._ui, self._computer, self._onChanged = ui, computer, onChanged
        self._tester: WorkerClient | None = None
        ui.computerEdit.text = computer.host
        ui.computerEdit.textChanged.connect(shown(self._onText))
        ui.testConnectionButton.clicked.connect(shown(self._onTest))
        ui.computerConsentLabel.linkActivated.connect(shown(self._onWithdraw))
        self._say("")
        self.update()

    def update(self) -> None:
        """Set the widgets."""
        computer, ui = self._computer, self._ui
        whyNot = computer.problem if computer.host else _("Type the name of a computer first, as for ssh: user@host.")
        if self._tester is not None:
            whyNot = _("Wait until the computer has answered.")
        allow(ui.testConnectionButton, whyNot)
        agreed = bool(computer.host) and computer.allowed
        text = _('Images may be sent to {host}. <a href="withdraw">Withdraw</a>').format(host=computer.host)
        write(ui.computerConsentLabel, text if agreed else "")
        ui.computerConsentLabel.visible = agreed

    def confirm(self) -> None:
        """Ask the user to agree that CTs are sent to the computer, once for each.

        Raises:
            Cancelled: They do not.
        """
        if not self._computer.host or self._computer.allowed:
            return
        question = _(
            "{host} will segment the image. The following is sent to it, encrypted, by ssh:\n\n"
            "    the voxels of the image and of the model's other inputs, and their position and orientation,\n"
            "    the settings, with the region of interest,\n"
            "    the model, if {host} does not have it.\n\n"
            "The image's name, its DICOM files and everything else in the scene stay here. {host} sends the results "
            "back and keeps only the model. Send this image, and later ones without asking?"
        ).format(host=self._computer.host)
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("MoB Uncertainty")):
            raise Cancelled(
                _("Nothing was sent, so nothing was computed; try again to be asked again, or clear Computer.")
            )
        self._computer.allow()
        self.update()

    def close(self) -> None:
        """End the test of a connection."""
        if self._tester is not None:
            self._tester.close()
            self._tester = None

    def _onText(self, *_args) -> None:
        self.close()
        self._computer.choose(self._ui.computerEdit.text)
        self._say(self._computer.problem or "")
        self._onChanged()
        self.update()

    def _onTest(self, *_args) -> None:
        self._tester = self._computer.newClient()
        self._say(_("Connecting to {host}...").format(host=self._computer.host))
        job = self._tester.request({"command": Command.COMPUTER, "computer": self._computer.host})
        job.finished.connect(shown(self._onAnswer))
        job.failed.connect(shown(lambda _code, message, _details: self._onTested(message)))
        self.update()

    def _onAnswer(self, answer: dict[str, Any]) -> None:
        text = _("{host} is ready: mob-uncertainty {version}, {device}, {cores} cores.")
        names = {name: answer.get(name) for name in ("version", "device", "cores")}
        self._onTested(text.format(host=self._computer.host, **names))

    def _onTested(self, text: str) -> None:
        self.close()
        self._say(text)
        self.update()

    def _onWithdraw(self, *_args) -> None:
        self._computer.allow(False)
        self.update()

    def _say(self, text: str) -> None:
        write(self._ui.computerLabel, text)
        self._ui.computerLabel.visible = bool(text)
