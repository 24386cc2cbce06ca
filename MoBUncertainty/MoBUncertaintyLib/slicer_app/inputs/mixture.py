"""What a model's uncertainty comes from: passes that are averaged, each with its cost."""

from __future__ import annotations

from collections.abc import Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.widgets.section import write

MIRRORED_PASSES = 8
"""At most, where a training folder tells only when it is loaded along which axes it can be mirrored."""


def offerMixture(ui, models: Sequence[ListedModel], enabled: bool) -> None:
    """Offer what models can average and, for one without a covariance, a link to what would improve it.

    Args:
        ui: The panel's widgets.
        models: That predict; none: nothing is offered. Several are averaged in any case, with all their folds.
        enabled: Whether the user may choose now.
    """
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
        return _("These models do not know where they are unsure: regions are listed where they disagree.")
    return _(
        "This model has not learned where it is unsure; it does so from"
        ' <a href="temperature">5 cases of yours</a> (minutes).'
    )
