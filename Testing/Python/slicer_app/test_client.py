"""The application's side of the worker: results, failures in one sentence, cancellation, a main thread that lives."""

import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from MoBUncertaintyLib.worker.server import describe_error
from support import fake_worker as fake
from support import tiny
from support.caller import FAKE_WORKER, SMOOTH, Caller, Start, pid_of
from support.marks import needs_full_device
from support.processes import SOON, gone

# --- it goes well -----------------------------------------------------------------------------------------------------


def test_a_result_comes_with_its_arrays(start: Start) -> None:
    caller = start().ask().finish()
    (result,) = caller.results
    assert caller.errors == []
    assert caller.warnings == ["This result is fake."]
    probability, variance, regions = fake.fake_maps((12, 20, 16))
    for got, wanted in [
        (result["probability"]["1"], probability),
        (result["variance"]["1"], variance),
        (result["region_map"], regions),
        (result["segmentation"], (probability > 0.5).astype(np.uint8)),
    ]:
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)
    assert probability.dtype == variance.dtype == np.float32
    fractions = [step["fraction"] for step in caller.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert set(caller.progress[0]) == {"stage", "done", "total", "fraction", "seconds_left"}


def test_the_worker_stays_for_the_next_request(start: Start) -> None:
    caller = start().ask().finish()
    first = pid_of(caller)
    caller.ask().finish()
    assert pid_of(caller) == first
    assert len(caller.results) == 2


def test_an_array_in_any_layout_arrives_as_it_is(start: Start) -> None:
    from MoBUncertaintyLib.slicer_app.worker.steps import Steps, readArrays, writeArrays

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
    ct = np.zeros((40, 512, 512))  # 84 MB of float64
    caller = start()
    caller.ask(ct).finish()
    assert caller.results[0]["probability"]["1"].shape == ct.shape
    assert caller.long_turn < SMOOTH
    folder = caller.client._process.folder
    assert len(caller.turns) > 100
    assert caller.long_turn < SMOOTH
    caller.until(lambda: not list(folder.iterdir()), SOON)  # the request's files do not wait for the worker's end
    assert caller.long_turn < SMOOTH


def test_the_real_worker_predicts(
    start: Start, tmp_path: Path, client_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LANG"):  # paths with other letters do not depend on the locale
        monkeypatch.setenv(name, "C")
    model = tiny.make_results_folder(tmp_path / "Modèle 模型", dataset=tiny.make_dataset(orientation="RAS"))
    ct = sitk.GetArrayFromImage(tiny.make_ct((20, 24, 28)))
    caller = start(arguments=client_module.WORKER)
    caller.ask(np.zeros((1, 9, 9), np.int16), models=[str(model)]).finish()
    assert [code for code, *_ in caller.errors] == ["image"]
    pid = pid_of(caller)
    caller.ask(ct, models=[str(model)], settings={"device": "cpu", "precision": "float32"}).finish()
    assert pid_of(caller) == pid and len(caller.errors) == 1
    assert caller.results[0]["segmentation"].any()
    assert np.array_equal(caller.results[0]["segmentation"] > 0, caller.results[0]["probability"]["1"] > 0.5)


# --- it goes wrong ----------------------------------------------------------------------------------------------------


def test_the_workers_own_sentence_is_shown(start: Start) -> None:
    caller = start("fails").ask().finish()
    assert [error[:2] for error in caller.errors] == [("image", fake.SENTENCE)]
    assert caller.results == []


@pytest.mark.parametrize(
    ("mode", "limits", "words", "log"),
    [
        ("dies", {}, r"ended unexpectedly \(exit code 3\)", "this worker dies"),
        ("nonsense", {}, "invalid message", "Segmentation fault"),
        ("hangs", {"heartbeatLimit": 1.0}, "has not answered for 1 seconds", "this worker hangs"),
        ("stuck", {"progressLimit": 1.0}, "no progress", "this worker stuck"),
    ],
)
def test_a_worker_that_fails_is_one_sentence_with_its_log(
    start: Start, mode: str, limits: dict[str, float], words: str, log: str
) -> None:
    caller = start(mode).ask()
    caller.until(lambda: caller.client._processes)
    (process,) = caller.client._processes
    caller.until(lambda: process._pid)  # it is up: however long that took does not count
    for limit, seconds in limits.items():
        setattr(process, limit, seconds)
    caller.finish()
    (error,) = caller.errors
    assert caller.results == []
    assert re.search(words, error[1])
    assert error[1].endswith(".")
    assert log in error[2]
    caller.until(lambda: gone(process._pid), SOON)
    caller.client._arguments = FAKE_WORKER  # the next request has a new worker
    caller.ask().finish()
    assert len(caller.results) == 1


def test_a_line_without_end_is_no_message(
    start: Start, client_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SIZE_LIMIT", 1000)
    endless = "import sys, time; sys.stdout.write('x' * 5000); sys.stdout.flush(); time.sleep(600)"
    caller = start(arguments=("-u", "-c", endless)).ask().finish()
    assert [error[0] for error in caller.errors] == ["bad_message"]


def test_a_worker_that_dies_after_its_result_is_not_missed(start: Start) -> None:
    caller = start()

    def receive(result: dict) -> Iterator[None]:
        os.kill(pid_of(caller), 9)
        while caller.client._process is not None:
            yield
        return result["segmentation"].shape

    caller.ask(receive=receive).finish()
    assert caller.errors == []
    assert caller.results == [(12, 20, 16)]


def test_a_worker_that_died_in_idleness_is_replaced_without_a_word(start: Start) -> None:
    caller = start().ask().finish()
    os.kill(pid_of(caller), 9)
    caller.until(lambda: caller.client._process is None, SOON)
    caller.ask().finish()
    assert caller.errors == []
    assert len(caller.results) == 2


@pytest.mark.parametrize("program", ["/nowhere/PythonSlicer", __file__], ids=["missing", "no program"])
def test_a_program_that_cannot_start_is_named(start: Start, program: str) -> None:
    caller = start(python=program).ask().finish()
    code, message, _ = caller.errors[0]
    assert code == "not_started"
    assert program in message


@needs_full_device
def test_a_full_disk_is_said(start: Start, monkeypatch: pytest.MonkeyPatch, client_module: ModuleType) -> None:
    write = client_module.writeArrays

    def write_to_full_disk(message: dict, folder: Path) -> Iterator[None]:
        (folder / "1.npy").symlink_to("/dev/full")  # the file that is written next
        return write(message, folder)

    monkeypatch.setattr(client_module, "writeArrays", write_to_full_disk)
    caller = start().ask().finish()
    code, message, _ = caller.errors[0]
    assert code == "output"
    assert "No space left on device" in message
    assert not caller.client.busy


def test_a_folder_that_cannot_be_made_is_said(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("MoBUncertaintyLib.slicer_app.worker.client.make_private_folder", full)
    caller = start().ask().finish()
    ((code, message, _),) = caller.errors
    assert (code, "No space left on device" in message) == ("output", True)
    assert not caller.client.busy


ANSWERS = """
from pathlib import Path
from MoBUncertaintyLib.worker.server import serve
def handler(request, report):
    path = Path(request["folder"]) / "probability.npy"
    path.write_bytes({content!r})
    return {{"probability": str(path)}}
serve({{"predict": handler}})
"""


def header_of(shape: tuple[int, ...]) -> bytes:
    """The beginning of a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def only_error(caller: Caller) -> tuple[str, str, str]:
    """The one that the caller has heard of, whose client can be asked again."""
    (error,) = caller.errors
    assert not caller.client.busy
    assert not any(process._timer.active for process in caller.client._processes)
    return error


def test_a_broken_array_is_said(start: Start) -> None:
    caller = start(arguments=("-u", "-c", ANSWERS.format(content=b"no array"))).ask().finish()
    code, message, details = only_error(caller)
    assert code == "internal" and "ValueError" in message
    assert "Traceback" in details


def test_an_array_that_does_not_fit_into_memory_is_the_workers_sentence(start: Start) -> None:
    caller = start(arguments=("-u", "-c", ANSWERS.format(content=header_of((10**6,) * 3)))).ask().finish()
    assert only_error(caller)[:2] == describe_error(MemoryError())


def test_a_request_that_cannot_be_sent_is_said_and_the_worker_stays(start: Start) -> None:
    caller = start().ask().finish()
    pid = pid_of(caller)
    caller.ask(settings={"overlap": float("nan")}).finish()
    code, message, _ = only_error(caller)
    assert code == "internal" and "ProtocolError" in message
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
    assert code == "internal" and "KeyError" in message
    assert "in take" in details


def test_a_failure_that_nobody_waits_for_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    from MoBUncertaintyLib.slicer_app.worker.steps import Steps

    def work() -> Iterator[None]:
        yield
        raise RuntimeError("a step too far")

    with caplog.at_level(logging.ERROR):
        Steps(work())
        start().until(lambda: caplog.records)
    assert "a step too far" in caplog.text


def test_time_that_the_application_sleeps_does_not_count(start: Start) -> None:
    caller = start("hangs").ask()
    caller.until(lambda: len(caller.progress) > 2)
    caller.client._process.heartbeatLimit = 1.0
    time.sleep(1.2)  # a dialog of another module, say
    caller.turn()
    caller.turn()
    assert caller.client.busy
    assert caller.errors == []


def test_requests_are_answered_one_after_another_by_one_worker(start: Start) -> None:
    caller = start().ask(np.zeros((9, 9, 9), np.int16)).ask().finish()
    assert [result["segmentation"].shape for result in caller.results] == [(9, 9, 9), (12, 20, 16)]
    assert len(caller.client._processes) == 1


def test_a_request_that_fails_does_not_stop_the_next_one(start: Start) -> None:
    caller = start("dies").ask()
    caller.until(lambda: caller.client._processes)
    caller.client._arguments = FAKE_WORKER  # of the worker that follows
    caller.ask().finish()
    assert len(caller.errors) == len(caller.results) == 1


def test_cancel_drops_what_waits(start: Start) -> None:
    caller = start("slow").ask().ask()
    caller.until(lambda: caller.progress)
    caller.client.cancel()
    assert not caller.client.busy and caller.results == caller.errors == []
