"""The module's panel on the off-screen desktop, for tests in a process of their own."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from MoBUncertaintyLib.base.geometry import Grid, whole
from MoBUncertaintyLib.model.licences import agree
from MoBUncertaintyLib.model.listing import list_models
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions
from support import MODULE_FOLDER, PHANTOM_CT, PHANTOM_MODEL
from support.caller import FAKE_WORKER
from support.fake_worker import LABEL, fake_prediction, fake_region, provenance_of
from support.late import slicer, slicer_app
from support.sessions import as_answer
from support.standalone import add_volume

SHAPE = (20, 24, 28)
MATRIX = np.diag([1.5, 1.5, 2.0, 1.0])
LIMIT = 240.0  # s, where many programs run


def open_panel():
    """The panel; its worker runs in this Python, where Slicer has PythonSlicer."""
    from slicer_host.host import open_module

    desktop = open_module("MoBUncertainty", MODULE_FOLDER)

    desktop.logic.client.close()
    desktop.logic.client = slicer_app.worker.client.WorkerClient(sys.executable, dict(os.environ))
    return desktop


def opened() -> Iterator:
    """The panel, one for all tests of a file, of a user who has agreed to the licences of the models that ship."""
    with TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        shipped = list_models()
        agree([model.path for model in shipped], lambda _terms: None)
        desktop = open_panel()
        # The cards of the models that ship are read once, not for each scene.
        slicer_app.models.list_models = lambda *folders: list_models(*folders) if folders else shipped
        # What is quick on so small a CT is done at once, however busy the machine.
        slicer_app.widgets.section.AT_ONCE_S = 60.0
        yield desktop
        desktop.close()
    assert "torch" not in sys.modules  # it belongs into the worker's process


def emptied(desktop) -> Iterator:
    """The panel with the fake worker, in an empty scene; whatever a slot raises is a failure."""
    desktop.scene.Clear(0)
    desktop.ui.modelSelector.currentText = PHANTOM_MODEL.name  # that of the last scene stays chosen
    desktop.errors.clear()
    desktop.dialogs.clear()
    desktop.widget.panel.ensureReady = lambda *_formats: None
    use_worker(desktop, "normal")
    desktop.process()
    yield desktop
    assert not desktop.errors


def use_worker(desktop, mode: str) -> None:
    """Use the fake worker in one of its modes; one that has finished its work in the same mode stays."""
    arguments = (*FAKE_WORKER, mode)
    client = desktop.logic.client
    if client.busy or getattr(client, "_arguments", None) != arguments:
        client.close()
        desktop.logic.client = slicer_app.worker.client.WorkerClient(
            sys.executable, os.environ | {"PYTHONPATH": str(MODULE_FOLDER)}, arguments
        )


def worker_processes() -> list[int]:
    """The workers that this process has started (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if parent == os.getpid() and (b"MoBUncertaintyLib.worker" in command or b"fake_worker" in command):
            found.append(int(folder.name))
    return found


def load_demo(desktop):
    """Click on the link that loads the demo CT; returns it."""
    desktop.ui.sampleLabel.linkActivated.emit("demo")
    desktop.process()
    return desktop.ui.ctSelector.currentNode()


def load_phantom(desktop):
    """Load the phantom's CT and choose its model; returns the CT."""
    ct = slicer.util.loadVolume(str(PHANTOM_CT))
    desktop.ui.ctSelector.setCurrentNode(ct)
    desktop.process()
    desktop.ui.modelSelector.currentText = PHANTOM_MODEL.name
    return ct


def add_ct(desktop, name: str = "CT"):
    """A small CT, selected."""
    ct = add_volume(desktop.scene, np.zeros(SHAPE, np.int16), MATRIX, name)
    desktop.ui.ctSelector.setCurrentNode(ct)
    desktop.process()
    return ct


def apply(desktop) -> None:
    """Press Apply and wait for the result."""
    desktop.ui.applyButton.click()
    finish(desktop)


def export(desktop, folder: Path) -> None:
    """Press Export and wait for the files."""
    desktop.ui.exportDirectoryEdit.currentPath = str(folder)
    desktop.ui.exportButton.click()
    finish(desktop)


def running(desktop) -> bool:
    """Whether the worker segments, measures or exports."""
    ui = desktop.ui
    return "Cancel" in (ui.applyButton.text, ui.measureButton.text, ui.exportButton.text)


def finish(desktop) -> None:
    """Wait until Apply, Measure and Export can be pressed again."""
    desktop.process(until=lambda: not running(desktop), seconds=LIMIT)


def decide(button) -> None:
    """Press the button of a verdict, and once more: the first press shows what it would change."""
    button.click()
    button.click()


def accept_all(desktop) -> None:
    """Accept each region that is still to be reviewed."""
    for row, status in enumerate(statuses(desktop)):
        if status == "To review":
            desktop.ui.regionsTable.selectRow(row)
            desktop.ui.acceptButton.click()


def reopen(desktop, folder: Path) -> None:
    """Save the scene, close it, and open it again."""
    assert slicer.util.saveScene(str(folder / "scene.mrb"))
    desktop.scene.Clear(0)
    desktop.process()
    assert desktop.ui.regionsTable.rowCount == desktop.ui.clicksTable.rowCount == 0
    slicer.util.loadScene(folder / "scene.mrb")
    desktop.process()


def with_regions(desktop, count: int):
    """The session of a result with that many doubtful regions, of 8 voxels each."""
    p, region_map, grid = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint16), Grid.from_matrix(MATRIX)
    corners = [(z, y, x) for z in range(0, 18, 3) for y in range(0, 22, 3) for x in range(0, 26, 3)]
    for number, (z, y, x) in enumerate(corners[:count], start=1):
        box = np.s_[z : z + 2, y : y + 2, x : x + 2]
        p[box], region_map[box] = 0.6 - 0.0005 * number, number  # in the order of their expected errors
    prediction = Prediction((p > 0.5).astype(np.uint8), p[None], p[None] / 10, grid, (LABEL,))
    found = [fake_region(number, "left", region_map, p, p / 10, grid) for number in range(1, count + 1)]
    found.sort(key=lambda each: -each.expected_error_mm3)
    ranked = tuple(replace(each, rank=rank) for rank, each in enumerate(found, start=1))
    return show_result(desktop, prediction, Regions(ranked, region_map, whole(SHAPE), SHAPE, RegionSettings()))


def two_labels() -> tuple:
    """The prediction of two labels, one above the other, and its regions."""
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


def show_result(desktop, prediction, regions, name: str = "CT"):
    """Show a prediction of a new CT as if a worker had sent it; returns the session of its review."""
    ct, answer = add_ct(desktop, name), as_answer(prediction, regions)
    deque(desktop.logic.sessions.begin(ct, {"ct": {"ijk_to_ras": MATRIX}}, answer), maxlen=0)
    desktop.widget.panel.refresh()
    desktop.process()
    return desktop.logic.sessions.get(ct)


def show_fake(desktop):
    """Show what the fake worker predicts of a small CT, without waiting for it; returns the session of its review."""
    prediction, regions = fake_prediction(SHAPE, MATRIX, provenance_of([str(PHANTOM_MODEL)], SHAPE, "CT"))
    prediction.warnings.append("This result is fake.")
    return show_result(desktop, prediction.annotated(timings={"model": 0.1, "network": 2.5}), regions)


def column(desktop, number: int) -> list[str]:
    """The texts in a column of the table of regions."""
    table = desktop.ui.regionsTable
    return [table.item(row, number).text() for row in range(table.rowCount)]


def statuses(desktop) -> list[str]:
    """What the table says of each region, after the sign for decided or not."""
    return [text[2:] for text in column(desktop, 1)]


def selected(desktop) -> int:
    """The row of the table of regions that is selected."""
    (index,) = desktop.ui.regionsTable.selectionModel().selectedRows()
    return index.row()


def composites(desktop) -> list:
    """What the slice views show."""
    return slicer_app.scene.nodes.nodesByClass(desktop.scene, "vtkMRMLSliceCompositeNode")


def foregrounds(desktop) -> set:
    """The maps that the slice views show."""
    return {view.GetForegroundVolumeID() for view in composites(desktop)}


def shown(desktop) -> list:
    """The CTs whose results the views show; all views show the same CT."""
    found = []
    for ct in slicer_app.scene.results.findResults(desktop.scene):
        results = slicer_app.scene.results.ResultScene(ct)
        roles = ("segmentation", "regions", "surface")
        (visible,) = {results.node(role).GetDisplayNode().GetVisibility() for role in roles}
        found += [ct] * visible
    assert {view.GetBackgroundVolumeID() for view in composites(desktop)} == {ct.GetID() for ct in found}
    assert foregrounds(desktop) == {slicer_app.scene.results.ResultScene(found[0]).node("shown").GetID()}
    return found
