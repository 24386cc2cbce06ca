"""Include and Exclude show what they would change before they change it.

One rule: a press decides what is shown, and shows what is not. The mouse over a button shows it, so that a press of the
button then decides; a key is pressed twice. Where a verdict changes nothing there is nothing to show, and it is given
at once.
"""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.pictures.style import BLUE, CYAN, MAGENTA, VIOLET
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.slicer_app.clicks.changes import Change
from MoBUncertaintyLib.slicer_app.clicks.devices import Shortcuts
from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection
from MoBUncertaintyLib.slicer_app.widgets.section import shown


class VerdictPreview(qt.QObject):
    """What Include or Exclude would change in the selected region, shown over the slices."""

    def __init__(
        self,
        ui,
        window,
        selected: Callable[[], ReviewRegion | None],
        decide: Callable[[Verdict, int | None], None],
        clicks: ClicksSection,
    ) -> None:
        qt.QObject.__init__(self)
        self._session = None
        self._buttons = {Verdict.INCLUDE: ui.includeButton, Verdict.EXCLUDE: ui.excludeButton}
        self._selected, self._decide, self._clicks = selected, decide, clicks
        self._shown: tuple[Verdict, int | None] | None = None
        for button in self._buttons.values():
            button.installEventFilter(self)
        self._keys = Shortcuts(window)
        for key, act in (("Return", self._onReturn), ("Enter", self._onReturn), ("Esc", self.end)):
            self._keys.add(key, shown(lambda *_args, act=act: act()))
        self._follow()

    def setSession(self, session) -> None:
        """Show what verdicts of another review would change.

        Of several labels, Include asks for one; its key takes that which most of the region has.
        """
        self._session = session
        labels = session.review.prediction.labels if session else ()
        button = self._buttons[Verdict.INCLUDE]
        menu = None
        if button.menu():
            button.menu().deleteLater()
        if len(labels) > 1:
            menu = qt.QMenu(button)
            for label in labels:
                menu.addAction(readable(label.name)).setData(label.value)
            menu.hovered.connect(shown(lambda action: self.offer(Verdict.INCLUDE, action.data())))
            menu.triggered.connect(shown(lambda action: self.press(Verdict.INCLUDE, action.data())))
            menu.aboutToHide.connect(lambda: qt.QTimer.singleShot(0, self.end))
        button.setMenu(menu)

    def press(self, verdict: Verdict, label: int | None = None) -> None:
        """Decide what is shown; show what is not. Include gives the usual label by default."""
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
            if self._session:
                self._session.changes.hide()
            self._clicks.say("")
        self._follow()

    def cleanup(self) -> None:
        """Remove what lies outside the panel."""
        self.end()
        for button in self._buttons.values():
            button.removeEventFilter(self)
        self._keys.close()

    def eventFilter(self, watched, event) -> bool:
        """Notice when the mouse comes over a button and leaves it."""
        if event.type() == qt.QEvent.Enter:
            shown(self._onEnter)(watched)
        elif event.type() == qt.QEvent.Leave:
            shown(self.end)()
        return False

    def _preview(self, verdict: Verdict, label: int | None) -> bool:
        """Show a verdict; return whether it would change nothing."""
        self.end()
        region = self._selected()
        if region is None or not self._session:
            return False
        self._clicks.endFlash()
        change = self._session.preview(region.region_id, verdict, label)
        if change.isEmpty:
            return True
        self._shown = (verdict, label)
        self._clicks.say(_sentence(verdict, change))
        self._follow()
        return False

    def _onEnter(self, watched) -> None:
        verdict = next(verdict for verdict, button in self._buttons.items() if button == watched)
        if watched.enabled and watched.menu() is None and (self._shown or (None,))[0] != verdict:
            self.offer(verdict)

    def _onReturn(self) -> None:
        if self._shown:
            self.press(*self._shown)

    def _follow(self) -> None:
        """Let the buttons and keys be those of what is shown; Return and Esc are others' keys too."""
        for verdict, button in self._buttons.items():
            button.checked = self._shown is not None and self._shown[0] is verdict
        self._keys.enable(self._shown is not None)


def _sentence(verdict: Verdict, change: Change) -> str:
    added, removed = volume_text(change.added_ml), volume_text(change.removed_ml)
    palette, names = change.palette, {BLUE: _("blue"), CYAN: _("cyan"), MAGENTA: _("magenta"), VIOLET: _("violet")}
    text = {
        Verdict.INCLUDE: _("Include would add {added} ({colour})").format(added=added, colour=names[palette.added]),
        Verdict.EXCLUDE: _("Exclude would remove {removed} ({colour})").format(
            removed=removed, colour=names[palette.removed]
        ),
    }[verdict]
    return _("{change}. Press the button, its key or Enter to apply this, or Esc to cancel.").format(change=text)
