"""A soft flash of what a step has changed."""

from __future__ import annotations

import qt
import slicer

from MoBUncertaintyLib.slicer_app.clicks.changes import Change
from MoBUncertaintyLib.slicer_app.widgets.section import shown

STEP_MS = 250
OPACITIES = (1.0, 0.55, 0.25, 0.0)
TEXT_STEPS = 8  # after which the volume beside the click goes too


class Flash:
    """Shows a change for a second, fading, and then nothing; nothing at all where animations are switched off."""

    def __init__(self) -> None:
        self._session = None
        self._step = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(STEP_MS)
        self._timer.timeout.connect(shown(self._fade))

    def begin(self, session, change: Change) -> None:
        """Show a change of a ReviewSession; one that is fading ends."""
        self._session, self._step = session, 0
        if animates():
            session.changes.show(change)
        self._timer.start()

    def end(self) -> None:
        """Show nothing any more."""
        self._timer.stop()
        if self._session is not None:
            self._session.changes.setOpacity(0)
            if self._session.isComplete():
                self._session.marks.show()
        self._session = None

    def _fade(self) -> None:
        self._step += 1
        if self._step >= TEXT_STEPS or not self._session.isComplete():
            self.end()
        elif self._step < len(OPACITIES) and animates():
            self._session.changes.setOpacity(OPACITIES[self._step])


def animates() -> bool:
    """Whether the desktop's and Slicer's style animate anything."""
    return slicer.app.style().styleHint(qt.QStyle.SH_Widget_Animation_Duration) > 0
