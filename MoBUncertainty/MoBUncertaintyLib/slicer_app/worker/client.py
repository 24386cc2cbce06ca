"""The application's side of the worker: one job at a time, signals on the main thread, which is never blocked."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.slicer_app.worker.process import WorkerProcess
from MoBUncertaintyLib.slicer_app.worker.steps import Steps, readArrays, removeFolder, writeArrays
from MoBUncertaintyLib.worker.protocol import PROGRESS_FIELDS, Event

WORKER = ("-u", "-m", "MoBUncertaintyLib.worker")
TICK_MILLISECONDS = 250
HEARTBEAT_LIMIT = 60.0
"""Seconds of silence after which a worker counts as hung; loading torch from a slow disk takes half of them."""
PROGRESS_LIMIT = 900.0
"""Seconds without progress after which it counts as stuck."""


class Signal:
    """A signal as Qt's, between Python objects: a `qt.Signal` that is declared in Python crashes Slicer."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call a slot each time the signal is emitted."""
        self._slots.append(slot)

    def emit(self, *values: Any) -> None:
        """Call the slots, in the order in which they were connected."""
        for slot in self._slots:
            slot(*values)


class Job:
    """A request that the worker works on. A job that is cancelled emits nothing more.

    Attributes:
        progress: Emitted with how far it is, a dict of `protocol.PROGRESS_FIELDS`.
        warning: Emitted with each warning, one sentence.
        finished: Emitted with the result.
        failed: Emitted with a code, a message (one sentence) and details (the last lines of the worker's log).
        receive: Takes the worker's result in steps and returns the job's result; None: that is the worker's.
        folder: The files of its arrays.
        steps: Hands over the request, or the result; None while the worker computes.
        received: Whether the worker has sent the result, and is needed no more.
    """

    def __init__(self, receive: Callable[[dict[str, Any]], Iterator[None]] | None = None) -> None:
        self.progress, self.warning, self.finished, self.failed = Signal(), Signal(), Signal(), Signal()
        self.receive = receive
        self.folder: Path | None = None
        self.steps: Steps | None = None
        self.received = False


class WorkerClient:
    """Starts the worker at the first request and keeps it running, so that its model stays loaded.

    Args:
        folder: Where the worker's private folders are made, itself made if need be. Default: the system's place for
            temporary files.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = WORKER,
        folder: str | None = None,
    ) -> None:
        self._python = python
        self._environment = dict(os.environ if environment is None else environment)
        self._arguments = tuple(arguments)
        self._heartbeatLimit = HEARTBEAT_LIMIT
        self._progressLimit = PROGRESS_LIMIT
        self._folder = folder
        self._process: WorkerProcess | None = None
        self._processes: list[WorkerProcess] = []  # including those that are ending
        self._job: Job | None = None
        self._count = 0  # of requests: the number of the job's
        # Seconds are counted in ticks: they stand still while something blocks the application or the computer sleeps.
        self._silence = self._standstill = 0.0
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._onTick)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    def request(
        self, message: dict[str, Any], receive: Callable[[dict[str, Any]], Iterator[None]] | None = None
    ) -> Job:
        """Ask the worker for something; return at once, before the job emits anything.

        Args:
            message: `command` and its fields, see `protocol`, with arrays (z, y, x) in place of their files: they are
                written in slabs while the application goes on. `folder` is added.
            receive: Takes the worker's result, its files of arrays replaced by the arrays, in steps, and returns the
                job's result; None: that is the worker's.

        Raises:
            RuntimeError: The client is busy.
        """
        if self.busy:
            raise RuntimeError("The computing process is busy with another request; wait for it to finish.")
        self._count += 1
        self._job = job = Job(receive)
        job.steps = Steps(self._handOver(job, message), self._send, partial(self._onStepsFailed, job))
        return job

    def another(self) -> WorkerClient:
        """Make a client like this one, whose worker is a process of its own."""
        return WorkerClient(self._python, self._environment, self._arguments, self._folder)

    def cancel(self) -> None:
        """Drop the job; if the worker computes, end it with all processes that it has started. Return at once.

        What was half written is removed when the worker has ended.
        """
        self._finish(endProcess=self._job is not None and self._job.steps is None)

    def close(self) -> None:
        """Drop the job and end the worker; when this returns, it has ended, and its files are removed."""
        self._finish()
        self._process = None
        for process in self._processes:
            process.close()
        self._processes = []

    def _handOver(self, job: Job, message: dict[str, Any]) -> Iterator[None]:
        """Write the request's arrays, for a worker that is started if there is none; returns the message to be sent."""
        if self._process is None:
            if self._folder:
                os.makedirs(self._folder, exist_ok=True)
            self._process = WorkerProcess(self._python, self._arguments, self._environment, self._onEvent, self._folder)
            self._processes = [each for each in self._processes if each.folder.exists()] + [self._process]
        job.folder = self._process.folder / f"request {self._count}"
        job.folder.mkdir(parents=True)
        return (yield from writeArrays({**message, "folder": str(job.folder)}, job.folder))

    def _send(self, message: dict[str, Any]) -> None:
        self._job.steps = None
        self._silence = self._standstill = 0.0
        self._timer.start(TICK_MILLISECONDS)
        self._process.send({**message, "id": self._count})

    def _onEvent(self, event: dict[str, Any]) -> None:
        self._silence = 0.0
        job, kind = self._job, event["event"]
        isOver = kind == Event.ERROR and event.get("id") is None  # with the worker
        if isOver and (job is None or job.received):
            self._endProcess()  # the next request starts another one
        elif job is None or event.get("id") not in (self._count, None):
            return
        elif kind == Event.PROGRESS:
            self._standstill = 0.0
            job.progress.emit({key: event[key] for key in PROGRESS_FIELDS})
        elif kind == Event.WARNING:
            job.warning.emit(event["message"])
        elif kind == Event.RESULT:
            self._timer.stop()
            job.received = True
            received = _received(job, event["result"])
            job.steps = Steps(
                received, lambda result: self._finish().finished.emit(result), partial(self._onStepsFailed, job)
            )
        elif kind == Event.ERROR and not job.received:
            self._fail(event["code"], event["message"], event["details"], endProcess=isOver)

    def _onStepsFailed(self, job: Job, error: Exception) -> None:
        if job is self._job:  # not where a slot of `finished` has failed
            self._finish()
        if isinstance(error, UserError) and error.__cause__ is None:  # foreseen
            job.failed.emit(error.code, str(error), "")
            return
        code, message = _describe(error, self._folder or tempfile.gettempdir())
        log = self._process.log if self._process else ""
        job.failed.emit(code, message, "\n".join(filter(None, (log, *traceback.format_exception(error)))))

    def _onTick(self) -> None:
        self._silence += TICK_MILLISECONDS / 1000
        self._standstill += TICK_MILLISECONDS / 1000
        if self._silence > self._heartbeatLimit:
            text = _("The computing process has not answered for {n} seconds and was stopped; apply again.")
            self._fail("hangs", text.format(n=round(self._silence)), self._process.log, endProcess=True)
        elif self._standstill > self._progressLimit:
            text = _(
                "The computation has made no progress for {n} minutes and was stopped; choose a region of interest"
                " or another device."
            )
            minutes = max(1, round(self._standstill / 60))
            self._fail("hangs", text.format(n=minutes), self._process.log, endProcess=True)

    def _fail(self, code: str, message: str, details: str, endProcess: bool) -> None:
        self._finish(endProcess).failed.emit(code, message, details)

    def _finish(self, endProcess: bool = False) -> Job | None:
        """Have no job any more, and perhaps no worker; return the job, if there was one."""
        self._timer.stop()
        job, self._job = self._job, None
        if job is not None and job.steps is not None:
            job.steps.cancel()
        if job is not None and job.folder is not None and job.folder.exists():
            Steps(removeFolder(job.folder))
        if endProcess:
            self._endProcess()
        return job

    def _endProcess(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _received(job: Job, result: dict[str, Any]) -> Iterator[None]:
    """Read the result's arrays, and let the job receive them; returns the job's result."""
    result = yield from readArrays(result, job.folder)
    return (yield from job.receive(result)) if job.receive else result


def slicerClient(arguments: Sequence[str] = WORKER) -> WorkerClient:
    """Make a client whose worker runs in Slicer's Python, with its files in Slicer's temporary folder."""
    python = shutil.which("PythonSlicer") or "PythonSlicer"
    return WorkerClient(python, arguments=arguments, folder=slicer.app.temporaryPath)


def _describe(error: Exception, folder: str) -> tuple[str, str]:
    """Say what went wrong while a request or its result was handed over: a code and one sentence."""
    if isinstance(error, UserError):
        return error.code, str(error)
    if isinstance(error, OSError):
        text = _("The volumes cannot be written to or read from {folder} ({reason}); free some space there.")
        return "output", text.format(folder=folder, reason=error.strerror or error)
    if isinstance(error, MemoryError):
        return "settings", _("There is not enough memory for this image; choose a region of interest.")
    text = _("Something went wrong between Slicer and the computing process ({reason}); report it, with the details.")
    return "internal", text.format(reason=f"{type(error).__name__}: {error}")
