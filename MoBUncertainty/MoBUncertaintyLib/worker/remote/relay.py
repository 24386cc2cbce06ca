"""Pass an application's requests on to a worker on another computer, and its answers back.

To the application this is a worker like every other, which speaks `protocol`. The name of a volume, which may be its
patient's, stays here. The relay ends, and ssh with it, when either side does.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import SettingsError, UserError
from MoBUncertaintyLib.worker.protocol import Command, Event, ProtocolError, check_event
from MoBUncertaintyLib.worker.remote.connection import (
    RemoteError,
    cut,
    no_answer,
    not_connected,
    ssh_command,
    ssh_environment,
    version_fault,
)
from MoBUncertaintyLib.worker.remote.stream import (
    BEAT_S,
    Fields,
    Notice,
    Stream,
    UnreadableError,
    as_text,
    name_files,
)
from MoBUncertaintyLib.worker.server import Channel, describe_error, listen, stand_alone

RELAYED = (Command.PREDICT, Command.COMPUTER)
"""Commands that need no other files of this computer than those they name."""

LOG_LINES = 20
ANSWER_S = 50.0
"""Seconds without a byte from the host, which beats every other second, after which it is given up; less than Slicer's
patience with its worker."""
SSH_ENDS_S = 5.0
TELL_S = 0.5  # seconds between two messages on how much has been sent
MB = 1e6


def relay(host: str) -> NoReturn:
    """Be the worker of the application on stdin and stdout until either side ends.

    Args:
        host: The computer that computes, as ssh knows it.
    """
    stand_alone()
    channel = Channel()
    channel.send(Event.READY, pid=os.getpid(), version=__version__, niceness=0)
    waiting: queue.Queue[Fields] = queue.Queue()
    threading.Thread(target=listen, args=(channel, waiting), daemon=True).start()
    try:
        Relay(host, channel, waiting).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
        code, message = describe_error(error)
        channel.send(Event.ERROR, id=None, code=code, message=message, details="")
    channel.hang_up()


class Relay:
    """The connection to a computer.

    Args:
        host: The computer.
        channel: To the application.
        waiting: The application's requests.

    Raises:
        UserError: ssh cannot be started.
    """

    def __init__(self, host: str, channel: Channel, waiting: queue.Queue[Fields]) -> None:
        self._host, self._channel, self._waiting = host, channel, waiting
        self._ssh = subprocess.Popen(
            ssh_command(host),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ssh_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self._ssh.stdin and self._ssh.stdout and self._ssh.stderr
        self._stream = Stream(self._ssh.stdout, self._ssh.stdin)
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._logging = threading.Thread(target=self._keep_log, args=(self._ssh.stderr,), daemon=True)
        self._logging.start()
        self._requests: dict[object, Fields] = {}  # those that are not answered, by their id
        self._models: queue.Queue[bool] = queue.Queue()  # whether the host has the model that it was asked for
        self._told = 0.0
        self._fault: UserError | None = None  # why this end has ended the connection
        threading.Thread(target=self._watch, daemon=True).start()

    def run(self) -> None:
        """Connect, and pass on what comes.

        Raises:
            UserError: There is no connection, or no more.
            ProtocolError: The host sends nonsense.
        """
        try:
            self._stream.await_greeting()
        except EOFError as error:
            raise self._fault or not_connected(self._host, self._exit_code(), self._log) from error
        except ProtocolError as error:
            raise RemoteError(
                f"{self._host} answers with something else than mob-uncertainty; try ssh {self._host} mob-uncertainty "
                "--version in a terminal."
            ) from error
        try:
            hello = self._stream.receive(self._folder)
            if (version := hello.get("version")) != __version__:
                raise version_fault(self._host, str(version))
            threading.Thread(target=self._send_requests, daemon=True).start()
            while True:
                self._take(self._stream.receive(self._folder, self._tell_received))
        except EOFError as error:
            raise self._fault or cut(self._host, self._exit_code(), self._log) from error

    # To the host

    def _send_requests(self) -> None:
        with suppress(OSError):  # the connection is at its end, which is told by `run`
            while True:
                try:
                    request = self._waiting.get(timeout=BEAT_S)
                except queue.Empty:
                    self._stream.send({"command": Notice.BEAT})
                    continue
                try:
                    self._send(request)
                except (UserError, ProtocolError) as error:
                    if isinstance(error, UnreadableError) and error.half_sent:
                        self._end(error)
                        return
                    code, message = describe_error(error)
                    self._channel.send(Event.ERROR, id=request.get("id"), code=code, message=message, details="")

    def _send(self, request: Fields) -> None:
        if request["command"] not in RELAYED:
            raise ProtocolError(f"{request['command']!r} is not done on another computer.")
        self._requests[request.get("id")] = request
        message = {name: value for name, value in request.items() if name != "folder"}
        if request["command"] == Command.PREDICT:
            message = name_files(message, Path(request["folder"])) | {"models": self._send_models(request)}
            message["ct"] = _unnamed(message["ct"])
            message["channels"] = {name: _unnamed(each) for name, each in (message.get("channels") or {}).items()}
        self._stream.send(message, lambda done, total: self._tell(request, "send", done, total))

    def _send_models(self, request: Fields) -> list[str]:
        """Send the models, but for those that the host has; returns their digests."""
        from MoBUncertaintyLib.worker.remote.models import KEPT, ModelFiles

        models = [ModelFiles.of(Path(path)) for path in request["models"]]
        if len(models) > KEPT:
            raise SettingsError(f"Another computer keeps {KEPT} models, so an ensemble there has no more; take fewer.")
        for model in models:
            self._stream.send({"command": Notice.MODEL, "digest": model.digest})
            if not self._models.get():
                stated = {"name": model.name, "digests": dict(model.digests), "files": dict(model.files)}
                self._stream.send(
                    {"command": Notice.KEEP, "id": request.get("id"), **stated},
                    lambda done, total: self._tell(request, "send model", done, total),
                )
        return [model.digest for model in models]

    # From the host

    def _take(self, event: Fields) -> None:
        if event.get("event") == Notice.MODEL:
            self._models.put(event.get("here") is True)
            return
        check_event(event)
        kind = Event(event.pop("event"))
        if kind is Event.RESULT:
            request = self._requests.pop(event.get("id"), {})
            event["result"] = as_text(self._completed(event["result"], request))
        elif kind is Event.ERROR:
            self._requests.pop(event.get("id"), None)
        self._channel.send(kind, **event)
        if kind is Event.ERROR and event.get("id") is None:
            self._channel.hang_up()

    def _completed(self, result: Fields, request: Fields) -> Fields:
        """Add to a result what the host does not know: which computer it is, and the names of models and CT here."""
        provenance = result.get("provenance")
        if not isinstance(provenance, dict):
            return result
        told: dict[str, Any] = {"computer": self._host}
        if isinstance(model := provenance.get("model"), dict):
            told["model"] = model | {"path": request["models"][0]}
        if isinstance(members := provenance.get("ensemble"), list):
            pairs = zip(members, request["models"], strict=False)
            told["ensemble"] = [member | {"path": path} for member, path in pairs]
        if isinstance(source := provenance.get("input"), dict):
            told["input"] = source | {"name": request.get("ct", {}).get("name")}
        return result | {"provenance": provenance | told}

    def _folder(self, event: Fields) -> Path:
        """Say where the files of a result go: beside those of its request."""
        request = self._requests.get(event.get("id"))
        if request is None or "folder" not in request:
            raise ProtocolError("The files of a result were sent that nobody has asked for.")
        return Path(request["folder"])

    def _tell_received(self, event: Fields, done: int, total: int) -> None:
        self._tell(event, "receive", done, total)

    def _tell(self, message: Fields, stage: str, done: int, total: int) -> None:
        """Report how many MB are sent; every now and then, and as a sign of life."""
        if time.monotonic() - self._told < TELL_S:
            return
        self._told = time.monotonic()
        counts = {"done": round(done / MB), "total": max(1, round(total / MB))}
        fraction = 1.0 if stage == "receive" else 0.0
        told = {"stage": stage, **counts, "fraction": fraction, "seconds_left": None}
        self._channel.send(Event.PROGRESS, id=message.get("id"), **told)

    # ssh

    def _watch(self) -> None:
        """End the connection when the host has been silent for long."""
        while time.monotonic() - self._stream.heard < ANSWER_S:
            time.sleep(1.0)
        self._end(no_answer(self._host, ANSWER_S))

    def _end(self, fault: UserError) -> None:
        """End the connection, which `run` then says the reason of."""
        self._fault = fault
        self._ssh.kill()

    def _keep_log(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            text = line.decode("utf-8", "replace").rstrip()
            self._log.append(text)
            print(text, file=sys.stderr, flush=True)

    def _exit_code(self) -> int:
        """Wait until ssh has ended and said all; returns its exit code."""
        with suppress(OSError):
            self._ssh.stdin.close()  # type: ignore[union-attr]
        try:
            self._ssh.wait(SSH_ENDS_S)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        self._logging.join(1.0)
        return self._ssh.returncode


def _unnamed(volume: Fields) -> Fields:
    return volume | {"name": None}
