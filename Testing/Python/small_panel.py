"""The module's panel with the stand-in worker and a small CT, for tests in a process of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MODULE_FOLDER = Path(__file__).parents[2] / "MoBUncertainty"
SHAPE = (20, 24, 28)
MATRIX = np.diag([1.5, 1.5, 2.0, 1.0])


def opened() -> Iterator:
    """The panel, one for all tests of a file."""
    from desktop.panel import open_panel

    desktop = open_panel()
    yield desktop
    desktop.close()
    assert "torch" not in sys.modules


def emptied(desktop) -> Iterator:
    """The panel in an empty scene; whatever a slot raises is a failure."""
    desktop.scene.Clear(0)
    desktop.errors.clear()
    desktop.dialogs.clear()
    desktop.widget.panel.ensureReady = lambda *_formats: None
    use_worker(desktop, "normal")
    desktop.process()
    yield desktop
    assert not desktop.errors


def use_worker(desktop, mode: str) -> None:
    """The stand-in worker in a mode of its."""
    from MoBUncertaintyLib.app.client import WorkerClient

    arguments = ("-u", "-m", "MoBUncertaintyLib.stand_in_worker", mode)
    desktop.logic.client = WorkerClient(sys.executable, os.environ | {"PYTHONPATH": str(MODULE_FOLDER)}, arguments)


def add_ct(desktop, name: str = "CT"):
    """A small CT, selected."""
    from MoBUncertaintyLib.app.standalone import addCt

    ct = addCt(desktop.scene, np.zeros(SHAPE, np.int16), MATRIX, name)
    desktop.ui.ctSelector.setCurrentNode(ct)
    desktop.process()
    return ct


def apply(desktop) -> None:
    """Press Apply and wait for the result."""
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")


def segmented(desktop) -> tuple:
    """The panel with a result, and the session of its review."""
    ct = add_ct(desktop)
    apply(desktop)
    return desktop, desktop.logic.session(ct)


def statuses(desktop) -> list[str]:
    """What the table says of each region."""
    table = desktop.ui.regionsTable
    return [table.item(row, 1).text() for row in range(table.rowCount)]


def shown(desktop) -> list:
    """The CTs whose results the views show; all views show the same CT."""
    from MoBUncertaintyLib.app.nodes import nodesByClass
    from MoBUncertaintyLib.app.scene import ResultScene, findResults

    found = []
    for ct in findResults(desktop.scene):
        results = ResultScene(ct)
        visible = {results.node(role).GetDisplayNode().GetVisibility() for role in ("segmentation", "regions")}
        visible.add(results.node("surface").GetDisplayNode().GetVisibility())
        assert len(visible) == 1
        found += [ct] * visible.pop()
    for view in nodesByClass(desktop.scene, "vtkMRMLSliceCompositeNode"):
        assert [view.GetBackgroundVolumeID()] == [ct.GetID() for ct in found]
        assert view.GetForegroundVolumeID() == ResultScene(found[0]).node("shown").GetID()
    return found
