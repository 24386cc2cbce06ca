"""The dialog *A covariance head*: the command that fits one, to be run where training is installed, and its model.

Slicer has no training package, and a training may take hours; so the command is shown, and what it makes is picked up.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.panel.export import fileName
from MoBUncertaintyLib.slicer_app.panel.section import allow, makeButton, shown

LOOK_MS = 1000  # between two looks whether the new model is there
CASES = "CASES"
"""In the command, as long as no folder is chosen."""


class AttachHead:
    """The dialog.

    Args:
        onMade: Called with the path of the new model when the user wants it.
    """

    def __init__(self, onMade: Callable[[Path], None]) -> None:
        self._onMade = onMade
        self._model: ListedModel | None = None
        self._cases = CASES
        self.output = Path()
        self._build()
        self._timer = qt.QTimer()
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(shown(self._update))
        self.casesButton.clicked.connect(shown(self._onCases))
        self.copyButton.clicked.connect(shown(self._onCopy))
        self.useButton.clicked.connect(shown(self._onUse))
        self.window.finished.connect(shown(self.close))

    def show(self, model: ListedModel) -> None:
        """Show the dialog for a model, or bring it to the front."""
        self._model = model
        folder = Path(qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation))
        self.output = folder / fileName(_("{model} with covariance.zip").format(model=model.name))
        self.window.windowTitle = _("A covariance head for {model}").format(model=model.name)
        self._update()
        self._timer.start()
        self.window.show()
        self.window.raise_()
        self.window.activateWindow()

    def close(self, *_args) -> None:
        """Hide the dialog; a training that runs in a terminal goes on."""
        self._timer.stop()
        self.window.hide()

    @property
    def command(self) -> str:
        """The command, as a terminal of this computer takes it."""
        words = ["mob-training", "attach-head", str(self._model.path), self._cases]
        words += ["--workspace", str(self.output.with_suffix("")), "--output", str(self.output)]
        return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

    def _build(self) -> None:
        self.window = window = qt.QDialog(slicer.util.mainWindow())
        layout, buttons = qt.QVBoxLayout(window), qt.QHBoxLayout()
        note = qt.QLabel()
        note.wordWrap = True
        note.text = _(
            "A covariance head tells which voxels are wrong together, so that clicks spread as far as errors do. The "
            "network stays, and its segmentation too. The head is fitted to 20 or more labelled cases: a folder with "
            "images/NAME.nii.gz and labels/NAME.nii.gz, best of cases that the network was not trained on. That "
            "takes 2 minutes of a processor for a small network, and grows with it. It needs MoB Uncertainty with its "
            "training (pip install '.[training]' in its source), which Slicer does not have: give this command in a "
            "terminal. If it is interrupted, give it again, and it goes on."
        )
        self.commandEdit = qt.QPlainTextEdit()
        self.commandEdit.readOnly = True
        self.commandEdit.accessibleName = _("Command")
        self.casesButton = makeButton(_("Folder of cases..."), _("Choose the folder with images/ and labels/."))
        self.copyButton = makeButton(_("Copy command"), _("Copy the command to the clipboard."))
        self.useButton = makeButton(_("Use the new model"), "")
        for widget in (self.casesButton, self.copyButton, self.useButton):
            buttons.addWidget(widget)
        for widget in (note, self.commandEdit):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        window.resize(560, 360)

    def _update(self) -> None:
        if self.commandEdit.plainText != self.command:
            self.commandEdit.plainText = self.command
        missing = _("The command has not made {path} yet.").format(path=self.output)
        tip = _("Add {path} to the models, and choose it.").format(path=self.output)
        allow(self.useButton, None if self.output.exists() else missing, tip)

    def _onCases(self, *_args) -> None:
        dialog = qt.QFileDialog(self.window, _("Choose the folder of labelled cases"))
        dialog.setFileMode(qt.QFileDialog.Directory)
        if dialog.exec_():
            self._cases = dialog.selectedFiles()[0]
            self._update()

    def _onCopy(self, *_args) -> None:
        self.commandEdit.selectAll()
        self.commandEdit.copy()

    def _onUse(self, *_args) -> None:
        self._onMade(self.output)
        self.close()
