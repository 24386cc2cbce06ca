"""Keys that act in all of Slicer's window while the module is shown, also those that are held down.

None of them is Slicer's own: `Testing/Python/slicer_app/test_keys.py` compares.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import qt

ORGAN, NOT_ORGAN, HIDE = "O", "L", "H"
"""Organ here; not organ here, the key below it on every keyboard; hide the marks."""
TAP_S = 0.4  # a key that is down for longer is held, even if nothing was clicked meanwhile


def addShortcut(window, key: str, act: Callable[..., None]):
    """Let a key, or several such as `Ctrl+Z`, do something.

    Keys reach the slice views too, so they belong to the window. Letters do not fire while text is typed.

    Returns:
        The QShortcut.
    """
    shortcut = qt.QShortcut(qt.QKeySequence(key), window)
    shortcut.setAutoRepeat(False)
    shortcut.activated.connect(act)
    shortcut.activatedAmbiguously.connect(act)  # another extension may know the same key
    return shortcut


class HeldKey(qt.QObject):
    """Notices when a key that was pressed is released in Slicer's window, or cannot be down any more."""

    def __init__(self, window, onReleased: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._window, self._onReleased = window, onReleased
        self._key: int | None = None
        self._since = 0.0
        window.installEventFilter(self)

    def press(self, key: str) -> None:
        """Note that a key is down now."""
        self._key, self._since = ord(key), time.monotonic()  # Qt's number of a letter's key is that of the letter

    @property
    def wasTapped(self) -> bool:
        """Whether the key was down for no longer than a tap."""
        return time.monotonic() - self._since < TAP_S

    def eventFilter(self, _watched, event) -> bool:
        """Look at an event of the window, and let it go on."""
        if self._key is not None:
            kind = event.type()
            released = kind == qt.QEvent.KeyRelease and int(event.key()) == self._key and not event.isAutoRepeat()
            if released or kind == qt.QEvent.WindowDeactivate:
                self._key = None
                self._onReleased()
        return False

    def close(self) -> None:
        """Look no more."""
        self._window.removeEventFilter(self)
