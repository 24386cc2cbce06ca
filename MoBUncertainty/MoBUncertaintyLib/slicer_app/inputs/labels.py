"""Which of a model's labels are wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.inputs.check_list import CheckList, few


class LabelChooser(CheckList):
    """A check list of the labels of a model that has several; with none checked, all of them are wanted.

    Args:
        place: The widget that holds it; hidden for a model of one label.
        onChosen: Called with the names of the labels that the user has checked.
    """

    def __init__(self, place, onChosen: Callable[[list[str]], None]) -> None:
        tip = _("Predict, show and review some of the labels alone: faster, and with less memory.")
        everything = _("Uncheck every label: then all of them are predicted.")
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
