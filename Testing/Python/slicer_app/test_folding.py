"""What comes next is unfolded, and what cannot be used is not shown: in each state, whatever the reader has folded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.slicer_app.panel.state import SECTIONS, Folding, State, usable


class Part(SimpleNamespace):
    """A section's button."""

    collapsed = False
    visible = True


@pytest.fixture
def ui() -> SimpleNamespace:
    return SimpleNamespace(**{f"{name}CollapsibleButton": Part() for name in SECTIONS})


def unfolded(ui: SimpleNamespace) -> list[str]:
    parts = {name: getattr(ui, f"{name}CollapsibleButton") for name in SECTIONS}
    return [name for name, part in parts.items() if part.visible and not part.collapsed]


def test_apply_is_to_be_seen_before_the_first_case_and_after_the_last(ui: SimpleNamespace) -> None:
    revealed: list[Part] = []
    folding, session = Folding(ui, revealed.append), object()
    folding.update(State.READY, None)
    assert unfolded(ui) == ["inputs", "run"]
    folding.update(State.RUNNING, None)
    assert unfolded(ui) == ["inputs", "run"]
    folding.update(State.REVIEWING, session)
    assert unfolded(ui) == ["review"]
    folding.update(State.SIGNED, session)
    assert unfolded(ui) == ["review", "export"]
    assert revealed == [ui.exportCollapsibleButton]  # which may lie below the window
    folding.update(State.READY, None)  # the scene is closed, or another image is selected
    assert unfolded(ui) == ["inputs", "run"]


def test_what_the_reader_has_folded_stays_so_between_the_moments(ui: SimpleNamespace) -> None:
    folding, session = Folding(ui, lambda _part: None), object()
    folding.update(State.REVIEWING, session)
    ui.overlayCollapsibleButton.collapsed = ui.runCollapsibleButton.collapsed = False
    ui.reviewCollapsibleButton.collapsed = True
    folding.update(State.REVIEWING, session)
    folding.update(State.NEEDS_PACKAGES, session)
    folding.update(State.REVIEWING, session)  # declined: what is said about it stands in Run
    assert unfolded(ui) == ["run", "overlay"]
    folding.update(State.REVIEWING, object())
    assert unfolded(ui) == ["review"]


def test_only_what_can_be_used_is_shown() -> None:
    session = object()
    assert {state: usable(state, None) for state in State} == {state: {"inputs", "run"} for state in State}
    assert usable(State.RUNNING, session) == {"inputs", "run", "overlay"}
    for state in set(State) - {State.RUNNING}:
        assert usable(state, session) == set(SECTIONS)
