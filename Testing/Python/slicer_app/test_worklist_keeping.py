"""That no decision of a worklist's reader is lost: two windows, a disk that takes nothing, a scene that is closed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.base.integrity import digest_of
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.images.inputs import case_folders, list_inputs
from MoBUncertaintyLib.output.cohort.readers import review_file, write_review
from MoBUncertaintyLib.output.review_files import open_case, read_decisions
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.worker.server import Report
from support.fake_worker import predict_case
from support.late import qt
from support.small_panel import LIMIT, add_ct, worker_processes
from support.worklists import close_worklist, idle, make_scans, open_worklist

pytestmark = pytest.mark.own_process

READER = "A. Reader"


@pytest.fixture
def documents(tmp_path, monkeypatch) -> Path:
    """The user's folder for documents."""
    folder = tmp_path / "Documents"
    monkeypatch.setattr(qt.QStandardPaths, "writableLocation", lambda _place: str(folder), raising=False)
    return folder


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> Path:
    """Two images in a folder, and their results as the worklist makes them."""
    place = tmp_path_factory.mktemp("predicted")
    scans, results = make_scans(place / "scans", "a.nii.gz", "b.nii.gz"), place / "scans results"
    for case, folder in case_folders(list_inputs(scans, results, 1), results):
        request = {"case": to_json(case), "output": str(folder), "models": ["PhantomPancreas"]}
        predict_case("normal", request, Report(lambda *_event: None))
    return place


@pytest.fixture
def dock(desktop, predicted, tmp_path, documents):
    """The worklist with two cases, both predicted, the first of them open."""
    shutil.copytree(predicted, tmp_path, dirs_exist_ok=True)
    desktop.ui.readerEdit.text = READER
    dock = open_worklist(desktop, tmp_path / "scans")
    dock.ui.nextButton.click()
    idle(desktop)
    yield dock
    close_worklist(desktop)


def decide(desktop, row: int) -> None:
    desktop.ui.regionsTable.selectRow(row)
    desktop.ui.acceptButton.click()


def kept(desktop, dock) -> None:
    """Wait until what was decided is on disk, or could not be."""
    desktop.process(until=lambda: not dock.opened._timer.active, seconds=LIMIT)


def folder(dock) -> Path:
    """The results folder of the open case."""
    return dock.source.cases.find(dock.opened.name).folder


def decided(path: Path) -> list[bool]:
    return [region["verdict"] != "pending" for region in read_decisions(path).data["regions"]]


def rescued(folder: Path) -> list[Path]:
    return sorted(folder.glob("Rescued review *.json"))


def lose_the_disk(dock) -> Path:
    """Let the results folder be gone, as a network disk is; returns where it is."""
    return folder(dock).rename(folder(dock).with_name("away"))


def test_a_second_window_of_a_reader_takes_nothing_from_the_first(desktop, dock):
    decide(desktop, 0)
    kept(desktop, dock)
    path = review_file(folder(dock), READER)
    assert decided(path) == [True, False, False]

    # Another window has the same case open, and decides all regions.
    other = open_case(folder(dock)).review
    for region in other.regions:
        other.decide(region.region_id, Verdict.ACCEPT)
    write_review(folder(dock), READER, other.to_dict(), {digest_of(json.loads(path.read_text()))})
    decide(desktop, 1)
    kept(desktop, dock)
    (dialog,) = desktop.dialogs
    (copy,) = rescued(folder(dock))
    assert dialog.text.startswith(f"The review of {READER} in {path} was changed in the meantime,")
    assert f"The decisions made here are in {copy}." in dialog.text
    assert decided(path) == [True, True, True] and decided(copy) == [True, True, False]

    desktop.dialogs.clear()
    dock.ui.openButton.click()
    idle(desktop)
    assert desktop.widget.panel.review.session.review.reviewed == (3, 3)
    assert desktop.dialogs == []


def test_to_sign_again_keeps_what_was_signed_before_and_says_so(desktop, dock):
    for row in range(3):
        decide(desktop, row)
    desktop.ui.signOffButton.click()
    idle(desktop)
    assert dock.ui.statusLabel.text == f"{dock.opened.name} is signed and exported."
    desktop.ui.signOffButton.click()  # reopened
    kept(desktop, dock)
    desktop.ui.regionsTable.selectRow(0)
    desktop.ui.commentEdit.text = "Looked at again"
    desktop.ui.commentEdit.editingFinished.emit()
    desktop.ui.signOffButton.click()
    idle(desktop)
    copy = folder(dock) / f"review-{READER}.kept-1"
    expected = f"{dock.opened.name} is signed and exported. An earlier review was moved to {copy}."
    assert dock.ui.statusLabel.text == expected
    assert "Looked at again" not in (copy / "report.json").read_text(encoding="utf-8")
    assert "Looked at again" in (folder(dock) / f"review-{READER}" / "report.json").read_text(encoding="utf-8")
    assert desktop.dialogs == []


def test_the_readers_name_is_carried_from_panel_to_worklist_and_back(desktop, dock):
    panel, worklist = desktop.ui.readerEdit, dock.ui.readerEdit
    assert (panel.text, worklist.text) == (READER, READER)  # which the panel had when the worklist was opened
    assert panel.readOnly  # the open case's review has one reader
    worklist.text = "B. Reader"
    assert panel.text == READER
    dock.ui.openButton.click()
    idle(desktop)
    assert (panel.text, panel.readOnly) == ("B. Reader", True)
    worklist.text = "C. Reader"
    add_ct(desktop)  # the panel shows another image, of no worklist
    worklist.text = "D. Reader"
    assert (panel.text, panel.readOnly) == ("D. Reader", False)
    panel.text = "E. Reader"
    assert worklist.text == "E. Reader"
    desktop.ui.ctSelector.setCurrentNode(dock.opened.ctNode)
    desktop.process()
    assert (panel.text, panel.readOnly) == ("B. Reader", True)
    desktop.scene.Clear(0)
    desktop.process()
    assert (panel.text, panel.readOnly) == ("E. Reader", False)


def test_a_review_that_cannot_be_kept_is_elsewhere_once_the_scene_is_closed(desktop, dock, documents):
    away = lose_the_disk(dock)
    decide(desktop, 0)
    name = dock.opened.name
    desktop.scene.Clear(0)
    desktop.process()
    (copy,) = rescued(documents)
    (told,) = (dialog.text for dialog in desktop.dialogs)
    assert told.startswith("The review cannot be saved in ")
    assert told.endswith(f"The decisions made here are in {copy}.")
    assert decided(copy) == [True, False, False] and name in copy.name and READER in copy.name
    assert dock.opened.name is None and not desktop.logic.sessions._open
    assert rescued(away) == [] and not review_file(away, READER).exists()


def test_a_case_whose_review_cannot_be_kept_stays_open_until_it_can(desktop, dock, documents):
    place, first = folder(dock), dock.opened.name
    away = lose_the_disk(dock)
    decide(desktop, 0)
    dock.ui.nextButton.click()
    idle(desktop)
    assert dock.opened.name == first and rescued(documents) == []
    assert desktop.dialogs[-1].text.startswith("The review cannot be saved in ")
    away.rename(place)
    dock.ui.nextButton.click()
    idle(desktop)
    assert dock.opened.name != first and decided(review_file(place, READER)) == [True, False, False]


def test_a_review_that_cannot_be_kept_leaves_no_worker_running(desktop, dock, documents):
    desktop.logic.client.close()
    lose_the_disk(dock)
    decide(desktop, 0)
    assert worker_processes()
    close_worklist(desktop)
    assert worker_processes() == []
    (copy,) = rescued(documents)
    assert str(copy) in desktop.dialogs[-1].text and decided(copy) == [True, False, False]


def test_what_fails_at_the_end_of_the_module_leaves_nothing_else_undone(desktop):
    done = []

    def fail() -> None:
        raise OSError("no disk")

    module = SimpleNamespace(
        panel=SimpleNamespace(close=fail, leave=fail),
        setParameterNode=done.append,
        logic=SimpleNamespace(
            close=lambda: done.append("worker"), sessions=SimpleNamespace(forget=lambda: done.append("sessions"))
        ),
        removeObservers=lambda: done.append("observers"),
    )
    with pytest.raises(OSError):
        type(desktop.widget).cleanup(module)
    assert done == [None, "worker", "observers"]
    done.clear()
    with pytest.raises(OSError):
        type(desktop.widget).onSceneStartClose(module, None, None)
    assert done == [None, "sessions"]
