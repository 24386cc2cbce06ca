"""What a model's uncertainty comes from: passes that are averaged, each with its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.choices import Mixture
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write

MIRRORED_PASSES = 8
"""At most, where a training folder tells only when it is loaded along which axes it can be mirrored."""


class MixtureChooser:
    """A list of what can be averaged and, for a model without a covariance, a link to what would improve it.

    Args:
        place: The widget that holds it; hidden where there is nothing to choose or to say.
        onChosen: Called with the `Mixture` that the user has chosen.
        onLink: Called when the user follows the link, to recalibrate the model.
    """

    def __init__(self, place, onChosen: Callable[[Mixture], None], onLink: Callable[..., None]) -> None:
        self._place = place
        self._onChosen = onChosen
        self._offered: list[Mixture] = []
        self.caption, self.selector, self.note = qt.QLabel(_("Uncertainty:")), qt.QComboBox(), qt.QLabel()
        self.caption.setBuddy(self.selector)
        self.selector.toolTip = _(
            "What is averaged. Where folds, models or mirrored tiles disagree, the variance is larger (law of total "
            "variance)."
        )
        self.note.wordWrap = True
        self.note.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Ignored)  # as high as `write` says
        row = qt.QHBoxLayout()
        row.addWidget(self.caption)
        row.addWidget(self.selector, 1)
        place.layout().addLayout(row)
        place.layout().addWidget(self.note)
        self.selector.currentIndexChanged.connect(shown(self._onSelected))
        self.note.linkActivated.connect(shown(onLink))

    def offer(self, models: Sequence[ListedModel], wanted: Mixture, enabled: bool) -> None:
        """Show what models can do; none: nothing."""
        passes = offered(models)
        self._offered = list(passes)
        texts = [_describe(mixture, models, count) for mixture, count in passes.items()]
        blocked = self.selector.blockSignals(True)
        if texts != [self.selector.itemText(row) for row in range(self.selector.count)]:
            self.selector.clear()
            self.selector.addItems(texts)
        if passes:
            self.selector.currentIndex = self._offered.index(chosen(wanted, models))
        self.selector.blockSignals(blocked)
        self.selector.enabled = enabled
        for widget in (self.caption, self.selector):
            widget.visible = len(passes) > 1
        text = _note(models) if models else ""
        write(self.note, text)
        self.note.visible = bool(text)
        self._place.visible = bool(text) or len(passes) > 1

    def _onSelected(self, *_args) -> None:
        self._onChosen(self._offered[self.selector.currentIndex])


def offered(models: Sequence[ListedModel]) -> dict[Mixture, int]:
    """List what can be averaged, and how many passes of the network each is."""
    folds = [len(model.folds) or 1 for model in models]
    alone, every = len(models) == 1, sum(folds)
    passes = {}
    if alone:
        passes[Mixture.ONE] = 1
    if every > 1:
        passes[Mixture.FOLDS] = every
    if models and all(map(canMirror, models)):
        mirrors = [_mirrors(model) for model in models]
        if alone:
            passes[Mixture.MIRRORED] = mirrors[0]
        if every > 1:
            passes[Mixture.FOLDS_MIRRORED] = sum(n * m for n, m in zip(folds, mirrors, strict=True))
    return passes


def chosen(wanted: Mixture, models: Sequence[ListedModel]) -> Mixture:
    """Return what is averaged: what the user wants, or the nearest to it that the models can do."""
    passes = offered(models)
    if wanted in passes:
        return wanted
    if wanted.isMirrored and (mirrored := [each for each in passes if each.isMirrored]):
        return mirrored[-1]
    return Mixture.FOLDS if Mixture.FOLDS in passes else Mixture.ONE


def canMirror(model: ListedModel) -> bool:
    """Whether a model was trained with mirrored images, as far as its card says."""
    return model.card is None or bool(model.card.mirror_axes)


def _mirrors(model: ListedModel) -> int:
    return 2 ** len(model.card.mirror_axes) if model.card else MIRRORED_PASSES


def _describe(mixture: Mixture, models: Sequence[ListedModel], passes: int) -> str:
    alone, count = len(models) == 1, len(models[0].folds) if len(models) == 1 else len(models)
    if mixture is Mixture.ONE:
        what = _("One fold") if count > 1 else _("One pass")
    elif mixture is Mixture.MIRRORED:
        what = _("Mirrored tiles") if models[0].card else _("Mirrored tiles, if trained so")
    elif mixture is Mixture.FOLDS:
        what = (_("{n} folds as a mixture") if alone else _("{n} models as a mixture")).format(n=count)
    else:
        what = (_("{n} folds, mirrored") if alone else _("{n} models, mirrored")).format(n=count)
    if passes == 1:
        return what
    guessed = mixture.isMirrored and not all(model.card for model in models)
    text = _("{what}, up to {n} times as long") if guessed else _("{what}, {n} times as long")
    return text.format(what=what, n=passes)


def _note(models: Sequence[ListedModel]) -> str:
    """Say in one sentence what a model without a covariance lacks, and what improves it."""
    if any(model.has_covariance for model in models):
        return ""
    if len(models) > 1:
        return _("These models do not know where they are unsure: regions are listed where they disagree.")
    return _(
        "This model has not learned where it is unsure; it does so from"
        ' <a href="temperature">5 cases of yours</a> (minutes).'
    )
