"""The parts of the panel, one file each. A part knows its widgets and one CT's session, and no other part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import slicer.util

from MoBUncertaintyLib.errors import UserError


def allow(widget, reason: str | None, toolTip: str) -> None:
    """Enable a widget, or disable it with a tooltip that says why.

    Args:
        widget: Any.
        reason: Why it cannot be used; None: it can.
        toolTip: What it says when it can be used.
    """
    widget.enabled = reason is None
    widget.toolTip = toolTip if reason is None else reason


def offer(selector, names: Iterable[str]) -> None:
    """Fill a selector anew; nobody is told, since nothing was chosen."""
    blocked = selector.blockSignals(True)
    selector.clear()
    for name in names:
        selector.addItem(name)
    selector.blockSignals(blocked)


def shown(slot: Callable) -> Callable:
    """Let the failures of a slot reach the user: an expected one as its sentence, any other with its traceback."""

    @functools.wraps(slot)
    def run(*args):
        with slicer.util.tryWithErrorDisplay():
            try:
                slot(*args)
            except UserError as error:
                slicer.util.errorDisplay(str(error))

    return run
