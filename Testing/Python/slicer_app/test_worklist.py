"""The worklist by clicks: four cases, one broken, a crash in the middle, resumed; two readers; the DICOM database."""

import csv
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from slicer_host.dicom_database import Database
from support.dicom_files import hounsfield, write_slices
from support.late import qt, slicer, slicer_app
from support.small_panel import LIMIT, SHAPE, accept_all, decide
from support.worklists import close_worklist, idle, make_scans, open_worklist, rows, states

pytestmark = pytest.mark.own_process

NAMES = ["a.nii.gz", "b.nii.gz", "c.nii.gz", "broken.nii.gz"]
ROLES = ["segmentation", "regions", "probability"]


@pytest.fixture
def scans(tmp_path) -> Path:
    """Four cases; the last is truncated."""
    folder = make_scans(tmp_path / "scans", *NAMES)
    broken = folder / "broken.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-2000])
    return folder


@pytest.fixture
def dock(desktop):
    """The worklist, opened anew."""
    yield open_worklist(desktop)
    close_worklist(desktop)


def kill_worker_in(name: str, dock) -> None:
    """End the predicting worker as a crash does, once it computes a case."""

    def watch(_step) -> None:
        if f", {name}. Predicting tiles" in dock.run._text and dock.run.client._process:
            with suppress(ProcessLookupError):
                os.kill(dock.run.client._process._pid, 9)

    dock.run.job.progress.connect(watch)


def restart(desktop, scans: Path):
    """Begin anew, as after a crash of the application: nothing is known but what is on disk."""
    worklist = desktop.widget.panel.worklist
    worklist.run.client.close()
    worklist.client.close()
    worklist.opened.kept.isNew = False  # nothing more is kept
    close_worklist(desktop)
    desktop.scene.Clear(0)
    desktop.process()
    return open_worklist(desktop, scans)


def session(desktop):
    return desktop.widget.panel.review.session


def decide_all(desktop, button: str) -> None:
    """Decide all regions: the first in a way of its own."""
    desktop.ui.regionsTable.selectRow(0)
    decide(getattr(desktop.ui, button))
    accept_all(desktop)


def sign(desktop) -> None:
    desktop.ui.signOffButton.click()
    idle(desktop)


def open_case(desktop, dock, name: str) -> None:
    dock.ui.caseTable.selectRow(list(states(dock)).index(name))
    dock.ui.openButton.click()
    idle(desktop)


def test_a_run_and_a_calibration_need_the_agreement_to_the_licence(desktop, dock, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    open_worklist(desktop, make_scans(tmp_path / "scans", "a.nii.gz"))
    desktop.ui.modelSelector.currentText = "HippocampusAnterior"
    desktop.ui.recalibrateButton.click()
    recalibrate = desktop.widget.panel.inputs.recalibrate
    recalibrate.add(tmp_path)
    for work, button in ((dock.run.work, dock.ui.runButton), (recalibrate.work, recalibrate.ui.startButton)):
        desktop.answer("Cancel")
        button.click()
        assert "CC-BY-SA 4.0" in desktop.dialogs[-1].text
        assert not work.running and work._said.startswith("Nothing was computed")
    desktop.widget.panel.inputs.close()


def test_four_cases_one_broken_with_a_crash_in_the_middle(desktop, dock, scans, tmp_path):
    assert not dock.ui.runButton.enabled and not dock.ui.nextButton.enabled
    dock = open_worklist(desktop, scans)
    cohort = tmp_path / "scans results"
    assert states(dock) == dict.fromkeys(NAMES, "Not run") and not cohort.exists()

    dock.ui.runButton.click()
    kill_worker_in("b.nii.gz", dock)
    texts = []
    widgets = (dock.ui.statusLabel, dock.ui.runButton, desktop.ui.applyButton)
    dock.run.job.progress.connect(
        lambda _step: texts.append((dock.ui.progressBar.format, *(each.text for each in widgets)))
    )
    idle(desktop)
    assert desktop.dialogs == []
    assert {tuple(buttons) for _, _, *buttons in texts} == {("Cancel", "Apply")}  # the panel is free meanwhile
    assert any(text.startswith("Case 1 of 4, a.nii.gz. Predicting tiles: ") for _, text, *_ in texts)
    assert any("left" in bar for bar, *_ in texts)
    assert states(dock) == {"a.nii.gz": "Ready", "b.nii.gz": "Failed", "c.nii.gz": "Ready", "broken.nii.gz": "Failed"}
    assert rows(dock)["b.nii.gz"][1].startswith("The computing process ended unexpectedly (signal 9)")
    assert "truncated" in rows(dock)["broken.nii.gz"][1]
    assert dock.ui.statusLabel.text == "4 cases; 2 of them without results."

    # One key leads through the cases; what is decided is on disk at once.
    assert not dock.ui.nextButton.enabled  # without a reader
    dock.ui.readerEdit.text = "A. Reader"
    assert dock._keys.made[0].key.toString() == slicer_app.worklist.dock.NEXT_KEY
    dock._keys.made[0].activated.emit()
    idle(desktop)
    first, ct = dock.opened.name, dock.opened.ctNode
    assert desktop.ui.ctSelector.currentNode() is ct and desktop.ui.readerEdit.text == "A. Reader"
    decide(desktop.ui.includeButton)
    corrected = session(desktop).review.corrected()
    desktop.process(until=lambda: states(dock)[first] == "In review", seconds=LIMIT)
    assert rows(dock)[first][3] == "2"
    # again: nodes have the same names, although those from before are still there meanwhile
    open_case(desktop, dock, first)
    assert dock.opened.ctNode is not ct and session(desktop).review.reviewed == (1, 3)
    names = [node.GetName() for node in (dock.opened.ctNode, *map(session(desktop).results.node, ROLES))]
    assert names == [first, *(f"{first} {name}" for name in ("segmentation", "doubtful regions", "probability"))]

    # The application crashes, too: the same folder again is all it takes to go on, with the run and with the review.
    before = (cohort / "a" / "prediction.json").stat().st_mtime_ns
    dock = restart(desktop, scans)
    dock.ui.readerEdit.text = "A. Reader"
    assert list(states(dock).values())[:2] == ["Failed", "Failed"]  # the worst first, as in the cohort's table
    assert states(dock)[first] == "In review"
    dock.ui.runButton.click()
    idle(desktop)
    assert states(dock)["b.nii.gz"] == "Ready" and states(dock)["broken.nii.gz"] == "Failed"
    assert (cohort / "a" / "prediction.json").stat().st_mtime_ns == before  # it was not computed again
    open_case(desktop, dock, first)
    assert np.array_equal(session(desktop).review.corrected(), corrected)
    assert np.array_equal(session(desktop).results.organs.array(), corrected)
    assert session(desktop).review.reviewed == (1, 3)
    decide_all(desktop, "includeButton")
    sign(desktop)
    assert states(dock)[first] == "Signed"
    assert (cohort / first[0] / "review-A. Reader" / "report.html").is_file()
    ct, selected = dock.opened.ctNode, []
    desktop.ui.ctSelector.currentNodeChanged.connect(selected.append)
    dock.ui.nextButton.click()
    idle(desktop)
    assert set(selected) == {dock.opened.ctNode}  # no third CT, and never none, comes between
    assert dock.opened.name != first and ct.GetScene() is None  # one case at a time lies in memory
    assert not session(desktop).review.reviewed[0]

    # Another reader of the first case: no word of the first one's decisions.
    dock.ui.readerEdit.text = "B. Reader"
    assert states(dock)[first] == "Ready"
    open_case(desktop, dock, first)
    assert session(desktop).review.reviewed == (0, 3)
    decide_all(desktop, "excludeButton")
    sign(desktop)
    assert desktop.dialogs == []

    # With the scene the open case goes: the window does not say that it is open, and keeps nothing of it in memory.
    desktop.scene.Clear(0)
    desktop.process()
    assert dock.opened.name is None and dock.opened.ctNode is None and dock.ui.statusLabel.text == ""

    with (cohort / "cohort.csv").open(encoding="utf-8-sig", newline="") as file:
        written = {row["case"]: row for row in csv.DictReader(file)}
    assert written[first]["state"] == "signed" and written[first]["regions_decided_differently"] == "1"
    assert written[first]["readers"] == "A. Reader: signed; B. Reader: signed"
    assert "truncated" in written["broken.nii.gz"]["reason"]


def test_a_run_is_cancelled_and_a_model_that_cannot_be_used_ends_it(desktop, dock, scans, tmp_path):
    dock = open_worklist(desktop, scans)
    dock.ui.runButton.click()
    desktop.process(until=lambda: "Case 1 of 4" in dock.ui.statusLabel.text, seconds=LIMIT)
    dock.ui.runButton.click()
    idle(desktop)
    assert dock.ui.statusLabel.text.startswith("Cancelled;") and dock.ui.runButton.text == "Run all"
    desktop.process(until=lambda: not any((tmp_path / "scans results").glob(".*")))  # nothing half written
    assert set(states(dock).values()) == {"Not run"}
    dock.run._end("The model is damaged.", "its traceback")
    assert desktop.dialogs[-1].text == "The model is damaged." and dock.ui.statusLabel.text == "The model is damaged."


def test_the_patients_of_the_dicom_database(desktop, dock, tmp_path, monkeypatch):
    monkeypatch.setattr(
        qt.QStandardPaths, "writableLocation", lambda _place: str(tmp_path / "Documents"), raising=False
    )
    dock.ui.patientsButton.click()
    assert "holds no CT or MR series" in desktop.dialogs[-1].text

    def named(uid: str, **values):
        def change(dataset) -> None:
            dataset.PatientID, dataset.SeriesInstanceUID = "id-7", uid
            for name, value in values.items():
                setattr(dataset, name, value)

        return {-1: change}

    def series(uid: str, folder: str = "dicom", **values) -> list[Path]:
        here = tmp_path / folder / uid
        return write_slices(here, hounsfield(SHAPE), named(uid, **values))

    apart = series("1.9.4", folder="one", SeriesNumber=4) + series("1.9.4", folder="two", SeriesNumber=4)
    monkeypatch.setattr(
        slicer,
        "dicomDatabase",
        Database(
            {
                "1.9.1": series("1.9.1", SeriesNumber=1),
                "1.9.2": series("1.9.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
                "1.9.3": series("1.9.3", Modality="SR"),
                "1.9.4": apart,
            }
        ),
        raising=False,
    )
    dock.ui.patientsButton.click()
    idle(desktop)
    assert states(dock) == {"id-7 4 portal venous": "Failed", "id-7 1 portal venous": "Not run"}
    assert "several folders" in rows(dock)["id-7 4 portal venous"][1]
    dock.ui.runButton.click()
    idle(desktop)
    name = "id-7 1 portal venous"
    assert states(dock)[name] == "Ready"
    dock.ui.readerEdit.text = "A. Reader"
    dock.ui.nextButton.click()
    idle(desktop)
    assert dock.opened.ctNode.GetName() == name
    assert dock.opened.ctNode.GetAttribute("DICOM.instanceUIDs").split()[0] == "1.2.3.4.1"
    assert desktop.ui.dicomSegCheckBox.enabled  # of a CT from the database
