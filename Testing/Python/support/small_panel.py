"""The module's panel with the fake worker and a small CT, for tests in a process of their own."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from support import MODULE_FOLDER
from support.caller import FAKE_WORKER
from support.sessions import as_answer

SHAPE = (20, 24, 28)
MATRIX = np.diag([1.5, 1.5, 2.0, 1.0])


def opened() -> Iterator:
    """The panel, one for all tests of a file."""
    from slicer_host.panel import open_panel

    desktop = open_panel()
    from MoBUncertaintyLib.slicer_app.widgets import section

    section.AT_ONCE_S = 60.0  # what is quick on so small a CT is done at once, however busy the machine
    yield desktop
    desktop.close()
    assert "torch" not in sys.modules


def emptied(desktop) -> Iterator:
    """The panel in an empty scene; whatever a slot raises is a failure."""
    desktop.scene.Clear(0)
    desktop.ui.modelSelector.currentIndex = 0  # that of the last scene stays chosen
    desktop.errors.clear()
    desktop.dialogs.clear()
    desktop.widget.panel.ensureReady = lambda *_formats: None
    use_worker(desktop, "normal")
    desktop.process()
    yield desktop
    assert not desktop.errors


def use_worker(desktop, mode: str) -> None:
    """Use the fake worker in one of its modes; one that has finished its work in the same mode stays."""
    from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

    arguments = (*FAKE_WORKER, mode)
    client = desktop.logic.client
    if client.busy or getattr(client, "_arguments", None) != arguments:
        client.close()
        desktop.logic.client = WorkerClient(sys.executable, os.environ | {"PYTHONPATH": str(MODULE_FOLDER)}, arguments)


def add_ct(desktop, name: str = "CT"):
    """A small CT, selected."""
    from support.standalone import add_volume

    ct = add_volume(desktop.scene, np.zeros(SHAPE, np.int16), MATRIX, name)
    desktop.ui.ctSelector.setCurrentNode(ct)
    desktop.process()
    return ct


def apply(desktop) -> None:
    """Press Apply and wait for the result."""
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")


def decide(button) -> None:
    """Press the button of a verdict, and once more: the first press shows what it would change."""
    button.click()
    button.click()


def segmented(desktop) -> tuple:
    """The panel with a result, and the session of its review."""
    ct = add_ct(desktop)
    apply(desktop)
    return desktop, desktop.logic.sessions.get(ct)


def with_regions(desktop, count: int):
    """The session of a result with that many doubtful regions, of 8 voxels each."""
    from MoBUncertaintyLib.base.geometry import Grid, whole
    from MoBUncertaintyLib.model.region_settings import RegionSettings
    from MoBUncertaintyLib.regions.prediction import Prediction
    from MoBUncertaintyLib.regions.region import Regions
    from support.fake_worker import LABEL, fake_region

    ct = add_ct(desktop)
    p, region_map, grid = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint16), Grid.from_matrix(MATRIX)
    corners = [(z, y, x) for z in range(0, 18, 3) for y in range(0, 22, 3) for x in range(0, 26, 3)]
    for number, (z, y, x) in enumerate(corners[:count], start=1):
        box = np.s_[z : z + 2, y : y + 2, x : x + 2]
        p[box], region_map[box] = 0.6 - 0.0005 * number, number  # in the order of their expected errors
    prediction = Prediction((p > 0.5).astype(np.uint8), p[None], p[None] / 10, grid, (LABEL,))
    found = [fake_region(number, "left", region_map, p, p / 10, grid) for number in range(1, count + 1)]
    found.sort(key=lambda each: -each.expected_error_mm3)
    ranked = tuple(replace(each, rank=rank) for rank, each in enumerate(found, start=1))
    regions = Regions(ranked, region_map, whole(SHAPE), SHAPE, RegionSettings())
    return show_result(desktop, ct, as_answer(prediction, regions))


def two_labels() -> tuple:
    """The prediction of two labels, one above the other, and its regions."""
    from support.fake_worker import LABEL, fake_prediction

    prediction, regions = fake_prediction(SHAPE, MATRIX)
    (p,), (v,) = prediction.probability, prediction.variance
    below, above = p.copy(), p.copy()
    below[SHAPE[0] // 2 :], above[: SHAPE[0] // 2] = 0, 0
    two = replace(
        prediction,
        segmentation=np.where(above > 0.5, 2, below > 0.5).astype(np.uint8),
        probability=np.stack([below, above]),
        variance=np.stack([v * (below > 0), v * (above > 0)]),
        labels=(LABEL, replace(LABEL, value=2, name="adrenal_gland_left")),
    )
    return two, regions


def show_result(desktop, ct, result: dict):
    """Show what a worker might have sent; returns the session of its review."""
    deque(desktop.logic.sessions.begin(ct, {"ct": {"ijk_to_ras": MATRIX}}, result), maxlen=0)
    desktop.widget.panel.refresh()
    desktop.process()
    return desktop.logic.sessions.get(ct)


def statuses(desktop) -> list[str]:
    """What the table says of each region, after the sign for decided or not."""
    table = desktop.ui.regionsTable
    return [table.item(row, 1).text()[2:] for row in range(table.rowCount)]


def shown(desktop) -> list:
    """The CTs whose results the views show; all views show the same CT."""
    from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass
    from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults

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
