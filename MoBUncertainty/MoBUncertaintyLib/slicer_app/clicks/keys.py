"""Keys that act in all of Slicer's window while the module is shown, and the label that clicks give, which some change.

None of them is Slicer's own: `Testing/Python/slicer_app/test_keys.py` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown

ORGAN, NOT_ORGAN, HIDE = "O", "L", "H"
"""Organ here; not organ here, the key below it on every keyboard; hide the marks."""


class Shortcuts:
    """Keys that act at the same times.

    They reach the slice views too, so they belong to the window. Letters do not fire while text is typed.
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


class ClickMode:
    """*Organ here*, *Not organ here* or neither, and the label that *Organ here* stands for."""

    def __init__(self, ui, window, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._values: list[int] = []  # of the labels
        self._allowed = False
        self.mark: Mark | None = None  # ORGAN or BACKGROUND, or no clicks
        buttons = {ui.organHereButton: Mark.ORGAN, ui.notOrganHereButton: Mark.BACKGROUND, ui.clicksOffButton: None}
        for button, mark in buttons.items():
            button.clicked.connect(shown(lambda *_args, mark=mark: self.set(None if self.mark is mark else mark)))
        self._keys = Shortcuts(window)
        keys = {ORGAN: ui.organHereButton, NOT_ORGAN: ui.notOrganHereButton, HIDE: ui.hideClicksButton}
        for key, button in keys.items():
            self._keys.add(key, button.click)

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

    def set(self, mark: Mark | None) -> None:
        """Let clicks mark something else, or nothing."""
        ui, self.mark = self._ui, mark if self._allowed else None
        ui.organHereButton.checked = self.mark is Mark.ORGAN
        ui.notOrganHereButton.checked = self.mark is Mark.BACKGROUND
        ui.clicksOffButton.checked = self.mark is None
        self._onChanged()

    def close(self) -> None:
        """Take no more keys."""
        self._keys.close()
