"""What the panel's sections share. A section knows its widgets and one image's session, and no other section."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import qt
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.slicer_app.widgets.dialogs import showError
from MoBUncertaintyLib.slicer_app.worker.steps import Steps

AT_ONCE_S = 0.1  # what takes less is done without returning to the event loop
PANEL_WIDTH = 420  # pixels: the minimum, scroll bar included
MAX_TITLE = 31  # characters of a model's name
MARGINS = 40  # pixels beside the content of a section, scroll bar included
POLL_MILLISECONDS = 100
USUAL_TIP = "MoBUncertainty.toolTip"  # the property of a widget that keeps what its .ui file says

SUITABILITY_STYLES = {
    Level.ORDINARY: "border: 1px solid #808080",
    Level.UNUSUAL: "background: #ffc107; color: black",
    Level.NOT_USABLE: "background: #b71c1c; color: white; font-weight: bold",
}
"""Of the box; with colours of their own for the text, so that they suit light palettes and dark ones."""


class State(Enum):
    """What the panel is doing."""

    READY = "ready"  # no results are shown
    REVIEWING = "reviewing"  # results are shown, and their review can be changed
    SIGNED = "signed"  # results are shown, and their review is signed off
    NEEDS_PACKAGES = "needs packages"  # Apply or Export was pressed: missing packages are named and installed
    RUNNING = "running"  # an image is segmented
    EXPORTING = "exporting"  # the files of a review are written
    MEASURING = "measuring"  # what was segmented is measured

    @property
    def busy(self) -> bool:
        """Whether nothing else can be begun."""
        return self in (State.NEEDS_PACKAGES, State.RUNNING, State.EXPORTING, State.MEASURING)


def allow(widget, reason: str | None, toolTip: str | None = None) -> None:
    """Enable a widget, or disable it with a reason why it cannot be used as its tooltip.

    Default of what the tooltip says when it can be used: as in the .ui file.
    """
    if widget.property(USUAL_TIP) is None:
        widget.setProperty(USUAL_TIP, widget.toolTip)
    if toolTip is None:
        toolTip = widget.property(USUAL_TIP)
    if reason is not None:
        widget.clearFocus()  # else Qt gives it to the next button, which a second press of the space bar would push
    widget.enabled = reason is None
    widget.toolTip = toolTip if reason is None else reason


def write(label, text: str, beside: int = 0, lines: int = 0) -> None:
    """Put a text into a label that wraps, and make the label as high as it needs in the narrowest panel.

    A height that depends on the width is not for Qt's form layouts: they take it from the widgets below. Others in its
    row need so many pixels `beside` it; there is room for so many `lines` in any case.
    """
    label.text = text
    label.minimumHeight = 0  # else a label stays as high as its longest text was
    height = label.heightForWidth(PANEL_WIDTH - MARGINS - beside) if text else 0
    label.setFixedHeight(max(height, lines * label.fontMetrics().lineSpacing()))


def say(label, text: str) -> None:
    """Write a text into a label that is seen only while there is one."""
    write(label, text)
    label.visible = bool(text)


def showSuitability(label, suitability: Suitability | None) -> None:
    """Show whether the model suits the case; hide the label where it is not known."""
    label.visible = suitability is not None
    if suitability is not None:
        label.styleSheet = f"QLabel {{ {SUITABILITY_STYLES[suitability.level]}; border-radius: 3px; padding: 3px; }}"
        write(label, suitability.sentence or _("Suitability: {text}.").format(text=suitability.text))


def warnOfSuitability(label, suitability: Suitability | None) -> None:
    """Show it again where something is signed or exported, unless the case is ordinary."""
    showSuitability(label, suitability if suitability and suitability.sentence else None)


def scrollAreaOf(widget):
    """Return the scroll area that a widget lies in, as Slicer's module panel is one; None where it lies in none."""
    area = widget.parentWidget()
    while area is not None and not hasattr(area, "ensureWidgetVisible"):
        area = area.parentWidget()
    return area


def reveal(widget) -> None:
    """Scroll the module panel, if the widget lies in one, until it is seen; of one that is too high its beginning."""
    area = scrollAreaOf(widget)
    if area is not None:
        top, bar = widget.mapTo(area.widget(), qt.QPoint(0, 0)).y(), area.verticalScrollBar()
        bar.value = min(top, max(bar.value, top + widget.height - area.viewport().height))


def revealLater(widget) -> None:
    """Reveal a widget once it has its height."""
    qt.QTimer.singleShot(0, lambda: reveal(widget))


@contextmanager
def signalsBlocked(*widgets) -> Iterator[None]:
    """Let some widgets send no signals meanwhile."""
    before = [widget.blockSignals(True) for widget in widgets]
    try:
        yield
    finally:
        for widget, blocked in zip(widgets, before, strict=True):
            widget.blockSignals(blocked)


def offer(selector, names: Iterable[str]) -> None:
    """Replace the items of a selector without its signals: the user has chosen nothing."""
    with signalsBlocked(selector):
        selector.clear()
        selector.addItems(list(names))


def shown(slot: Callable) -> Callable:
    """Let the failures of a slot reach the user: an expected one as its sentence, any other with its traceback."""

    @functools.wraps(slot)
    def run(*args):
        with slicer.util.tryWithErrorDisplay():
            try:
                slot(*args)
            except UserError as error:
                showError(str(error))

    return run


def timer(milliseconds: int, act: Callable[[], None]):
    """Make a QTimer that, once started, does something once; its failures reach the user."""
    made = qt.QTimer()
    made.setSingleShot(True)
    made.setInterval(milliseconds)
    made.timeout.connect(shown(act))
    return made


def inSteps(steps: Iterator[None], onDone: Callable[[Any], None]) -> Steps:
    """Do something in steps, where it is quick at once, and then something with what it returns.

    Failures of either reach the user, as with `shown`.
    """

    def fail(error: Exception) -> None:
        raise error

    return Steps(steps, onDone, shown(fail), AT_ONCE_S)


def shortened(title: str, limit: int = MAX_TITLE) -> str:
    """Shorten a title to so many characters, but keep both ends, since two titles may differ at either."""
    if len(title) <= limit:
        return title
    half = (limit - 1) // 2
    return f"{title[:half]}…{title[-half:]}"


def afterLoading(act: Callable[[], None], milliseconds: int = 0) -> None:
    """Do something once no scene is being loaded: half a scene is no use, and a dialog would stop the loading."""

    def attempt() -> None:
        if isLoading():
            afterLoading(act, POLL_MILLISECONDS)
        else:
            act()

    qt.QTimer.singleShot(milliseconds, shown(attempt))


def isLoading() -> bool:
    """Tell whether the scene is being replaced, or a dialog is open, as Slicer's own is while it loads."""
    return bool(slicer.mrmlScene.IsBatchProcessing() or qt.QApplication.activeModalWidget())
