"""Overlay: what lies over the image, and how. Each control acts at once; the scene keeps its value with the image."""

from __future__ import annotations

from collections.abc import Iterator

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.scene.maps import MapKind, mapName, mapStyle
from MoBUncertaintyLib.slicer_app.widgets.section import inSteps, offer, shown, signalsBlocked
from MoBUncertaintyLib.slicer_app.worker.steps import Steps


class OverlaySection:
    """The panel's section for the map, segmentation and surface of one image."""

    def __init__(self, ui) -> None:
        self._ui = ui
        self._results = None
        self._switch = Steps()  # to another map
        self._labels: list[int | None] = []
        self._kinds: list[MapKind] = []
        ui.mapSelector.currentIndexChanged.connect(shown(self._onMap))
        ui.labelSelector.currentIndexChanged.connect(shown(self._onMap))
        ui.opacitySlider.valueChanged.connect(shown(lambda value: self._set(opacity=value)))
        ui.lowerThresholdSlider.valueChanged.connect(shown(lambda value: self._set(threshold=value)))
        ui.surfaceCheckBox.toggled.connect(shown(lambda checked: self._set(surface=checked)))
        style = (ui.opacitySlider, ui.lowerThresholdSlider, ui.surfaceCheckBox)
        self._controls = (ui.mapSelector, ui.labelSelector, *style)
        self.setSession(None)

    def setSession(self, session) -> None:
        """Show another image's overlay, or none."""
        self._switch.cancel()
        self._results, ui = session.results if session else None, self._ui
        labels = session.review.prediction.labels if session else []
        self._labels = [None] if len(labels) != 1 else []
        self._labels += [label.value for label in labels]
        names = [readable(label.name) for label in labels]
        offer(ui.labelSelector, [_("All organs")] * (len(labels) != 1) + names)
        self._kinds = session.results.overlay.kinds if session else list(MapKind)
        offer(ui.mapSelector, map(mapName, self._kinds))
        ui.labelSelector.visible = ui.labelSelectorCaption.visible = len(labels) > 1
        for widget in self._controls:
            widget.enabled = bool(session)
        if session:
            self._show()

    def _show(self) -> None:
        """Show the scene's values."""
        ui, overlay = self._ui, self._results.overlay.values
        kind, label, step = overlay["kind"], overlay["label"], max(overlay["window"][1] / 50, 1e-4)
        with signalsBlocked(*self._controls):
            ui.mapSelector.currentIndex = self._kinds.index(kind)
            ui.labelSelector.currentIndex = self._labels.index(label) if label in self._labels else 0
            ui.lowerThresholdSlider.decimals = 3 if step >= 1e-3 else 4
            ui.lowerThresholdSlider.maximum, ui.lowerThresholdSlider.singleStep = mapStyle(kind).largest, step
            ui.lowerThresholdSlider.value = overlay["threshold"]
            ui.opacitySlider.value = overlay["opacity"]
            ui.surfaceCheckBox.checked = overlay["surface"]

    def _onMap(self, *_args) -> None:
        ui = self._ui
        if self._results is None or ui.mapSelector.currentIndex < 0 or ui.labelSelector.currentIndex < 0:
            return
        kind, label = self._kinds[ui.mapSelector.currentIndex], self._labels[ui.labelSelector.currentIndex]
        self._switch.cancel()
        self._switch = inSteps(self._switchTo(kind, label), lambda _none: self._show())

    def _switchTo(self, kind: MapKind, label: int | None) -> Iterator[None]:
        """Show another map; until it is there, its threshold is locked."""
        qt.QApplication.setOverrideCursor(qt.QCursor(qt.Qt.BusyCursor))
        self._ui.lowerThresholdSlider.enabled = False
        try:
            yield from self._results.overlay.showInSteps(kind, label)
        finally:
            self._ui.lowerThresholdSlider.enabled = True
            qt.QApplication.restoreOverrideCursor()

    def _set(self, **values) -> None:
        if self._results:
            self._results.overlay.change(**values)
