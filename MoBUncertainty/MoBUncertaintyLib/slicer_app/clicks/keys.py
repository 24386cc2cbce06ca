"""Keys that act in all of Slicer's window while the module is shown, and the label that clicks give, which some change.

None of them is Slicer's own: `Testing/Python/slicer_app/test_keys.py` compares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import qt

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown, timer

ORGAN, NOT_ORGAN, HIDE = "O", "L", "H"
"""Organ here; not organ here, the key below it on every keyboard; hide the marks."""
REPEAT_MS = 80
"""A key that is held repeats: some desktops do not tell these presses and releases from real ones; they follow soon."""
TAP_S = 0.4  # a key that is down for longer is held, even if nothing was clicked meanwhile


class Shortcuts:
    """Keys that act at the same times.

    They reach the slice views too, so they belong to the window. Letters do not fire while text is typed.

    Attributes:
        made: The QShortcuts.
    """

    def __init__(self, window) -> None:
        self._window = window
        self.made: list = []

    def add(self, key: str, act: Callable[..., None]) -> None:
        """Let a key, or several such as `Ctrl+Z`, do something."""
        shortcut = qt.QShortcut(qt.QKeySequence(key), self._window)
        shortcut.setAutoRepeat(False)
        shortcut.activated.connect(act)
        shortcut.activatedAmbiguously.connect(act)  # another extension may know the same key
        self.made.append(shortcut)

    def enable(self, enabled: bool) -> None:
        """Let them act, or not."""
        for shortcut in self.made:
            shortcut.enabled = enabled

    def close(self) -> None:
        """Remove them."""
        self.enable(False)
        while self.made:
            self.made.pop().deleteLater()


class HeldKey(qt.QObject):
    """Notices when a key that was pressed is released in Slicer's window, or cannot be down any more."""

    def __init__(self, window, onReleased: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._window, self._onReleased = window, onReleased
        self._key: int | None = None
        self._since = self._until = 0.0
        self._release = timer(REPEAT_MS, self._onRelease)
        window.installEventFilter(self)

    def press(self, key: str) -> bool:
        """Note that a key is down now; return whether it was not before."""
        code = ord(key)  # Qt's number of a letter's key is that of the letter
        self._release.stop()
        if self._key == code:
            return False
        self._key, self._since = code, time.monotonic()
        return True

    @property
    def wasTapped(self) -> bool:
        """Whether the key was down for no longer than a tap; what is done with its release may come much later."""
        return self._until - self._since < TAP_S

    @property
    def isDown(self) -> bool:
        """Whether the key is down, as far as one can tell at once."""
        return self._key is not None and not self._release.active

    def eventFilter(self, _watched, event) -> bool:
        """Look at an event of the window, and let it go on."""
        if self._key is not None:
            kind = event.type()
            if kind == qt.QEvent.WindowDeactivate:
                self._until = time.monotonic()
                self._onRelease()
            elif kind in (qt.QEvent.KeyRelease, qt.QEvent.ShortcutOverride) and int(event.key()) == self._key:
                if kind == qt.QEvent.ShortcutOverride or event.isAutoRepeat():
                    self._release.stop()
                else:
                    self._until = time.monotonic()
                    self._release.start()
        return False

    def close(self) -> None:
        """Look no more."""
        self._release.stop()
        self._window.removeEventFilter(self)

    def _onRelease(self) -> None:
        self._release.stop()
        self._key = None
        self._onReleased()


class ClickMode:
    """*Organ here*, *Not organ here* or neither, and the label that *Organ here* stands for."""

    def __init__(self, ui, window, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._values: list[int] = []  # of the labels
        self._allowed = False
        self.mark: Mark | None = None  # ORGAN or BACKGROUND, or no clicks
        self._before: Mark | None = None  # the mode that a held key has replaced
        self._used = False  # whether a click was given while the key was down
        self._held = HeldKey(window, self._onKeyReleased)
        self._keys = Shortcuts(window)
        for key, mark in ((ORGAN, Mark.ORGAN), (NOT_ORGAN, Mark.BACKGROUND)):
            self._keys.add(key, lambda key=key, mark=mark: self._onKey(key, mark))
        self._keys.add(HIDE, ui.hideClicksButton.click)
        buttons = {ui.organHereButton: Mark.ORGAN, ui.notOrganHereButton: Mark.BACKGROUND, ui.clicksOffButton: None}
        for button, mark in buttons.items():
            button.clicked.connect(shown(lambda *_args, mark=mark: self.set(None if self.mark is mark else mark)))

    def offer(self, labels: Sequence[Label]) -> None:
        """Offer the labels of a prediction, and take no clicks yet."""
        self.set(None)
        self._values = [label.value for label in labels]
        offer(self._ui.clickLabelSelector, [readable(label.name) for label in labels])
        self._ui.clickLabelSelector.visible = self._ui.clickLabelCaption.visible = len(labels) > 1

    def allow(self, allowed: bool) -> None:
        """Let clicks be given, by keys too, or not."""
        self._allowed = allowed
        if not allowed:
            self.set(None)
        self._keys.enable(allowed)

    def label(self) -> int | None:
        """Return the label that a click gives; None: it gives none."""
        if self.mark is None:
            return None
        return self._values[max(0, self._ui.clickLabelSelector.currentIndex)] if self.mark is Mark.ORGAN else 0

    def use(self) -> None:
        """Note that a click was given: a key that is down goes back to the mode before."""
        self._used = self._used or self._held.isDown

    def set(self, mark: Mark | None) -> None:
        """Let clicks mark something else, or nothing."""
        ui, self.mark = self._ui, mark if self._allowed else None
        ui.organHereButton.checked = self.mark is Mark.ORGAN
        ui.notOrganHereButton.checked = self.mark is Mark.BACKGROUND
        ui.clicksOffButton.checked = self.mark is None
        self._onChanged()

    def close(self) -> None:
        """Take no more keys."""
        self._held.close()
        self._keys.close()

    def _onKey(self, key: str, mark: Mark) -> None:
        if self._held.press(key):
            self._before, self._used = self.mark, False
            self.set(mark)

    def _onKeyReleased(self) -> None:
        """Keep the mode of a key that was tapped, or switch it off if it was on; forget that of one that was held."""
        if self._used or not self._held.wasTapped:
            self.set(self._before)
        elif self._before is self.mark:
            self.set(None)
