"""The client of the worker when a request or the application ends early: all processes go, and all data with them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support import MODULE_FOLDER, TESTS
from support.caller import FAKE_WORKER, SMOOTH, Start, an_export, pid_of
from support.processes import SOON, gone, wait_until

BUSY = """
import re, subprocess, sys
from MoBUncertaintyLib.worker.server import serve
def handler(request, report):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report.warning(str(child.pid))
    report.warning("now")
    re.match("(a+)+b", "a" * 60)
serve({"predict": handler})
"""


def test_cancel_ends_the_whole_tree_amid_c_code_that_holds_the_lock(start: Start) -> None:
    """Amid a kernel of PyTorch: `worker/test_process.py`."""
    caller = start(arguments=("-u", "-c", BUSY)).ask()
    caller.until(lambda: caller.warnings[-1:] == ["now"])
    time.sleep(0.2)
    child, pid, folder = int(caller.warnings[0]), pid_of(caller), caller.client._process.folder
    assert not gone(child)
    assert not gone(pid)
    began = time.thread_time()
    caller.client.cancel()
    assert time.thread_time() - began < SMOOTH
    assert not caller.client.busy
    caller.until(lambda: gone(pid) and gone(child) and not folder.exists(), SOON)
    assert caller.long_turn < SMOOTH
    assert (caller.results, caller.errors) == ([], [])


def test_cancel_before_the_worker_is_up(start: Start) -> None:
    caller = start("slow").ask(np.zeros((2, 3, 4), np.int16))
    caller.until(lambda: caller.client._jobs[0].steps is None)  # the request is written, nobody has read it
    process = caller.client._process
    caller.client.cancel()
    caller.until(lambda: not process.folder.exists(), SOON)
    assert caller.errors == []


def test_cancel_while_the_ct_is_written_keeps_the_worker(start: Start) -> None:
    caller = start().ask().finish()
    pid = pid_of(caller)
    caller.ask(np.zeros((60, 512, 512), np.int16))
    caller.turn()
    assert caller.client._jobs[0].steps is not None
    caller.client.cancel()
    caller.ask().finish()
    assert pid_of(caller) == pid
    assert len(caller.results) == 2


def test_a_request_right_after_cancel_has_a_new_worker(start: Start) -> None:
    caller = start("slow").ask()
    caller.until(lambda: caller.progress)
    pid = pid_of(caller)
    caller.client.cancel()
    caller.client._arguments = FAKE_WORKER
    caller.ask().finish()
    assert len(caller.results) == 1
    assert gone(pid)
    assert pid_of(caller) != pid


def test_cancel_in_a_slot(start: Start) -> None:
    caller = start("slow")
    told: list[dict] = []

    def cancel(step: dict) -> None:
        told.append(step)
        caller.client.cancel()

    array = {"array": np.zeros((3, 4, 5), np.int16), "ijk_to_ras": np.eye(4).tolist()}
    caller.client.request({"command": "predict", "ct": array, "models": ["tiny"]}).progress.connect(cancel)
    caller.until(lambda: told)
    assert not caller.client.busy
    caller.until(lambda: not caller.client._processes[0].folder.exists(), SOON)
    assert len(told) == 1


def test_an_application_that_crashes_leaves_no_worker_and_no_patients_data(tmp_path: Path) -> None:
    program = f"""
import os, sys, types
import numpy as np
from slicer_host import qt_namespace
qt = qt_namespace.install()
i18n = types.ModuleType("slicer.i18n")
i18n.tr = str
sys.modules |= {{"slicer": types.ModuleType("slicer"), "slicer.i18n": i18n}}
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient
application = qt.QCoreApplication([])
client = WorkerClient(sys.executable, arguments={(*FAKE_WORKER, "slow")!r}, folder={str(tmp_path)!r})
ct = {{"array": np.ones((9, 9, 9)), "ijk_to_ras": np.eye(4).tolist()}}
job = client.request({{"command": "predict", "ct": ct, "models": ["tiny"]}})
job.progress.connect(lambda step: os.kill(os.getpid(), 9))
while client._process is None:
    application.processEvents()
print(client._process._process.processId(), flush=True)
application.exec()
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, MODULE_FOLDER))),
        "QT_QPA_PLATFORM": "offscreen",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=SOON, check=False
    )
    assert done.returncode == -9, done.stderr
    assert wait_until(lambda: gone(int(done.stdout)) and not list(tmp_path.iterdir()))


def test_close_leaves_nothing(start: Start) -> None:
    caller = start("slow").ask()
    caller.until(lambda: caller.progress)
    pid, folder = pid_of(caller), caller.client._process.folder
    caller.client.close()
    assert gone(pid)
    assert not folder.exists()
    caller.client.close()  # twice does no harm
    assert caller.errors == []


EXPORTS = """
import time
from pathlib import Path
from MoBUncertaintyLib.output.folders import FolderKind
from MoBUncertaintyLib.worker.server import serve
kind = FolderKind("review", "a review", "an earlier review", "report.html", "report.json", "a schema")
def handler(request, report):
    with kind.reserve(Path(request["output"])) as place, place.writing() as partial:
        (partial / "report.html").write_text("Doe, Jane")
        report.warning(partial.name)
        time.sleep(600)
serve({"export": handler})
"""


@pytest.mark.parametrize("end", ["cancel", "close", "kill"])
def test_an_export_that_is_ended_leaves_nothing(end: str, start: Start, tmp_path: Path) -> None:
    place = tmp_path / "Befunde 報告"
    place.mkdir()
    caller = start(arguments=("-u", "-c", EXPORTS)).ask(command="export", **an_export(place))
    caller.until(lambda: caller.warnings)
    assert {path.name for path in place.iterdir()} == {*caller.warnings, ".review.mob-lock"}
    if end == "kill":  # by the system, for want of memory
        os.kill(pid_of(caller), 9)
    else:
        getattr(caller.client, end)()
    if end != "close":
        caller.until(lambda: not list(place.iterdir()), SOON)
    assert list(place.iterdir()) == []
