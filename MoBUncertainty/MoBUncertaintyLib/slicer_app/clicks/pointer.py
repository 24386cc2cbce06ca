"""The mouse in the slice views: a click or a short stroke where a label is chosen.

Positions are RAS mm of the world: the slice view's own `XYToRAS`, so that oblique views need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer

from MoBUncertaintyLib.slicer_app.scene.nodes import Point
from MoBUncertaintyLib.slicer_app.widgets.section import shown

if TYPE_CHECKING:
    from MoBUncertaintyLib.slicer_app.clicks.section import ClicksSection

PRIORITY = 2.0  # of our observers: before Slicer's own and those of the Segment Editor
STEP_PIXELS = 3  # of the mouse before a stroke has another point
SAME_PLACE_PIXELS = 3  # a double click is one click, unless the mouse has moved


class SlicePointer:
    """Observes the mouse in all slice views of the layout.

    What it takes for itself (the left button without Shift, Ctrl or Alt, while a label is chosen) nobody else gets
    to see; all else stays Slicer's: scrolling, panning, zooming, window and level, the crosshair.
    """

    def __init__(self, target: ClicksSection) -> None:
        self._target = target
        self._views: list[_View] = []
        slicer.app.layoutManager().layoutChanged.connect(self._observe)  # there may be other views
        self._active = self._crossed = False

    def setActive(self, active: bool) -> None:
        """Observe the mouse, or no more."""
        if active != self._active:
            self._active = active
            self._observe()

    def setCursor(self, crossed: bool) -> None:
        """Let the mouse be a cross in the slice views, as where something is placed."""
        self._crossed = crossed
        for view in self._views:
            view.setCursor(crossed)

    def close(self) -> None:
        """Let go of all views."""
        self.setActive(False)
        slicer.app.layoutManager().layoutChanged.disconnect(self._observe)

    def _observe(self, *_args) -> None:
        for view in self._views:
            view.release()
        manager = slicer.app.layoutManager()
        names = manager.sliceViewNames() if self._active else ()
        self._views = [_View(manager.sliceWidget(name), self._target) for name in names]
        self.setCursor(self._crossed)


class _View:
    """The mouse in one slice view."""

    def __init__(self, widget, target: ClicksSection) -> None:
        self._widget, self._target = widget, target
        self._node, self._interactor = widget.mrmlSliceNode(), widget.sliceView().interactor()
        self._points: list[Point] | None = None  # of a stroke that is being drawn
        self._label = 0  # that it gives
        self._crossed = False
        self._last = self._given = (-100, -100)  # pixels: of the last point, the last click
        self._tags = {}
        for event, act in (
            ("LeftButtonPressEvent", self._onPress),
            ("LeftButtonDoubleClickEvent", self._onDoubleClick),
            ("MouseMoveEvent", self._onMove),
            ("LeftButtonReleaseEvent", self._onRelease),
        ):
            self._tags[event] = self._interactor.AddObserver(event, self._taking(act), PRIORITY)

    def release(self) -> None:
        """Observe no more."""
        for tag in self._tags.values():
            self._interactor.RemoveObserver(tag)
        self._tags = {}
        self.setCursor(False)

    def setCursor(self, crossed: bool) -> None:
        """Let the mouse be a cross, or what it was; where nothing changes it stays whatever others made it."""
        view = self._widget.sliceView()
        if crossed and not self._crossed:
            view.setViewCursor(qt.QCursor(qt.Qt.CrossCursor))
        elif self._crossed and not crossed:
            view.unsetViewCursor()
        self._crossed = crossed

    def _taking(self, act: Callable[[], bool]) -> Callable:
        """Make an observer that keeps from all others what `act` takes (returns True)."""

        def observe(_interactor, event) -> None:
            taken = True  # what raises something was ours too: others must not see half of a click
            try:
                taken = act()
            finally:
                if taken and event in self._tags:
                    self._interactor.GetCommand(self._tags[event]).SetAbortFlag(1)

        return shown(observe)

    def _onPress(self) -> bool:
        if self._interactor.GetShiftKey() or self._interactor.GetControlKey() or self._interactor.GetAltKey():
            return False
        label = None if _placing() else self._target.label()
        if label is None:
            return False
        self._last = self._interactor.GetEventPosition()
        if not self._target.refuses(self._widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID()):
            self._points, self._label = [self._here()], label
        return True

    def _onDoubleClick(self) -> bool:
        """Take the second press of two quick ones, with which Slicer would maximize the view."""
        if self._target.label() is None:
            return False
        isSame = _distance(self._interactor.GetEventPosition(), self._given) < SAME_PLACE_PIXELS
        return isSame or self._onPress()

    def _onMove(self) -> bool:
        if self._points is None:
            return False
        if _distance(self._interactor.GetEventPosition(), self._last) >= STEP_PIXELS:
            self._last = self._interactor.GetEventPosition()
            self._points.append(self._here())
            self._target.draw(self._points, self._label)
        return True

    def _onRelease(self) -> bool:
        points, self._points = self._points, None
        if points is None:
            return False
        self._given = self._interactor.GetEventPosition()
        self._target.give(points, self._label)
        return True

    def _here(self) -> Point:
        pixel = self._interactor.GetEventPosition()
        r, a, s, _w = self._node.GetXYToRAS().MultiplyPoint((*pixel, 0, 1))
        return r, a, s


def _placing() -> bool:
    """Whether Slicer waits for a markup to be placed."""
    node = slicer.app.applicationLogic().GetInteractionNode()
    return node is not None and node.GetCurrentInteractionMode() == node.Place


def _distance(one: Sequence[int], other: Sequence[int]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))
