"""The module's keys are none of Slicer's own, and the buttons show them."""

import pytest

from support.slicer_keys import ALWAYS, SEGMENT_EDITOR

pytestmark = pytest.mark.own_process

UNDO = {"Ctrl+Z"}  # Slicer's own is switched off unless somebody programs with the scene's undo
WHILE_DRAWING = {"E", "I"}  # I is taken on purpose: see ReviewSection._connect
WHILE_PREVIEWING = {"Return", "Enter", "Esc"}  # only as long as there is something to decide or to leave
CLICKS = {"O": "organHereButton", "L": "notOrganHereButton", "H": "hideClicksButton"}


def keys(desktop, enabled_only: bool = True) -> set[str]:
    """The keys of all shortcuts of the window."""
    import qt

    found = desktop.window.findChildren(qt.QShortcut)
    return {each.key.toString() for each in found if each.enabled or not enabled_only}


def test_none_is_slicers(reviewed):
    desktop, _session = reviewed
    ours = keys(desktop)
    assert {"O", "L", "H", "A", "I", "X", "N", "P", "E", "Ctrl+Z", "Ctrl+Shift+Z"} == ours
    assert ours & ALWAYS == UNDO
    assert keys(desktop, enabled_only=False) - ours == WHILE_PREVIEWING


def test_while_a_region_is_drawn_those_of_the_segment_editor_are_its_own(reviewed):
    desktop, _session = reviewed
    desktop.ui.editButton.click()
    assert keys(desktop) == WHILE_DRAWING
    assert keys(desktop) & (ALWAYS | SEGMENT_EDITOR) == {"I"}
    desktop.ui.discardEditButton.click()


def test_return_and_escape_are_taken_only_while_a_verdict_is_shown(reviewed):
    desktop, _session = reviewed
    desktop.ui.includeButton.click()
    assert keys(desktop) >= WHILE_PREVIEWING
    desktop.ui.includeButton.click()
    assert not WHILE_PREVIEWING & keys(desktop)


def test_buttons_show_their_keys(reviewed):
    desktop, _session = reviewed
    for key, name in CLICKS.items():
        assert getattr(desktop.ui, name).text.endswith(f"({key})")


def test_none_acts_while_another_module_is_shown(reviewed):
    desktop, _session = reviewed
    desktop.widget.exit()
    assert keys(desktop) == set()
    desktop.widget.enter()
