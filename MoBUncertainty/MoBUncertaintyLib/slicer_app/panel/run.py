"""Run: how to compute, Apply and Cancel, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.choices import Method
from MoBUncertaintyLib.slicer_app.inputs.mixture import canMirror
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.scene.roi import fitRoi, roiBounds
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write
from MoBUncertaintyLib.slicer_app.widgets.work import WorkButton


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
            _("Handing over the image..."),
            _("Stop the computation; the scene stays as it is."),
        )
        self.sayPriority(0)
        ui.roiSelector.nodeAddedByUserAction.connect(shown(self._onRoiAdded))
        ui.runCollapsibleButton.contentsCollapsed.connect(lambda collapsed: self.showRoi(not collapsed))

    def showRoi(self, visible: bool) -> None:
        """Show the region of interest in the views, or hide it, so that its handles do not cover the regions."""
        roi = self._ui.roiSelector.currentNode()
        if roi and roi.GetDisplayNode():
            roi.GetDisplayNode().SetVisibility(visible)

    def update(self, state: State, parameters, whyNot: str | None) -> None:
        """Set the widgets; `parameters` is None while the scene is closed, `whyNot` the reason not to run, if any."""
        ui = self._ui
        if parameters:
            monteCarlo = parameters.method is Method.MONTE_CARLO
            ui.samplesSpinBox.visible = ui.samplesSpinBoxCaption.visible = monteCarlo
        ui.roiSelector.enabled = ui.advancedCollapsibleButton.enabled = not state.busy
        self.work.update(state is State.RUNNING, whyNot, isShown=not state.busy)

    def sayPriority(self, niceness: int) -> None:
        """Say if the worker computes at a low priority, which it inherits from Slicer and may not raise."""
        text = _(
            "Computed at a low priority (nice {n}), which Slicer gives itself: other programs slow it down. To"
            " avoid that, start Slicer with SLICER_BACKGROUND_THREAD_PRIORITY=0 in its environment."
        )
        write(self._ui.priorityLabel, text.format(n=niceness) if niceness else "")
        self._ui.priorityLabel.visible = niceness > 0

    def _onRoiAdded(self, roi) -> None:
        """Fit a new region of interest, which has no size yet, to the CT."""
        fitRoi(roi, self._ui.ctSelector.currentNode())


def predictionSettings(parameters, models: Sequence[ListedModel], labels: list[str]) -> dict[str, object]:
    """Collect the fields of `prediction.PredictionSettings`.

    Args:
        parameters: The module's.
        models: Those that predict.
        labels: Names of those that are wanted alone; none: all.
    """
    return {
        "samples": parameters.samples if parameters.method is Method.MONTE_CARLO else None,
        "overlap": parameters.overlap,
        "mirror": parameters.mirror and canMirror(models),
        "folds": None if parameters.folds or len(models) > 1 or len(models[0].folds) < 2 else [models[0].folds[0]],
        "device": parameters.device.value,
        "engine": parameters.engine.value,
        "region_of_interest": roiBounds(parameters.roi, parameters.ct),
        "labels": labels or None,
    }
