"""The worker as a process: it speaks the protocol, and never outlives the application."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from MoBUncertaintyLib.worker.protocol import Event, check_event, encode
from support.caller import an_export
from support.marks import needs_posix
from support.processes import SOON, gone, wait_until


class Process:
    """A worker as the application has it."""

    def __init__(self, program: str = "", **environment: str) -> None:
        arguments = ["-c", program] if program else ["-m", "MoBUncertaintyLib.worker"]
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )

    def send(self, **message: Any) -> None:
        self.process.stdin.write(encode(message))
        self.process.stdin.flush()

    def events(self) -> Iterator[dict]:
        for line in self.process.stdout:
            event = json.loads(line)
            check_event(event)
            yield event

    def until(self, kind: Event) -> dict:
        return next(event for event in self.events() if event["event"] == kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ärzte & Söhne 文件"
    path.mkdir()
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        started.append(Process(*arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            with suppress(OSError):
                stream.close()


def test_it_is_ready_before_anything_heavy_is_loaded(start: Callable[..., Process]) -> None:
    process = start()
    ready = process.until(Event.READY)
    busy = psutil.Process(process.process.pid).cpu_times()
    assert busy.user + busy.system < 1.0  # PyTorch alone takes longer
    assert ready["pid"] == process.process.pid
    assert ready["version"]
    process.process.stdin.close()
    assert wait_until(lambda: process.process.poll() is not None)


@pytest.mark.skipif(os.name != "posix", reason="niceness is Unix's")
@pytest.mark.parametrize("permitted", [True, False])
def test_it_does_not_inherit_a_low_priority(permitted: bool) -> None:
    """As of a Slicer that runs at nice 19; an ordinary user may not take that back."""
    code = f"""
import os
from MoBUncertaintyLib.worker import server
os.nice(19)
def refuse(*_): raise PermissionError
if not {permitted}: os.setpriority = refuse
server.stand_alone()
print(os.nice(0), os.getsid(0) == os.getpid())
"""
    if permitted and os.getuid():
        pytest.skip("only root may raise a priority")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0" if permitted else "19", "True"]


def test_nonsense_is_answered_and_ends_it(start: Callable[..., Process]) -> None:
    process = start()
    process.process.stdin.write(b"hello\n")
    process.process.stdin.flush()
    error = process.until(Event.ERROR)
    assert error["code"] == "protocol"
    assert wait_until(lambda: process.process.poll() is not None)


PRINTS = """
import os, sys, subprocess
from MoBUncertaintyLib.worker.server import serve
def handler(request, report):
    print("printed")
    os.system("echo from a child")
    subprocess.run([sys.executable, "-c", "import sys; print('read', repr(sys.stdin.read()))"])
    return {}
serve({"compute": handler})
"""


def test_what_prints_does_not_disturb_the_protocol(start: Callable[..., Process]) -> None:
    process = start(PRINTS)
    process.send(id=1, command="compute")
    assert [event["event"] for event in (next(process.events()), process.until(Event.RESULT))] == ["ready", "result"]
    process.process.stdin.close()
    process.process.wait(SOON)
    printed = process.process.stderr.read().decode()
    for line in ("printed", "from a child", "read ''"):
        assert line in printed.splitlines()


def test_its_heart_beats_while_it_computes(start: Callable[..., Process]) -> None:
    program = """
import time
from MoBUncertaintyLib.worker import server
server.heartbeat_s = 0.05
server.serve({"compute": lambda request, report: time.sleep(0.5) or {}})
"""
    process = start(program)
    process.send(id=1, command="compute")
    kinds = []
    for event in process.events():
        kinds.append(event["event"])
        if kinds[-1] == Event.RESULT:
            break
    assert kinds.count(Event.HEARTBEAT) >= 5


def test_an_unforeseen_fault_tells_where(start: Callable[..., Process]) -> None:
    process = start(
        "from MoBUncertaintyLib.worker import server\nserver.serve({'compute': lambda request, report: 1 / 0})"
    )
    for number in (1, 2):  # and the worker goes on
        process.send(id=number, command="compute")
        error = process.until(Event.ERROR)
        assert (error["id"], error["code"]) == (number, "internal")
        assert "ZeroDivisionError" in error["message"]
        assert "Traceback" in error["details"]


TORCH = """
import subprocess, sys
from MoBUncertaintyLib.worker.server import serve
def handler(request, report):
    import torch
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    a = torch.ones(9000, 9000)
    report.warning(str(child.pid))
    a @ a  # one kernel, many seconds on a core
    return {}
serve({"compute": handler})
"""


def test_closing_stdin_ends_it_amid_a_torch_kernel_with_its_children_and_files(
    start: Callable[..., Process], folder: Path
) -> None:
    process = start(TORCH, MOB_UNCERTAINTY_SCRATCH=str(folder))
    (folder / "ct.npy").write_bytes(b"of a patient")
    process.send(id=1, command="compute")
    child = int(process.until(Event.WARNING)["message"])
    time.sleep(0.3)
    assert process.process.poll() is None
    assert not gone(child)
    process.process.stdin.close()
    assert wait_until(lambda: process.process.poll() is not None and gone(child))
    assert not folder.exists()


@pytest.mark.parametrize("output", ["loop/review", f"{'x' * 5000}/review", "\0/review"], ids=["loop", "long", "null"])
@needs_posix
def test_closing_stdin_ends_it_whatever_folder_it_was_to_write(
    start: Callable[..., Process], folder: Path, output: str
) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    process = start()
    process.send(id=1, command="export", **an_export(folder) | {"output": str(folder / output)})
    error = process.until(Event.ERROR)
    assert (error["id"], error["code"]) == (1, "internal")  # there is no CT in this request
    process.process.stdin.close()
    assert wait_until(lambda: process.process.poll() is not None)


@pytest.mark.parametrize("request_", [{"command": 3}, {"command": "dance"}, {"id": [1]}], ids=repr)
def test_a_request_that_cannot_be_answered_is_refused_and_the_next_is_answered(
    start: Callable[..., Process], request_: dict
) -> None:
    process = start("from MoBUncertaintyLib.worker.server import serve\nserve({'greet': lambda *_: {}})")
    process.send(**{"id": 1} | request_)
    assert process.until(Event.ERROR)["code"] == "protocol"
    process.send(id=2, command="greet")
    assert process.until(Event.RESULT)["id"] == 2


def test_a_message_about_a_name_that_is_no_text_is_sent(start: Callable[..., Process]) -> None:
    process = start(UNTOLD)
    for number in (1, 2):
        process.send(id=number, command="read")
        error = process.until(Event.ERROR)
        assert (error["id"], error["message"]) == (number, "M?ller.nii.gz cannot be read.")


UNTOLD = """
from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.worker.server import serve
def handler(request, report):
    raise ImageError("M\\udcfcller.nii.gz cannot be read.")
serve({"read": handler})
"""


def test_it_ends_when_nobody_listens_any_more(start: Callable[..., Process]) -> None:
    process = start("from MoBUncertaintyLib.worker import server\nserver.heartbeat_s = 0.05\nserver.serve({})")
    process.until(Event.READY)
    process.process.stdout.close()
    assert wait_until(lambda: process.process.poll() is not None)
