"""The states of a review one after another: undo and redo are moves along them."""

from __future__ import annotations

from dataclasses import replace

from MoBUncertaintyLib.review.state import State


class History:
    """States, and which of them is now.

    Args:
        first: The first state.
    """

    def __init__(self, first: State) -> None:
        self._states = [first]
        self._now = 0

    @property
    def now(self) -> State:
        """The state that holds."""
        return self._states[self._now]

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a step that was taken back."""
        return self._now + 1 < len(self._states)

    def push(self, state: State, in_place: bool = False) -> None:
        """Go on to a state, which replaces those that were taken back; `in_place`: and the one that is now."""
        self._now += 0 if in_place else 1
        self._states[self._now :] = [state]

    def move(self, by: int) -> None:
        """Go back (-1) or forth (1)."""
        self._now += by

    def unsign(self) -> None:
        """Forget the state that is now, which is signed, and what was taken back; one that is left holds then."""
        unsigned = replace(self.now, signature=None)
        self._states = self._states[: self._now] or [unsigned]
        self._now = len(self._states) - 1
