"""The process that computes for Slicer: `python -m MoBUncertaintyLib.worker`. It speaks `protocol` on stdin and stdout.

One request is answered at a time; the model of the last prediction stays loaded. The process ends, with all that it
has started, as soon as its stdin is closed, whatever it computes, so that it never outlives the application.
Nothing heavy is imported before a request needs it: `ready` is said at once.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import NOT_ENOUGH_MEMORY, UserError, is_out_of_memory
from MoBUncertaintyLib.estimate import Estimate, Pace
from MoBUncertaintyLib.protocol import HEARTBEAT_S, Command, Decoder, Event, ProtocolError, check_request, encode
from MoBUncertaintyLib.publishing import remove_leftovers, sweep

if TYPE_CHECKING:
    from MoBUncertaintyLib.model import Model
    from MoBUncertaintyLib.pipeline import Analysis
    from MoBUncertaintyLib.prediction import PredictionSettings, Predictor
    from MoBUncertaintyLib.region_settings import RegionSettings

Fields = dict[str, Any]


class Report:
    """What a handler can say while it works on a request.

    Args:
        send: Sends an event of that request: its kind and fields.
    """

    def __init__(self, send: Callable[[Event, Fields], None]) -> None:
        self._send = send
        self.warnings: list[str] = []

    def progress(self, fields: Fields) -> None:
        """The fields of a `progress` event, as `Estimate.step` gives them."""
        self._send(Event.PROGRESS, fields)

    def warning(self, message: str) -> None:
        """What the user should know, one sentence."""
        self.warnings.append(message)
        self._send(Event.WARNING, {"message": message})


Handler = Callable[[Fields, Report], Fields]
"""Answers a request; its `UserError`s reach the user as they stand."""


class Channel:
    """The two pipes to the application, taken away from everything else in the process.

    What prints goes to stderr instead of stdout, and what reads stdin finds it empty. (On Windows a library that looks
    at stdin as it is loaded would wait for a thread that reads it.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scratch: str | None = None
        self._written: str | None = None
        self._input, self._output = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def send(self, event: Event, **fields: Any) -> None:
        """Send one event; any thread may. A file's name that is not valid Unicode gets question marks.

        Raises:
            ProtocolError: The fields cannot be sent.
        """
        line = encode({"event": event, **fields}, errors="replace")
        with self._lock:
            try:
                self._output.write(line)
                self._output.flush()
            except OSError:  # nobody listens any more
                self.hang_up()

    def requests(self) -> Iterator[Fields]:
        """Each request as it comes, until stdin is closed; one without a proper field is refused.

        Raises:
            ProtocolError: Something that came is none.
        """
        decoder = Decoder()
        while data := self._read(self._input):
            for request in decoder.feed(data):
                try:
                    check_request(request)
                except ProtocolError as error:
                    identity = request.get("id")
                    self.send(Event.ERROR, id=identity, code="protocol", message=str(error), details="")
                    continue
                if request["command"] == Command.SCRATCH:
                    self._scratch = tempfile.tempdir = request["folder"]
                else:
                    if request["command"] == Command.EXPORT:
                        self._written = request["output"]
                    yield request

    def hang_up(self) -> NoReturn:
        """End the process and all that it has started, and leave no data of the patient, even if Slicer crashed."""
        try:
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
                remove_leftovers(self._scratch)
            if self._written:
                remove_leftovers(self._written)
        finally:  # whatever kind of path that was
            end_process_tree()

    @staticmethod
    def _read(stream: BinaryIO) -> bytes:
        try:
            return stream.read(1 << 16)
        except OSError:
            return b""


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer requests until `shutdown`, or until stdin is closed.

    Args:
        handlers: What answers each command.
    """
    niceness = stand_alone()
    channel = Channel()
    channel.send(Event.READY, pid=os.getpid(), version=__version__, niceness=niceness)
    waiting: queue.Queue[Fields] = queue.Queue()
    threading.Thread(target=_listen, args=(channel, waiting), daemon=True).start()
    threading.Thread(target=_beat, args=(channel,), daemon=True).start()
    sweep(Path(tempfile.gettempdir()))
    while True:
        request = waiting.get()
        if request["command"] == Command.SHUTDOWN:
            channel.send(Event.RESULT, id=request.get("id"), result={})
            return
        _answer(channel, handlers, request)


def stand_alone() -> int:
    """Become a session of its own, at the usual priority where permitted: Slicer's may be low, and is inherited.

    The session's group of processes can be ended as a whole.

    Returns:
        How nice (0 to 19) this process is to other programs now. 0 too where the kernel shares processor time among
        sessions first (Linux, autogroup), so that within one of its own niceness costs nothing.
    """
    if os.name != "posix":
        return 0
    if os.getpgrp() != os.getpid():
        os.setsid()
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        with suppress(OSError):  # an ordinary user may not
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    if os.getsid(0) == os.getpid() and _shares_among_sessions():
        return 0
    return max(0, os.getpriority(os.PRIO_PROCESS, 0))


def _shares_among_sessions() -> bool:
    try:
        return Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "1"
    except OSError:
        return False


def _listen(channel: Channel, waiting: queue.Queue[Fields]) -> None:
    """Runs in a thread of its own, so that the end of stdin is noticed amid any computation."""
    try:
        for request in channel.requests():
            waiting.put(request)
    except ProtocolError as error:
        channel.send(Event.ERROR, id=None, code="protocol", message=str(error), details="")
    finally:
        channel.hang_up()


def _beat(channel: Channel) -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        channel.send(Event.HEARTBEAT)


def end_process_tree() -> NoReturn:
    """End this process and all that it has started, now."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    elif os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], capture_output=True, check=False)
    os._exit(1)


def _answer(channel: Channel, handlers: Mapping[str, Handler], request: Fields) -> None:
    identity = request.get("id")
    report = Report(lambda event, fields: channel.send(event, id=identity, **fields))
    try:
        handler = handlers.get(request["command"])
        if handler is None:
            raise ProtocolError(f"The worker does not know the command {request['command']!r}.")
        channel.send(Event.RESULT, id=identity, result=handler(request, report))
    except Exception as error:
        code, message = describe_error(error)
        details = "" if isinstance(error, UserError) else traceback.format_exc()
        channel.send(Event.ERROR, id=identity, code=code, message=message, details=details)


def describe_error(error: Exception) -> tuple[str, str]:
    """Code and one sentence for the user of whatever went wrong."""
    text = str(error)
    if isinstance(error, UserError):
        return error.code, text
    if isinstance(error, ProtocolError):
        return "protocol", text
    if isinstance(error, ImportError):
        return "installation", f"The Python package {error.name or text} cannot be loaded; install it and apply again."
    if is_out_of_memory(error):
        return "settings", NOT_ENOUGH_MEMORY
    reason = (text.strip().splitlines() or [""])[-1]
    return "internal", f"The computation failed unexpectedly ({type(error).__name__}: {reason}); please report it."


# --- the commands -----------------------------------------------------------------------------------------------------


class Predictions:
    """Answers `predict` and keeps the last model loaded, whatever the settings."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._predictor: Predictor | None = None
        self._key: object = None

    def __call__(self, request: Fields, report: Report) -> Fields:
        """Predict, find the doubtful regions and write the arrays; see `protocol`."""
        import numpy as np

        voxels = int(np.prod(np.load(request["ct"]["array"], mmap_mode="r").shape))
        path, key = _identify_model(request["model"])
        estimate = Estimate(self._pace.expected(voxels, warm=key == self._key))

        def tell(stage: str, done: int, total: int) -> None:
            report.progress(estimate.step(stage, done, total))

        tell("model", 0, 1)
        from MoBUncertaintyLib.handover import read_volume
        from MoBUncertaintyLib.memory import check_memory
        from MoBUncertaintyLib.pipeline import analyse
        from MoBUncertaintyLib.results import describe

        predictor = self._warm(path, key, _settings(request))
        region_settings = _region_settings(request, predictor.model)
        check_memory(voxels, len(predictor.model.card.labels), holders=2)  # Slicer is the other one
        tell("model", 1, 1)
        image, digest = read_volume(request["ct"])
        analysis = analyse(image, predictor, region_settings, lambda step: tell(step.stage, step.done, step.total))
        for message in analysis.prediction.warnings:
            report.warning(message)
        files = _hand_over(Path(request["folder"]), analysis, tell)
        self._pace.learn(estimate.seconds, voxels)
        about = describe(image, analysis.prediction, analysis.regions, predictor.model.card)
        about["input"] |= {"name": request["ct"].get("name"), "sha256": digest}
        return files | {
            "rows": [asdict(region) for region in analysis.regions.regions],
            "labels": [asdict(label) for label in predictor.model.card.labels],
            "provenance": about | {"warnings": report.warnings},
            "warnings": report.warnings,
            "seconds": {stage: round(seconds, 3) for stage, seconds in estimate.seconds.items()},
        }

    def _warm(self, path: Path, key: object, settings: PredictionSettings) -> Predictor:
        """The predictor of a model, loaded only if it is another one or has changed on disk."""
        from MoBUncertaintyLib.model import load_model
        from MoBUncertaintyLib.prediction import Predictor

        if self._predictor is None or key != self._key:
            if self._predictor is not None:
                self._predictor.model.close()
            self._predictor, self._key = None, None  # its memory is free before the next one needs it
            self._predictor, self._key = Predictor(load_model(path), settings), key
        self._predictor.use(settings)
        return self._predictor


def _identify_model(name: str) -> tuple[Path, object]:
    """Where a model is, and what changes when its files do."""
    from MoBUncertaintyLib.model import find_model

    path = Path(find_model(name)).absolute()
    files = [path, *path.glob("*"), *path.glob("fold_*/*")]
    stamps = []
    for file in sorted(files):
        with suppress(OSError):
            status = file.stat()
            stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return path, tuple(stamps)


def _settings(request: Fields) -> PredictionSettings:
    """How to predict; JSON has lists where the settings have tuples."""
    from MoBUncertaintyLib.prediction import PredictionSettings

    fields = request.get("settings") or {}
    try:
        return PredictionSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The request's settings are not understood ({error}).") from error


def _region_settings(request: Fields, model: Model) -> RegionSettings:
    """What counts as a region: what the request states, unless it was set for another model, and the rest as usual."""
    usual = model.card.region_settings
    if request.get("regions_of_model") not in (None, model.digest):
        return usual
    try:
        return usual.changed(request.get("regions") or {})
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The request's settings of regions are not understood ({error}).") from error


def _hand_over(folder: Path, analysis: Analysis, tell: Callable[[str, int, int], None]) -> Fields:
    """Write the arrays, each straight from its image's memory."""
    import SimpleITK as sitk

    from MoBUncertaintyLib.handover import write_array

    prediction = analysis.prediction
    classes = prediction.probability.GetNumberOfComponentsPerPixel()
    total, done = 2 + 2 * classes, 0

    def write(name: str, array: Any) -> str:
        nonlocal done
        tell("write", done, total)
        done += 1
        return write_array(folder, name, array)

    files: Fields = {
        "segmentation": write("segmentation", sitk.GetArrayViewFromImage(prediction.segmentation)),
        "regions": write("regions", sitk.GetArrayViewFromImage(analysis.regions.labels)),
    }
    for kind, image in (("probability", prediction.probability), ("variance", prediction.variance)):
        array = sitk.GetArrayViewFromImage(image)
        parts = [array] if classes == 1 else [array[..., c] for c in range(classes)]
        files[kind] = {str(value): write(f"{kind}-{value}", part) for value, part in enumerate(parts, start=1)}
    tell("write", total, total)
    return files


def export(request: Fields, report: Report) -> Fields:
    """Write what the reader wants of a reviewed case; see `export.export_review`."""
    from MoBUncertaintyLib.export import export_review

    return export_review(request, report)


def main() -> None:
    """Serve on stdin and stdout."""
    serve({Command.PREDICT: Predictions(), Command.EXPORT: export})


if __name__ == "__main__":
    sys.exit(main())
