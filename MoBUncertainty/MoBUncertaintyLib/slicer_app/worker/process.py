"""One process of the worker: its private folder, its messages, and its end with all processes that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.publishing import make_private_folder, remove_leftovers, remove_private_folder
from MoBUncertaintyLib.slicer_app.worker.steps import Steps, removeFolder
from MoBUncertaintyLib.worker.protocol import Command, Decoder, Event, ProtocolError, check_event, encode

LIBRARY_FOLDER = str(Path(__file__).parents[3])
LOG_LINES = 60
CLOSE_MILLISECONDS = 2000


class WorkerProcess:
    """Starts a worker. Keep it until its folder is gone: a QProcess that is deleted waits for its process.

    Attributes:
        folder: Its private folder, removed soon after its end with all that it has left half written elsewhere.

    Args:
        onEvent: Called with each event of the worker, until `end`. That it has ended by itself, or was ended since it
            sent what is no message, is an error without an id.
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
        self._decoder = Decoder()
        self._log: deque[str] = deque([""], maxlen=LOG_LINES)
        self._pid: int | None = None
        self._output: str | None = None  # the folder that it was last asked to write
        self._ending = False
        self._exit = "still running"
        self._program, self._command = program, " ".join((program, *arguments))
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(_processEnvironment(environment))
        self._process.readyReadStandardOutput.connect(self._onOutput)
        self._process.readyReadStandardError.connect(self._onLog)
        self._process.finished.connect(self._onFinished)
        self._process.errorOccurred.connect(self._onErrorOccurred)
        self._process.start(program, list(arguments))
        self.send({"command": Command.SCRATCH, "folder": str(self.folder)})

    @property
    def log(self) -> str:
        """The last lines that the worker printed."""
        return "\n".join(self._log).strip()

    def send(self, message: dict[str, Any]) -> None:
        """Send a request."""
        if self._process is not None:
            self._process.write(encode(message))
            self._output = message.get("output", self._output)

    def end(self) -> None:
        """End the process and all that it has started; return at once. Its files are removed when it has ended."""
        wasEnding, self._ending = self._ending, True
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
        try:
            events = self._decoder.feed(self._process.readAllStandardOutput().data())
            for event in events:
                check_event(event)
        except ProtocolError as error:
            self._note(f"\n{error}\n")
            text = _("The computing process sent an invalid message and was stopped; apply again.")
            self._over("bad_message", text)
            return
        for event in events:
            if self._ending:
                return
            if event["event"] == Event.READY:
                self._pid = event["pid"]
            elif event["event"] == Event.ERROR:
                event["details"] = "\n".join(filter(None, (self.log, event["details"])))
            self._onEvent(event)

    def _onLog(self) -> None:
        self._note(self._process.readAllStandardError().data().decode("utf-8", "replace"))

    def _note(self, text: str) -> None:
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


def _processEnvironment(environment: Mapping[str, str]) -> Any:
    path = os.pathsep.join(filter(None, (LIBRARY_FOLDER, environment.get("PYTHONPATH"))))
    processEnvironment = qt.QProcessEnvironment()
    for name, value in {**environment, "PYTHONPATH": path, "PYTHONUTF8": "1"}.items():
        processEnvironment.insert(name, value)
    return processEnvironment
