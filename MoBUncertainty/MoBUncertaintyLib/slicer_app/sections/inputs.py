"""Inputs: which image, which of the models there are, and what is offered of one: labels, channels, averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
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
from MoBUncertaintyLib.slicer_app.model_dialogs import FindModels, Recalibrate
from MoBUncertaintyLib.slicer_app.models import (
    addModel,
    findModel,
    isInstalled,
    listModels,
    removeModel,
    sceneName,
    ships,
)
from MoBUncertaintyLib.slicer_app.samples import loadSampleData
from MoBUncertaintyLib.slicer_app.scene.nodes import channelVolume, setChannelVolume
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, defaultCt, resultNodes
from MoBUncertaintyLib.slicer_app.widgets.dialogs import confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import (
    State,
    afterLoading,
    allow,
    offer,
    say,
    shortened,
    shown,
    signalsBlocked,
    write,
)
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

GAP = 6  # pixels between the summary and its button

ROWS = 8
"""Rows that the list shows at once, if there are as many."""

MIRRORED_PASSES = 8
"""At most, where a training folder tells only when it is loaded along which axes it can be mirrored."""


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

    def onInstalled(self, name: str) -> None:
        """Choose a model that was installed, unless something is computed meanwhile."""
        free = self._ui.modelSelector.enabled
        self.selector.fill(name if free else self.selector.name)
        if free:
            self._onModel()

    def hideResults(self) -> None:
        """Offer no results as images, for other channels, or to be checked: they would be replaced.

        Nor is the image offered as a dose in itself.
        """
        hidden, ui = [node.GetID() for node in resultNodes()], self._ui
        drawn = ui.segmentationSelector, ui.secondSegmentationSelector
        for selector in (ui.ctSelector, *drawn, *self._channels.selectors.values()):
            selector.sortFilterProxyModel().hiddenNodeIDs = hidden
        ct = self._parameters.ct if self._parameters else None
        ui.doseSelector.sortFilterProxyModel().hiddenNodeIDs = hidden + ([ct.GetID()] if ct else [])

    def close(self) -> None:
        """Watch the scene no more; end what looks for models, and what makes one."""
        slicer.mrmlScene.RemoveObserver(self._nodesAdded)
        self._parameters = None
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
            afterLoading(self._chooseLoaded)

    def _chooseLoaded(self) -> None:
        if self._parameters and self._parameters.ct is None:
            self._parameters.ct = defaultCt()

    def _onDemo(self, *_args) -> None:
        with slicer.util.WaitCursor():
            self._parameters.ct = loadSampleData()

    def _onFind(self, *_args) -> None:
        if self.finder is None:
            self.finder = FindModels(self._newClient(), self.onInstalled)
        self.finder.show()

    def _onRecalibrate(self, *_args) -> None:
        if self.recalibrate is None:
            self.recalibrate = Recalibrate(self._newClient(), self.onInstalled)
        self.recalibrate.showFor(self.selector.model)


def takesCt(model: ListedModel | None) -> bool:
    """Whether a model may segment the demo CT, as far as its channels say."""
    names = model.channels if model else ()
    return len(names) < 2 and modality_of_channel(next(iter(names), "CT")) in {"CT", None}


class ModelSelector:
    """The selector of models, and the button that removes one."""

    def __init__(self, ui) -> None:
        self._ui = ui
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
        """Read the list of models anew, and choose one by its name.

        A model that is not on this computer is listed with its problem, since another one would segment something else.
        Without a name, a model that can be used is chosen, shipped ones first.
        """
        self._listed = listModels()
        if not name:
            usable = [name for name, model in self._listed.items() if model.problem is None]
            name = next(iter(usable or self._listed), "")
        elif name not in self._listed:
            self._listed[name] = findModel(name)
        selector, titles = self._ui.modelSelector, modelTitles(list(self._listed.values()))
        offer(selector, map(shortened, titles))
        for row, (model, title) in enumerate(zip(self._listed.values(), titles, strict=True)):
            selector.setItemData(row, f"{title}\n{model.path}", qt.Qt.ToolTipRole)
        with signalsBlocked(selector):
            selector.currentIndex = list(self._listed).index(name) if name else -1

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
        wait = _("Wait for the running computation to finish.") if busy else None
        allow(ui.recalibrateButton, wait if usable else _("Choose a model first."))

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
    """List the models' names; those with equal names get the last part of their path that tells them apart."""
    titles = []
    for model in models:
        others = [other.path for other in models if other is not model and other.name == model.name]
        titles.append(f"{model.name} ({_distinction(model.path, others)})" if others else model.name)
    return titles


def _distinction(path: Path, others: Sequence[Path]) -> str:
    """Find the last part of a path that no other path has in this place."""
    for place, folder in enumerate(reversed(path.parts)):
        if all(len(other.parts) <= place or other.parts[-1 - place] != folder for other in others):
            return folder
    return str(path)


class LabelChooser:
    """A check list of the labels of a model that has several; with none checked, all of them are wanted."""

    def __init__(self, ui, onChosen: Callable[[list[str]], None]) -> None:
        self._ui, self._onChosen = ui, onChosen
        self._names: list[str] = []
        ui.labelsOpenedWidget.visible = False
        ui.chooseLabelsButton.toggled.connect(lambda opened: ui.labelsOpenedWidget.setVisible(opened))
        ui.labelsSearchEdit.textChanged.connect(shown(self._onSearch))
        ui.labelsList.itemChanged.connect(shown(self._onChecked))
        ui.allLabelsButton.clicked.connect(shown(lambda *_args: onChosen([])))

    def offer(self, names: Sequence[str], wanted: Collection[str], enabled: bool) -> None:
        """Show the labels of a model, and which are wanted; none: all."""
        ui = self._ui
        if list(names) != self._names:
            self._fill(names)
        with signalsBlocked(ui.labelsList):
            for name, item in zip(names, self._items(), strict=True):
                item.setCheckState(qt.Qt.Checked if name in wanted else qt.Qt.Unchecked)
        for widget in (ui.labelsList, ui.allLabelsButton, ui.chooseLabelsButton):
            widget.enabled = enabled
        ui.labelsPlace.visible = len(names) > 1
        chosen = [readable(name) for name in names if name in wanted]
        text = _("Labels: {k} of {n}, {names}.") if chosen else _("Labels: all {n}.")
        text = text.format(k=len(chosen), n=len(names), names=few(chosen))
        write(ui.labelsSummaryLabel, text, beside=ui.chooseLabelsButton.sizeHint.width() + GAP)

    def _items(self) -> list:
        return [self._ui.labelsList.item(row) for row in range(self._ui.labelsList.count)]

    def _fill(self, names: Sequence[str]) -> None:
        self._names, widget = list(names), self._ui.labelsList
        offer(widget, map(readable, names))
        with signalsBlocked(widget):
            for item in self._items():
                item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
        widget.setFixedHeight(min(len(names), ROWS) * widget.sizeHintForRow(0) + 2 * widget.frameWidth)
        self._ui.labelsSearchEdit.text = ""

    def _onSearch(self, typed: str) -> None:
        """Show what has every word that is typed."""
        words = readable(typed.casefold()).split()
        for item in self._items():
            item.setHidden(not all(word in item.text().casefold() for word in words))

    def _onChecked(self, *_args) -> None:
        items = zip(self._names, self._items(), strict=True)
        self._onChosen([name for name, item in items if item.checkState() == qt.Qt.Checked])


def few(names: Sequence[str], most: int = 4) -> str:
    """Name some in one line, and count those that are too many for it."""
    named = ", ".join(names[:most]) or _("not known")
    return named if len(names) <= most else _("{names} and {n} more").format(names=named, n=len(names) - most)


class ChannelSelectors:
    """A selector of a volume for each input channel of the model beyond the first, which is the image's."""

    def __init__(self, place, onChanged: Callable[[], None]) -> None:
        self._place = place
        self._onChanged = onChanged
        self._ct = None
        self.selectors: dict[str, Any] = {}
        place.visible = False

    def offer(self, ct, channels: Sequence[str], enabled: bool) -> None:
        """Show the volumes that an image refers to; without an image, or with one channel, nothing."""
        self._ct = None  # what is shown now is no choice of the user's
        names = list(channels[1:]) if ct else []
        if names != list(self.selectors):
            self._make(names)
        for name, selector in self.selectors.items():
            selector.setCurrentNode(channelVolume(ct, name))
            selector.enabled = enabled
        self._place.visible = bool(names)
        self._ct = ct

    def _make(self, names: Sequence[str]) -> None:
        form, self.selectors = self._place.layout(), {}
        while form.count():
            widget = form.takeAt(0).widget()
            widget.setParent(None)
            widget.deleteLater()
        for name in names:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode"]
            selector.noneEnabled, selector.addEnabled, selector.removeEnabled = True, False, False
            selector.noneDisplay = _("Select an image")
            tip = _("The image for the model's input {name}; resampled to the first image if necessary.")
            selector.toolTip = tip.format(name=name)
            selector.setMRMLScene(slicer.mrmlScene)
            selector.currentNodeIDChanged.connect(shown(partial(self._onChosen, name)))
            form.addRow(f"{name}:", selector)
            self.selectors[name] = selector

    def _onChosen(self, name: str, *_args) -> None:
        if self._ct is not None:
            setChannelVolume(self._ct, name, self.selectors[name].currentNode())
            self._onChanged()


def offerMixture(ui, model: ListedModel | None, enabled: bool) -> None:
    """Offer what a model can average and, without a covariance, a link to what would improve it."""
    folds = len(model.folds) if model else 0
    ui.foldsCheckBox.text = _("Average all folds, {n} times as long").format(n=folds)
    card = model.card if model else None
    passes = 2 ** len(card.mirror_axes) if card else MIRRORED_PASSES
    text = _("Average mirrored tiles, {n} times as long") if card else None
    ui.mirrorCheckBox.text = (text or _("Average mirrored tiles, up to {n} times as long")).format(n=passes)
    ui.foldsCheckBox.enabled = ui.mirrorCheckBox.enabled = enabled
    ui.foldsCheckBox.visible = folds > 1
    ui.mirrorCheckBox.visible = mirrored = canMirror(model)
    note = _(
        "This model has no learned uncertainty. Its probabilities can be calibrated with"
        ' <a href="temperature">5 of your cases</a>, in minutes.'
    )
    lacks = model is not None and not model.has_covariance
    say(ui.mixtureNoteLabel, note if lacks else "")
    ui.mixturePlace.visible = lacks or folds > 1 or mirrored


def canMirror(model: ListedModel | None) -> bool:
    """Whether a model was trained with mirrored images, as far as its card says."""
    return model is not None and (model.card is None or bool(model.card.mirror_axes))
