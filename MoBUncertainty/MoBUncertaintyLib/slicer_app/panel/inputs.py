"""Inputs: which image, which model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.images.modality import modality_of_channel
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.find_models import FindModels
from MoBUncertaintyLib.slicer_app.inputs.check_list import EnsembleChooser, LabelChooser, whyNoMember
from MoBUncertaintyLib.slicer_app.inputs.mixture import offerMixture
from MoBUncertaintyLib.slicer_app.inputs.selectors import ChannelSelectors
from MoBUncertaintyLib.slicer_app.models import ModelList
from MoBUncertaintyLib.slicer_app.panel.model_selector import ModelSelector
from MoBUncertaintyLib.slicer_app.panel.state import State
from MoBUncertaintyLib.slicer_app.recalibrate import Recalibrate
from MoBUncertaintyLib.slicer_app.sessions import CT_CLASS, defaultCt
from MoBUncertaintyLib.slicer_app.widgets.dialogs import AfterLoading
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient


class InputsSection:
    """The image, the models with their descriptions, and the link to the demo CT.

    Args:
        ui: The panel's widgets.
        models: The models to choose from.
        loadDemo: Loads the demo CT and selects it.
        onModel: Called when another model is chosen.
        newClient: Makes a client of a worker that looks for models, or makes one.

    Attributes:
        selector: The chosen model.
    """

    def __init__(
        self,
        ui,
        models: ModelList,
        loadDemo: Callable[[], None],
        onModel: Callable[[], None],
        newClient: Callable[[], WorkerClient],
    ) -> None:
        self._ui, self._onModel, self._newClient = ui, onModel, newClient
        self.finder: FindModels | None = None  # the dialogs, once they were opened
        self.recalibrate: Recalibrate | None = None
        self.selector = ModelSelector(ui, models)
        self._channels = ChannelSelectors(ui.channelsPlace, onModel)
        self._parameters: Any = None
        self._own: list[str] | None = None  # what the user has chosen, while makers of results are chosen
        self._chooser = LabelChooser(ui.labelsPlace, partial(self._set, "labels"))
        self._ensembles = EnsembleChooser(ui.ensemblePlace, partial(self._set, "ensemble"))
        self._afterLoading = AfterLoading(shown)
        scene = slicer.mrmlScene
        self._nodesAdded = scene.AddObserver(scene.NodeAddedEvent, self._onNodeAdded)
        write(ui.sampleLabel, ui.sampleLabel.text)
        ui.sampleLabel.linkActivated.connect(shown(lambda link: loadDemo()))
        ui.modelSelector.currentIndexChanged.connect(shown(self._onModelSelected))
        ui.findModelsButton.clicked.connect(shown(self._onFind))
        for button, mode in (
            (ui.addModelButton, qt.QFileDialog.ExistingFile),
            (ui.addFolderButton, qt.QFileDialog.Directory),
        ):
            button.clicked.connect(shown(lambda *_args, mode=mode: self.selector.add(mode) and self._onModelSelected()))
        ui.removeModelButton.clicked.connect(shown(lambda *_args: self.selector.remove() and self._onModel()))
        for signal in (ui.recalibrateButton.clicked, ui.mixtureNoteLabel.linkActivated):
            signal.connect(shown(self._onRecalibrate))
        self.selector.fill("")

    @property
    def models(self) -> list[ListedModel]:
        """Those that predict: the chosen one and, in an ensemble, others; none where there is none."""
        return [self.selector.model, *self._others().values()] if self.selector.model else []

    @property
    def problem(self) -> str | None:
        """Why they cannot predict; None: they can, as far as is known here."""
        model = self.selector.model
        if model is None:
            return _("Add a model first.")
        if model.problem:
            return model.problem
        reason = next(filter(None, (whyNoMember(model, other) for other in self._others().values())), None)
        text = _("{reason} Uncheck it under Ensemble, or choose models that were trained on the same data.")
        return text.format(reason=reason) if reason else None

    @property
    def labels(self) -> list[str]:
        """Names of the labels that are wanted alone; none: all of the model."""
        there = self.selector.model.labels if self.selector.model else ()
        return [name for name in self._parameters.labels if name in there] if self._parameters else []

    def chooseMakers(self, provenance: Mapping[str, Any]) -> None:
        """Choose the models that have made a result, if they are listed.

        Args:
            provenance: Of the result.
        """
        makers = provenance.get("ensemble") or [provenance.get("model") or {}]
        names = [self.selector.nameOf(maker) for maker in makers]
        if None not in names:
            self._own = self._own or [self.selector.name, *self._others()]
            self._chooseAll(names)

    def chooseOwn(self) -> None:
        """Choose what the user has chosen, where results that were shown meanwhile were made by others."""
        names, self._own = self._own, None
        if names:
            self._chooseAll(names)

    def update(self, state: State, parameters) -> None:
        """Set the widgets; `parameters` is None while the scene is closed."""
        ui, free = self._ui, not state.busy
        self._parameters = parameters
        ui.ctSelector.enabled = ui.sampleLabel.enabled = free
        self.selector.update(state.busy)
        ct, model = parameters.ct if parameters else None, self.selector.model
        usable = model is not None and model.problem is None
        self._chooser.offer(model.labels if usable else (), self.labels, free)
        offerMixture(ui, self.models if usable else [], free)
        others = self._others()
        self._ensembles.offer(model, self.selector.candidates(others), list(others), free)
        self._channels.offer(ct, model.channels if usable else (), free)
        if parameters:
            ui.sampleLabel.visible = ct is None and takesCt(model)
        ui.ctSelectorCaption.text = f"{model.channels[0] if model and model.channels else _('Image')}:"
        write(ui.modelInfoLabel, self.selector.description())

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

    def _others(self) -> dict[str, ListedModel]:
        """Find the other models of the ensemble by their names."""
        return self.selector.others(self._parameters.ensemble if self._parameters else ())

    def _chooseAll(self, names: list[str]) -> None:
        self.selector.choose(names[0])
        self._set("ensemble", names[1:])
        self._onModel()

    def _set(self, parameter: str, names: list[str]) -> None:
        """Keep what the user has checked."""
        if self._parameters:
            setattr(self._parameters, parameter, names)

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
        self._set("ensemble", [])
        self._onModel()

    def _onFind(self, *_args) -> None:
        if self.finder is None:
            self.finder = FindModels(self._newClient(), self._onInstalled)
        self.finder.show()

    def _onRecalibrate(self, *_args) -> None:
        if self.recalibrate is None:
            self.recalibrate = Recalibrate(self._newClient(), self._onInstalled)
        self.recalibrate.show(self.selector.model)

    def _onInstalled(self, name: str) -> None:
        """Choose a model that was installed, unless something is computed meanwhile."""
        free = self._ui.modelSelector.enabled
        self.selector.fill(name if free else self.selector.name)
        if free:
            self._onModel()


def takesCt(model: ListedModel | None) -> bool:
    """Whether a model may segment the demo CT, as far as its channels say."""
    names = model.channels if model else ()
    return len(names) < 2 and modality_of_channel(next(iter(names), "CT")) in {"CT", None}
