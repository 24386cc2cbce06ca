"""What the panel is doing: one of six states, and which of them may follow which."""

from __future__ import annotations

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

NEXT = {
    State.READY: IDLE | {State.NEEDS_PACKAGES},
    State.REVIEWING: IDLE | {State.NEEDS_PACKAGES},
    State.SIGNED: IDLE | {State.NEEDS_PACKAGES},
    State.NEEDS_PACKAGES: IDLE | {State.RUNNING, State.EXPORTING},
    State.RUNNING: IDLE,
    State.EXPORTING: IDLE,
}


class StateMachine:
    """The panel's state.

    Attributes:
        state: The current one.
    """

    def __init__(self) -> None:
        self.state = State.READY

    def go(self, state: State) -> None:
        """Go to a state.

        Raises:
            ValueError: It cannot follow the current one.
        """
        if state not in NEXT[self.state]:
            raise ValueError(f"The panel cannot go from {self.state.value} to {state.value}.")
        self.state = state

    def rest(self, session) -> None:
        """Go to the idle state of a ReviewSession, or of none."""
        signed = session is not None and session.review.signature is not None
        self.go(State.READY if session is None else State.SIGNED if signed else State.REVIEWING)
