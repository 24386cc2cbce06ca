"""The application's side of the worker: one request at a time, callbacks on the main thread, which is never blocked."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.steps import Steps, readArrays, removeFolder, writeArrays
from MoBUncertaintyLib.slicer_app.worker.process import End, WorkerProcess
from MoBUncertaintyLib.worker.protocol import Event

WORKER = ("-u", "-m", "MoBUncertaintyLib.worker")
TICK_MILLISECONDS = 250
PROGRESS_FIELDS = ("stage", "done", "total", "text", "fraction", "seconds_left")


def _ignore(*_values: Any) -> None:
    pass


@dataclass
class _Request:
    """What is asked for at present."""

    number: int
    folder: Path
    onProgress: Callable[[dict[str, Any]], None]
    onWarning: Callable[[str], None]
    onResult: Callable[[dict[str, Any]], None]
    onError: Callable[[str, str, str], None]
    steps: Steps | None = field(default=None)


class WorkerClient:
    """Starts the worker at the first request and keeps it, so that its model stays loaded.

    Args:
        python: Python's program; in Slicer that is PythonSlicer.
        environment: Of the worker; None: that of this process.
        arguments: Of Python.
        heartbeatLimit: Seconds of silence after which the worker counts as hung. Loading torch from a slow disk can
            silence it for half a minute.
        progressLimit: Seconds without progress after which it counts as stuck.
        folder: Where the worker's private folders are made, itself made if need be; None: the system's place for
            temporary files.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = WORKER,
        heartbeatLimit: float = 60.0,
        progressLimit: float = 900.0,
        folder: str | None = None,
    ) -> None:
        self._python = python
        self._environment = dict(os.environ if environment is None else environment)
        self._arguments = tuple(arguments)
        self._heartbeatLimit = heartbeatLimit
        self._progressLimit = progressLimit
        self._folder = folder
        self._process: WorkerProcess | None = None
        self._processes: list[WorkerProcess] = []  # with those that are ending
        self._request: _Request | None = None
        self._count = 0
        # Seconds are counted in ticks: while something blocks the application, or the computer sleeps, none pass.
        self._silence = self._standstill = 0.0
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._onTick)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._request is not None

    @property
    def niceness(self) -> int:
        """How nice the running worker is to other programs: 0, or up to 19 where it computes at a low priority."""
        return self._process.niceness if self._process else 0

    def request(
        self,
        message: dict[str, Any],
        onProgress: Callable[[dict[str, Any]], None] = _ignore,
        onWarning: Callable[[str], None] = _ignore,
        onResult: Callable[[dict[str, Any]], None] = _ignore,
        onError: Callable[[str, str, str], None] = _ignore,
    ) -> None:
        """Ask the worker for something; returns at once.

        Args:
            message: `command` and its fields, see `protocol`. Where they have files of arrays, give the arrays
                themselves, (z, y, x): they are written in slabs while the application goes on. `folder` is added.
            onProgress: Called with `PROGRESS_FIELDS`, see `protocol`.
            onWarning: Called with each warning, one sentence.
            onResult: Called with the result, its files of arrays replaced by the arrays.
            onError: Called with code, message (one sentence) and details (the last lines of the worker's log).

        Raises:
            RuntimeError: The client is busy.
        """
        if self.busy:
            raise RuntimeError("The worker is busy with another request.")
        self._count += 1
        try:
            if self._process is None:
                self._startProcess()
            folder = self._process.folder / f"request {self._count}"
            folder.mkdir(parents=True)
        except OSError as error:
            onError("output", _diskSentence(self._folder or tempfile.gettempdir(), error), "")
            return
        request = _Request(self._count, folder, onProgress, onWarning, onResult, onError)
        self._request = request
        self._inSteps(request, writeArrays({**message, "folder": str(folder)}, folder), self._send)

    def cancel(self) -> None:
        """Drop the request; if the worker computes, it ends with all that it has started. Returns at once.

        None of the request's callbacks is called any more. What was half written goes when the worker is gone.
        """
        request = self._finishRequest()
        if request is not None and request.steps is None:
            self._endProcess()

    def close(self) -> None:
        """Drop the request and end the worker; it is gone, and all files too, when this returns."""
        self._finishRequest()
        self._process = None
        for process in self._processes:
            process.close()
        self._processes = []

    def _startProcess(self) -> None:
        if self._folder:
            os.makedirs(self._folder, exist_ok=True)
        self._process = WorkerProcess(
            self._python, self._arguments, self._environment, self._onEvent, self._onEnd, self._folder
        )
        self._processes = [each for each in self._processes if each.folder.exists()] + [self._process]

    def _inSteps(self, request: _Request, work: Iterator[None], onDone: Callable[[Any], None]) -> None:
        request.steps = Steps(work, onDone, lambda error: self._onStepsFailed(request, error))

    def _send(self, message: dict[str, Any]) -> None:
        self._request.steps = None
        self._silence = self._standstill = 0.0
        self._timer.start(TICK_MILLISECONDS)
        self._process.send({**message, "id": self._request.number})

    def _onEvent(self, event: dict[str, Any]) -> None:
        self._silence = 0.0
        request = self._request
        if request is None or event.get("id") not in (request.number, None):
            return
        kind = event["event"]
        if kind == Event.PROGRESS:
            self._standstill = 0.0
            request.onProgress({key: event[key] for key in PROGRESS_FIELDS})
        elif kind == Event.WARNING:
            request.onWarning(event["message"])
        elif kind == Event.RESULT:
            self._timer.stop()
            self._inSteps(request, readArrays(event["result"], request.folder), self._onRead)
        elif kind == Event.ERROR:
            self._fail(event["code"], event["message"], "\n".join(filter(None, (self._process.log, event["details"]))))

    def _onRead(self, result: dict[str, Any]) -> None:
        self._finishRequest().onResult(result)

    def _onStepsFailed(self, request: _Request, error: Exception) -> None:
        if request is self._request:  # not where onResult has failed
            self._finishRequest()
        code, message = _describe(error, request.folder.parent)
        log = self._process.log if self._process else ""
        request.onError(code, message, "\n".join(filter(None, (log, *traceback.format_exception(error)))))

    def _onTick(self) -> None:
        self._silence += TICK_MILLISECONDS / 1000
        self._standstill += TICK_MILLISECONDS / 1000
        if self._silence > self._heartbeatLimit:
            text = _("The computing process has not answered for {n} seconds and was ended; apply again.")
            self._fail("hangs", text.format(n=round(self._silence)), endProcess=True)
        elif self._standstill > self._progressLimit:
            text = _(
                "The computation has made no progress for {n} minutes and was ended; choose a region of interest"
                " or another device."
            )
            self._fail("hangs", text.format(n=max(1, round(self._standstill / 60))), endProcess=True)

    def _onEnd(self, process: WorkerProcess, reason: End) -> None:
        if process is not self._process:
            return
        self._process = None
        if self._request is None:
            return  # the next request starts another one
        if reason is End.NOT_STARTED:
            text = _("The computing process cannot be started with {program}; install Slicer again.")
            message = text.format(program=self._python)
        elif reason is End.DIED:
            text = _(
                "The computing process ended unexpectedly ({exit}); see the details, and if the memory was not enough"
                " choose a region of interest or another device."
            )
            message = text.format(exit=process.exit)
        else:
            message = _("The computing process sent something that is no message and was ended; apply again.")
        self._fail(reason.name.lower(), message, process.report)

    def _fail(self, code: str, message: str, details: str | None = None, endProcess: bool = False) -> None:
        if details is None:
            details = self._process.log
        request = self._finishRequest()
        if endProcess:
            self._endProcess()
        request.onError(code, message, details)

    def _finishRequest(self) -> _Request | None:
        self._timer.stop()
        request, self._request = self._request, None
        if request is not None and request.steps is not None:
            request.steps.cancel()
        if request is not None and request.folder.exists():
            Steps(removeFolder(request.folder))
        return request

    def _endProcess(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _describe(error: Exception, folder: Path) -> tuple[str, str]:
    """Code and one sentence of what went wrong while a request or its result was handed over."""
    if isinstance(error, OSError):
        return "output", _diskSentence(folder, error)
    if isinstance(error, MemoryError):
        return "settings", _("The computer has not enough memory for this image; choose a region of interest.")
    text = _("Something went wrong between Slicer and the computing process ({reason}); report it, with the details.")
    return "internal", text.format(reason=f"{type(error).__name__}: {error}")


def _diskSentence(folder: str | Path, error: OSError) -> str:
    text = _("The volumes cannot be written to or read from {folder} ({reason}); free some space there.")
    return text.format(folder=folder, reason=error.strerror or error)
