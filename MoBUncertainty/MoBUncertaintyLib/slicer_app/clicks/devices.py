"""Keys and mouse: keys that act in all of Slicer's window while the module is shown, and clicks in the slice views.

None of the keys is Slicer's own: `Testing/Python/slicer_app/test_review_panel.py` compares. Positions are RAS mm of the
world: the slice view's own `XYToRAS`, so that oblique views need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.review.refinement.clicks import Extent
from MoBUncertaintyLib.slicer_app.clicks.marks import Mark
from MoBUncertaintyLib.slicer_app.scene.nodes import Point
from MoBUncertaintyLib.slicer_app.widgets.section import offer, shown

if TYPE_CHECKING:
    from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection

ORGAN, NOT_ORGAN, LASSO, BOX, HIDE = "O", "L", "K", "J", "H"
"""Organ here; not organ here, the key below it on every keyboard, and its neighbours; hide the marks."""

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


class Shape(Enum):
    """What the mouse draws."""

    STROKE = "stroke"
    LASSO = "lasso"
    BOX = "box"


class ClickMode:
    """*Organ here*, *Not organ here* or neither; the label that *Organ here* stands for, and what the mouse draws."""

    def __init__(self, ui, window, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._labels: Sequence[Label] = ()
        self._locked: Collection[int] = ()  # their values
        self._shapes = {ui.lassoButton: Shape.LASSO, ui.boxButton: Shape.BOX}
        self.shape = Shape.STROKE
        self._allowed = False
        self.mark: Mark | None = None  # ORGAN or BACKGROUND, or no clicks
        buttons = {ui.organHereButton: Mark.ORGAN, ui.notOrganHereButton: Mark.BACKGROUND, ui.clicksOffButton: None}
        for button, mark in buttons.items():
            button.clicked.connect(shown(lambda *_args, mark=mark: self.set(None if self.mark is mark else mark)))
        for button, shape in self._shapes.items():
            button.clicked.connect(shown(lambda *_args, shape=shape: self._onShape(shape)))
        ui.clickLabelSelector.currentIndexChanged.connect(lambda *_args: self.showLocks(self._locked))
        self._keys = Shortcuts(window)
        keys = {ORGAN: ui.organHereButton, NOT_ORGAN: ui.notOrganHereButton, HIDE: ui.hideClicksButton}
        for key, button in (keys | {LASSO: ui.lassoButton, BOX: ui.boxButton}).items():
            self._keys.add(key, button.click)

    def offer(self, labels: Sequence[Label]) -> None:
        """Offer the labels of a prediction, and take no clicks yet."""
        self.set(None)
        self._setShape(Shape.STROKE)
        ui, self._labels = self._ui, labels
        offer(ui.clickLabelSelector, [readable(label.name) for label in labels])
        for widget in (ui.clickLabelSelector, ui.lockLabelButton):
            widget.visible = len(labels) > 1

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
        return self.chosen if self.mark is Mark.ORGAN else 0

    @property
    def chosen(self) -> int:
        """The label that *Organ here* stands for, and that *Lock* locks."""
        return self._labels[max(0, self._ui.clickLabelSelector.currentIndex)].value

    def choose(self, label: int) -> None:
        """Let *Organ here* stand for a label."""
        self._ui.clickLabelSelector.currentIndex = [own.value for own in self._labels].index(label)

    def showLocks(self, locked: Collection[int]) -> None:
        """Show which labels are locked."""
        self._locked, selector = locked, self._ui.clickLabelSelector
        for place, label in enumerate(self._labels):
            text = _("{organ} (locked)") if label.value in locked else "{organ}"
            selector.setItemText(place, text.format(organ=readable(label.name)))
        self._ui.lockLabelButton.checked = bool(self._labels) and self.chosen in locked

    def _onShape(self, shape: Shape) -> None:
        """Let the mouse draw a shape; where it draws that already, strokes again."""
        self._setShape(Shape.STROKE if self.shape is shape else shape)
        if self.mark is None and self.shape is shape:
            self.set(Mark.ORGAN)

    def _setShape(self, shape: Shape) -> None:
        self.shape = shape
        for button, own in self._shapes.items():
            button.checked = own is shape

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
        self._points: list[Point] | None = None  # of what is being drawn
        self._first = (0, 0)  # pixel at which that began
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
        label = None if _placing() else self._target.mode.label()
        if label is None:
            return False
        self._first = self._last = interactor.GetEventPosition()
        if not self._target.refuses(widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID()):
            self._points, self._label = [_place(widget, self._first)], label
        return True

    def _onDoubleClick(self, widget, interactor) -> bool:
        """Take the second press of two quick ones, with which Slicer would maximize the view."""
        if self._target.mode.label() is None:
            return False
        isSame = _distance(interactor.GetEventPosition(), self._given) < SAME_PLACE_PIXELS
        return isSame or self._onPress(widget, interactor)

    def _onMove(self, widget, interactor) -> bool:
        if self._points is None:
            return False
        if _distance(interactor.GetEventPosition(), self._last) >= STEP_PIXELS:
            self._last = x, y = interactor.GetEventPosition()
            if self._target.mode.shape is Shape.BOX:
                left, top = self._first
                self._points = [_place(widget, corner) for corner in ((left, top), (x, top), (x, y), (left, y))]
            else:
                self._points.append(_place(widget, self._last))
            self._target.draw(self._points, self._label, self._extent(self._points))
        return True

    def _onRelease(self, _widget, interactor) -> bool:
        points, self._points = self._points, None
        if points is None:
            return False
        self._given = interactor.GetEventPosition()
        self._target.give(points, self._label, self._extent(points))
        return True

    def _extent(self, points: Sequence[Point]) -> Extent:
        """Tell what points draw: of a lasso, two are no more than a stroke."""
        isOutline = self._target.mode.shape is not Shape.STROKE and len(points) > 2
        return Extent.OUTLINE if isOutline else Extent.STROKE


def _place(widget, pixel: tuple[int, int]) -> Point:
    r, a, s, _w = widget.mrmlSliceNode().GetXYToRAS().MultiplyPoint((*pixel, 0, 1))
    return r, a, s


def _placing() -> bool:
    """Whether Slicer waits for a markup to be placed."""
    node = slicer.app.applicationLogic().GetInteractionNode()
    return node is not None and node.GetCurrentInteractionMode() == node.Place


def _distance(one: Sequence[int], other: Sequence[int]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))
