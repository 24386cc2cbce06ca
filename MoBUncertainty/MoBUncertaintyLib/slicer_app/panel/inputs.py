"""Inputs: which image, and which of the models there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer.util
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.images.modality import modality_of_channel
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.model.nnunet.totalsegmentator import name_of as nameOfWeights
from MoBUncertaintyLib.slicer_app.find_models import FindModels
from MoBUncertaintyLib.slicer_app.inputs import (
    ChannelSelectors,
    LabelChooser,
    few,
    offerMixture,
)
from MoBUncertaintyLib.slicer_app.models import (
    addModel,
    findModel,
    isInstalled,
    listModels,
    removeModel,
    sceneName,
    ships,
)
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.recalibrate import Recalibrate
from MoBUncertaintyLib.slicer_app.samples import loadSampleData
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, defaultCt, mapVolumes
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import AfterLoading, allow, shortened, shown, write
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient


class InputsSection:
    """The image, the models with their descriptions, and the link to the demo CT."""

    def __init__(self, ui, onModel: Callable[[], None], newClient: Callable[[], WorkerClient]) -> None:
        self._ui, self._onModel, self._newClient = ui, onModel, newClient
        self.finder: FindModels | None = None  # the dialogs, once they were opened
        self.recalibrate: Recalibrate | None = None
        self.selector = ModelSelector(ui)
        self._channels = ChannelSelectors(ui.channelsPlace, onModel)
        self._parameters: Any = None
        self._chooser = LabelChooser(ui, self._onLabels)
        self._afterLoading = AfterLoading()
        scene = slicer.mrmlScene
        self._nodesAdded = scene.AddObserver(scene.NodeAddedEvent, self._onNodeAdded)
        write(ui.sampleLabel, ui.sampleLabel.text)
        ui.sampleLabel.linkActivated.connect(shown(self._onDemo))
        ui.modelSelector.currentIndexChanged.connect(shown(lambda *_args: onModel()))
        ui.findModelsButton.clicked.connect(shown(self._onFind))
        for button, mode in (
            (ui.addModelButton, qt.QFileDialog.ExistingFile),
            (ui.addFolderButton, qt.QFileDialog.Directory),
        ):
            button.clicked.connect(shown(lambda *_args, mode=mode: self.selector.add(mode) and onModel()))
        ui.removeModelButton.clicked.connect(shown(lambda *_args: self.selector.remove() and onModel()))
        for signal in (ui.recalibrateButton.clicked, ui.mixtureNoteLabel.linkActivated):
            signal.connect(shown(self._onRecalibrate))
        self.selector.fill("")

    @property
    def labels(self) -> list[str]:
        """Names of the labels that are wanted alone; none: all of the model."""
        there = self.selector.model.labels if self.selector.model else ()
        return [name for name in self._parameters.labels if name in there] if self._parameters else []

    def update(self, state: State, parameters) -> None:
        """Set the widgets; `parameters` is None while the scene is closed."""
        ui, free = self._ui, not state.busy
        self._parameters = parameters
        ui.ctSelector.enabled = ui.sampleLabel.enabled = free
        self.selector.update(state.busy)
        ct, model = parameters.ct if parameters else None, self.selector.model
        usable = model is not None and model.problem is None
        self._chooser.offer(model.labels if usable else (), self.labels, free)
        offerMixture(ui, model if usable else None, free)
        self._channels.offer(ct, model.channels if usable else (), free)
        if parameters:
            ui.sampleLabel.visible = ct is None and takesCt(model)
        ui.ctSelectorCaption.text = f"{model.channels[0] if model and model.channels else _('Image')}:"
        write(ui.modelInfoLabel, description(model))

    def hideMaps(self) -> None:
        """Offer all volumes except maps as CTs, and for other channels."""
        hidden = [node.GetID() for node in mapVolumes()]
        for selector in (self._ui.ctSelector, *self._channels.selectors.values()):
            selector.sortFilterProxyModel().hiddenNodeIDs = hidden

    def close(self) -> None:
        """Watch the scene no more; end what looks for models, and what makes one."""
        slicer.mrmlScene.RemoveObserver(self._nodesAdded)
        self._afterLoading.stop()
        for dialog in filter(None, (self.finder, self.recalibrate)):
            dialog.close()
            dialog.window.deleteLater()
        self.finder = self.recalibrate = None

    def _onLabels(self, names: list[str]) -> None:
        if self._parameters:
            self._parameters.labels = names

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, _scene, _event, node) -> None:
        """Choose the first volume that is loaded, once it is: the panel has asked for it."""
        if self._parameters and self._parameters.ct is None and node.IsA(CT_CLASS):
            self._afterLoading.later(self._chooseLoaded)

    def _chooseLoaded(self) -> None:
        if self._parameters and self._parameters.ct is None:
            self._parameters.ct = defaultCt()

    def _onDemo(self, *_args) -> None:
        with slicer.util.WaitCursor():
            self._parameters.ct = loadSampleData()

    def _onFind(self, *_args) -> None:
        if self.finder is None:
            self.finder = FindModels(self._newClient(), self._onInstalled)
        self.finder.show()

    def _onRecalibrate(self, *_args) -> None:
        if self.recalibrate is None:
            self.recalibrate = Recalibrate(self._newClient(), self._onInstalled)
        self.recalibrate.showFor(self.selector.model)

    def _onInstalled(self, name: str) -> None:
        """Choose a model that was installed, unless something is computed meanwhile."""
        free = self._ui.modelSelector.enabled
        self.selector.fill(name if free else self.selector.name)
        if free:
            self._onModel()


def whyNotUse(model: ListedModel | None) -> str | None:
    """Say why a model cannot predict; None: it can, as far as is known here."""
    return model.problem if model else _("Add a model first.")


def takesCt(model: ListedModel | None) -> bool:
    """Whether a model may segment the demo CT, as far as its channels say."""
    names = model.channels if model else ()
    return len(names) < 2 and modality_of_channel(next(iter(names), "CT")) in {"CT", None}


class ModelSelector:
    """The selector of models, and the button that removes one."""

    def __init__(self, ui) -> None:
        self._ui = ui
        self._known: dict[str, ListedModel] = {}
        self._listed: dict[str, ListedModel] = {}

    @property
    def model(self) -> ListedModel | None:
        """The chosen model; None where there is none."""
        return self._listed.get(self.name)

    @property
    def name(self) -> str:
        """What a scene remembers the chosen model by, see `sceneName`; "" where there is none."""
        index = self._ui.modelSelector.currentIndex
        return list(self._listed)[index] if 0 <= index < len(self._listed) else ""

    def fill(self, name: str) -> None:
        """Read the list of models anew, and `choose`."""
        self._known = listModels()
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
            self._listed[name] = findModel(name)
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

    def add(self, mode) -> bool:
        """Ask for a model, add and choose it; return whether there is one."""
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Add a model"))
        dialog.setFileMode(mode)
        if mode == qt.QFileDialog.ExistingFile:
            dialog.setNameFilter(_("Models (*.zip model.json plans.json checkpoint_*.pth)"))
        if not dialog.exec_():
            return False
        self.fill(sceneName(addModel(Path(dialog.selectedFiles()[0]))))
        return True

    def remove(self) -> bool:
        """Remove the chosen model, after asking where its files go too; return whether it was removed."""
        if isInstalled(self.model):
            question = _("Remove the model {name} and its files from this computer?")
            if not confirmLoss(question.format(name=self.model.name)):
                return False
        removeModel(self.model.path)
        self.fill("")
        return True

    def update(self, busy: bool) -> None:
        """Enable what can be used while something is computed, or not."""
        ui, selector, model = self._ui, self._ui.modelSelector, self.model
        for widget in (selector, ui.findModelsButton, ui.addModelButton, ui.addFolderButton):
            widget.enabled = not busy
        selector.toolTip = selector.itemData(selector.currentIndex, qt.Qt.ToolTipRole) if model else ""
        installed = _("Remove this model and its files from this computer.")
        toolTip = installed if model is not None and isInstalled(model) else None
        allow(ui.removeModelButton, self._whyNotRemove(busy), toolTip)
        usable = model is not None and model.problem is None
        allow(ui.recalibrateButton, None if usable else _("Choose a model first."))

    def _whyNotRemove(self, busy: bool) -> str | None:
        if busy:
            return _("Wait for the running computation to finish.")
        if self.model is None or ships(self.model):
            return _("This model comes with the extension.")
        if nameOfWeights(self.model.path):
            return _("These weights belong to TotalSegmentator and can only be removed there.")
        return None


def description(model: ListedModel | None) -> str:
    """Say what a model does, or what is wrong with it."""
    if model is None:
        return _("There is no model; add one with the buttons above.")
    if model.problem:
        return model.problem
    if model.card is None:
        text = _("Training folder of nnU-Net, labels: {labels}. Licence: {licence}.")
        return text.format(labels=few([*map(readable, model.labels)]), licence=model.licence)
    text = _("{task}. Licence: {licence}.")
    return text.format(task=model.card.task.rstrip("."), licence=model.card.licence)


def modelTitles(models: Sequence[ListedModel]) -> list[str]:
    """List the models' names; those with equal names get the folder that they lie in."""
    counts = Counter(model.name for model in models)
    return [f"{each.name} ({each.path.parent.name})" if counts[each.name] > 1 else each.name for each in models]
