"""The application's side of the worker: results, failures in one sentence, cancellation, a main thread that lives."""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from caller import Caller
from MoBUncertaintyLib import stand_in_worker
from MoBUncertaintyLib.worker import describe_error
from processes import SOON, gone, wait_until

STAND_IN = ("-u", "-m", "MoBUncertaintyLib.stand_in_worker")
I18N = Path(__file__).with_name("desktop") / "standins" / "i18n.py"
SMOOTH = 0.05  # seconds that the main thread may be held


@pytest.fixture(scope="module")
def client_module() -> Iterator[ModuleType]:
    """`app.client` with PySide6 as `qt`, and without the rest of Slicer."""
    from desktop import qt_namespace

    qt = qt_namespace.install()
    spec = importlib.util.spec_from_file_location("slicer.i18n", I18N)
    i18n = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(i18n)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "slicer", ModuleType("slicer"))
        patch.setitem(sys.modules, "slicer.i18n", i18n)
        application = qt.QCoreApplication.instance() or qt.QCoreApplication([])
        yield importlib.import_module("MoBUncertaintyLib.app.client")
        application.processEvents()
    for name in set(sys.modules) - before:
        if name.startswith("MoBUncertaintyLib.app"):
            del sys.modules[name]


Start = Callable[..., Caller]


@pytest.fixture
def start(client_module: ModuleType, tmp_path: Path) -> Iterator[Start]:
    """Makes clients whose worker's folders lie in one with spaces and other letters; none may be left behind."""
    folder = tmp_path / "temporäre Dateien 一時"
    folder.mkdir()
    callers: list[Caller] = []

    def start(mode: str = "normal", **options: Any) -> Caller:
        arguments = options.pop("arguments", (*STAND_IN, mode))
        program = options.pop("python", sys.executable)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        client = client_module.WorkerClient(program, environment, arguments, folder=str(folder), **options)
        callers.append(Caller(client))
        return callers[-1]

    yield start
    for caller in callers:
        caller.client.close()
    assert list(folder.iterdir()) == []


def pid_of(caller: Caller) -> int:
    return caller.client._process._pid


# --- it goes well -----------------------------------------------------------------------------------------------------


def test_a_result_comes_with_its_arrays(start: Start) -> None:
    caller = start().ask().finish()
    (result,) = caller.results
    assert caller.errors == []
    assert caller.warnings == ["This result is invented."]
    probability, variance, regions = stand_in_worker.invent((12, 20, 16))
    for got, wanted in [
        (result["probability"]["1"], probability),
        (result["variance"]["1"], variance),
        (result["regions"], regions),
        (result["segmentation"], (probability > 0.5).astype(np.uint8)),
    ]:
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)
    assert probability.dtype == variance.dtype == np.float32
    fractions = [step["fraction"] for step in caller.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert set(caller.progress[0]) == {"stage", "done", "total", "text", "fraction", "seconds_left"}


def test_the_stand_ins_regions_are_regions() -> None:
    from MoBUncertaintyLib.regions import Region

    probability, variance, regions = stand_in_worker.invent((30, 40, 50))
    matrix = np.array([[-2.0, 0, 0, 50], [0, -2.0, 0, 40], [0, 0, 3.0, -45], [0, 0, 0, 1]])
    rows = [
        Region(**stand_in_worker.row(label, place, regions, probability, variance, matrix))
        for label, place in enumerate(stand_in_worker.DOUBTS, start=1)
    ]
    errors = [row.expected_error_mm3 for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert min(errors) > 0
    right, anterior, superior = (axis * 1.0 for axis in np.transpose([row.centroid_ras for row in rows]))
    assert right[0] < min(right[1:])
    assert anterior[1] > max(anterior[0], anterior[2])
    assert superior[2] > max(superior[:2])
    assert all(0 <= row.mean_variance <= row.peak_variance <= 0.25 for row in rows)
    assert np.all(variance <= probability * (1 - probability))


def test_the_worker_stays_for_the_next_request(start: Start) -> None:
    caller = start().ask().finish()
    first = pid_of(caller)
    caller.ask().finish()
    assert pid_of(caller) == first
    assert len(caller.results) == 2


def test_an_array_in_any_layout_arrives_as_it_is(start: Start) -> None:
    from MoBUncertaintyLib.app.steps import Steps, readArrays, writeArrays

    caller = start()
    arrays = {
        "strided": np.arange(24 * 10 * 10, dtype=np.int16).reshape(24, 10, 10)[::2, :, ::-1],
        "columns first": np.asfortranarray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)),
        "double": np.linspace(-1000, 1000, 60).reshape(3, 4, 5),
        "colour": np.ones((2, 3, 4, 3), np.uint8),
        "empty": np.zeros((0, 3, 4), np.float32),
    }
    with tempfile.TemporaryDirectory() as name:
        folder, sent, received = Path(name), [], []
        Steps(writeArrays({"nested": arrays, "text": "x"}, folder), sent.append)
        caller.until(lambda: sent)
        for key, path in sent[0]["nested"].items():
            wanted = arrays[key].astype(np.float32) if key == "double" else arrays[key]
            assert np.load(path).dtype == wanted.dtype
            assert np.array_equal(np.load(path), wanted)
        np.save(folder / "columns.npy", arrays["columns first"])
        elsewhere = "/elsewhere/x.npy"
        Steps(readArrays({"a": str(folder / "columns.npy"), "b": elsewhere, "c": 3}, folder), received.append)
        caller.until(lambda: received)
        assert np.array_equal(received[0]["a"], arrays["columns first"])
        assert (received[0]["b"], received[0]["c"]) == (elsewhere, 3)


def test_the_main_thread_lives_while_large_arrays_travel(start: Start) -> None:
    ct = np.zeros((100, 512, 512))  # 210 MB of float64
    caller = start()
    caller.ask(ct).finish()
    assert caller.results[0]["probability"]["1"].shape == ct.shape
    assert caller.long_turn < SMOOTH
    folder = caller.client._process.folder
    assert len(caller.turns) > 100
    assert caller.long_turn < SMOOTH
    caller.until(lambda: not list(folder.iterdir()), SOON)  # the request's files do not wait for the worker's end
    assert caller.long_turn < SMOOTH


def test_the_real_worker_predicts(start: Start, tmp_path: Path, client_module: ModuleType) -> None:
    import tiny

    model = tiny.make_results_folder(tmp_path / "Modèle 模型", dataset=tiny.make_dataset(orientation="RAS"))
    ct = sitk.GetArrayFromImage(tiny.make_ct((20, 24, 28)))
    caller = start(arguments=client_module.WORKER)
    caller.ask(ct, model=str(model), settings={"device": "cpu", "precision": "float32"}).finish()
    assert caller.errors == []
    assert caller.results[0]["segmentation"].any()
    assert np.array_equal(caller.results[0]["segmentation"] > 0, caller.results[0]["probability"]["1"] > 0.5)
    pid = pid_of(caller)
    caller.ask(ct=np.zeros((1, 9, 9), np.int16), model=str(model)).finish()
    assert caller.errors[0][:2] == (
        "image", "The image is a single slice (9 x 9 x 1); give a 3D volume or the folder of its DICOM series."
    )  # fmt: skip
    assert pid_of(caller) == pid


# --- it goes wrong ----------------------------------------------------------------------------------------------------


def test_the_workers_own_sentence_is_shown(start: Start) -> None:
    caller = start("fails").ask().finish()
    assert [error[:2] for error in caller.errors] == [("image", stand_in_worker.SENTENCE)]
    assert caller.results == []


@pytest.mark.parametrize(
    "mode, limits, words, log",
    [
        ("dies", {}, r"ended unexpectedly \(exit code 3\)", "this worker dies"),
        ("nonsense", {}, "no message", "Segmentation fault"),
        ("hangs", {"heartbeatLimit": 1.0}, "has not answered for 1 seconds", "this worker hangs"),
        ("stuck", {"progressLimit": 1.0, "heartbeatLimit": 10.0}, "no progress", "this worker stuck"),
    ],
)
def test_a_worker_that_fails_is_one_sentence_with_its_log(
    start: Start, mode: str, limits: dict[str, float], words: str, log: str
) -> None:
    caller = start(mode, **limits).ask()
    caller.until(lambda: pid_of(caller))
    pid = pid_of(caller)
    caller.finish()
    (error,) = caller.errors
    assert caller.results == []
    assert re.search(words, error[1])
    assert error[1].endswith(".")
    assert log in error[2]
    caller.until(lambda: gone(pid), SOON)
    caller.client._arguments = STAND_IN  # the next request has a new worker
    caller.ask().finish()
    assert len(caller.results) == 1


def test_a_killed_worker_is_said_to_be_so(start: Start) -> None:
    caller = start("slow").ask()
    caller.until(lambda: caller.progress)
    os.kill(pid_of(caller), 9)
    caller.finish()
    assert "ended unexpectedly (signal 9)" in caller.errors[0][1]
    assert caller.errors[0][0] == "died"


def test_a_worker_that_died_in_idleness_is_replaced_without_a_word(start: Start) -> None:
    caller = start().ask().finish()
    os.kill(pid_of(caller), 9)
    caller.until(lambda: caller.client._process is None, SOON)
    caller.ask().finish()
    assert caller.errors == []
    assert len(caller.results) == 2


@pytest.mark.parametrize("program", ["/nowhere/PythonSlicer", I18N.as_posix()], ids=["missing", "no program"])
def test_a_program_that_cannot_start_is_named(start: Start, program: str) -> None:
    caller = start(python=program).ask().finish()
    code, message, _ = caller.errors[0]
    assert code == "not_started"
    assert program in message


def test_a_full_disk_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = start()
    caller.ask()
    os.symlink("/dev/full", caller.client._request.folder / "0.npy")
    monkeypatch.setattr(os, "listdir", lambda folder: [])
    caller.finish()
    code, message, _ = caller.errors[0]
    assert code == "output"
    assert "No space left on device" in message
    assert not caller.client.busy


def test_a_folder_that_cannot_be_made_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    caller = start().ask()
    ((code, message, _),) = caller.errors
    assert (code, "No space left on device" in message) == ("output", True)
    assert not caller.client.busy


ANSWERS = """
from pathlib import Path
from MoBUncertaintyLib.worker import serve
def handler(request, report):
    path = Path(request["folder"]) / "probability.npy"
    path.write_bytes({content!r})
    return {{"probability": str(path)}}
serve({{"predict": handler}})
"""
UNFORESEEN = (
    r"^Something went wrong between Slicer and the computing process \({reason}.*\); report it, with the details\.$"
)


def header_of(shape: tuple[int, ...]) -> bytes:
    """The beginning of a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def only_error(caller: Caller) -> tuple[str, str, str]:
    """The one that was told, in a client that can be asked again."""
    (error,) = caller.errors
    assert not caller.client.busy
    assert not caller.client._timer.active
    return error


def test_a_broken_array_is_said(start: Start) -> None:
    caller = start(arguments=("-u", "-c", ANSWERS.format(content=b"no array"))).ask().finish()
    code, message, details = only_error(caller)
    assert code == "internal"
    assert re.match(UNFORESEEN.format(reason="ValueError: "), message)
    assert "Traceback" in details


def test_an_array_that_does_not_fit_into_memory_is_the_workers_sentence(start: Start) -> None:
    caller = start(arguments=("-u", "-c", ANSWERS.format(content=header_of((10**6,) * 3)))).ask().finish()
    assert only_error(caller)[:2] == describe_error(MemoryError())


def test_a_request_that_cannot_be_sent_is_said_and_the_worker_stays(start: Start) -> None:
    caller = start().ask().finish()
    pid = pid_of(caller)
    caller.ask(settings={"overlap": float("nan")}).finish()
    code, message, _ = only_error(caller)
    assert code == "internal"
    assert re.match(UNFORESEEN.format(reason="ProtocolError: "), message)
    caller.ask().finish()
    assert pid_of(caller) == pid
    assert len(caller.results) == 2


def test_a_result_that_nobody_can_take_is_said(start: Start) -> None:
    def take(result: dict) -> None:
        raise KeyError("segmentation")

    caller = start()
    caller.results = SimpleNamespace(append=take)
    caller.ask().until(lambda: caller.errors)
    code, message, details = only_error(caller)
    assert code == "internal"
    assert re.match(UNFORESEEN.format(reason="KeyError: "), message)
    assert "in take" in details


def test_a_failure_that_nobody_waits_for_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    from MoBUncertaintyLib.app.steps import Steps

    def work() -> Iterator[None]:
        yield
        raise RuntimeError("a step too far")

    with caplog.at_level(logging.ERROR):
        Steps(work())
        start().until(lambda: caplog.records)
    assert "a step too far" in caplog.text


def test_time_that_the_application_sleeps_does_not_count(start: Start) -> None:
    caller = start("hangs", heartbeatLimit=1.5).ask()
    caller.until(lambda: len(caller.progress) > 2)
    time.sleep(2.0)  # a dialog of another module, say
    caller.turn()
    caller.turn()
    assert caller.client.busy
    assert caller.errors == []


def test_one_request_at_a_time(start: Start) -> None:
    caller = start("slow").ask()
    with pytest.raises(RuntimeError, match="busy"):
        caller.ask()


# --- cancel -----------------------------------------------------------------------------------------------------------

BUSY = """
import subprocess, sys
from MoBUncertaintyLib.worker import serve
def handler(request, report):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report.warning(str(child.pid))
    {computation}
    return {{}}
serve({{"predict": handler}})
"""
COMPUTATIONS = {
    "a torch kernel": "import torch; a = torch.ones(9000, 9000); report.warning('now'); a @ a",
    "C code that holds the lock": "import re; report.warning('now'); re.match('(a+)+b', 'a' * 60)",
}


@pytest.mark.parametrize("what", COMPUTATIONS)
def test_cancel_ends_the_whole_tree_amid(what: str, start: Start, tmp_path: Path) -> None:
    caller = start(arguments=("-u", "-c", BUSY.format(computation=COMPUTATIONS[what]))).ask()
    caller.until(lambda: caller.warnings[-1:] == ["now"])
    time.sleep(0.2)
    child, pid, folder = int(caller.warnings[0]), pid_of(caller), caller.client._process.folder
    assert not gone(child)
    assert not gone(pid)
    began = time.perf_counter()
    caller.client.cancel()
    assert time.perf_counter() - began < SMOOTH
    assert not caller.client.busy
    caller.until(lambda: gone(pid) and gone(child) and not folder.exists(), SOON)
    assert caller.long_turn < SMOOTH
    assert (caller.results, caller.errors) == ([], [])


def test_cancel_before_the_worker_is_up(start: Start) -> None:
    caller = start("slow").ask(np.zeros((2, 3, 4), np.int16))
    caller.until(lambda: caller.client._request.steps is None)  # the request is written, nobody has read it
    process = caller.client._process
    caller.client.cancel()
    caller.until(lambda: not process.folder.exists(), SOON)
    assert caller.errors == []


def test_cancel_while_the_ct_is_written_keeps_the_worker(start: Start) -> None:
    caller = start().ask().finish()
    pid = pid_of(caller)
    caller.ask(np.zeros((60, 512, 512), np.int16))
    caller.turn()
    assert caller.client._request.steps is not None
    caller.client.cancel()
    caller.ask().finish()
    assert pid_of(caller) == pid
    assert len(caller.results) == 2


def test_a_request_right_after_cancel_has_a_new_worker(start: Start) -> None:
    caller = start("slow").ask()
    caller.until(lambda: caller.progress)
    pid = pid_of(caller)
    caller.client.cancel()
    caller.client._arguments = STAND_IN
    caller.ask().finish()
    assert len(caller.results) == 1
    assert gone(pid)
    assert pid_of(caller) != pid


def test_cancel_in_a_callback(start: Start) -> None:
    caller = start("slow")
    told: list[dict] = []

    def cancel(step: dict) -> None:
        told.append(step)
        caller.client.cancel()

    array = {"array": np.zeros((3, 4, 5), np.int16), "ijk_to_ras": np.eye(4).tolist()}
    caller.client.request({"command": "predict", "ct": array, "model": "tiny"}, cancel)
    caller.until(lambda: told)
    assert not caller.client.busy
    caller.until(lambda: not caller.client._processes[0].folder.exists(), SOON)
    assert len(told) == 1


def test_an_application_that_crashes_leaves_no_worker_and_no_patients_data(tmp_path: Path) -> None:
    program = f"""
import os, sys, types
import numpy as np
from desktop import qt_namespace
qt = qt_namespace.install()
i18n = types.ModuleType("slicer.i18n")
i18n.tr = str
sys.modules |= {{"slicer": types.ModuleType("slicer"), "slicer.i18n": i18n}}
from MoBUncertaintyLib.app.client import WorkerClient
application = qt.QCoreApplication([])
client = WorkerClient(sys.executable, arguments={(*STAND_IN, "slow")!r}, folder={str(tmp_path)!r})
ct = {{"array": np.ones((9, 9, 9)), "ijk_to_ras": np.eye(4).tolist()}}
client.request({{"command": "predict", "ct": ct, "model": "tiny"}}, lambda step: os.kill(os.getpid(), 9))
print(client._process._process.processId(), flush=True)
application.exec()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=30, check=False
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
import re, time
from pathlib import Path
from MoBUncertaintyLib.folders import FolderKind
from MoBUncertaintyLib.worker import serve
kind = FolderKind("review", "a review", "an earlier review", bool, re.compile(".*"))
def handler(request, report):
    with kind.new(Path(request["output"])) as partial:
        (partial / "report.html").write_text("Doe, Jane")
        report.warning(partial.name)
        time.sleep(600)
serve({"export": handler})
"""


@pytest.mark.parametrize("end", ["cancel", "close", "kill"])
def test_an_export_that_is_ended_leaves_nothing(end: str, start: Start, tmp_path: Path) -> None:
    place = tmp_path / "Befunde 報告"
    place.mkdir()
    caller = start(arguments=("-u", "-c", EXPORTS)).ask(command="export", output=str(place / "review"))
    caller.until(lambda: caller.warnings)
    assert [path.name for path in place.iterdir()] == caller.warnings
    if end == "kill":  # by the system, for want of memory
        os.kill(pid_of(caller), 9)
    else:
        getattr(caller.client, end)()
    if end != "close":
        caller.until(lambda: not list(place.iterdir()), SOON)
    assert list(place.iterdir()) == []
