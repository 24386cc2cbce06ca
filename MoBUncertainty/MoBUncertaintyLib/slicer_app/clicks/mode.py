"""Which label a click gives: chosen by buttons, or by keys that are tapped or held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.slicer_app.clicks import keys
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown


class ClickMode:
    """*Organ here*, *Not organ here* or neither, and the label that *Organ here* stands for.

    Args:
        ui: The panel's widgets.
        window: Whose keys act.
        onChanged: Called when clicks give another label, or none.
    """

    def __init__(self, ui, window, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._values: list[int] = []  # of the labels
        self._allowed = False
        self.mark: Mark | None = None  # ORGAN or BACKGROUND, or no clicks
        self._before: Mark | None = None  # the mode that a held key has replaced
        self._used = False  # whether a click was given while the key was down
        self._held = keys.HeldKey(window, self._onKeyReleased)
        self._keys = keys.Shortcuts(window)
        for key, mark in ((keys.ORGAN, Mark.ORGAN), (keys.NOT_ORGAN, Mark.BACKGROUND)):
            self._keys.add(key, lambda key=key, mark=mark: self._onKey(key, mark))
        self._keys.add(keys.HIDE, ui.hideClicksButton.click)
        buttons = {ui.organHereButton: Mark.ORGAN, ui.notOrganHereButton: Mark.BACKGROUND, ui.clicksOffButton: None}
        for button, mark in buttons.items():
            button.clicked.connect(shown(lambda *_args, mark=mark: self.set(None if self.mark is mark else mark)))

    def offer(self, labels: Sequence[Label]) -> None:
        """Offer the labels of a prediction, and take no clicks yet."""
        self.set(None)
        self._values = [label.value for label in labels]
        offer(self._ui.clickLabelSelector, [readable(label.name) for label in labels])
        self._ui.clickLabelSelector.visible = self._ui.clickLabelCaption.visible = len(labels) > 1

    def allow(self, clicks: bool, keysToo: bool) -> None:
        """Let clicks be given, by keys too, or not."""
        self._allowed = clicks
        if not clicks:
            self.set(None)
        self._keys.enable(keysToo)

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
