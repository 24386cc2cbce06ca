"""The panel's states."""

from __future__ import annotations

from types import SimpleNamespace

from MoBUncertaintyLib.slicer_app.panel.state import State, idleState


def session(signature: object = None) -> SimpleNamespace:
    return SimpleNamespace(review=SimpleNamespace(signature=signature))


def test_at_rest_the_state_is_that_of_the_review() -> None:
    for shown, state in [(None, State.READY), (session(), State.REVIEWING), (session("A. Reader"), State.SIGNED)]:
        assert idleState(shown) is state
        assert not state.busy
