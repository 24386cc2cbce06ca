"""The connection to a worker on another computer.

The name of a volume, which may be its patient's, stays here.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import Cancelled, OutputError, SettingsError, UserError, reason_of
from MoBUncertaintyLib.worker.protocol import (
    PROGRESS_FIELDS,
    Command,
    Event,
    Fields,
    ProtocolError,
    check_event,
    read_event,
    receive,
    send,
)
from MoBUncertaintyLib.worker.remote.ssh import (
    RemoteError,
    cut,
    no_answer,
    not_connected,
    ssh_command,
    ssh_environment,
    version_fault,
)
from MoBUncertaintyLib.worker.server import Report

BANNER_LIMIT = 1 << 16
"""Bytes that the shell there may print before the worker is ready."""
BEAT_S = 10.0
"""Seconds between two empty lines, by which the other computer notices that somebody is there."""
ANSWER_S = 50.0
"""Seconds without a byte from the worker, which beats every other second, after which it is given up; less than
Slicer's patience."""
SSH_ENDS_S = 5.0
TELL_S = 0.5  # between two messages on how much has been sent
LOG_LINES = 20
_CANCELLED = "The prediction was cancelled; nothing was saved."
MB = 1e6


class Connection:
    """The worker on a computer: connected at the first request, and anew at the next one after the connection was cut.

    Each line that ssh prints is shown.
    """

    def __init__(self, host: str, show: Callable[[str], None] = lambda _line: None) -> None:
        self.host, self._show = host, show
        self._ssh: subprocess.Popen[bytes] | None = None
        self._sending = threading.Lock()
        self._count = 0  # of requests

    def predict(self, request: Fields, report: Report, cancelled: Callable[[], bool] = lambda: False) -> Fields:
        """Send the models, unless they are there, and the volumes; the result's arrays arrive in the request's folder.

        At each message from there, and while files are sent, it asks whether it is cancelled. Raises `Cancelled`, with
        the connection ended, and `UserError` if connection or worker failed.
        """
        from MoBUncertaintyLib.worker.remote.models import KEPT, ModelFiles

        models = [ModelFiles.of(Path(path)) for path in request["models"]]
        if len(models) > KEPT:
            raise SettingsError(f"An ensemble on another computer can have at most {KEPT} models; choose fewer.")
        for model in models:
            if not self.ask({"command": Command.MODEL, "digest": model.digest}, report, cancelled)["here"]:
                files = {f"{number}.part": model.files[name] for number, name in enumerate(model.digests)}
                message = {"command": Command.KEEP, "name": model.name, "digests": dict(model.digests)}
                self.ask(message, report, cancelled, files)
        message = {name: value for name, value in request.items() if name not in ("id", "folder", "computer")}
        message |= {"models": [model.digest for model in models], "ct": _unnamed(request["ct"])}
        message["channels"] = {name: _unnamed(volume) for name, volume in (request.get("channels") or {}).items()}
        folder = Path(request["folder"])
        result = self.ask(message, report, cancelled, {path.name: path for path in folder.iterdir()}, folder)
        return self._completed(result, request)

    def ask(
        self,
        message: Fields,
        report: Report,
        cancelled: Callable[[], bool] = lambda: False,
        files: Mapping[str, Path] | None = None,
        folder: Path | None = None,
    ) -> Fields:
        """Send a request, and follow it until it is answered; the result's arrays go to a folder. Else as `predict`."""
        self._count += 1
        self._folder = folder
        try:
            if self._ssh is None or self._ssh.poll() is not None:
                self._connect(cancelled)
            self._send(message, files, report, cancelled)
            while (event := self._next(cancelled))["event"] not in (Event.RESULT, Event.ERROR):
                if event["event"] == Event.PROGRESS:
                    report.progress({name: event[name] for name in PROGRESS_FIELDS})
                elif event["event"] == Event.WARNING:
                    report.warning(event["message"])
        except BaseException:
            self.close()  # what it still does is for nobody
            raise
        if event["event"] == Event.ERROR:
            self._show(event["details"])
            if event.get("id") is None:
                self.close()
            raise _WorkerError(event["message"], event["code"])
        result: Fields = event["result"]
        return result

    def _send(
        self, message: Fields, files: Mapping[str, Path] | None, report: Report, cancelled: Callable[[], bool]
    ) -> None:
        def sent(fields: Fields) -> None:
            if cancelled():
                raise Cancelled(_CANCELLED)
            report.progress(fields)

        assert self._ssh and self._ssh.stdin
        stage = "send model" if message["command"] == Command.KEEP else "send"
        try:
            with self._sending:
                send(self._ssh.stdin, message | {"id": self._count}, files, _meter(sent, stage))
        except OSError:  # why it has ended is told by the last event; half a message is of no use
            with suppress(subprocess.TimeoutExpired):
                self._ssh.wait(SSH_ENDS_S)
            self._ssh.kill()

    def close(self) -> None:
        """End the connection, and what is computed there."""
        ssh, self._ssh = self._ssh, None
        if ssh:
            ssh.kill()
            ssh.wait()

    def _connect(self, cancelled: Callable[[], bool]) -> None:
        self._fault: RemoteError | None = None
        self._connected, self._heard = False, time.monotonic()
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._events: queue.Queue[Fields | Exception] = queue.Queue()
        try:
            self._ssh = subprocess.Popen(
                ssh_command(self.host),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ssh_environment(),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                start_new_session=True,  # Ctrl-C is for the command, which ends the connection
            )
        except OSError as error:
            raise RemoteError(f"ssh cannot be started ({reason_of(error)}); reinstall OpenSSH.") from error
        self._logging = threading.Thread(target=self._keep_log, args=(self._ssh.stderr,), daemon=True)
        self._logging.start()
        for work in (self._listen, self._watch):
            threading.Thread(target=work, args=(self._ssh, self._events), daemon=True).start()
        first = self._next(cancelled)
        if first["event"] == Event.ERROR:
            raise _WorkerError(first["message"], first["code"])
        if first.get("version") != __version__:
            raise version_fault(self.host, str(first.get("version")))
        self._connected = True

    def _next(self, cancelled: Callable[[], bool]) -> Fields:
        """Wait for the next event."""
        event = self._events.get()
        if cancelled():
            raise Cancelled(_CANCELLED)
        if isinstance(event, EOFError):
            tell = cut if self._connected else not_connected
            raise self._fault or tell(self.host, self._exit_code(), self._log)
        if isinstance(event, ProtocolError):
            raise RemoteError(
                f"What answers on {self.host} is not mob-uncertainty; try ssh {self.host} mob-uncertainty "
                "--version in a terminal."
            ) from event
        if isinstance(event, OSError):
            raise OutputError(
                f"The data from {self.host} cannot be written ({reason_of(event)}); free some space and try again."
            ) from event
        if isinstance(event, Exception):
            raise event
        return event

    def _listen(self, ssh: subprocess.Popen[bytes], events: queue.Queue[Fields | Exception]) -> None:
        """Queue what arrives, and why nothing more does."""
        assert ssh.stdout
        meter = _meter(lambda fields: events.put({"event": Event.PROGRESS, **fields}), "receive")

        def arriving(done: int, total: int) -> None:
            self._heard = time.monotonic()
            meter(done, total)

        def place(_event: Fields) -> Path:
            if self._folder is None:
                raise ProtocolError("Files of a result arrived that were not requested.")
            return self._folder

        try:
            events.put(_ready(ssh.stdout))
            while True:
                event = receive(ssh.stdout, place, arriving)
                self._heard = time.monotonic()
                check_event(event)
                if event["event"] != Event.HEARTBEAT or events.empty():  # nobody takes them between requests
                    events.put(event)
        except Exception as error:  # noqa: BLE001 - whoever waits for an event raises it
            events.put(error)

    def _watch(self, ssh: subprocess.Popen[bytes], _events: queue.Queue[Fields | Exception]) -> None:
        """Give signs of life, and end a connection that has been silent for long."""
        assert ssh.stdin
        beat = time.monotonic()
        while ssh.poll() is None:
            time.sleep(1.0)
            now = time.monotonic()
            if now - self._heard > ANSWER_S:
                self._fault = no_answer(self.host, ANSWER_S)
                ssh.kill()
            elif now - beat > BEAT_S and self._sending.acquire(blocking=False):
                beat = now
                try:
                    with suppress(OSError, ValueError):  # it has ended, or was closed
                        ssh.stdin.write(b"\n")
                        ssh.stdin.flush()
                finally:
                    self._sending.release()

    def _keep_log(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            self._log.append(line.decode("utf-8", "replace").rstrip())
            self._show(self._log[-1])

    def _exit_code(self) -> int:
        """Wait until ssh has ended and printed all; returns its exit code."""
        assert self._ssh and self._ssh.stdin
        with suppress(OSError):
            self._ssh.stdin.close()
        try:
            self._ssh.wait(SSH_ENDS_S)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        self._logging.join(1.0)
        return self._ssh.returncode

    def _completed(self, result: Fields, request: Fields) -> Fields:
        """Add to a result which computer it is, and the names of models and image here."""
        provenance = result.get("provenance")
        if not isinstance(provenance, dict):
            return result
        local: Fields = {"computer": self.host}
        if isinstance(model := provenance.get("model"), dict):
            local["model"] = model | {"path": request["models"][0]}
        if isinstance(members := provenance.get("ensemble"), list):
            pairs = zip(members, request["models"], strict=False)
            local["ensemble"] = [member | {"path": path} for member, path in pairs]
        if isinstance(source := provenance.get("input"), dict):
            local["input"] = source | {"name": request["ct"].get("name")}
        return result | {"provenance": provenance | local}


class _WorkerError(UserError):
    """What the worker there cannot do."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def _unnamed(volume: Fields) -> Fields:
    return volume | {"name": None}


def _ready(source: IO[bytes]) -> Fields:
    """Skip what the shell there prints, up to the worker's first event, or the reason that there is no worker."""
    size, line = 0, b""
    while not line.startswith((b'{"event": "ready"', b'{"event": "error"')):
        line = source.readline(BANNER_LIMIT)
        size += len(line)
        if not line:
            raise EOFError
        if size > BANNER_LIMIT:
            raise ProtocolError("There is no worker.")
    return read_event(line)


def _meter(tell: Callable[[Fields], None], stage: str) -> Callable[[int, int], None]:
    """Make what tells, every now and then, how many MB are sent or have arrived."""
    latest = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal latest
        if time.monotonic() - latest >= TELL_S:
            latest = time.monotonic()
            counts = {"done": round(done / MB), "total": max(1, round(total / MB))}
            fraction = 1.0 if stage == "receive" else 0.0
            tell({"stage": stage, **counts, "fraction": fraction, "seconds_left": None})

    return report
