"""The panel's states, and which may follow which."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.slicer_app.panel.state import IDLE, State, StateMachine

WALK = [
    State.NEEDS_PACKAGES,  # Apply is pressed
    State.READY,  # and the packages declined
    State.NEEDS_PACKAGES,
    State.RUNNING,
    State.REVIEWING,
    State.SIGNED,
    State.NEEDS_PACKAGES,  # Export is pressed
    State.EXPORTING,
    State.SIGNED,
    State.REVIEWING,  # reopened
    State.READY,  # another CT is selected
]
BUSY = set(State) - IDLE


def session(signature: object = None) -> SimpleNamespace:
    return SimpleNamespace(review=SimpleNamespace(signature=signature))


def machine_in(state: State) -> StateMachine:
    machine = StateMachine()
    machine.state = state
    return machine


def test_a_users_day() -> None:
    machine = StateMachine()
    assert machine.state is State.READY
    for state in WALK:
        machine.go(state)
        assert machine.state is state
        assert state.busy == (state in BUSY)


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_work_begins_with_the_packages_and_ends_idle(before: State, after: State) -> None:
    """A second run or export can never begin before the first has ended."""
    machine = machine_in(before)
    begins = before in IDLE and after is State.NEEDS_PACKAGES
    works = before is State.NEEDS_PACKAGES and after in {State.RUNNING, State.EXPORTING}
    if after in IDLE or begins or works:
        machine.go(after)
        assert machine.state is after
    else:
        with pytest.raises(ValueError, match=f"from {before.value} to {after.value}"):
            machine.go(after)
        assert machine.state is before


@pytest.mark.parametrize("before", list(State))
def test_at_rest_the_state_is_that_of_the_review(before: State) -> None:
    for shown, after in [(None, State.READY), (session(), State.REVIEWING), (session("A. Reader"), State.SIGNED)]:
        machine = machine_in(before)
        machine.rest(shown)
        assert machine.state is after
