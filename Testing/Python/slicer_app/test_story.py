"""The whole story through the panel's widgets, with the real worker: from a CT to a signed-off export.

All tests share one application and its warm worker, as a user's day does; each begins with an empty scene.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from slicer_host.mouse import Mouse
from support import PHANTOM_PANCREAS, TESTS
from support.late import slicer
from support.small_panel import (
    accept_all,
    apply,
    composites,
    export,
    finish,
    foregrounds,
    load_phantom,
    open_panel,
    reopen,
    running,
    statuses,
    worker_processes,
)

pytestmark = pytest.mark.own_process

LONGEST_TURN = 0.05  # s, but for the few steps that put the results into the scene
RESULT_STEPS, LONGEST_OF_RESULTS = 8, 0.5
CANCEL_LIMIT = 2.0  # s
READER = "Dr. Åse Müller"


@pytest.fixture(scope="module")
def panel():
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
    panel.process()
    yield panel
    assert not panel.errors


def session(desktop):
    return desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())


def nodes(scene) -> list[str]:
    return sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))


def slice_centres(desktop) -> np.ndarray:
    """Where the three slice views look, RAS mm."""
    manager = desktop.app.layoutManager()
    matrices = [manager.sliceWidget(name).mrmlSliceNode().GetSliceToRAS() for name in manager.sliceViewNames()]
    return np.array([[matrix.GetElement(row, 3) for row in range(3)] for matrix in matrices])


def start_computing(desktop) -> None:
    """Press Apply and wait until the network computes."""
    load_phantom(desktop)
    desktop.ui.overlapSlider.value = 0.5  # long enough to be interrupted
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.statusLabel.text.startswith("Predicting tiles: 2"))


def truth():
    """Where the phantom's pancreas is, as an image."""
    return sitk.ReadImage(PHANTOM_PANCREAS)


def truth_at(place) -> int:
    """The label that the truth has at a place, RAS mm."""
    r, a, s = (float(mm) for mm in place)
    image = truth()
    return int(image[image.TransformPhysicalPointToIndex((-r, -a, s))])


def click(desktop, place) -> None:
    """Say what the truth has at a place."""
    (desktop.ui.organHereButton if truth_at(place) else desktop.ui.notOrganHereButton).click()
    Mouse("Red").click(place)
    desktop.ui.clicksOffButton.click()


def test_from_a_ct_to_a_signed_export(desktop, tmp_path):
    ui, bar = desktop.ui, []
    assert not ui.applyButton.enabled
    load_phantom(desktop)
    assert "pancreas" in ui.modelInfoLabel.text
    ui.progressBar.valueChanged.connect(lambda value: bar.append((value, ui.progressBar.format)))
    apply(desktop)
    assert desktop.dialogs == []
    values = [value for value, _ in bar]
    assert values == sorted(values) and len(set(values)) >= 4
    assert any("left" in text for _, text in bar)
    found, expected = session(desktop).results.organs.array(), sitk.GetArrayFromImage(truth())
    assert 2 * (found & expected).sum() > 0.8 * (found.sum() + expected.sum())
    look_at_the_maps(desktop)
    click_until_a_region_is_resolved(desktop)
    decide_the_rest(desktop)
    ui.readerEdit.text = READER
    ui.signOffButton.click()
    assert READER in ui.reviewProgressLabel.text and not ui.includeButton.enabled
    export_and_compare(desktop, tmp_path / "exports")
    save_and_go_on(desktop, tmp_path)


def look_at_the_maps(desktop) -> None:
    """Each map is in all slice views, as opaque as the slider says; the last one is seen on."""
    ui, results = desktop.ui, session(desktop).results
    for title in ("Variance", "Probability", "Standard deviation"):
        ui.mapSelector.currentText = title
        desktop.process(until=lambda title=title: results.overlay.values["kind"] == title.lower())
        assert foregrounds(desktop) == {results.node("map").GetID()}
    ui.opacitySlider.value, ui.lowerThresholdSlider.value = 0.5, 0.11
    assert {view.GetForegroundOpacity() for view in composites(desktop)} == {0.5}


def click_until_a_region_is_resolved(desktop) -> None:
    """Three clicks where Next leads to, the third taken back, then more in the first one's region."""
    ui, review = desktop.ui, session(desktop).review
    error = review.expected_error_mm3[1]
    assert len(review.regions) == ui.regionsTable.rowCount >= 4
    for count in (1, 2, 3):
        ui.nextButton.click()
        (cross,) = slicer.util.arrayFromMarkupsControlPoints(session(desktop).results.node("clicks.suggestion"))
        click(desktop, tuple(cross))
        assert len(review.clicks) == count
        assert ui.clickStatusLabel.text.startswith(f"{count} click")
    third = review.clicks[2]
    ui.undoButton.click()
    assert third not in review.clicks
    assert len(review.clicks) == ui.clicksTable.rowCount == 2
    first = review.clicks[0].region_id
    while not review.region(first).resolved:
        region = review.region(first)
        assert len(review.clicks) < 40
        p = review.maps_in(region.box)[0][0]
        doubt = np.where(region.mask, np.minimum(p, 1 - p), -1.0)
        index = np.array(np.unravel_index(doubt.argmax(), doubt.shape)) + [part.start for part in region.box]
        click(desktop, tuple(review.prediction.grid.to_ras(index).tolist()))
    ui.undoButton.click()
    assert "Resolved" not in statuses(desktop)
    ui.redoButton.click()
    assert statuses(desktop)[[region.region_id for region in review.regions].index(first)] == "Resolved"
    assert review.expected_error_mm3[1] < error


def decide_the_rest(desktop) -> None:
    """Include one once it is seen what that changes, exclude one, take one back, accept all that is left."""
    ui, review = desktop.ui, session(desktop).review
    included, excluded, accepted = [row for row, status in enumerate(statuses(desktop)) if status == "To review"][:3]
    ui.regionsTable.selectRow(included)
    assert np.abs(slice_centres(desktop) - review.regions[included].region.centroid_ras).max() < 1.0
    before = review.corrected()
    ui.includeButton.click()
    assert np.array_equal(review.corrected(), before)
    ui.includeButton.click()
    assert (review.corrected() > before).any() and not (review.corrected() < before).any()
    ui.commentEdit.text = "Stomach wall"
    ui.commentEdit.editingFinished.emit()
    ui.regionsTable.selectRow(excluded)
    ui.excludeButton.click()
    ui.excludeButton.click()
    ui.regionsTable.selectRow(accepted)
    ui.acceptButton.click()
    ui.undoButton.click()
    found = statuses(desktop)
    assert [found[row] for row in (included, excluded, accepted)] == ["Included", "Excluded", "To review"]
    assert not ui.signOffButton.enabled
    accept_all(desktop)


def export_and_compare(desktop, folder: Path) -> None:
    """The files hold what was decided."""
    review = session(desktop).review
    export(desktop, folder)
    assert desktop.dialogs == []
    (made,) = folder.iterdir()
    assert READER in (made / "report.html").read_text(encoding="utf-8")
    record = json.loads((made / "report.json").read_text(encoding="utf-8"))
    verdicts = ["resolved" if region.verdict == "pending" else region.verdict for region in review.regions]
    assert [region["verdict"] for region in record["regions"]] == verdicts
    assert len(record["clicks"]) == len(review.clicks)
    written = sitk.GetArrayFromImage(sitk.ReadImage(made / "segmentation.seg.nrrd"))
    assert np.array_equal(written, review.corrected())
    assert (written != review.prediction.segmentation).any()


def save_and_go_on(desktop, folder: Path) -> None:
    """Saved and opened again all is there, and a click asks before it withdraws the signature."""
    ui, before, verdicts = desktop.ui, session(desktop).review, statuses(desktop)
    corrected = before.corrected()
    reopen(desktop, folder)
    assert desktop.dialogs == []
    again = session(desktop)
    assert (again.review.clicks, again.review.signature.name) == (before.clicks, READER)
    assert statuses(desktop) == verdicts
    assert np.array_equal(again.results.organs.array(), corrected)
    assert ui.mapSelector.currentText == "Standard deviation"
    assert (ui.opacitySlider.value, ui.lowerThresholdSlider.value) == pytest.approx((0.5, 0.11))
    assert foregrounds(desktop) == {again.results.node("map").GetID()}
    ui.regionsTable.selectRow(verdicts.index("Included"))
    assert ui.commentEdit.text == "Stomach wall"
    assert ui.clicksTable.rowCount == len(before.clicks)
    marks = [again.results.node(f"clicks.{role}") for role in ("organ", "background", "conflict")]
    assert sum(node.GetNumberOfControlPoints() for node in marks if node) == len(before.clicks)
    desktop.answer("Cancel")
    click(desktop, before.clicks[0].points_ras[0])
    (dialog,) = desktop.dialogs
    assert READER in dialog.text
    assert again.review.clicks == before.clicks


def test_killed_worker_is_one_dialog_and_the_next_run_works(desktop):
    start_computing(desktop)
    before = nodes(desktop.scene)
    (worker,) = worker_processes()
    os.kill(worker, 9)
    finish(desktop)
    (dialog,) = desktop.dialogs
    assert dialog.text.startswith("The computing process ended unexpectedly")
    assert nodes(desktop.scene) == before

    # Nor does the next run hold the main thread.
    desktop.ui.overlapSlider.value = 0.0
    desktop.turns.clear()
    apply(desktop)
    assert len(desktop.dialogs) == 1
    assert session(desktop) is not None
    *_others, longest = ordered = sorted(desktop.turns)
    assert longest < LONGEST_OF_RESULTS
    assert ordered[-RESULT_STEPS - 1] < LONGEST_TURN


# --- bad input, as the command line's table has it -------------------------------------------------------------------

# One of each kind: all of them are tried at the command line.
IMAGES, MODELS = ("RGB image",), ("checkpoint that runs code",)
OUTPUTS = ("output below a file",)
MENDED = ("NaN and infinity, MHA",)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, dict[str, str]]:
    """The rows on disk, made by a process that may import torch."""
    command = [sys.executable, "-m", "support.bad_inputs", str(tmp_path_factory.mktemp("bad inputs"))]
    command += [*IMAGES, *MODELS, *OUTPUTS, *MENDED]
    done = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout)


def choose(desktop, row: dict[str, str]) -> None:
    """Load the row's CT and add its model."""
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
    row = table[name]
    choose(desktop, row)
    before = nodes(desktop.scene)
    if not desktop.dialogs:  # else the model was refused at once
        apply(desktop)
    one_dialog(desktop, row["sentence"])
    assert nodes(desktop.scene) == before


@pytest.mark.parametrize("name", OUTPUTS)
def test_bad_output_is_one_dialog_and_the_review_stays(desktop, table, name):
    choose(desktop, table["good"])
    apply(desktop)
    assert desktop.dialogs == []
    before = nodes(desktop.scene)
    export(desktop, table[name]["output"])
    one_dialog(desktop, table[name]["sentence"])
    assert nodes(desktop.scene) == before
    assert session(desktop) is not None


@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_worked_around_is_said_in_the_panel(desktop, table, name):
    row = table[name]
    choose(desktop, row)
    apply(desktop)
    assert desktop.dialogs == []
    assert row["sentence"] in desktop.ui.reviewWarningsLabel.text
    assert session(desktop) is not None


# --- last, since it ends the worker ----------------------------------------------------------------------------------


def test_cancel_leaves_the_scene_as_it_was_and_ends_the_worker(desktop):
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
