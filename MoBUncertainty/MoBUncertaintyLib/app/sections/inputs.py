"""Inputs: which CT, which model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.app.models import ModelList
from MoBUncertaintyLib.app.sections import allow, shown
from MoBUncertaintyLib.model import ListedModel


class InputsSection:
    """The list of models with what they are, and the way to the demo CT.

    Args:
        ui: The panel's widgets.
        models: What there is to choose from.
        loadDemo: Loads the demo CT and selects it.
        onModel: Told when another model is chosen.
    """

    def __init__(self, ui, models: ModelList, loadDemo: Callable[[], None], onModel: Callable[[], None]) -> None:
        self._ui = ui
        self._models = models
        self._onModel = onModel
        self._listed: list[ListedModel] = []
        ui.sampleLabel.linkActivated.connect(shown(lambda link: loadDemo()))
        ui.modelSelector.currentIndexChanged.connect(self._onSelected)
        ui.addModelButton.clicked.connect(shown(self._onAdd))
        ui.removeModelButton.clicked.connect(shown(self._onRemove))
        self.fill()

    @property
    def model(self) -> ListedModel | None:
        """The chosen model; None where there is none."""
        index = self._ui.modelSelector.currentIndex
        return self._listed[index] if 0 <= index < len(self._listed) else None

    def fill(self) -> None:
        """Read the list of models anew; the choice stays."""
        chosen = self.model.path if self.model else None
        self._listed = self._models.models()
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for model in self._listed:
            selector.addItem(modelName(model))
            selector.setItemData(selector.count - 1, str(model.path), qt.Qt.ToolTipRole)
        selector.blockSignals(blocked)
        self.choose(str(chosen))

    def choose(self, path: str) -> None:
        """Choose the model that lies there, else one that can be used, shipped ones first."""
        paths = [str(model.path) for model in self._listed]
        usable = [index for index, model in enumerate(self._listed) if model.problem is None]
        index = paths.index(path) if path in paths else (usable or [0])[0]
        self._ui.modelSelector.currentIndex = min(index, len(paths) - 1)
        self._describe()

    def hide(self, nodes: list) -> None:
        """Offer all volumes as CTs but these."""
        self._ui.ctSelector.sortFilterProxyModel().hiddenNodeIDs = [node.GetID() for node in nodes]

    def showDemoLink(self, visible: bool) -> None:
        """Offer the demo CT, or not."""
        self._ui.sampleLabel.visible = visible

    def _onSelected(self, *_args) -> None:
        self._describe()
        self._onModel()

    def _onAdd(self, *_args) -> None:
        path = self.askForModel()
        if path:
            added = self._models.add(path)
            self.fill()
            self.choose(str(added.path))
            self._onModel()

    def _onRemove(self, *_args) -> None:
        self._models.remove(self.model.path)
        self.fill()
        self._onModel()

    def askForModel(self) -> Path | None:
        """A file dialog; None if the user cancels it."""
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Add a model"))
        dialog.setFileMode(qt.QFileDialog.ExistingFile)
        dialog.setNameFilters([_("Models (*.zip model.json)"), _("Results folder of nnU-Net (plans.json)")])
        if not dialog.exec_():
            return None
        return Path(dialog.selectedFiles()[0])

    def _describe(self) -> None:
        model = self.model
        if model is None:
            text = _("There is no model; add one with the button above.")
        elif model.problem:
            text = model.problem
        elif model.card is None:
            text = _("Results folder of nnU-Net; what it segments is read when it runs.")
        else:
            text = _("{task} Licence: {licence}.").format(task=model.card.task, licence=model.card.licence)
        self._ui.modelInfoLabel.text = text
        shipped = model is None or model.path not in self._models.added()
        allow(
            self._ui.removeModelButton,
            _("This model comes with the extension.") if shipped else None,
            _("Take this model off the list; its files stay where they are."),
        )


def modelName(model: ListedModel) -> str:
    """As the user knows it."""
    return model.card.name if model.card else model.path.stem
