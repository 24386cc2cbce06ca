"""What the panel offers of a model: its labels, other models beside it, volumes for its channels, what it averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.scene.nodes import channelVolume, setChannelVolume
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write

GAP = 6  # pixels between the summary and its button, as in CheckList.ui

ROWS = 8
"""Rows that the list shows at once, if there are as many."""

MIRRORED_PASSES = 8
"""At most, where a training folder tells only when it is loaded along which axes it can be mirrored."""


class CheckList:
    """The list; its subclass says in words what is checked.

    Args:
        open: Text and tooltip of the button that opens the list.
        none: Text and tooltip of the button that unchecks all.
    """

    def __init__(
        self, place, onChosen: Callable[[list[str]], None], open: tuple[str, str], none: tuple[str, str]
    ) -> None:
        self._place = place
        self._onChosen = onChosen
        self._titles: dict[str, str] = {}
        content = slicer.util.loadUI(str(RESOURCES / "UI" / "CheckList.ui"))
        place.layout().addWidget(content)
        ui = slicer.util.childWidgetVariables(content)
        self.summary, self.button, self._opened = ui.summaryLabel, ui.openButton, ui.openedWidget
        self.search, self.none, self.list = ui.searchEdit, ui.noneButton, ui.listWidget
        self.button.text, self.button.toolTip = open
        self.none.text, self.none.toolTip = none
        self._opened.visible = False
        self.button.toggled.connect(lambda opened: self._opened.setVisible(opened))
        self.search.textChanged.connect(shown(self._onSearch))
        self.list.itemChanged.connect(shown(self._onChecked))
        self.none.clicked.connect(shown(lambda *_args: self._onChosen([])))

    def fill(
        self, titles: Mapping[str, str], checked: Collection[str], enabled: bool, whyNot: Mapping[str, str]
    ) -> None:
        """Show what there is to choose, and what is checked.

        Args:
            whyNot: Why some, by their keys, cannot be checked.
        """
        if titles != self._titles:
            self._fill(titles)
        blocked = self.list.blockSignals(True)
        for row, key in enumerate(self._titles):
            item, reason = self.list.item(row), None if key in checked else whyNot.get(key)
            item.setCheckState(qt.Qt.Checked if key in checked else qt.Qt.Unchecked)
            item.setFlags(qt.Qt.ItemIsUserCheckable | (qt.Qt.NoItemFlags if reason else qt.Qt.ItemIsEnabled))
            item.setToolTip(reason or "")
        self.list.blockSignals(blocked)
        for widget in (self.list, self.none, self.button):
            widget.enabled = enabled

    def say(self, text: str) -> None:
        """Say what is chosen."""
        write(self.summary, text, beside=self.button.sizeHint.width() + GAP)

    def _fill(self, titles: Mapping[str, str]) -> None:
        self._titles = dict(titles)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        for title in titles.values():
            self.list.addItem(qt.QListWidgetItem(title))
        self.list.setFixedHeight(min(len(titles), ROWS) * self.list.sizeHintForRow(0) + 2 * self.list.frameWidth)
        self.list.blockSignals(blocked)
        self.search.text = ""

    def _onSearch(self, typed: str) -> None:
        """Show what has every word that is typed."""
        words = readable(typed.casefold()).split()
        for row in range(self.list.count):
            item = self.list.item(row)
            item.setHidden(not all(word in item.text().casefold() for word in words))

    def _onChecked(self, *_args) -> None:
        rows = [row for row in range(self.list.count) if self.list.item(row).checkState() == qt.Qt.Checked]
        keys = list(self._titles)
        self._onChosen([keys[row] for row in rows])


class LabelChooser(CheckList):
    """A check list of the labels of a model that has several; with none checked, all of them are wanted."""

    def __init__(self, place, onChosen: Callable[[list[str]], None]) -> None:
        tip = _("Predict, show and review only some of the labels, which is faster and needs less memory.")
        everything = _("Uncheck all labels, so that all of them are predicted.")
        super().__init__(place, onChosen, (_("Choose labels"), tip), (_("All"), everything))

    def offer(self, names: Sequence[str], wanted: Collection[str], enabled: bool) -> None:
        """Show the labels of a model, and which are wanted; none: all."""
        self.fill({name: readable(name) for name in names}, wanted, enabled, {})
        self._place.visible = len(names) > 1
        chosen = [name for name in names if name in wanted]
        if chosen:
            text = _("Labels: {k} of {n}, {names}.")
            self.say(text.format(k=len(chosen), n=len(names), names=few([*map(readable, chosen)])))
        else:
            self.say(_("Labels: all {n}.").format(n=len(names)))


class EnsembleChooser(CheckList):
    """A check list of the other models; those with other labels or channels cannot be checked."""

    def __init__(self, place, onChosen: Callable[[list[str]], None]) -> None:
        tip = _("Predict with other models of the same labels as well; mean and variance are those of the mixture.")
        alone = _("Uncheck all models, so that the chosen one predicts alone.")
        super().__init__(place, onChosen, (_("Choose models"), tip), (_("None"), alone))

    def offer(
        self, model: ListedModel | None, others: Mapping[str, tuple[str, ListedModel]], wanted: Collection[str], enabled
    ) -> None:
        """Show the other models.

        Args:
            others: Title and model, by the name that a scene remembers it by.
        """
        whyNot = {name: whyNoMember(model, other) for name, (_title, other) in others.items()}
        refused = {name: reason for name, reason in whyNot.items() if reason}
        self.fill({name: title for name, (title, _other) in others.items()}, wanted, enabled, refused)
        self._place.visible = bool(wanted) or len(refused) < len(others)
        chosen = [others[name][0] for name in wanted]
        text = _("Ensemble: with {models}.").format(models=few(chosen, 2)) if chosen else _("Ensemble: none.")
        self.say(text)


def whyNoMember(model: ListedModel | None, other: ListedModel) -> str | None:
    """Say why another model makes no ensemble with the chosen one; None: it does, as far as is known here."""
    if model is None or model.problem or other.problem:
        return other.problem or (model.problem if model else _("Choose a model first."))
    if model.labels != other.labels:
        labels = few([*map(readable, other.labels)])
        return _("{model} has other labels: {labels}.").format(model=other.name, labels=labels)
    if model.channels != other.channels:
        return _("{model} takes other images: {channels}.").format(model=other.name, channels=few(other.channels))
    return None


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


def offerMixture(ui, models: Sequence[ListedModel], enabled: bool) -> None:
    """Offer what models can average and, for one without a covariance, a link to what would improve it."""
    folds = len(models[0].folds) if len(models) == 1 else 0
    ui.foldsCheckBox.text = _("Average all folds, {n} times as long").format(n=folds)
    passes = max((2 ** len(model.card.mirror_axes) if model.card else MIRRORED_PASSES for model in models), default=1)
    guessed = not all(model.card for model in models)
    text = _("Average mirrored tiles, up to {n} times as long") if guessed else None
    ui.mirrorCheckBox.text = (text or _("Average mirrored tiles, {n} times as long")).format(n=passes)
    ui.foldsCheckBox.enabled = ui.mirrorCheckBox.enabled = enabled
    ui.foldsCheckBox.visible = folds > 1
    ui.mirrorCheckBox.visible = mirrored = canMirror(models)
    note = _note(models) if models else ""
    write(ui.mixtureNoteLabel, note)
    ui.mixtureNoteLabel.visible = bool(note)
    ui.mixturePlace.visible = bool(note) or folds > 1 or mirrored


def canMirror(models: Sequence[ListedModel]) -> bool:
    """Whether models were trained with mirrored images, as far as their cards say."""
    return bool(models) and all(model.card is None or bool(model.card.mirror_axes) for model in models)


def _note(models: Sequence[ListedModel]) -> str:
    """Say in one sentence what a model without a covariance lacks, and what improves it."""
    if any(model.has_covariance for model in models):
        return ""
    if len(models) > 1:
        return _("These models have no uncertainty of their own: regions are listed where they disagree.")
    return _(
        "This model has no learned uncertainty; it can be given one with"
        ' <a href="temperature">5 of your cases</a>, in minutes.'
    )
