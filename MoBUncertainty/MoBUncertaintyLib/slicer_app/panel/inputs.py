"""Inputs: which CT, which model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer.util
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.files.resources import installed_models
from MoBUncertaintyLib.images.modality import modality_of_channel
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.model.nnunet.totalsegmentator import name_of as nameOfWeights
from MoBUncertaintyLib.slicer_app.calibration.dialog import Recalibrate
from MoBUncertaintyLib.slicer_app.catalogue.dialog import FindModels
from MoBUncertaintyLib.slicer_app.choices import Mixture
from MoBUncertaintyLib.slicer_app.inputs.check_list import few
from MoBUncertaintyLib.slicer_app.inputs.ensemble import EnsembleChooser, whyNoMember
from MoBUncertaintyLib.slicer_app.inputs.labels import LabelChooser
from MoBUncertaintyLib.slicer_app.inputs.mixture import MixtureChooser, chosen
from MoBUncertaintyLib.slicer_app.inputs.selectors import ChannelSelectors
from MoBUncertaintyLib.slicer_app.models import ModelList
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, defaultCt
from MoBUncertaintyLib.slicer_app.widgets.dialogs import AfterLoading, confirmLoss
from MoBUncertaintyLib.slicer_app.widgets.section import allow, shortened, shown, write
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient


class InputsSection:
    """The list of models with their descriptions, and the link to the demo CT.

    Args:
        ui: The panel's widgets.
        models: The models to choose from.
        loadDemo: Loads the demo CT and selects it.
        onModel: Called when another model is chosen.
        newClient: Makes a client of a worker that looks for models, or makes one.
    """

    def __init__(
        self,
        ui,
        models: ModelList,
        loadDemo: Callable[[], None],
        onModel: Callable[[], None],
        newClient: Callable[[], WorkerClient],
    ) -> None:
        self._ui = ui
        self._newClient = newClient
        self.finder: FindModels | None = None  # the dialogs, once they were opened
        self.recalibrate: Recalibrate | None = None
        self._models = models
        self._onModel = onModel
        self._known: dict[str, ListedModel] = {}
        self._listed: dict[str, ListedModel] = {}
        self._channels = ChannelSelectors(ui.channelsPlace, onModel)
        self._parameters: Any = None
        self._own: list[str] | None = None  # what the user has chosen, while makers of results are chosen
        self._chooser = LabelChooser(ui.labelsPlace, self._onLabels)
        self._mixtures = MixtureChooser(ui.mixturePlace, self._onMixture, self._onRecalibrate)
        self._ensembles = EnsembleChooser(ui.ensemblePlace, self._onEnsemble)
        self._afterLoading = AfterLoading(shown)
        scene = slicer.mrmlScene
        self._nodesAdded = scene.AddObserver(scene.NodeAddedEvent, self._onNodeAdded)
        write(ui.sampleLabel, ui.sampleLabel.text)
        ui.sampleLabel.linkActivated.connect(shown(lambda link: loadDemo()))
        ui.modelSelector.currentIndexChanged.connect(shown(self._onModelSelected))
        ui.findModelsButton.clicked.connect(shown(self._onFind))
        ui.addModelButton.clicked.connect(shown(lambda *_args: self._onAdd(qt.QFileDialog.ExistingFile)))
        ui.addFolderButton.clicked.connect(shown(lambda *_args: self._onAdd(qt.QFileDialog.Directory)))
        ui.removeModelButton.clicked.connect(shown(self._onRemove))
        ui.recalibrateButton.clicked.connect(shown(self._onRecalibrate))
        self.fill("")

    @property
    def model(self) -> ListedModel | None:
        """The chosen model; None where there is none."""
        return self._listed.get(self.name)

    @property
    def name(self) -> str:
        """What a scene remembers the chosen model by, see `ModelList.name`; "" where there is none."""
        index = self._ui.modelSelector.currentIndex
        return list(self._listed)[index] if 0 <= index < len(self._listed) else ""

    @property
    def models(self) -> list[ListedModel]:
        """Those that predict: the chosen one and, in an ensemble, others; none where there is none."""
        return [self.model, *self._others().values()] if self.model else []

    @property
    def problem(self) -> str | None:
        """Why they cannot predict; None: they can, as far as is known here."""
        if self.model is None:
            return _("Add a model first.")
        if self.model.problem:
            return self.model.problem
        reason = next(filter(None, (whyNoMember(self.model, other) for other in self._others().values())), None)
        text = _("{reason} Uncheck it under Ensemble, or choose models that were trained on the same data.")
        return text.format(reason=reason) if reason else None

    @property
    def mixture(self) -> Mixture:
        """What of them is averaged."""
        return chosen(self._parameters.mixture if self._parameters else Mixture.FOLDS, self.models)

    @property
    def labels(self) -> list[str]:
        """Names of the labels that are wanted alone; none: all of the model."""
        there = self.model.labels if self.model else ()
        return [name for name in self._parameters.labels if name in there] if self._parameters else []

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
            usable = [known for known, model in self._known.items() if model.problem is None]
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

    def chooseMakers(self, provenance: Mapping[str, Any]) -> None:
        """Choose the models that have made a result, if they are listed.

        Args:
            provenance: Of the result.
        """
        makers = provenance.get("ensemble") or [provenance.get("model") or {}]
        names = [self._nameOf(maker) for maker in makers]
        if None not in names:
            self._own = self._own or [self.name, *self._others()]
            self._chooseAll(names)

    def chooseOwn(self) -> None:
        """Choose what the user has chosen, where results that were shown meanwhile were made by others."""
        names, self._own = self._own, None
        if names:
            self._chooseAll(names)

    def _chooseAll(self, names: list[str]) -> None:
        self.choose(names[0])
        if self._parameters:
            self._parameters.ensemble = names[1:]
        self._onModel()

    def _nameOf(self, model: Mapping[str, str]) -> str | None:
        """Find a model that is listed, by its `name` and `path` in a result's provenance."""
        path = Path(model.get("path") or model.get("name") or "")
        # Those that ship, or are installed, lie elsewhere on each computer.
        for wanted in (path, self._models.folder / path.name, installed_models() / path.name):
            for name, known in self._known.items():
                if known.path == wanted:
                    return name
        return None

    def _others(self) -> dict[str, ListedModel]:
        """Find the other models of the ensemble by their names; one that is not on this computer has a problem."""
        names = self._parameters.ensemble if self._parameters else ()
        return {name: self._known.get(name) or self._models.find(name) for name in names if name != self.name}

    def update(self, state: State, parameters) -> None:
        """Set the widgets; `parameters` is None while the scene is closed."""
        ui = self._ui
        for widget in (ui.ctSelector, ui.modelSelector, ui.sampleLabel):
            widget.enabled = not state.busy
        for button in (ui.findModelsButton, ui.addModelButton, ui.addFolderButton):
            button.enabled = not state.busy
        self._parameters = parameters
        ct = parameters.ct if parameters else None
        model = self.model
        self._chooser.offer(model.labels if model and not model.problem else (), self.labels, not state.busy)
        usable = model is not None and model.problem is None
        self._mixtures.offer(self.models if usable else [], self.mixture, not state.busy)
        candidates = {name: each for name, each in self._known.items() if name != self.name} | self._others()
        titles = modelTitles(list(candidates.values()))
        pairs = zip(candidates.items(), titles, strict=True)
        others = {name: (title, each) for (name, each), title in pairs}
        self._ensembles.offer(model, others, list(self._others()), not state.busy)
        self._channels.offer(ct, model.channels if model and not model.problem else (), not state.busy)
        if parameters:
            ui.sampleLabel.visible = ct is None and takesCt(model)
        ui.ctSelectorCaption.text = f"{model.channels[0] if model and model.channels else _('Image')}:"
        if ui.modelInfoLabel.text != self._description():
            write(ui.modelInfoLabel, self._description())
            qt.QTimer.singleShot(0, self._layOut)
        selector = ui.modelSelector
        selector.toolTip = selector.itemData(selector.currentIndex, qt.Qt.ToolTipRole) if self.model else ""
        allow(
            ui.removeModelButton,
            self._whyNotRemove(state),
            _("Remove this model and its files from this computer.")
            if self.model and self._models.isInstalled(self.model)
            else _("Remove this model from the list; its files stay where they are."),
        )

        unusable = self.model is None or self.model.problem is not None
        tip = _("Make a new model from this one with labelled cases, or reviews that you have signed off and exported.")
        allow(ui.recalibrateButton, _("Choose a model first.") if unusable else None, tip)

    def _layOut(self) -> None:
        """Lay the section out anew: a form keeps the heights of rows when that of a text changes, and cuts buttons."""
        layout = self._ui.inputsCollapsibleButton.layout()
        layout.invalidate()
        layout.activate()

    def hide(self, nodes: list) -> None:
        """Offer all volumes except these as CTs, and for other channels."""
        hidden = [node.GetID() for node in nodes]
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

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, _scene, _event, node) -> None:
        """Choose the first volume that is loaded, once it is: the panel has asked for it."""
        if self._parameters and self._parameters.ct is None and node.IsA(CT_CLASS):
            self._afterLoading.later(self._chooseLoaded)

    def _chooseLoaded(self) -> None:
        if self._parameters and self._parameters.ct is None:
            self._parameters.ct = defaultCt()

    def _onModelSelected(self, *_args) -> None:
        """Keep which model the user has chosen; the ensemble was another one's."""
        self._own = None
        if self._parameters:
            self._parameters.ensemble = []
        self._onModel()

    def _onMixture(self, mixture: Mixture) -> None:
        """Keep what is averaged."""
        if self._parameters:
            self._parameters.mixture = mixture

    def _onEnsemble(self, names: list[str]) -> None:
        """Keep which other models predict, too."""
        if self._parameters:
            self._parameters.ensemble = names

    def _onLabels(self, names: list[str]) -> None:
        """Keep which labels are wanted."""
        if self._parameters:
            self._parameters.labels = names

    def _onFind(self, *_args) -> None:
        if self.finder is None:
            self.finder = FindModels(self._newClient(), self._onInstalled)
        self.finder.show()

    def _onRecalibrate(self, *_args) -> None:
        if self.recalibrate is None:
            self.recalibrate = Recalibrate(self._newClient(), self._onInstalled)
        self.recalibrate.show(self.model)

    def _onInstalled(self, name: str) -> None:
        """Choose a model that was installed, unless something is computed meanwhile."""
        free = self._ui.modelSelector.enabled
        self.fill(name if free else self.name)
        if free:
            self._onModel()

    def _onAdd(self, mode) -> None:
        path = self.askForModel(mode)
        if path:
            self.fill(self._models.name(self._models.add(path)))
            self._onModelSelected()

    def _onRemove(self, *_args) -> None:
        if self._models.isInstalled(self.model):
            question = _("The model {name} and its files are removed from this computer. Remove?")
            if not confirmLoss(question.format(name=self.model.name)):
                return
        self._models.remove(self.model.path)
        self.fill("")
        self._onModel()

    def askForModel(self, mode) -> Path | None:
        """Ask for a model; None if the user cancels the dialog.

        Args:
            mode: `QFileDialog.ExistingFile`: for its file; `QFileDialog.Directory`: for its folder.
        """
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Add a model"))
        dialog.setFileMode(mode)
        if mode == qt.QFileDialog.ExistingFile:
            dialog.setNameFilter(_("Models (*.zip model.json plans.json checkpoint_*.pth)"))
        if not dialog.exec_():
            return None
        return Path(dialog.selectedFiles()[0])

    def _description(self) -> str:
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

    def _whyNotRemove(self, state: State) -> str | None:
        if state.busy:
            return _("Wait for the running computation to finish.")
        if self.model is None or self._models.ships(self.model):
            return _("This model comes with the extension.")
        if nameOfWeights(self.model.path):
            return _("These weights are TotalSegmentator's, whose folder is listed as it is.")
        return None


def takesCt(model: ListedModel | None) -> bool:
    """Whether a model may segment the demo CT, as far as its channels say."""
    names = model.channels if model else ()
    return len(names) < 2 and modality_of_channel(next(iter(names), "CT")) in {"CT", None}


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
