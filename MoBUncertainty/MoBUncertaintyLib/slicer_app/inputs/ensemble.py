"""Which other models predict together with the chosen one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.slicer_app.inputs.check_list import CheckList, few


class EnsembleChooser(CheckList):
    """A check list of the other models; those with other labels or channels cannot be checked.

    Args:
        place: The widget that holds it; hidden while no other model could be checked.
        onChosen: Called with the names of the models that the user has checked.
    """

    def __init__(self, place, onChosen: Callable[[list[str]], None]) -> None:
        tip = _("Let other models of the same labels predict too; mean and variance are those of the mixture of all.")
        alone = _("Uncheck every model: then the chosen one predicts alone.")
        super().__init__(place, onChosen, (_("Choose models"), tip), (_("None"), alone))

    def offer(
        self, model: ListedModel | None, others: Mapping[str, tuple[str, ListedModel]], wanted: Collection[str], enabled
    ) -> None:
        """Show the other models.

        Args:
            model: The chosen one.
            others: Title and model, by the name that a scene remembers it by.
            wanted: Names of those that are checked.
            enabled: Whether the user may choose now.
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
