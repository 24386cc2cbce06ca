"""Run: how to compute and on which computer, Apply and Cancel, and how far it is."""

from __future__ import annotations

from collections.abc import Callable

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled
from MoBUncertaintyLib.slicer_app.computer import Computer
from MoBUncertaintyLib.slicer_app.scene.roi import fitRoi
from MoBUncertaintyLib.slicer_app.widgets.section import State, allow, say, shown
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton, ask
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.worker.protocol import Command


class RunSection:
    """How to compute, and Apply."""

    def __init__(self, ui, onApply: Callable[[], None], onCancel: Callable[[], None]) -> None:
        self._ui = ui
        self.work = WorkButton(ui.applyButton, ui.progressBar, ui.statusLabel, onApply, onCancel)
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
        for part in (ui.roiSelector, ui.segmentationSelector, ui.advancedCollapsibleButton):
            part.enabled = not state.busy
        chosen = ui.segmentationSelector.currentNode() is not None
        ui.secondSegmentationSelector.enabled = not state.busy and chosen
        for part in (ui.secondSegmentationSelectorCaption, ui.secondSegmentationSelector):
            part.visible = chosen  # it is compared with that
        self.work.update(whyNot, isShown=not state.busy)

    def _onRoiAdded(self, roi) -> None:
        """Fit a new region of interest, which has no size yet, to the image."""
        fitRoi(roi, self._ui.ctSelector.currentNode())


class ComputerSection:
    """The rows of *Advanced* that say which computer segments; `onChanged` is called when it has changed."""

    def __init__(
        self, ui, computer: Computer, newClient: Callable[[], WorkerClient], onChanged: Callable[[], None]
    ) -> None:
        self._ui, self._computer, self._newClient, self._onChanged = ui, computer, newClient, onChanged
        self._tester: WorkerClient | None = None  # while a connection is tested
        ui.computerEdit.text = computer.host
        ui.computerEdit.textChanged.connect(shown(self._onText))
        ui.testConnectionButton.clicked.connect(shown(self._onTest))
        ui.computerConsentLabel.linkActivated.connect(shown(self._onWithdraw))
        self._show("")

    def confirm(self) -> None:
        """Ask the user to agree that images are sent to the computer, once for each.

        Raises `Cancelled` if they do not.
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
                _("Nothing was sent, so nothing was computed. Press Apply again to be asked again, or clear Computer.")
            )
        self._computer.allow()
        self._update()

    def close(self) -> None:
        """End the test of a connection."""
        if self._tester is not None:
            self._tester.close()
            self._tester = None

    def _onText(self, *_args) -> None:
        self.close()
        self._computer.choose(self._ui.computerEdit.text)
        self._onChanged()
        self._show(self._computer.problem or "")

    def _onTest(self, *_args) -> None:
        def finish(text: str) -> None:
            self.close()
            self._show(text)

        host = self._computer.host
        ready = _("{host} is ready: mob-uncertainty {version}, {device}, {cores} cores.")
        self._tester = self._newClient()
        self._show(_("Connecting to {host}...").format(host=host))
        ask(
            self._tester,
            {"command": Command.COMPUTER, "computer": host},
            lambda answer: finish(ready.format_map({"host": host} | answer)),
            lambda _code, message, _details: finish(message),
        )

    def _onWithdraw(self, *_args) -> None:
        self._computer.allow(False)
        self._update()

    def _show(self, text: str) -> None:
        say(self._ui.computerLabel, text)
        self._update()

    def _update(self) -> None:
        host, ui, whyNot = self._computer.host, self._ui, self._computer.problem
        if self._tester is not None:
            whyNot = _("Wait until the computer has answered.")
        elif not host:
            whyNot = _("Type the name of a computer first, as for ssh: user@host.")
        allow(ui.testConnectionButton, whyNot)
        text = _('Images may be sent to {host}. <a href="withdraw">Withdraw</a>').format(host=host)
        say(ui.computerConsentLabel, text if host and self._computer.allowed else "")
