"""The dialog *Recalibrate*: takes folders of cases, shows before and after, and keeps the new model or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import CalibrationError
from MoBUncertaintyLib.base.resources import installed_models
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.pipeline.catalogue.install import remove
from MoBUncertaintyLib.slicer_app.widgets.dialogs import agreeToLicences, askFolder
from MoBUncertaintyLib.slicer_app.widgets.section import shown
from MoBUncertaintyLib.slicer_app.widgets.work import WorkDialog, newFolder
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
from MoBUncertaintyLib.worker.protocol import Command


class Recalibrate(WorkDialog):
    """The dialog."""

    def __init__(self, client: WorkerClient, onKept: Callable[[str], None]) -> None:
        self._onKept = onKept
        self._model: ListedModel | None = None
        super().__init__("Recalibrate", client, "startButton")
        self.ui.folderList.currentRowChanged.connect(shown(lambda *_args: self._update()))
        self.ui.addButton.clicked.connect(shown(self._onAdd))
        self.ui.removeButton.clicked.connect(shown(self._onRemove))
        self._update()

    def showFor(self, model: ListedModel) -> None:
        """Show the dialog for a model, or bring it to the front."""
        if not self.work.running:
            self._model = model
            name = model.card.name if model.card else model.path.name
            self.window.windowTitle = _("Recalibrate {model}").format(model=name)
        self.show()

    def add(self, folder: Path | str) -> None:
        """List a folder of reviews or labelled cases."""
        if str(folder) not in self._folders():
            self.ui.folderList.addItem(str(folder))
        self._update()

    def _folders(self) -> list[str]:
        return [self.ui.folderList.item(row).text() for row in range(self.ui.folderList.count)]

    def _update(self) -> None:
        for widget in (self.ui.folderList, self.ui.addButton):
            widget.enabled = not self.work.running
        self.ui.removeButton.enabled = not self.work.running and self.ui.folderList.currentRow >= 0
        self.work.update(None if self._folders() else _("Add folders of cases first."))

    def _onAdd(self, *_args) -> None:
        folder = askFolder(self.window, _("Choose a folder of reviews or labelled cases"))
        if folder:
            self.add(folder)

    def _onRemove(self, *_args) -> None:
        self.ui.folderList.takeItem(self.ui.folderList.currentRow)
        self._update()

    def _onStart(self) -> None:
        agreeToLicences([self._model])
        name = self._model.card.name if self._model.card else self._model.path.stem
        output = newFolder(installed_models(), _("{model}, calibrated").format(model=name))
        message = {"command": Command.CALIBRATE, "model": str(self._model.path), "cases": self._folders()}
        job = self._client.request({**message, "output": str(output)})
        job.finished.connect(shown(lambda result: self._onFinished(output, result)))
        job.failed.connect(shown(self._onFailed))
        self.work.follow(job)
        self._update()

    def _onFinished(self, output: Path, result: dict[str, Any]) -> None:
        self._end("")
        if slicer.util.confirmOkCancelDisplay(question(result), windowTitle=_("Recalibrate")):
            self.work.say(_("{model} is installed and selected in the panel.").format(model=result["name"]))
            self._onKept(output.name)
        else:
            remove(output.name)
            self.work.say(_("The new model was discarded."))

    def _onFailed(self, code: str, message: str, details: str) -> None:
        """Say why there is no new model; that the cases do not suffice for a better one is a result, and no error."""
        if code == CalibrationError.code:
            self._end(message)
        else:
            super()._onFailed(code, message, details)


def question(result: dict[str, Any]) -> str:
    """Say what became better or worse, which cases were not used, and ask whether the new model is to be kept.

    Args:
        result: `name`, `calibration` (as the card has it) and `refused`, of the worker.
    """
    calibration = result["calibration"]
    text = _("{cases}, temperature {temperature}, p = {p}. Before and after, in a leave-one-out test:")
    counts = {"reviews": _("{n} reviews"), "labelled cases": _("{n} labelled cases")}
    cases = ", ".join(words.format(n=calibration[name]) for name, words in counts.items() if name in calibration)
    lines = [
        text.format(cases=cases, temperature=f"{calibration['temperature']:.3g}", p=f"{calibration['p_value']:.2g}")
    ]
    names = {"nll": _("negative log-likelihood"), "ece": _("calibration error")}
    pairs = {names.get(name, name): value for name, value in calibration.items() if isinstance(value, list)}
    for name, pair in pairs.items():
        first, second = (_("not stated") if value is None else f"{value:.4g}" for value in pair)
        lines.append(f"  {name}: {first} → {second}")
    lines += result["refused"]
    lines.append(_("Press OK to install {model}; the old model remains unchanged.").format(model=result["name"]))
    return "\n".join(lines)
