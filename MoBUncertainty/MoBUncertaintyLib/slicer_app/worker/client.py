"""The application's side of the worker: jobs one after another, signals on the main thread, which is never blocked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import UserError
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT
from MoBUncertaintyLib.base.publishing import make_private_folder, remove_leftovers, remove_private_folder
from MoBUncertaintyLib.slicer_app.worker.steps import Steps, readArrays, removeFolder, writeArrays
from MoBUncertaintyLib.worker.protocol import PROGRESS_FIELDS, SCRATCH, Event, ProtocolError, encode, read_event

WORKER = ("-u", "-m", "MoBUncertaintyLib.worker")
LIBRARY_FOLDER = str(Path(__file__).parents[3])
TICK_MILLISECONDS = 250
CLOSE_MILLISECONDS = 2000
LOG_LINES = 60
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
    """A request to the worker. A job that is cancelled emits nothing more.

    Attributes:
        progress: Emitted with how far it is, a dict of `protocol.PROGRESS_FIELDS`.
        warning: Emitted with each warning, one sentence.
        finished: Emitted with the result.
        failed: Emitted with a code, a message (one sentence) and details (the last lines of the worker's log).
        message: What is asked for; None once that has begun.
        receive: Takes the worker's result in steps and returns the job's result. Default: that is the worker's.
        folder: The files of its arrays.
        steps: Hands over the request, or the result; None while the worker computes.
        received: Whether the worker has sent the result, and is needed no more.
    """

    def __init__(
        self,
        message: dict[str, Any] | None = None,
        receive: Callable[[dict[str, Any]], Iterator[None]] | None = None,
    ) -> None:
        self.progress, self.warning, self.finished, self.failed = Signal(), Signal(), Signal(), Signal()
        self.message, self.receive = message, receive
        self.folder: Path | None = None
        self.steps: Steps | None = None
        self.received = False


class WorkerClient:
    """Starts the worker at the first request and keeps it running, so that its model stays loaded.

    The worker's private folders are made in `folder`, itself made if need be; default: the system's for temporary
    files.
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
        self._folder = folder
        self._process: WorkerProcess | None = None
        self._processes: list[WorkerProcess] = []  # including those that are ending
        self._jobs: deque[Job] = deque()  # the first one is under way
        self._count = 0  # of requests: the number of that job's

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._jobs)

    def request(
        self, message: dict[str, Any], receive: Callable[[dict[str, Any]], Iterator[None]] | None = None
    ) -> Job:
        """Ask the worker for something, once all that was asked before is answered; return before anything is emitted.

        The message is a `command` with its fields, see `protocol`, and arrays (z, y, x) in place of their files: they
        are written in slabs while the application goes on. `folder` is added. `receive` takes the worker's result, with
        arrays in place of their files, in steps, and returns the job's result. Default: that is the worker's.
        """
        self._jobs.append(Job(message, receive))
        self._begin()
        return self._jobs[-1]

    def another(self) -> WorkerClient:
        """Make a client like this one, whose worker is a process of its own."""
        return WorkerClient(self._python, self._environment, self._arguments, self._folder)

    def cancel(self) -> None:
        """Drop all jobs; if the worker computes, end it with all processes that it has started. Return at once.

        What was half written is removed when the worker has ended.
        """
        computes = self.busy and self._jobs[0].message is None and self._jobs[0].steps is None
        while self.busy:
            self._drop()
        if computes:
            self._endProcess()

    def close(self) -> None:
        """Drop all jobs and end the worker; when this returns, it has ended, and its files are removed."""
        while self.busy:
            self._drop()
        self._process = None
        for process in self._processes:
            process.close()
        self._processes = []

    def _begin(self) -> None:
        """Hand the first job to the worker, which is started if there is none; unless that was done."""
        if not self._jobs or self._jobs[0].message is None:
            return
        self._count += 1
        job = self._jobs[0]
        message, job.message = job.message, None

        def write() -> Iterator[None]:
            if self._process is None:
                if self._folder:
                    os.makedirs(self._folder, exist_ok=True)
                self._process = WorkerProcess(
                    self._python, self._arguments, self._environment, self._onEvent, self._folder
                )
                self._processes = [each for each in self._processes if each.folder.exists()] + [self._process]
            job.folder = self._process.folder / f"request {self._count}"
            job.folder.mkdir(parents=True)
            return (yield from writeArrays({**message, "folder": str(job.folder)}, job.folder))

        def send(written: dict[str, Any]) -> None:
            job.steps = None
            self._process.send({**written, "id": self._count})

        job.steps = Steps(write(), send, partial(self._onStepsFailed, job))

    def _onEvent(self, event: dict[str, Any]) -> None:
        job, kind = self._jobs[0] if self._jobs else None, event["event"]
        isOver = kind == Event.ERROR and event.get("id") is None  # with the worker
        if isOver and (job is None or job.received):
            self._endProcess()  # the next request starts another one
        elif job is None or event.get("id") not in (self._count, None):
            return
        elif kind == Event.PROGRESS:
            job.progress.emit({key: event[key] for key in PROGRESS_FIELDS})
        elif kind == Event.WARNING:
            job.warning.emit(event["message"])
        elif kind == Event.RESULT:
            job.received = True
            received = _received(job, event["result"])
            job.steps = Steps(received, partial(self._end, job.finished), partial(self._onStepsFailed, job))
        elif kind == Event.ERROR and not job.received:
            if isOver:
                self._endProcess()
            self._end(job.failed, event["code"], event["message"], event["details"])

    def _onStepsFailed(self, job: Job, error: Exception) -> None:
        if isinstance(error, UserError) and error.__cause__ is None:  # foreseen
            code, message, details = error.code, str(error), ""
        else:
            code, message = _describe(error, self._folder or tempfile.gettempdir())
            log = self._process.log if self._process else ""
            details = "\n".join(filter(None, (log, *traceback.format_exception(error))))
        if self._jobs and job is self._jobs[0]:
            self._end(job.failed, code, message, details)
        else:  # a slot of `finished` has failed
            job.failed.emit(code, message, details)

    def _end(self, emitted: Signal, *values: Any) -> None:
        """End the job, say how, and begin the next one."""
        self._drop()
        try:
            emitted.emit(*values)
        finally:
            self._begin()

    def _drop(self) -> None:
        """Have the first job no more, nor its files."""
        job = self._jobs.popleft()
        if job.steps is not None:
            job.steps.cancel()
        if job.folder is not None and job.folder.exists():
            Steps(removeFolder(job.folder))

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
        text = _("Files cannot be written to or read from {folder} ({reason}); free some space there.")
        return "output", text.format(folder=folder, reason=error.strerror or error)
    if isinstance(error, MemoryError):
        return "settings", _("There is not enough memory for this image; choose a region of interest.")
    text = _("Something went wrong between Slicer and the computing process ({reason}); report it, with the details.")
    return "internal", text.format(reason=f"{type(error).__name__}: {error}")


class WorkerProcess:
    """Starts a worker. Keep it until its `folder` is gone: a QProcess that is deleted waits for its process.

    That private folder is removed soon after the end, with all that is left half written elsewhere. `onEvent` is called
    with each event of the worker, until `end`. That it has ended by itself, or was ended since it sent what is no
    message, is an error without an id.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        onEvent: Callable[[dict[str, Any]], None],
        parentFolder: str | None = None,
    ) -> None:
        self.folder = make_private_folder("MoBUncertainty", parentFolder)
        self._onEvent = onEvent
        self._log: deque[str] = deque([""], maxlen=LOG_LINES)
        self._pid: int | None = None
        self._output: str | None = None  # the folder that it was last asked to write
        self._ending = False
        self._exit = "still running"
        self._program, self._command = program, " ".join((program, *arguments))
        self.heartbeatLimit, self.progressLimit = HEARTBEAT_LIMIT, PROGRESS_LIMIT
        # Seconds are counted in ticks: they stand still while something blocks the application or the computer sleeps.
        self._silence = self._standstill = 0.0
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._onTick)
        self._process = qt.QProcess()
        path = os.pathsep.join(filter(None, (LIBRARY_FOLDER, environment.get("PYTHONPATH"))))
        processEnvironment = qt.QProcessEnvironment()
        own = {"PYTHONPATH": path, "PYTHONUTF8": "1", SCRATCH: str(self.folder)}
        for name, value in {**environment, **own}.items():
            processEnvironment.insert(name, value)
        self._process.setProcessEnvironment(processEnvironment)
        self._process.readyReadStandardOutput.connect(self._onOutput)
        self._process.readyReadStandardError.connect(self._onLog)
        self._process.finished.connect(self._onFinished)
        self._process.errorOccurred.connect(self._onErrorOccurred)
        self._process.start(program, list(arguments))

    @property
    def log(self) -> str:
        """The last lines that the worker printed."""
        return "\n".join(self._log).strip()

    def send(self, message: dict[str, Any]) -> None:
        """Send a request."""
        if self._process is not None:
            self._process.write(encode(message))
            self._output = message.get("output", self._output)
            self._silence = self._standstill = 0.0
            self._timer.start(TICK_MILLISECONDS)

    def end(self) -> None:
        """End the process and all that it has started; return at once. Its files are removed when it has ended."""
        wasEnding, self._ending = self._ending, True
        self._timer.stop()
        if not wasEnding and self._process is not None:
            # A worker whose process id is not known yet ends by itself when its stdin is closed.
            self._process.closeWriteChannel()
            if os.name == "nt":
                # Killing a launcher such as PythonSlicer would leave its child.
                command = ["taskkill", "/F", "/T", "/PID", str(self._process.processId())]
                subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW)
            else:
                _killGroup(self._pid)
                self._process.kill()

    def close(self) -> None:
        """End as `end` does, but wait until the process has ended, 2 seconds at most."""
        self.end()
        if self._process is not None:
            self._process.waitForFinished(CLOSE_MILLISECONDS)
        _removeLeftovers(self._output)
        remove_private_folder(self.folder)

    def _onOutput(self) -> None:
        """Take the lines that have arrived; one without an end is no message."""
        while not self._ending and (self._process.canReadLine() or self._process.bytesAvailable() > SIZE_LIMIT):
            line = self._process.readLine(SIZE_LIMIT + 1).data().strip()
            if not line:
                continue
            try:
                event = read_event(line)
            except ProtocolError as error:
                self._log.extend((str(error), ""))
                text = _("The computing process sent an invalid message and was stopped; apply again.")
                self._over("bad_message", text)
                return
            self._silence = 0.0
            if event["event"] == Event.READY:
                self._pid = event["pid"]
            elif event["event"] == Event.PROGRESS:
                self._standstill = 0.0
            elif event["event"] in (Event.RESULT, Event.ERROR):
                self._timer.stop()
            if event["event"] == Event.ERROR:
                event["details"] = "\n".join(filter(None, (self.log, event["details"])))
            self._onEvent(event)

    def _onTick(self) -> None:
        """Give up a worker that is silent, or makes no progress, for too long."""
        self._silence += TICK_MILLISECONDS / 1000
        self._standstill += TICK_MILLISECONDS / 1000
        if self._silence > self.heartbeatLimit:
            text = _("The computing process has not answered for {n} seconds and was stopped; apply again.")
            self._over("hangs", text.format(n=round(self._silence)))
        elif self._standstill > self.progressLimit:
            text = _(
                "The computation has made no progress for {n} minutes and was stopped; choose a region of interest"
                " or another device."
            )
            self._over("hangs", text.format(n=max(1, round(self._standstill / 60))))

    def _onLog(self) -> None:
        text = self._process.readAllStandardError().data().decode("utf-8", "replace")
        first, *lines = text.replace("\r\n", "\n").split("\n")
        self._log[-1] += first
        self._log.extend(lines)

    def _over(self, code: str, message: str) -> None:
        """End it, if it has not ended; tell why, unless that was asked for, with what was run and what it printed."""
        wasEnding = self._ending
        self.end()
        if not wasEnding:
            details = f"{self._command}\n{self._exit}\n\n{self.log or 'It has printed nothing.'}"
            self._onEvent({"event": Event.ERROR, "id": None, "code": code, "message": message, "details": details})

    def _onErrorOccurred(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self._finish()
            text = _("The computing process cannot be started with {program}; reinstall Slicer.")
            message = text.format(program=self._program)
            qt.QTimer.singleShot(0, lambda: self._over("not_started", message))  # Windows: the constructor goes on

    def _onFinished(self, *_exit: Any) -> None:
        self._onLog()
        self._onOutput()  # the last messages, perhaps a result
        kind = "signal" if self._process.exitStatus() == qt.QProcess.CrashExit else "exit code"
        self._exit = f"{kind} {self._process.exitCode()}"
        _killGroup(self._pid)  # processes that it may have left running
        self._finish()
        text = _(
            "The computing process ended unexpectedly ({exit}); see the details, and if it ran out of memory, "
            "choose a region of interest or another device."
        )
        self._over("died", text.format(exit=self._exit))

    def _finish(self) -> None:
        process, self._process = self._process, None
        # Kept until the signal has been delivered: without a reference PythonQt deletes its sender at once.
        qt.QTimer.singleShot(0, lambda: process.deleteLater())
        Steps(_removed(self.folder, self._output))


def _killGroup(pid: int | None) -> None:
    """End the process group that a worker leads, but never the one that this application is in."""
    if os.name == "posix" and pid and pid not in (1, os.getpgrp()):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _removed(folder: Path, output: str | None) -> Iterator[None]:
    """Remove a worker's private folder, and what it was writing."""
    _removeLeftovers(output)
    yield
    yield from removeFolder(folder)
    remove_private_folder(folder)


def _removeLeftovers(output: str | None) -> None:
    """Remove what a worker was writing, which a killed process cannot do itself."""
    if output:
        with suppress(OSError):
            remove_leftovers(output)
