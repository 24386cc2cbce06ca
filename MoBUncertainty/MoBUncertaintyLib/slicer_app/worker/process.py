"""One process of the worker: its private folder, its messages, and its end with all processes that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any

import qt

from MoBUncertaintyLib.base.publishing import make_private_folder, remove_leftovers, remove_private_folder
from MoBUncertaintyLib.slicer_app.worker.steps import Steps, removeFolder
from MoBUncertaintyLib.worker.protocol import Command, Decoder, Event, ProtocolError, check_event, encode

LIBRARY_FOLDER = str(Path(__file__).parents[3])
LOG_LINES = 60
CLOSE_MILLISECONDS = 2000


class End(Enum):
    """Why a worker has ended by itself."""

    NOT_STARTED = auto()
    DIED = auto()
    BAD_MESSAGE = auto()


class WorkerProcess:
    """Starts a worker. Keep it until its folder is gone: a QProcess that is deleted waits for its process.

    Attributes:
        folder: Its private folder, removed soon after its end with all that it has left half written elsewhere.
        exit: How it ended: "exit code 1", "signal 9".

    Args:
        onEnd: Called with this object and the reason when it has ended by itself or sent a malformed message; not after
            `end`.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        onEvent: Callable[[dict[str, Any]], None],
        onEnd: Callable[[WorkerProcess, End], None],
        parentFolder: str | None = None,
    ) -> None:
        self.folder = make_private_folder("MoBUncertainty", parentFolder)
        self._onEvent = onEvent
        self._onEnd = onEnd
        self._decoder = Decoder()
        self._log: deque[str] = deque([""], maxlen=LOG_LINES)
        self._pid: int | None = None
        self._output: str | None = None  # the folder that it was last asked to write
        self._ending = False  # on request
        self.exit = "still running"
        self._command = " ".join((program, *arguments))
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

    @property
    def report(self) -> str:
        """What was run, how it ended, and the last lines that it printed."""
        log = self.log or "It has printed nothing."
        return f"{self._command}\n{self.exit}\n\n{log}"

    def send(self, message: dict[str, Any]) -> None:
        """Send a request."""
        if self._process is not None:
            self._process.write(encode(message))
            self._output = message.get("output", self._output)

    def end(self) -> None:
        """End the process and all that it has started; return at once. Its files are removed when it has ended."""
        if self._ending or self._process is None:
            return
        self._ending = True
        # A worker whose process id is not known yet ends by itself when its stdin is closed.
        self._process.closeWriteChannel()
        self._killTree()

    def close(self) -> None:
        """End as `end` does, but wait until the process has ended, 2 seconds at most."""
        self.end()
        if self._process is not None:
            self._process.waitForFinished(CLOSE_MILLISECONDS)
        self._removeLeftovers()
        remove_private_folder(self.folder)

    def _killTree(self) -> None:
        if os.name == "nt":
            # Killing a launcher such as PythonSlicer would leave its child.
            command = ["taskkill", "/F", "/T", "/PID", str(self._process.processId())]
            subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW)
            return
        self._killGroup()
        self._process.kill()

    def _killGroup(self) -> None:
        """End the process group that the worker leads, but never the one that this application is in."""
        if os.name == "posix" and self._pid and self._pid not in (1, os.getpgrp()):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _onOutput(self) -> None:
        try:
            events = self._decoder.feed(self._process.readAllStandardOutput().data())
            for event in events:
                check_event(event)
        except ProtocolError as error:
            self._note(f"\n{error}\n")
            self._stop(End.BAD_MESSAGE)
            return
        for event in events:
            if self._ending:
                return
            if event["event"] == Event.READY:
                self._pid = event["pid"]
            self._onEvent(event)

    def _onLog(self) -> None:
        self._note(self._process.readAllStandardError().data().decode("utf-8", "replace"))

    def _note(self, text: str) -> None:
        first, *lines = text.replace("\r\n", "\n").split("\n")
        self._log[-1] += first
        self._log.extend(lines)

    def _stop(self, reason: End) -> None:
        if not self._ending:
            self.end()
            self._onEnd(self, reason)

    def _onErrorOccurred(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            wasEnding, self._ending = self._ending, True
            self._finish()
            if not wasEnding:  # on Windows it is known before the constructor is through
                qt.QTimer.singleShot(0, lambda: self._onEnd(self, End.NOT_STARTED))

    def _onFinished(self, *_exit: Any) -> None:
        self._onLog()
        self._onOutput()  # the last messages, perhaps a result
        kind = "signal" if self._process.exitStatus() == qt.QProcess.CrashExit else "exit code"
        self.exit = f"{kind} {self._process.exitCode()}"
        wasEnding, self._ending = self._ending, True
        self._killGroup()  # processes that it may have left running
        self._finish()
        if not wasEnding:
            self._onEnd(self, End.DIED)

    def _finish(self) -> None:
        process, self._process = self._process, None
        # Kept until the signal has been delivered: without a reference PythonQt deletes its sender at once.
        qt.QTimer.singleShot(0, lambda: process.deleteLater())
        Steps(self._removeFiles())

    def _removeFiles(self) -> Iterator[None]:
        self._removeLeftovers()
        yield
        yield from removeFolder(self.folder)
        remove_private_folder(self.folder)

    def _removeLeftovers(self) -> None:
        """Remove what it was writing, which a killed process cannot do itself."""
        if self._output:
            with suppress(OSError):
                remove_leftovers(self._output)


def _processEnvironment(environment: Mapping[str, str]) -> Any:
    path = os.pathsep.join(filter(None, (LIBRARY_FOLDER, environment.get("PYTHONPATH"))))
    processEnvironment = qt.QProcessEnvironment()
    for name, value in {**environment, "PYTHONPATH": path, "PYTHONUTF8": "1"}.items():
        processEnvironment.insert(name, value)
    return processEnvironment
