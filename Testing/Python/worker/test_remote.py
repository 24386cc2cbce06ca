"""A worker on another computer, over real ssh: results as here, one sentence where it fails, nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import Cancelled, SettingsError, UserError
from MoBUncertaintyLib.output.results_folder import read_results
from MoBUncertaintyLib.worker.remote.connection import Connection
from MoBUncertaintyLib.worker.remote.ssh import check_host, not_connected, ssh_command
from support import tiny
from support.caller import Caller, Start
from support.command_line import run
from support.loopback import FAKE, HOST, MISSING, PROGRAM, Loopback
from support.processes import SOON, wait_until

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

WORKER = """
from MoBUncertaintyLib.worker.__main__ import handlers_here
from MoBUncertaintyLib.worker.remote import connection
from MoBUncertaintyLib.worker.server import serve
"""
SETTINGS = {"device": "cpu", "precision": "float32", "overlap": 0.0}


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    loopback = Loopback(tmp_path_factory.mktemp("lab"))
    yield loopback
    loopback.close()


@pytest.fixture
def lab(computer: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The computer, with all as it should be; nothing may be left on it."""
    monkeypatch.setenv("PATH", str(computer.path), prepend=":")
    computer.run(PROGRAM)
    yield computer
    computer.know()
    computer.lock_out(False)
    computer.cut()
    assert wait_until(computer.is_clean), (computer.processes(), list(computer.temporary.iterdir()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Modelle") / "Bäuche"
    return tiny.make_results_folder(folder, dataset=tiny.make_dataset(orientation="RAS"))


def remote(start: Start) -> Caller:
    return start(arguments=("-u", "-m", "MoBUncertaintyLib.worker"))


def test_the_computer_describes_itself(lab: Loopback, start: Start) -> None:
    caller = remote(start)
    caller.client.request({"command": "computer", "computer": HOST}).finished.connect(caller.results.append)
    caller.finish()
    (result,) = caller.results
    assert (result["version"], bool(result["device"]), result["cores"] >= 1) == (__version__, True, True)
    caller.client.cancel()


def test_the_command_predicts_there_with_an_ensemble_as_here(lab: Loopback, model: Path, tmp_path: Path) -> None:
    other = tiny.make_results_folder(tmp_path / "other", dataset=tiny.make_dataset(orientation="RAS"), folds=2)
    sitk.WriteImage(tiny.make_ct((12, 16, 16)), tmp_path / "ct.nii.gz")
    asked = ["predict", tmp_path / "ct.nii.gz", "--model", model, "--model", other, "--no-scene"]
    options = ["--device", "cpu", "--precision", "float32", "--engine", "torch"]
    for where in ([], ["--computer", HOST]):
        done = run(*asked, *options, *where, "--output", tmp_path / ("there" if where else "here"))
        assert done.exit_code == 0, done.stderr
    here, there = (read_results(tmp_path / name) for name in ("here", "there"))
    assert np.array_equal(here.prediction.segmentation, there.prediction.segmentation)
    assert here.prediction.segmentation.any()
    for maps in ("probability", "variance"):
        assert np.array_equal(getattr(here.prediction, maps), getattr(there.prediction, maps))
    told, known = (json.loads((tmp_path / name / "prediction.json").read_text()) for name in ("there", "here"))
    assert told["computer"] == HOST and told["input"] == known["input"] and told["settings"] == known["settings"]
    assert [each["path"] for each in told["ensemble"]] == [str(model), str(other)]
    assert told["model"] == known["model"] and told["warnings"] == known["warnings"]
    kept = lab.data / "mob-uncertainty" / "sent-models"
    names = {path.name for folder in kept.iterdir() if folder.is_dir() for path in folder.rglob("*.*")}
    assert names == {"plans.json", "dataset.json", "checkpoint_final.pth"}
    again = run(*asked, *options, "--computer", HOST, "--output", tmp_path / "there", "--skip-existing")
    assert again.exit_code == 0 and "already contains results" in again.stderr
    lost = run(*asked, "--computer", "stranger", "--output", tmp_path / "lost")
    assert (lost.exit_code, (tmp_path / "lost").exists()) == (2, False)
    assert "ssh does not know stranger yet" in lost.stderr
    shutil.rmtree(kept)


def test_what_leaves_names_no_patient_and_the_connection_stays(
    lab: Loopback, start: Start, model: Path, tmp_path: Path
) -> None:
    """All that arrives is written down before it is taken, and the shell there says something first."""
    copy = tmp_path / "sent"
    fake = FAKE.format(mode="normal")
    lab.run_script(f'echo "Welcome to the lab"; tee "{copy}" | {sys.executable} -c "{fake}"')
    caller = remote(start).ask(models=[str(model)], computer=HOST).finish()
    running = {process.pid for process in lab.processes()}
    assert caller.ask(models=[str(model)], computer=HOST).finish().errors == []
    assert {process.pid for process in lab.processes()} == running
    assert list(lab.temporary.glob("*/*")) == []  # what was computed with is removed at once
    sent = copy.read_bytes()
    assert sent.count(b"predict") == 2
    assert sent.count(b"checkpoint_final.pth") <= 2  # the model was sent once at most
    for private in ("Müller", str(model.parent), str(tmp_path)):
        assert private.encode() not in sent
    assert [result["provenance"]["input"]["name"] for result in caller.results] == ["Müller"] * 2


def test_a_computer_that_hears_nothing_any_more_ends_by_itself(tmp_path: Path) -> None:
    """A connection may be dead without being closed: nothing arrives, and nothing says so."""
    program = f"from MoBUncertaintyLib.worker.remote import host; host.SILENCE_S = 0.5; {FAKE.format(mode='normal')}"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, env=environment)
    with process:
        assert wait_until(lambda: list(tmp_path.glob("MoBUncertainty-*")))
        assert process.wait(SOON) == 0
    assert wait_until(lambda: list(tmp_path.iterdir()) == [])


@pytest.mark.parametrize("mode", ["fails", "dies"])
def test_a_worker_that_fails_there_is_one_sentence(lab: Loopback, start: Start, model: Path, mode: str) -> None:
    lab.run(FAKE.format(mode=mode))
    caller = remote(start).ask(models=[str(model)], computer=HOST).finish()
    ((code, sentence, _),) = caller.errors
    expected = {
        "fails": ("image", "The image is a single slice"),
        "dies": ("error", "The computing process on the other computer ended unexpectedly (exit code 3)"),
    }
    assert (code, sentence.startswith(expected[mode][1])) == (expected[mode][0], True), sentence


@pytest.mark.parametrize("when", ["before it is ready", "after"])
def test_a_computer_that_never_answers_is_waited_for_within_a_limit(
    lab: Loopback, start: Start, model: Path, when: str
) -> None:
    """Its sshd goes on, so that ssh itself notices nothing."""
    if when == "after":
        lab.run(HELLO.replace("0.0.9", __version__))
    else:
        lab.run_script("cat > /dev/null")
    program = f"{WORKER}connection.ANSWER_S = 2.0; serve(handlers_here())"
    caller = start(arguments=("-u", "-c", program)).ask(models=[str(model)], computer=HOST).finish()
    ((code, sentence, _),) = caller.errors
    assert code == "connection"
    assert sentence.startswith(f"{HOST} has not answered for 2 s; check the network")


def test_an_image_that_vanishes_while_it_is_sent_is_said_at_once(lab: Loopback, start: Start, model: Path) -> None:
    """Half a frame is sent then, and the other side would wait for the rest."""
    lab.run(FAKE.format(mode="normal"))
    cut_short = (
        f"import os\n{WORKER}send = connection.send\n"
        "def sent(target, message, files, report):\n"
        "    ct = (files or {}).get('0.npy')\n"
        "    send(target, message, files, lambda *_: os.truncate(ct, 1000) if ct else None)\n"
        "connection.send = sent; serve(handlers_here())"
    )
    ct = np.random.default_rng(0).integers(0, 999, (20, 200, 200)).astype(np.int16)
    caller = start(arguments=("-u", "-c", cut_short)).ask(ct, models=[str(model)], computer=HOST)
    caller.until(lambda: not caller.client.busy, 30.0)
    ((code, sentence, _),) = caller.errors
    assert code == "input"
    assert "could not be sent to the other computer (it is shorter than it was)" in sentence


def test_a_result_that_is_none_is_one_sentence(lab: Loopback, model: Path, tmp_path: Path) -> None:
    sitk.WriteImage(tiny.make_ct((12, 16, 16)), tmp_path / "ct.nii.gz")
    worker = "from MoBUncertaintyLib.worker import server\n"
    worker += "server.serve({'model': lambda *_: {'here': True}, 'predict': lambda *_: {}})"
    lab.run(f"from MoBUncertaintyLib.worker.remote import host; host.serve(('-c', {worker!r}))")
    asked = ["predict", tmp_path / "ct.nii.gz", "--model", model, "--no-scene"]
    done = run(*asked, "--computer", HOST, "--output", tmp_path / "out")
    assert done.exit_code == 2, done.stderr
    assert f"{HOST} has sent a result that cannot be used (it lacks 'labels'); reinstall mob-uncertainty" in done.stderr
    assert not (tmp_path / "out").exists()
    shutil.rmtree(lab.data / "mob-uncertainty" / "sent-models", ignore_errors=True)


def test_the_worker_does_nothing_for_another_computer_but_compute(tmp_path: Path) -> None:
    """Whoever may only start it there reads, writes and removes no file of that computer."""
    (tmp_path / "kept.npy").write_bytes(b"")
    at_home = {"array": str(tmp_path / "kept.npy"), "ijk_to_ras": np.eye(4).tolist(), "name": None, "modality": None}
    requests = [
        {"command": "export", "output": str(tmp_path / "out")},
        {"command": "open-case", "results": str(tmp_path), "reader": "", "folder": str(tmp_path)},
        {"command": "predict", "ct": at_home, "models": ["0" * 64], "settings": {}, "folder": str(tmp_path)},
    ]
    lines = "".join(json.dumps(request | {"id": number}) + "\n" for number, request in enumerate(requests))
    host = [sys.executable, "-c", "from MoBUncertaintyLib.worker.remote import host; host.serve()"]
    done = subprocess.Popen(host, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    assert done.stdin and done.stdout
    done.stdin.write(lines)
    done.stdin.flush()
    answers: dict[int, str] = {}
    while len(answers) < len(requests):
        line = done.stdout.readline().strip()
        event = json.loads(line) if line else {}
        if event.get("event") in ("error", "result"):
            answers[event["id"]] = event["event"]
    done.stdin.close()
    assert done.wait(60) == 0
    assert set(answers.values()) == {"error"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npy"]


@pytest.mark.parametrize("end", ["cancelled", "a broken display"])
def test_sending_ends_at_once(lab: Loopback, tmp_path: Path, end: str) -> None:
    """Half a message is of no use to the other side: the connection ends, and nothing waits for it."""
    (tmp_path / "large").write_bytes(bytes(200 << 20))
    lab.run(WAITING)
    connection = Connection(HOST)

    def progress(_fields: object) -> None:
        if end != "cancelled":
            raise BrokenPipeError

    report = SimpleNamespace(progress=progress, warning=print)
    began = time.monotonic()
    with pytest.raises(Cancelled if end == "cancelled" else UserError):
        connection.ask(
            {"command": "computer"}, report, lambda: time.monotonic() > began + 3, {"large": tmp_path / "large"}
        )
    assert time.monotonic() - began < 30
    connection.close()


WAITING = f"""
import sys, time
print('{{"event": "ready", "pid": 1, "version": "{__version__}"}}', flush=True)
while sys.stdin.buffer.read(1 << 18):
    time.sleep(0.1)
"""

HELLO = """
import sys
print('{"event": "ready", "pid": 1, "version": "0.0.9"}', flush=True)
sys.stdin.buffer.read()
"""

FAILING = """
import json
event = {"event": "error", "id": None, "code": "connection", "message": "The disk there is full.", "details": ""}
print(json.dumps(event), flush=True)
"""

FAULTS = {
    "unknown host": (lambda lab: lab.known.write_text(""), "does not know lab yet; connect once in a terminal"),
    "another key": (lambda lab: lab.mistake(), "host key of lab has changed"),
    "no permission": (lambda lab: lab.lock_out(), "lab does not let you in without a password; set up a key"),
    "no program": (
        lambda lab: lab.without_program(),
        f"was not found on lab; install mob-uncertainty {__version__}",
    ),
    "other version": (lambda lab: lab.run(HELLO), f"lab has mob-uncertainty 0.0.9, not {__version__}; install"),
    "a start that fails": (lambda lab: lab.run(FAILING), "The disk there is full."),
    "another program": (lambda lab: lab.run_script("yes | head -c 100000; cat"), "is not mob-uncertainty"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_wrong_with_a_computer_is_one_sentence(lab: Loopback, start: Start, model: Path, what: str) -> None:
    spoil, words = FAULTS[what]
    spoil(lab)
    caller = remote(start).ask(models=[str(model)], computer=HOST).finish()
    ((code, sentence, _),) = caller.errors
    assert code == "connection"
    assert words in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        (2, "No such command 'worker'.", "lab has another version of mob-uncertainty, which cannot compute for others"),
        (1, "torn", "mob-uncertainty does not start on lab (exit code 1: torn); try it there"),
        (1, "'mob-uncertainty' is not recognized", "The command mob-uncertainty was not found on lab"),
        (255, "ssh: Could not resolve hostname lab: Unknown", "There is no computer lab; check its name"),
        (
            255,
            "ssh: connect to host lab port 22: Connection refused",
            "lab cannot be reached (ssh: connect to host lab",
        ),
    ],
)
def test_what_else_ssh_says_is_one_sentence(code: int, line: str, words: str) -> None:
    assert str(not_connected("lab", code, ["", line, ""])).startswith(words)


@pytest.mark.parametrize("host", ["lab", "anna@lab.example.org", "a.b+c@10.0.0.7", "fe80::1%eth0", "x" * 255])
def test_the_name_of_a_computer_passes(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=x", "x@-o", "-x@lab", "lab; x", "lab x", "a@b@c", "x\n", "x" * 256]
)
def test_what_is_no_name_of_a_computer_never_reaches_ssh(host: str) -> None:
    with pytest.raises(SettingsError):
        ssh_command(host)


def test_a_changed_model_is_not_kept(lab: Loopback, start: Start, tmp_path: Path) -> None:
    tiny.make_model_folder(tmp_path / "model")
    weights = next((tmp_path / "model").glob("fold_*/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    caller = remote(start).ask(models=[str(tmp_path / "model")], settings=SETTINGS, computer=HOST).finish()
    ((code, sentence, _),) = caller.errors
    assert code == "model"
    assert "its SHA-256 differs" in sentence
    assert list(lab.data.rglob("*.safetensors")) == []
