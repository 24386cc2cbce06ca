"""Keys that act in all of Slicer's window while the module is shown, also those that are held down.

None of them is Slicer's own: `Testing/Python/slicer_app/test_keys.py` compares.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import qt

ORGAN, NOT_ORGAN, HIDE = "O", "L", "H"
"""Organ here; not organ here, the key below it on every keyboard; hide the marks."""
REPEAT_MS = 80
"""A key that is held repeats: some desktops do not tell these presses and releases from real ones; they follow soon."""
TAP_S = 0.4  # a key that is down for longer is held, even if nothing was clicked meanwhile


class Shortcuts:
    """Keys that act at the same times.

    They reach the slice views too, so they belong to the window. Letters do not fire while text is typed.

    Args:
        window: Slicer's.

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
    """Notices when a key that was pressed is released in Slicer's window, or cannot be down any more.

    Args:
        window: Slicer's.
        onReleased: Called then.
    """

    def __init__(self, window, onReleased: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._window, self._onReleased = window, onReleased
        self._key: int | None = None
        self._since = self._until = 0.0
        self._release = qt.QTimer()
        self._release.setSingleShot(True)
        self._release.setInterval(REPEAT_MS)
        self._release.timeout.connect(self._onRelease)
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
