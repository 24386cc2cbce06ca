"""Include and Exclude show what they would change before they change it.

One rule: a press decides what is shown, and shows what is not. The mouse over a button shows it, so that a press of the
button then decides; a key is pressed twice. Where a verdict changes nothing there is nothing to show, and it is given
at once.
"""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.output.pictures.palette import BLUE, CYAN, MAGENTA, VIOLET
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.slicer_app.clicks import keys
from MoBUncertaintyLib.slicer_app.clicks.changes import Change, millilitres
from MoBUncertaintyLib.slicer_app.panel.section import shown


class VerdictPreview:
    """What Include or Exclude would change in the selected region, shown over the slices.

    Args:
        buttons: The button of each verdict; checkable, checked while its verdict is shown.
        window: Whose keys act.
        show: Given verdict and label, shows what they would change and returns the Change; None: it cannot.
        hide: Ends that.
        decide: Given verdict and label, gives the verdict.
        say: Shows a sentence in the panel; "": none.
    """

    def __init__(
        self,
        buttons: dict[Verdict, object],
        window,
        show: Callable[[Verdict, int | None], Change | None],
        hide: Callable[[], None],
        decide: Callable[[Verdict, int | None], None],
        say: Callable[[str], None],
    ) -> None:
        self._buttons, self._show, self._hide, self._decide, self._say = buttons, show, hide, decide, say
        self._shown: tuple[Verdict, int | None] | None = None
        self._hovers: list[_Hover] = []
        for verdict, button in buttons.items():
            self._hovers.append(_Hover(button, lambda verdict=verdict: self._onEnter(verdict), shown(self.end)))
        self._shortcuts = [
            keys.addShortcut(window, key, shown(lambda *_args, act=act: act()))
            for key, act in (("Return", self._onReturn), ("Enter", self._onReturn), ("Esc", self.end))
        ]
        self._follow()

    def press(self, verdict: Verdict, label: int | None = None) -> None:
        """Decide what is shown; show what is not.

        Args:
            verdict: INCLUDE or EXCLUDE.
            label: To include as; None: the usual one.
        """
        if self._shown == (verdict, label) or self._preview(verdict, label):
            self.end()
            self._decide(verdict, label)

    def offer(self, verdict: Verdict, label: int | None = None) -> None:
        """Show what a verdict would change, since the mouse is over its button."""
        if self._preview(verdict, label):
            self.end()

    def end(self) -> None:
        """Show nothing any more."""
        if self._shown is not None:
            self._shown = None
            self._hide()
            self._say("")
        self._follow()

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self.end()
        for hover in self._hovers:
            hover.close()
        for shortcut in self._shortcuts:
            shortcut.deleteLater()
        self._shortcuts = []

    def _preview(self, verdict: Verdict, label: int | None) -> bool:
        """Show a verdict; return whether it would change nothing."""
        self.end()
        change = self._show(verdict, label)
        if change is None or change.isEmpty:
            return change is not None
        self._shown = (verdict, label)
        self._say(_sentence(verdict, change))
        self._follow()
        return False

    def _onEnter(self, verdict: Verdict) -> None:
        button = self._buttons[verdict]
        if button.enabled and button.menu() is None and (self._shown or (None,))[0] != verdict:
            shown(lambda: self.offer(verdict))()

    def _onReturn(self) -> None:
        if self._shown:
            self.press(*self._shown)

    def _follow(self) -> None:
        """Let the buttons and keys be those of what is shown; Return and Esc are others' keys too."""
        for verdict, button in self._buttons.items():
            button.checked = self._shown is not None and self._shown[0] is verdict
        for shortcut in self._shortcuts:
            shortcut.enabled = self._shown is not None


class _Hover(qt.QObject):
    """Notices when the mouse comes over a button and leaves it."""

    def __init__(self, button, onEnter: Callable[[], None], onLeave: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._button, self._onEnter, self._onLeave = button, onEnter, onLeave
        button.installEventFilter(self)

    def eventFilter(self, _watched, event) -> bool:
        if event.type() == qt.QEvent.Enter:
            self._onEnter()
        elif event.type() == qt.QEvent.Leave:
            self._onLeave()
        return False

    def close(self) -> None:
        self._button.removeEventFilter(self)


def _sentence(verdict: Verdict, change: Change) -> str:
    added, removed = (millilitres(ml, signed=False) for ml in (change.added_ml, change.removed_ml))
    palette, names = change.palette, {BLUE: _("blue"), CYAN: _("cyan"), MAGENTA: _("magenta"), VIOLET: _("violet")}
    text = {
        Verdict.INCLUDE: _("Include would add {added} ({colour})").format(added=added, colour=names[palette.added]),
        Verdict.EXCLUDE: _("Exclude would remove {removed} ({colour})").format(
            removed=removed, colour=names[palette.removed]
        ),
    }[verdict]
    return _("{change}. Press the button, its key or Enter to do so, or Esc to leave it.").format(change=text)
