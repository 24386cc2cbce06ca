"""Measurements through their widgets, by the real worker: numbers, doses, what a review makes of them, exports."""

import csv
from pathlib import Path

import numpy as np
import pytest

from support.late import slicer_app
from support.small_panel import MATRIX, SHAPE, accept_all, composites, decide, export, finish
from support.standalone import add_volume, shift, transform

pytestmark = pytest.mark.own_process

COARSE = np.diag([3.0, 3.0, 4.0, 1.0])


@pytest.fixture
def dose(desktop, session):
    """A dose of 20 Gy on a grid of its own, which is not the image that is shown."""
    node = add_volume(desktop.scene, np.full(np.array(SHAPE) // 2 + 1, 20, np.float32), COARSE, "dose")
    desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
    desktop.process()
    yield node
    desktop.ui.measuresEdit.text = ""


def measure(desktop) -> dict[str, list[str]]:
    """Press Measure, and read the table."""
    desktop.ui.measureButton.click()
    finish(desktop)
    table = desktop.ui.measurementsTable
    rows = [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]
    return {name: cells for name, *cells in rows}


def exported(desktop, folder: Path) -> dict[str, dict[str, str]]:
    folder.mkdir()
    export(desktop, folder)
    files = list(folder.glob("*/measurements.csv"))
    if not files:
        return {}
    with files[0].open(encoding="utf-8-sig") as file:
        return {row["measurement"]: row for row in csv.DictReader(file)}


def test_an_organ_and_its_dose_are_measured_again_after_a_verdict_and_exported(desktop, ui, session, dose, tmp_path):
    ui.doseSelector.setCurrentNode(dose)
    first = measure(desktop)
    assert list(first) == [f"{kind}:pancreas" for kind in ("volume", "mean_dose", "D2%", "V30Gy")]
    ml = np.count_nonzero(session.review.corrected()) * abs(np.linalg.det(MATRIX)) / 1000
    assert float(first["volume:pancreas"][0].removesuffix(" ml")) == pytest.approx(ml, abs=0.05)
    assert first["mean_dose:pancreas"][0] == "20.0 Gy" and first["V30Gy:pancreas"][0] == "0.00 %"
    assert all(interval == "not calibrated" for _, interval, _ in first.values())
    bars = first["volume:pancreas"][2]
    assert set(bars) <= set(slicer_app.sections.measurements.HEIGHTS) and "█" in bars and len(set(bars)) > 2
    rows = exported(desktop, tmp_path / "first")
    assert list(rows) == list(first) and float(rows["volume:pancreas"]["value"]) == pytest.approx(ml, rel=1e-3)
    ui.regionsTable.selectRow(0)
    decide(ui.excludeButton)
    assert "measure again" in ui.measuredLabel.text
    assert not exported(desktop, tmp_path / "second") and "not written" in ui.exportStatusLabel.text
    ui.measuresEdit.text = "volume"
    again = measure(desktop)
    assert list(again) == ["volume:pancreas"] and again["volume:pancreas"][0] != first["volume:pancreas"][0]
    assert not ui.measuredLabel.text
    for region in session.review.regions[1:]:
        session.step(type(session.review).decide, region.region_id, "accept")
    measure(desktop)
    session.step(type(session.review).sign, "A. Reader")  # which changes no number
    assert list(exported(desktop, tmp_path / "signed")) == list(again)


def test_a_signature_leaves_what_was_measured_as_it_is(desktop, ui, session):
    measure(desktop)
    accept_all(desktop)
    measure(desktop)
    ui.readerEdit.text = "Dr. A. Reader"
    for _ in ("Sign off", "Reopen"):
        ui.signOffButton.click()
        assert session.measured and not ui.measuredLabel.text


def test_a_dose_that_was_loaded_over_the_image_gives_the_views_back(desktop, ui, session, dose):
    for composite in composites(desktop):
        composite.SetBackgroundVolumeID(dose.GetID())
    ui.doseSelector.setCurrentNode(None)
    ui.doseSelector.setCurrentNode(dose)
    image = session.results.ctNode.GetID()
    assert [composite.GetBackgroundVolumeID() for composite in composites(desktop)] == [image] * 3


def test_regions_are_ranked_by_a_measurement_until_by_expected_error_again(desktop, ui, session):
    first = [region.region_id for region in session.review.regions]
    ui.rankSelector.currentText = "volume:pancreas"
    measure(desktop)
    regions = session.review.regions
    fractions = [region.region.effect.fraction for region in regions]
    assert fractions == sorted(fractions, reverse=True) and fractions[0] > 0
    assert "volume:pancreas" in ui.reviewProgressLabel.text and session.measured
    ui.rankSelector.currentIndex = 0
    measure(desktop)
    assert [region.region_id for region in session.review.regions] == first
    assert "Ranked" not in ui.reviewProgressLabel.text
    session.step(type(session.review).undo)
    assert [region.region_id for region in session.review.regions] == [region.region_id for region in regions]


def test_what_cannot_be_measured_is_said_before(desktop, ui, dose):
    for typed in ("girth", "mean_dose", "distance", "volume:liver"):
        ui.measuresEdit.text = typed
        assert not ui.measureButton.enabled and ui.measureStatusLabel.text == ui.measureButton.toolTip, typed
    ui.measuresEdit.text = "D0.5ml"
    ui.doseSelector.setCurrentNode(dose)
    assert ui.measureButton.enabled
    transform(dose, shift(100))
    ui.measuresEdit.text = "max_dose"
    assert not ui.measureButton.enabled and "transform" in ui.measureButton.toolTip


def test_a_dose_that_is_none_is_one_sentence(desktop, ui, session):
    other = add_volume(desktop.scene, np.full(SHAPE, -20, np.float32), MATRIX, "relative dose")
    desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
    desktop.process()
    assert session.results.ctNode.GetID() in ui.doseSelector.sortFilterProxyModel().hiddenNodeIDs
    ui.doseSelector.setCurrentNode(other)
    assert not measure(desktop)
    (dialog,) = desktop.dialogs
    assert "no dose in Gy" in dialog.text and "Traceback" not in dialog.details
    desktop.dialogs.clear()


def test_measuring_can_be_cancelled(desktop, ui, session):
    ui.measureButton.click()
    assert ui.measureButton.text == "Cancel"
    assert not ui.exportButton.enabled and not ui.recalibrateButton.enabled
    ui.measureButton.click()
    assert ui.measureButton.text == "Measure" and ui.measureStatusLabel.text.startswith("Cancelled")
    assert not desktop.logic.client.busy and not ui.measurementsTable.visible and session.measured is None
