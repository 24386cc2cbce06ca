"""Reload in Slicer's developer mode, in a process of its own: all of the module's code is new afterwards."""

import sys

import pytest

from support import small_panel
from support.late import slicer
from support.small_panel import decide, statuses

pytestmark = pytest.mark.own_process


def test_reload_takes_the_code_of_every_file_anew_and_the_results_stay(desktop, session):
    decide(desktop.ui.excludeButton)
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "MoBUncertaintyLib"}
    old = desktop.widget
    old.onSceneEndImport(None, None)  # what is then put off is not for the old code
    old.onReload()
    desktop.process()
    new = slicer.modules.MoBUncertaintyWidget
    desktop.widget, desktop.ui, desktop.logic = new, new.ui, new.logic
    assert new is not old
    assert old.panel.parameters is None
    assert type(new).__module__ == "MoBUncertainty"
    for name in (
        "MoBUncertaintyLib.slicer_app.panel",
        "MoBUncertaintyLib.slicer_app.review_session",
        "MoBUncertaintyLib.base.errors",
    ):
        assert sys.modules[name] is not before[name]
    assert type(new.panel) is sys.modules["MoBUncertaintyLib.slicer_app.panel"].Panel
    again = desktop.logic.sessions.get(session.results.ctNode)
    assert type(again) is not type(session)
    assert statuses(desktop) == ["Excluded", "To review", "To review"]
    decide(desktop.ui.includeButton)
    assert statuses(desktop) == ["Excluded", "Included", "To review"]
    assert desktop.ui.ctSelector.currentNode() is session.results.ctNode
    assert all(shortcut.enabled for shortcut in new.panel.review._keys.made)
    assert desktop.dialogs == []


def test_reload_amid_a_run_ends_it(desktop):
    small_panel.use_worker(desktop, "slow")
    small_panel.add_ct(desktop)
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.statusLabel.text.startswith("Predicting"))
    logic = desktop.logic
    desktop.widget.onReload()
    assert not logic.client.busy
    desktop.widget = slicer.modules.MoBUncertaintyWidget
    desktop.ui, desktop.logic = desktop.widget.ui, desktop.widget.logic
    assert desktop.ui.applyButton.text == "Apply"
