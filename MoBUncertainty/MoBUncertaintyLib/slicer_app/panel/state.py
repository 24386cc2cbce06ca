"""What the panel is doing: one of six states, and what is seen in them.

What cannot be used is not shown, and what comes next is unfolded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class State(Enum):
    """What the panel is doing."""

    READY = "ready"  # no results are shown
    REVIEWING = "reviewing"  # results are shown, and their review can be changed
    SIGNED = "signed"  # results are shown, and their review is signed off
    NEEDS_PACKAGES = "needs packages"  # Apply or Export was pressed: missing packages are named and installed
    RUNNING = "running"  # a CT is segmented
    EXPORTING = "exporting"  # the files of a review are written

    @property
    def busy(self) -> bool:
        """Whether nothing else can be begun."""
        return self not in IDLE


IDLE = frozenset({State.READY, State.REVIEWING, State.SIGNED})


def idleState(session) -> State:
    """Return the idle state of a ReviewSession, or of none."""
    signed = session is not None and session.review.signature is not None
    return State.READY if session is None else State.SIGNED if signed else State.REVIEWING


SECTIONS = ("inputs", "run", "overlay", "review", "export")
FOLLOWING = {State.READY: {"inputs", "run"}, State.REVIEWING: {"review"}, State.SIGNED: {"review", "export"}}
"""What a reader does next in each idle state."""


def usable(state: State, session) -> set[str]:
    """Name the sections that can be used in a state of the panel, with a ReviewSession or without one."""
    if session is None:
        return FOLLOWING[State.READY]
    return set(SECTIONS) - ({"review", "export"} if state is State.RUNNING else set())


class Folding:
    """Shows and unfolds the sections."""

    def __init__(self, ui, reveal: Callable[[object], None]) -> None:
        self._reveal = reveal
        self._parts = {name: getattr(ui, f"{name}CollapsibleButton") for name in SECTIONS}
        self._followed: tuple | None = None  # idle state and session for which sections were unfolded

    def update(self, state: State, session) -> None:
        """Show what can be used. Unfold what comes next once it does, and fold all else for another session.

        Between these moments sections stay as the reader has left them.
        """
        there = usable(state, session)
        for name, part in self._parts.items():
            part.visible = name in there
        if state not in IDLE or self._followed == (state, session):
            return
        isAnother = self._followed is None or self._followed[1] is not session
        self._followed = state, session
        for name, part in self._parts.items():
            if isAnother or name in FOLLOWING[state]:
                follows = part.collapsed and not isAnother
                part.collapsed = name not in FOLLOWING[state]
                if follows:
                    self._reveal(part)
