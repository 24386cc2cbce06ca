"""A mouse in the slice views: real events of their interactors, as Qt's mouse events become in Slicer."""

from collections.abc import Sequence

import numpy as np

from support.late import slicer


class Mouse:
    """The mouse in one slice view of the desktop.

    Args:
        name: Of the slice view: Red, Green or Yellow.
    """

    def __init__(self, name: str = "Red"):
        self.widget = slicer.app.layoutManager().sliceWidget(name)
        self.node = self.widget.mrmlSliceNode()
        self.interactor = self.widget.sliceView().interactor()

    def pixel(self, ras: Sequence[float]) -> tuple[int, int]:
        """Where a position of the world (RAS mm) is in the view; it must lie in the slice that is shown."""
        to_xy = np.linalg.inv(slicer.util.arrayFromVTKMatrix(self.node.GetXYToRAS()))
        x, y, z, _ = to_xy @ [*ras, 1]
        assert abs(z) <= 0.5, f"The slice is {z} slices away from {ras}."
        return round(x), round(y)

    def go(self, ras: Sequence[float]) -> None:
        """Let the slice that is shown go through a position."""
        self.node.JumpSliceByOffsetting(*ras)

    def send(self, event: str, pixel: tuple[int, int], shift: bool = False, control: bool = False, alt: bool = False):
        """Let the interactor have an event."""
        self.interactor.SetEventInformation(*pixel, int(control), int(shift), "\0", 0, None)
        self.interactor.SetAltKey(int(alt))
        self.interactor.InvokeEvent(event)

    def click(self, ras: Sequence[float], **modifiers: bool) -> None:
        """Go to the slice of a position and click there."""
        self.go(ras)
        self.stroke([ras], **modifiers)

    def stroke(self, way: Sequence[Sequence[float]], **modifiers: bool) -> None:
        """Press at the first position, move along the others, release at the last; all in the slice that is shown."""
        first, *others = [self.pixel(ras) for ras in way]
        self.send("MouseMoveEvent", first, **modifiers)
        self.send("LeftButtonPressEvent", first, **modifiers)
        for pixel in others:
            self.send("MouseMoveEvent", pixel, **modifiers)
        self.send("LeftButtonReleaseEvent", (others or [first])[-1], **modifiers)
