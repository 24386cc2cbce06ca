"""The whole story through the panel's widgets, with the real worker: from the demo CT to a signed-off export.

All tests share one application and its warm worker, as a user's day does; each begins with an empty scene.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support import TESTS
from support.small_panel import decide

pytestmark = pytest.mark.own_process

LONGEST_TURN = 0.05  # s, but for the few steps that put the results into the scene
RESULT_STEPS, LONGEST_OF_RESULTS = 8, 0.5
CANCEL_LIMIT = 2.0  # s


@pytest.fixture(scope="module")
def panel():
    from slicer_host.panel import open_panel

    panel = open_panel()
    yield panel
    panel.close()
    assert "torch" not in sys.modules  # it belongs into the worker's process


@pytest.fixture
def desktop(panel):
    """The panel in an empty scene; whatever a slot raises is a failure."""
    panel.scene.Clear(0)
    panel.ui.overlapSlider.value = 0.0  # fewer tiles
    panel.errors.clear()
    panel.dialogs.clear()
    panel.turns.clear()
    panel.process()
    yield panel
    assert not panel.errors


def session(desktop):
    return desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())


def nodes(scene) -> list[str]:
    return sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))


def column(table, title: str) -> list[str]:
    """The texts of a column, without the sign before a region's state."""
    titles = [table.horizontalHeaderItem(index).text() for index in range(table.columnCount)]
    texts = (table.item(row, titles.index(title)).text() for row in range(table.rowCount))
    return [text.lstrip("✓⚑ ") for text in texts]


def slice_centres(desktop) -> np.ndarray:
    """Where the three slice views look, RAS mm."""
    manager = desktop.app.layoutManager()
    matrices = [manager.sliceWidget(name).mrmlSliceNode().GetSliceToRAS() for name in manager.sliceViewNames()]
    return np.array([[matrix.GetElement(row, 3) for row in range(3)] for matrix in matrices])


def apply_without_holding_the_main_thread(desktop) -> None:
    from slicer_host.panel import apply

    desktop.process()
    desktop.turns.clear()
    apply(desktop)
    *_others, longest = ordered = sorted(desktop.turns)
    assert longest < LONGEST_OF_RESULTS
    assert ordered[-RESULT_STEPS - 1] < LONGEST_TURN


def start_computing(desktop) -> None:
    """Press Apply and wait until the network computes."""
    from slicer_host.panel import load_demo

    load_demo(desktop)
    desktop.ui.overlapSlider.value = 0.5  # long enough to be interrupted
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.statusLabel.text.startswith("Predicting tiles: 2"))


def test_from_the_demo_ct_to_a_signed_export(desktop, tmp_path):
    from slicer_host import panel

    ui = desktop.ui
    assert not ui.applyButton.enabled
    ct = panel.load_demo(desktop)
    assert ct.GetName() == "PhantomCT"
    assert "pancreas" in ui.modelInfoLabel.text

    shown = []
    ui.progressBar.valueChanged.connect(lambda value: shown.append((value, ui.progressBar.format)))
    panel.apply(desktop)
    assert desktop.dialogs == []
    values = [value for value, _ in shown]
    assert values == sorted(values)
    assert len(set(values)) >= 4
    assert any("left" in text for _, text in shown)

    results = session(desktop).results
    composites = [desktop.scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}") for name in ("Red", "Green", "Yellow")]
    variance = results.node("variance")
    assert {node.GetForegroundVolumeID() for node in composites} == {variance.GetID()}
    ui.opacitySlider.value = 0.5
    assert {node.GetForegroundOpacity() for node in composites} == {0.5}
    ui.mapSelector.currentText = "Probability"  # not derived: at once
    assert {node.GetForegroundVolumeID() for node in composites} == {results.node("probability").GetID()}
    ui.mapSelector.currentText = "Variance"
    assert {node.GetForegroundVolumeID() for node in composites} == {variance.GetID()}

    review = session(desktop).review
    predicted, regions = review.prediction.segmentation.copy(), review.regions
    assert predicted.any()
    assert len(regions) == ui.regionsTable.rowCount >= 4
    walk_three_regions(desktop, regions)
    labels = review.listed().whole_map()
    included, excluded, undone = (labels == region.number for region in regions[:3])
    expected = results.organs.array()
    assert np.array_equal(expected, review.corrected())
    assert {*predicted[included & (expected != predicted)]} == {0}  # what was doubtful in it is organ now
    assert {*predicted[excluded & (expected != predicted)]} == {1}
    assert undone.any()
    assert np.array_equal(expected[~included & ~excluded], predicted[~included & ~excluded])

    sign_off(desktop)
    assert np.array_equal(results.organs.array(), expected)
    export_and_compare(desktop, tmp_path, expected)


def walk_three_regions(desktop, regions) -> None:
    """One is included, one excluded, one included and taken back."""
    ui = desktop.ui
    assert ui.reviewProgressLabel.text.startswith(f"0 of {len(regions)} reviewed")
    for row, buttons in enumerate(
        (
            (ui.includeButton,) * 2,  # the first press shows what would change
            (ui.excludeButton,) * 2,
            (ui.includeButton, ui.includeButton, ui.undoButton),
        )
    ):
        assert ui.regionsTable.selectionModel().selectedRows()[0].row() == row
        centroid = np.array(regions[row].region.centroid_ras)
        assert np.abs(slice_centres(desktop) - centroid).max() < 1.0
        for button in buttons:
            button.click()
        ui.regionsTable.selectRow(row + 1)
    assert column(ui.regionsTable, "Status")[:4] == ["Included", "Excluded", "To review", "To review"]
    assert ui.reviewProgressLabel.text.startswith(f"2 of {len(regions)} reviewed")


def sign_off(desktop) -> None:
    """Accept what is left, then sign."""
    ui = desktop.ui
    ui.readerEdit.text = "Dr. Åse Müller"
    for row, status in enumerate(column(ui.regionsTable, "Status")):
        if status == "To review":
            assert not ui.signOffButton.enabled
            ui.regionsTable.selectRow(row)
            ui.acceptButton.click()
    ui.signOffButton.click()
    assert "Dr. Åse Müller" in ui.reviewProgressLabel.text
    assert not ui.includeButton.enabled


def export_and_compare(desktop, folder: Path, expected: np.ndarray) -> None:
    """The files hold what was decided."""
    import SimpleITK as sitk

    from slicer_host.panel import running

    ui = desktop.ui
    ui.exportDirectoryEdit.currentPath = str(folder)
    ui.exportButton.click()
    desktop.process(until=lambda: not running(desktop))
    assert desktop.dialogs == []
    (made,) = folder.iterdir()
    report = (made / "report.html").read_text(encoding="utf-8")
    assert "Dr. Åse Müller" in report
    told = json.loads((made / "report.json").read_text(encoding="utf-8"))
    verdicts = [region["verdict"] for region in told["regions"]]
    assert verdicts == ["include", "exclude"] + ["accept"] * (ui.regionsTable.rowCount - 2)
    written = sitk.GetArrayFromImage(sitk.ReadImage(made / "segmentation.seg.nrrd"))
    assert np.array_equal(written, expected)


def test_saved_scene_brings_back_overlay_and_verdicts(desktop, tmp_path):
    import slicer

    from slicer_host.panel import load_demo

    ui = desktop.ui
    load_demo(desktop)
    apply_without_holding_the_main_thread(desktop)
    ui.mapSelector.currentText = "Standard deviation"
    desktop.process(until=lambda: session(desktop).results.overlay.values["kind"] == "standard deviation")
    ui.opacitySlider.value = 0.4
    ui.lowerThresholdSlider.value = 0.11
    decide(ui.includeButton)
    ui.nextButton.click()
    decide(ui.excludeButton)
    ui.commentEdit.text = "Stomach wall"
    ui.commentEdit.editingFinished.emit()
    before = session(desktop)
    corrected, statuses = before.results.organs.array(), column(ui.regionsTable, "Status")
    assert slicer.util.saveScene(str(tmp_path / "case.mrb"))

    desktop.scene.Clear(0)
    desktop.process()
    assert ui.regionsTable.rowCount == 0
    slicer.util.loadScene(tmp_path / "case.mrb")
    desktop.process()
    assert desktop.dialogs == []
    assert ui.mapSelector.currentText == "Standard deviation"
    assert ui.opacitySlider.value == pytest.approx(0.4)
    assert ui.lowerThresholdSlider.value == pytest.approx(0.11)
    composite = desktop.scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert composite.GetForegroundVolumeID() == session(desktop).results.node("map").GetID()
    assert column(ui.regionsTable, "Status") == statuses
    assert statuses[0] == "Included" and statuses.count("Excluded") == 1
    assert np.array_equal(session(desktop).results.organs.array(), corrected)
    excluded = statuses.index("Excluded")
    ui.regionsTable.selectRow(excluded)
    assert ui.commentEdit.text == "Stomach wall"
    ui.acceptButton.click()  # the review goes on
    assert column(ui.regionsTable, "Status")[excluded] == "Accepted"


def test_second_run_reuses_nodes_and_worker(desktop, table):
    from slicer_host.panel import apply, worker_processes

    choose(desktop, table["good"])
    apply(desktop)
    made, workers = nodes(desktop.scene), worker_processes()
    assert len(workers) == 1
    desktop.ui.overlapSlider.value = 0.3
    apply(desktop)
    assert nodes(desktop.scene) == made
    assert worker_processes() == workers
    assert desktop.dialogs == []


def test_killed_worker_is_one_dialog_and_the_next_run_works(desktop, table):
    from slicer_host.panel import apply, running, worker_processes

    start_computing(desktop)
    before = nodes(desktop.scene)
    (worker,) = worker_processes()
    os.kill(worker, signal.SIGKILL)
    desktop.process(until=lambda: not running(desktop))
    (dialog,) = desktop.dialogs
    assert dialog.text.startswith("The computing process ended unexpectedly")
    assert nodes(desktop.scene) == before
    choose(desktop, table["good"])
    apply(desktop)
    assert len(desktop.dialogs) == 1
    assert session(desktop) is not None


# --- bad input, as the command line's table has it -------------------------------------------------------------------

IMAGES = (
    "2D image",
    "RGB image",
    "all-constant volume",
    "no finite voxel",
    "spacing of 0.1 mm",
    "spacing of 20 mm",
)
MODELS = (
    "model without its weights",
    "model with a wrong hash",
    "model of an unknown schema",
    "checkpoint that runs code",
    "network that does not fit its plans",
)
OUTPUTS = ("output below a file", "output where nothing can be made")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, dict[str, str]]:
    """The rows on disk, made by a process that may import torch."""
    command = [sys.executable, "-m", "support.bad_inputs", str(tmp_path_factory.mktemp("bad inputs"))]
    done = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout)


def choose(desktop, row: dict[str, str]) -> None:
    """Load the row's CT and add its model."""
    import slicer

    node = slicer.util.loadVolume(row["source"])
    desktop.ui.ctSelector.setCurrentNode(node)
    if Path(row["model"]).is_dir():
        marker = next(name for name in ("model.json", "plans.json") if (Path(row["model"]) / name).exists())
        desktop.choose(Path(row["model"]) / marker)
    desktop.ui.addModelButton.click()


def one_dialog(desktop, sentence: str) -> None:
    (dialog,) = desktop.dialogs
    assert sentence in dialog.text
    assert dialog.text.endswith(".")
    assert "\n" not in dialog.text


@pytest.mark.parametrize("name", IMAGES + MODELS)
def test_bad_input_is_one_dialog_and_the_scene_keeps_its_nodes(desktop, table, name):
    from slicer_host.panel import apply

    row = table[name]
    choose(desktop, row)
    before = nodes(desktop.scene)
    if not desktop.dialogs:  # else the model was refused at once
        apply(desktop)
    one_dialog(desktop, row["sentence"])
    assert nodes(desktop.scene) == before


@pytest.mark.parametrize("name", OUTPUTS)
def test_bad_output_is_one_dialog_and_the_review_stays(desktop, table, name):
    from slicer_host.panel import apply, running

    choose(desktop, table["good"])
    apply(desktop)
    assert desktop.dialogs == []
    before = nodes(desktop.scene)
    desktop.ui.exportDirectoryEdit.currentPath = table[name]["output"]
    desktop.ui.exportButton.click()
    desktop.process(until=lambda: not running(desktop))
    one_dialog(desktop, table[name]["sentence"])
    assert nodes(desktop.scene) == before
    assert session(desktop) is not None


@pytest.mark.parametrize("name", ["NaN and infinity, MHA", "smaller than one tile"])
def test_what_can_be_worked_around_is_said_in_the_panel(desktop, table, name):
    from slicer_host.panel import apply

    row = table[name]
    choose(desktop, row)
    apply(desktop)
    assert desktop.dialogs == []
    assert row["sentence"] in desktop.ui.reviewWarningsLabel.text
    assert session(desktop) is not None


# --- last, since it ends the worker ----------------------------------------------------------------------------------


def test_cancel_leaves_the_scene_as_it_was_and_ends_the_worker(desktop):
    from slicer_host.panel import running, worker_processes

    start_computing(desktop)
    before = nodes(desktop.scene)
    assert worker_processes()
    began = time.monotonic()
    desktop.ui.applyButton.click()
    assert not running(desktop)
    desktop.process(until=lambda: not worker_processes(), seconds=CANCEL_LIMIT)
    assert time.monotonic() - began < CANCEL_LIMIT
    assert nodes(desktop.scene) == before
    assert desktop.ui.regionsTable.rowCount == 0
    assert desktop.dialogs == []
    assert "ancelled" in desktop.ui.statusLabel.text
