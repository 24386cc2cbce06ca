"""Another computer segments, by clicks of the panel, over real ssh: asked once, cut, connected anew, withdrawn."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.loopback import FAKE, HOST, MISSING, Loopback
from support.processes import wait_until
from support.small_panel import LIMIT, add_ct, apply
from support.worklists import close_worklist, idle, make_scans, open_worklist, states

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The computer, its worker fake; the panel is opened with its `ssh`."""
    loopback = Loopback(tmp_path_factory.mktemp("lab"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(loopback.path), prepend=":")
        loopback.run(FAKE.format(mode="normal"))
        yield loopback
    loopback.close()


@pytest.fixture
def away(desktop) -> Iterator:
    """The panel with that computer chosen, and a CT."""
    desktop.ui.computerEdit.text = HOST
    add_ct(desktop)
    yield desktop
    desktop.logic.computer.allow(False)
    desktop.ui.computerEdit.text = ""
    desktop.logic.client.close()


PREDICTING = ", a.nii.gz. Predicting tiles"


def nodes(scene) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def session(desktop):
    return desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())


def test_asked_once_cut_and_connected_anew(away, lab):
    ui, needed = away.ui, []
    away.widget.panel.ensureReady = lambda *asked: needed.append(asked[-1])
    away.answer("Ok")
    apply(away)
    (asked,) = away.dialogs
    assert asked.text.startswith(f"{HOST} will segment the image. The following is sent to it, encrypted, by ssh:")
    assert session(away).review.prediction.provenance["computer"] == HOST
    assert session(away).review.prediction.provenance["input"]["name"] == "CT"
    assert needed == [None]  # nothing is to be installed here
    assert ui.computerConsentLabel.text.startswith(f"Images may be sent to {HOST}.")
    assert "torch" not in sys.modules

    # The connection was lost in idleness, and is again amid the next run.
    lab.cut()
    lab.run(FAKE.format(mode="slow"))
    before, reviewed, segmentation = nodes(away.scene), session(away), session(away).results.organs.array()
    assert wait_until(lab.is_clean)
    ui.applyButton.click()
    away.process(until=lambda: ui.statusLabel.text.startswith("Predicting tiles"))
    lab.cut()
    away.process(until=lambda: ui.applyButton.text == "Apply")
    _, told = away.dialogs
    assert told.text.startswith(f"The connection to {HOST} was lost (")
    assert "\n" not in told.text
    assert nodes(away.scene) == before
    assert session(away) is reviewed
    assert (session(away).results.organs.array() == segmentation).all()
    assert wait_until(lab.is_clean)

    lab.run(FAKE.format(mode="normal"))
    apply(away)
    assert len(away.dialogs) == 2
    assert session(away) is not reviewed


def test_cancel_ends_what_runs_there(away, lab):
    lab.run(FAKE.format(mode="slow"))
    away.logic.computer.allow()
    before = nodes(away.scene)
    away.ui.applyButton.click()
    away.process(until=lambda: away.ui.statusLabel.text.startswith("Predicting tiles"))
    assert lab.processes()
    away.ui.applyButton.click()
    assert away.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert wait_until(lab.is_clean)
    assert nodes(away.scene) == before
    lab.run(FAKE.format(mode="normal"))


def test_nothing_is_sent_without_consent_which_can_be_withdrawn(away, lab):
    ui = away.ui
    away.logic.computer.allow()
    ui.computerConsentLabel.linkActivated.emit("withdraw")
    assert ui.computerConsentLabel.text == ""
    away.answer("Cancel")
    ui.applyButton.click()
    away.process()
    assert ui.statusLabel.text.startswith("Nothing was sent, so nothing was computed.")
    assert len(away.dialogs) == 1
    assert lab.processes() == []
    assert ui.applyButton.text == "Apply"


def test_the_connection_is_tested(away, lab):
    ui = away.ui
    ui.testConnectionButton.click()
    assert not ui.testConnectionButton.enabled
    away.process(until=lambda: ui.testConnectionButton.enabled)
    assert ui.computerLabel.text.startswith(f"{HOST} is ready: mob-uncertainty ")
    assert ui.computerLabel.text.endswith(", fake, 1 cores.")
    assert wait_until(lab.is_clean)
    ui.computerEdit.text = "stranger"
    assert ui.computerLabel.text == ""
    ui.testConnectionButton.click()
    away.process(until=lambda: ui.testConnectionButton.enabled)
    assert ui.computerLabel.text.startswith("ssh does not know stranger yet; connect once in a terminal")
    assert away.dialogs == []


def test_what_is_no_computer_cannot_be_applied_to(away):
    ui = away.ui
    for text in ("-oProxyCommand=x", "lab x", "a@b@c"):
        ui.computerEdit.text = text
        assert not ui.applyButton.enabled and not ui.testConnectionButton.enabled
        assert "is not the name of a computer; write user@host" in ui.computerLabel.text
        assert ui.applyButton.toolTip == ui.computerLabel.text
    ui.computerEdit.text = f" {HOST} "
    assert ui.applyButton.enabled
    assert away.logic.computer.host == HOST
    ui.computerEdit.text = ""
    assert ui.applyButton.enabled and not ui.testConnectionButton.enabled


@pytest.fixture
def dock(away, tmp_path: Path) -> Iterator:
    """The worklist, with two cases, on a computer without PyTorch."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text("raise ImportError('torch is not installed')")
    environment = away.logic.client._environment
    path = environment["PYTHONPATH"]
    environment["PYTHONPATH"] = f"{tmp_path / 'blocked'}{os.pathsep}{path}"
    yield open_worklist(away, make_scans(tmp_path / "scans", "a.nii.gz", "b.nii.gz"))
    environment["PYTHONPATH"] = path
    close_worklist(away)


def test_a_worklist_is_predicted_there_whatever_happens_to_the_connection(away, dock, lab, tmp_path):
    needed = []
    away.widget.panel.ensureReady = lambda formats, *_: needed.append(formats)
    away.answer("Cancel")
    dock.ui.runButton.click()
    assert dock.ui.statusLabel.text.startswith("Nothing was sent, so nothing was computed.")
    assert lab.processes() == [] and needed == [("report",)]  # which needs no PyTorch

    # Without a connection no case is tried any more.
    lab.without_program()
    away.answer("Ok")
    dock.ui.runButton.click()
    idle(away)
    assert away.dialogs[-1].text.startswith(f"The command mob-uncertainty was not found on {HOST};")
    assert len(away.dialogs) == 3 and [*states(dock).values()] == ["Not run", "Not run"]

    # Cut amid the first case: it is tried once more, in a new connection.
    lab.run(FAKE.format(mode="slow"))
    dock.ui.runButton.click()
    away.process(until=lambda: PREDICTING in dock.ui.statusLabel.text, seconds=LIMIT)
    lab.run(FAKE.format(mode="normal"))
    lab.cut()
    idle(away)
    assert [*states(dock).values()] == ["Ready", "Ready"] and len(away.dialogs) == 3
    record = json.loads((tmp_path / "scans results" / "a" / "prediction.json").read_text())
    assert record["computer"] == HOST and record["input"]["name"] == "a.nii.gz"
    assert dock.ui.resultsLabel.text.endswith(f"scans results, computed on {HOST}")
    assert "torch" not in sys.modules
