"""What the panel offers of a model: its labels, volumes for its channels, what it averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.scene.nodes import channelVolume, setChannelVolume
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write

GAP = 6  # pixels between the summary and its button

ROWS = 8
"""Rows that the list shows at once, if there are as many."""

MIRRORED_PASSES = 8
"""At most, where a training folder tells only when it is loaded along which axes it can be mirrored."""


class LabelChooser:
    """A check list of the labels of a model that has several; with none checked, all of them are wanted."""

    def __init__(self, ui, onChosen: Callable[[list[str]], None]) -> None:
        self._place, self._onChosen = ui.labelsPlace, onChosen
        self._names: list[str] = []
        self.summary, self.button = ui.labelsSummaryLabel, ui.chooseLabelsButton
        self.search, self.list, self.none = ui.labelsSearchEdit, ui.labelsList, ui.allLabelsButton
        ui.labelsOpenedWidget.visible = False
        self.button.toggled.connect(lambda opened: ui.labelsOpenedWidget.setVisible(opened))
        self.search.textChanged.connect(shown(self._onSearch))
        self.list.itemChanged.connect(shown(self._onChecked))
        self.none.clicked.connect(shown(lambda *_args: onChosen([])))

    def offer(self, names: Sequence[str], wanted: Collection[str], enabled: bool) -> None:
        """Show the labels of a model, and which are wanted; none: all."""
        if list(names) != self._names:
            self._fill(names)
        blocked = self.list.blockSignals(True)
        for row, name in enumerate(names):
            self.list.item(row).setCheckState(qt.Qt.Checked if name in wanted else qt.Qt.Unchecked)
        self.list.blockSignals(blocked)
        for widget in (self.list, self.none, self.button):
            widget.enabled = enabled
        self._place.visible = len(names) > 1
        chosen = [readable(name) for name in names if name in wanted]
        text = _("Labels: {k} of {n}, {names}.") if chosen else _("Labels: all {n}.")
        text = text.format(k=len(chosen), n=len(names), names=few(chosen))
        write(self.summary, text, beside=self.button.sizeHint.width() + GAP)

    def _fill(self, names: Sequence[str]) -> None:
        self._names = list(names)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        for name in names:
            item = qt.QListWidgetItem(readable(name))
            item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
            self.list.addItem(item)
        self.list.setFixedHeight(min(len(names), ROWS) * self.list.sizeHintForRow(0) + 2 * self.list.frameWidth)
        self.list.blockSignals(blocked)
        self.search.text = ""

    def _onSearch(self, typed: str) -> None:
        """Show what has every word that is typed."""
        words = readable(typed.casefold()).split()
        for row in range(self.list.count):
            item = self.list.item(row)
            item.setHidden(not all(word in item.text().casefold() for word in words))

    def _onChecked(self, *_args) -> None:
        checked = [self.list.item(row).checkState() == qt.Qt.Checked for row in range(self.list.count)]
        self._onChosen([name for name, isChecked in zip(self._names, checked, strict=True) if isChecked])


def few(names: Sequence[str], most: int = 4) -> str:
    """Name some in one line, and count those that are too many for it."""
    named = ", ".join(names[:most]) or _("not known")
    return named if len(names) <= most else _("{names} and {n} more").format(names=named, n=len(names) - most)


class ChannelSelectors:
    """A selector of a volume for each input channel of the model beyond the first, which is the CT's."""

    def __init__(self, place, onChanged: Callable[[], None]) -> None:
        self._place = place
        self._onChanged = onChanged
        self._form = None
        self._ct = None
        self.selectors: dict[str, Any] = {}
        place.visible = False

    def offer(self, ct, channels: Sequence[str], enabled: bool) -> None:
        """Show the volumes that a CT refers to; without a CT, or with one channel, nothing."""
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
        if self._form is not None:
            self._form.setParent(None)
            self._form.deleteLater()
        self._form, self.selectors = qt.QWidget(), {}
        layout = qt.QFormLayout(self._form)
        layout.setContentsMargins(0, 0, 0, 0)
        for name in names:
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
            selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode"]
            selector.noneEnabled, selector.addEnabled, selector.removeEnabled = True, False, False
            selector.noneDisplay = _("Select a volume")
            tip = _("The volume for the model's input {name}; resampled to the first image if necessary.")
            selector.toolTip = tip.format(name=name)
            selector.setMRMLScene(slicer.mrmlScene)
            selector.currentNodeIDChanged.connect(shown(partial(self._onChosen, name)))
            layout.addRow(f"{name}:", selector)
            self.selectors[name] = selector
        self._place.layout().addWidget(self._form)

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
        "This model has no learned uncertainty; it can be given one with"
        ' <a href="temperature">5 of your cases</a>, in minutes.'
    )
    lacks = model is not None and not model.has_covariance
    write(ui.mixtureNoteLabel, note if lacks else "")
    ui.mixtureNoteLabel.visible = lacks
    ui.mixturePlace.visible = lacks or folds > 1 or mirrored


def canMirror(model: ListedModel | None) -> bool:
    """Whether a model was trained with mirrored images, as far as its card says."""
    return model is not None and (model.card is None or bool(model.card.mirror_axes))
