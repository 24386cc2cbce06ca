"""Keys and mouse: keys that act in all of Slicer's window while the module is shown, and clicks in the slice views.

None of the keys is Slicer's own: `Testing/Python/slicer_app/test_review_panel.py` compares. Positions are RAS mm of the
world: the slice view's own `XYToRAS`, so that oblique views need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark
from MoBUncertaintyLib.slicer_app.scene.nodes import Point
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown

if TYPE_CHECKING:
    from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection

ORGAN, NOT_ORGAN, HIDE = "O", "L", "H"
"""Organ here; not organ here, the key below it on every keyboard; hide the marks."""

PRIORITY = 2.0  # of our observers: before Slicer's own and those of the Segment Editor
STEP_PIXELS = 3  # of the mouse before a stroke has another point
SAME_PLACE_PIXELS = 3  # a double click is one click, unless the mouse has moved


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
        """Return the label that a click gives, if it gives one."""
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


class SlicePointer:
    """Observes the mouse in all slice views of the layout.

    What it takes for itself (the left button without Shift, Ctrl or Alt, while a label is chosen) nobody else gets
    to see; all else stays Slicer's: scrolling, panning, zooming, window and level, the crosshair.
    """

    def __init__(self, target: ClicksSection) -> None:
        self._target = target
        self._widgets: list = []  # the slice views that are observed
        self._tags: dict[tuple, int] = {}  # of the observers, by interactor and event
        self._points: list[Point] | None = None  # of a stroke that is being drawn
        self._label = 0  # that it gives
        self._last = self._given = (-100, -100)  # pixels: of the last point, the last click
        self._active = self._crossed = False
        slicer.app.layoutManager().layoutChanged.connect(self._observe)  # there may be other views

    def setActive(self, active: bool) -> None:
        """Observe the mouse, or no more."""
        if active != self._active:
            self._active = active
            self._observe()

    def setCursor(self, crossed: bool) -> None:
        """Let the mouse be a cross in the slice views, as where something is placed, or what it was."""
        if crossed == self._crossed:  # it stays whatever others made it
            return
        self._crossed = crossed
        for widget in self._widgets:
            if crossed:
                widget.sliceView().setViewCursor(qt.QCursor(qt.Qt.CrossCursor))
            else:
                widget.sliceView().unsetViewCursor()

    def close(self) -> None:
        """Let go of all views."""
        self.setActive(False)
        slicer.app.layoutManager().layoutChanged.disconnect(self._observe)

    def _observe(self, *_args) -> None:
        crossed, manager = self._crossed, slicer.app.layoutManager()
        self.setCursor(False)
        for (interactor, _event), tag in self._tags.items():
            interactor.RemoveObserver(tag)
        self._tags, self._points = {}, None
        self._widgets = [manager.sliceWidget(name) for name in manager.sliceViewNames()] if self._active else []
        for widget in self._widgets:
            interactor = widget.sliceView().interactor()
            for event, act in (
                ("LeftButtonPressEvent", self._onPress),
                ("LeftButtonDoubleClickEvent", self._onDoubleClick),
                ("MouseMoveEvent", self._onMove),
                ("LeftButtonReleaseEvent", self._onRelease),
            ):
                observer = self._taking(partial(act, widget, interactor))
                self._tags[interactor, event] = interactor.AddObserver(event, observer, PRIORITY)
        self.setCursor(crossed)

    def _taking(self, act: Callable[[], bool]) -> Callable:
        """Make an observer that keeps from all others what `act` takes (returns True)."""

        def observe(interactor, event) -> None:
            taken = True  # what raises something was ours too: others must not see half of a click
            try:
                taken = act()
            finally:
                if taken and (interactor, event) in self._tags:
                    interactor.GetCommand(self._tags[interactor, event]).SetAbortFlag(1)

        return shown(observe)

    def _onPress(self, widget, interactor) -> bool:
        if interactor.GetShiftKey() or interactor.GetControlKey() or interactor.GetAltKey():
            return False
        label = None if _placing() else self._target.label()
        if label is None:
            return False
        self._last = interactor.GetEventPosition()
        if not self._target.refuses(widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID()):
            self._points, self._label = [_place(widget, interactor)], label
        return True

    def _onDoubleClick(self, widget, interactor) -> bool:
        """Take the second press of two quick ones, with which Slicer would maximize the view."""
        if self._target.label() is None:
            return False
        isSame = _distance(interactor.GetEventPosition(), self._given) < SAME_PLACE_PIXELS
        return isSame or self._onPress(widget, interactor)

    def _onMove(self, widget, interactor) -> bool:
        if self._points is None:
            return False
        if _distance(interactor.GetEventPosition(), self._last) >= STEP_PIXELS:
            self._last = interactor.GetEventPosition()
            self._points.append(_place(widget, interactor))
            self._target.draw(self._points, self._label)
        return True

    def _onRelease(self, _widget, interactor) -> bool:
        points, self._points = self._points, None
        if points is None:
            return False
        self._given = interactor.GetEventPosition()
        self._target.give(points, self._label)
        return True


def _place(widget, interactor) -> Point:
    r, a, s, _w = widget.mrmlSliceNode().GetXYToRAS().MultiplyPoint((*interactor.GetEventPosition(), 0, 1))
    return r, a, s


def _placing() -> bool:
    """Whether Slicer waits for a markup to be placed."""
    node = slicer.app.applicationLogic().GetInteractionNode()
    return node is not None and node.GetCurrentInteractionMode() == node.Place


def _distance(one: Sequence[int], other: Sequence[int]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))
