"""The models to choose from, and the one that is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.resources import installed_models
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.model.nnunet.totalsegmentator import name_of as nameOfWeights
from MoBUncertaintyLib.slicer_app.inputs.check_list import few
from MoBUncertaintyLib.slicer_app.models import ModelList
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shortened


class ModelSelector:
    """The selector of models, and the button that removes one.

    Args:
        ui: The panel's widgets.
        models: The models to choose from.
    """

    def __init__(self, ui, models: ModelList) -> None:
        self._ui, self._models = ui, models
        self._known: dict[str, ListedModel] = {}
        self._listed: dict[str, ListedModel] = {}

    @property
    def model(self) -> ListedModel | None:
        """The chosen model; None where there is none."""
        return self._listed.get(self.name)

    @property
    def name(self) -> str:
        """What a scene remembers the chosen model by, see `ModelList.name`; "" where there is none."""
        index = self._ui.modelSelector.currentIndex
        return list(self._listed)[index] if 0 <= index < len(self._listed) else ""

    def fill(self, name: str) -> None:
        """Read the list of models anew, and `choose`."""
        self._known = self._models.models()
        self.choose(name)

    def choose(self, name: str) -> None:
        """Choose a model by its name.

        A model that is not on this computer is listed with its problem, since another one would segment something else.
        Without a name, a model that can be used is chosen, shipped ones first.
        """
        self._listed = dict(self._known)
        if not name:
            usable = [name for name, model in self._known.items() if model.problem is None]
            name = next(iter(usable or self._known), "")
        elif name not in self._known:
            self._listed[name] = self._models.find(name)
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        titles = modelTitles(list(self._listed.values()))
        for (listed, model), title in zip(self._listed.items(), titles, strict=True):
            selector.addItem(shortened(title))
            selector.setItemData(selector.count - 1, f"{title}\n{model.path}", qt.Qt.ToolTipRole)
            if listed == name:
                selector.currentIndex = selector.count - 1
        selector.blockSignals(blocked)

    def others(self, names: Iterable[str]) -> dict[str, ListedModel]:
        """Find models beside the chosen one by their names; one that is not on this computer has a problem."""
        return {name: self._known.get(name) or self._models.find(name) for name in names if name != self.name}

    def candidates(self, names: Iterable[str]) -> dict[str, tuple[str, ListedModel]]:
        """List title and model of all beside the chosen one, and of those with some names, by their names."""
        models = {name: model for name, model in self._known.items() if name != self.name} | self.others(names)
        titles = modelTitles(list(models.values()))
        return {name: (title, model) for (name, model), title in zip(models.items(), titles, strict=True)}

    def nameOf(self, model: Mapping[str, str]) -> str | None:
        """Find a model that is listed, by its `name` and `path` in a result's provenance."""
        path = Path(model.get("path") or model.get("name") or "")
        # Those that ship, or are installed, lie elsewhere on each computer.
        for wanted in (path, self._models.folder / path.name, installed_models() / path.name):
            for name, listed in self._known.items():
                if listed.path == wanted:
                    return name
        return None

    def add(self, mode) -> bool:
        """Ask for a model, add and choose it; return whether there is one.

        Args:
            mode: `QFileDialog.ExistingFile`: for its file; `QFileDialog.Directory`: for its folder.
        """
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Add a model"))
        dialog.setFileMode(mode)
        if mode == qt.QFileDialog.ExistingFile:
            dialog.setNameFilter(_("Models (*.zip model.json plans.json checkpoint_*.pth)"))
        if not dialog.exec_():
            return False
        self.fill(self._models.name(self._models.add(Path(dialog.selectedFiles()[0]))))
        return True

    def remove(self) -> bool:
        """Remove the chosen model, after asking where its files go too; return whether it was removed."""
        if self._models.isInstalled(self.model):
            question = _("The model {name} and its files are removed from this computer. Remove?")
            if not confirmLoss(question.format(name=self.model.name)):
                return False
        self._models.remove(self.model.path)
        self.fill("")
        return True

    def update(self, busy: bool) -> None:
        """Enable what can be used while something is computed, or not."""
        ui, selector, model = self._ui, self._ui.modelSelector, self.model
        for widget in (selector, ui.findModelsButton, ui.addModelButton, ui.addFolderButton):
            widget.enabled = not busy
        selector.toolTip = selector.itemData(selector.currentIndex, qt.Qt.ToolTipRole) if model else ""
        listed = _("Remove this model from the list; its files stay where they are.")
        installed = _("Remove this model and its files from this computer.")
        toolTip = installed if model and self._models.isInstalled(model) else listed
        allow(ui.removeModelButton, self._whyNotRemove(busy), toolTip)
        tip = _("Make a new model from this one with labelled cases, or reviews that you have signed off and exported.")
        usable = model is not None and model.problem is None
        allow(ui.recalibrateButton, None if usable else _("Choose a model first."), tip)

    def description(self) -> str:
        """Say what the chosen model does, or what is wrong with it."""
        model = self.model
        if model is None:
            return _("There is no model; add one with the buttons above.")
        if model.problem:
            return model.problem
        if model.card is None:
            text = _("Training folder of nnU-Net, labels: {labels}. Licence: {licence}.")
            return text.format(labels=few([*map(readable, model.labels)]), licence=model.licence)
        text = _("{task}. Licence: {licence}.")
        return text.format(task=model.card.task.rstrip("."), licence=model.card.licence)

    def _whyNotRemove(self, busy: bool) -> str | None:
        if busy:
            return _("Wait for the running computation to finish.")
        if self.model is None or self._models.ships(self.model):
            return _("This model comes with the extension.")
        if nameOfWeights(self.model.path):
            return _("These weights are TotalSegmentator's, whose folder is listed as it is.")
        return None


def modelTitles(models: Sequence[ListedModel]) -> list[str]:
    """List the models' names; those with equal names get the folder that tells them apart."""
    titles = []
    for model in models:
        name = model.name
        others = [other.path for other in models if other is not model and other.name == name]
        titles.append(f"{name} ({distinction(model.path, others)})" if others else name)
    return titles


def distinction(path: Path, others: Sequence[Path]) -> str:
    """Find the last part of a path that no other path has in this place."""
    for place, folder in enumerate(reversed(path.parts)):
        if all(len(other.parts) <= place or other.parts[-1 - place] != folder for other in others):
            return folder
    return str(path)
