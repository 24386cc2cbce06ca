"""Run: how to compute, Apply and Cancel, and how far it is."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from MoBUncertaintyLib.app.choices import Method
from MoBUncertaintyLib.app.roi import fitRoi, roiBounds
from MoBUncertaintyLib.app.sections import allow, shown


class RunSection:
    """Apply, Cancel, progress and status.

    Args:
        ui: The panel's widgets.
        onApply: Starts the computation.
        onCancel: Ends it.
    """

    def __init__(self, ui, onApply: Callable[[], None], onCancel: Callable[[], None]) -> None:
        self._ui = ui
        self._onApply = onApply
        self._onCancel = onCancel
        self._running = False
        self._warnings: list[str] = []
        self._tip = ui.applyButton.toolTip
        ui.progressBar.visible = False
        ui.applyButton.clicked.connect(shown(self._onClicked))
        ui.methodSelector.currentIndexChanged.connect(self._showSamples)
        ui.roiSelector.nodeAddedByUser.connect(shown(self._onRoiAdded))
        self._showSamples()

    @property
    def running(self) -> bool:
        """Whether Apply is a Cancel now."""
        return self._running

    def start(self, text: str) -> None:
        """Something is computed from now on."""
        self._running = True
        self._warnings = []
        self.lockInputs(True)
        ui = self._ui
        ui.applyButton.text = _("Cancel")
        allow(ui.applyButton, None, _("Stop the computation; the scene stays as it is."))
        ui.progressBar.value = 0
        ui.progressBar.format = "%p %"
        ui.progressBar.visible = True
        self.say(text)

    def progress(self, step: dict) -> None:
        """How far it is: the fields of a `progress` event, see `protocol`."""
        bar, left = self._ui.progressBar, step["seconds_left"]
        bar.value = round(bar.maximum * step["fraction"])
        bar.format = "%p %" if left is None else _("%p %, {time} left").format(time=duration(left))
        self.say(stageText(step))

    def stop(self, text: str) -> None:
        """Nothing is computed any more."""
        self._running = False
        self.lockInputs(False)
        self._ui.applyButton.text = _("Apply")
        self._ui.progressBar.visible = False
        self.say("\n".join(filter(None, [text, *self._warnings])))

    def warn(self, message: str) -> None:
        """Keep a warning; it is shown with what comes out."""
        self._warnings.append(message)

    def takeWarnings(self) -> list[str]:
        """The warnings so far, to be shown elsewhere."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def say(self, text: str) -> None:
        """Put a text under the button."""
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def refresh(self, whyNot: str | None) -> None:
        """Enable Apply, unless there is a reason not to."""
        if not self._running:
            allow(self._ui.applyButton, whyNot, self._tip)

    def lockInputs(self, locked: bool) -> None:
        """What is being computed cannot be changed meanwhile."""
        ui = self._ui
        for widget in (
            ui.ctSelector,
            ui.modelSelector,
            ui.addModelButton,
            ui.removeModelButton,
            ui.sampleLabel,
            ui.roiSelector,
            ui.advancedCollapsibleButton,
        ):
            widget.enabled = not locked

    def _onClicked(self, *_args) -> None:
        (self._onCancel if self._running else self._onApply)()

    def _onRoiAdded(self, roi) -> None:
        """A new region of interest has no size yet."""
        fitRoi(roi, self._ui.ctSelector.currentNode())

    def _showSamples(self, *_args) -> None:
        monteCarlo = self._ui.methodSelector.currentIndex == 1
        self._ui.samplesSpinBox.visible = self._ui.samplesSpinBoxCaption.visible = monteCarlo


def stageText(step: dict) -> str:
    """What the worker does, in the user's language."""
    words = {
        "model": _("Loading the model"),
        "preprocess": _("Preprocessing"),
        "network": _("Predicting tiles"),
        "resample": _("Resampling"),
        "regions": _("Finding doubtful regions"),
        "write": _("Handing over the results"),
        "export": _("Writing the files"),
    }
    text = words.get(step["stage"], step["text"])
    if step["total"] > 1:
        return _("{stage}: {done} of {total}").format(stage=text, done=step["done"], total=step["total"])
    return text


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    seconds = max(1, round(seconds))
    if seconds < 90:
        return _("{n} s").format(n=seconds)
    return _("{n} min").format(n=round(seconds / 60))


def predictionSettings(parameters, mirror: bool) -> dict[str, object]:
    """Fields of `prediction.PredictionSettings`.

    Args:
        parameters: The module's.
        mirror: Whether the model can be mirrored.
    """
    return {
        "samples": parameters.samples if parameters.method is Method.MONTE_CARLO else None,
        "overlap": parameters.overlap,
        "mirror": parameters.mirror and mirror,
        "device": parameters.device.value,
        "region_of_interest": roiBounds(parameters.roi, parameters.ct),
    }
