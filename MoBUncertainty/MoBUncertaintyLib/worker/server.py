"""The process that computes for Slicer: `python -m MoBUncertaintyLib.worker` speaks `protocol` on stdin and stdout.

It answers one request at a time; the model of the last prediction stays loaded. The process ends, with all its child
processes, as soon as its stdin is closed, even during a computation, so that it never outlives the application.
Nothing heavy is imported before a request needs it, so that `ready` is sent at once.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, NoReturn

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import NOT_ENOUGH_MEMORY, UserError, is_out_of_memory
from MoBUncertaintyLib.base.publishing import remove_leftovers, sweep
from MoBUncertaintyLib.worker.protocol import (
    HEARTBEAT_S,
    SCRATCH,
    Event,
    Fields,
    ProtocolError,
    UnreadableError,
    receive,
    send,
)

APPLICATION_ENDS_S = 2.0
"""For how long a killed application can hold its locks after its pipes are closed."""

heartbeat_s = HEARTBEAT_S
"""Seconds between heartbeats; the fake worker changes them."""


class Report:
    """Reports a handler's progress and warnings while it works on a request; `send` sends an event of it."""

    def __init__(self, send: Callable[[Event, Fields], None]) -> None:
        self._send = send
        self.warnings: list[str] = []

    def progress(self, fields: Fields) -> None:
        """Report progress with the fields that `Estimate.step` returns."""
        self._send(Event.PROGRESS, fields)

    def warning(self, message: str) -> None:
        """Warn the user in one sentence."""
        self.warnings.append(message)
        self._send(Event.WARNING, {"message": message})


FOR_ANOTHER_COMPUTER = "for-another-computer"
"""The argument of a worker that computes for another computer, and does nothing else for it."""
Handler = Callable[[Fields, Report], Fields]
"""Answers a request; the message of a `UserError` is shown to the user."""


class Channel:
    """The two pipes to the application, hidden from the rest of the process."""

    def __init__(self) -> None:
        self.temporary = Path(tempfile.gettempdir())
        self._lock = threading.Lock()
        self._scratch = os.environ.pop(SCRATCH, None)
        tempfile.tempdir = self._scratch
        self._written: str | None = None
        self._input, self._output = take_pipes()

    def send(self, event: Event, files: Mapping[str, Path] | None = None, **fields: Any) -> None:
        """Send one event and its files, from any thread; invalid Unicode, as in a file's name, becomes question marks.

        Raises `ProtocolError` if the fields cannot be sent.
        """
        with self._lock:
            try:
                send(self._output, {"event": event, **fields}, files)
            except (OSError, UnreadableError):  # the application is gone, or takes the rest for a file
                self.hang_up()

    def requests(self) -> Iterator[Fields]:
        """Yield requests as they arrive, until stdin is closed.

        Raises `ProtocolError` if a line is not a message. Raises `UserError` or `OSError` if the files of a request
        cannot be kept.
        """
        with suppress(EOFError):
            while True:
                request = receive(self._input, self._place)
                self._written = request.get("output")
                yield request

    def _place(self, request: Fields) -> Path:
        """Make the folder for the files of another computer's request."""
        folder = Path(self._scratch or self.temporary) / f"request {int(request['id'])}"
        folder.mkdir()
        request["folder"] = str(folder)
        return folder

    def hang_up(self) -> NoReturn:
        """End the process and its child processes, and leave no patient data behind, even if Slicer crashed."""
        try:
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
                remove_leftovers(self._scratch, APPLICATION_ENDS_S)
            if self._written:
                remove_leftovers(self._written)
        finally:  # even if the path was not one
            end_process_tree()


def take_pipes() -> tuple[BufferedReader, BufferedWriter]:
    """Take stdin and stdout from the rest of the process: stdin looks empty, output to stdout goes to stderr.

    (On Windows a library that inspects stdin while it is loaded would wait for the thread that reads it.)
    """
    taken = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return taken


def serve(handlers: Mapping[str, Handler]) -> NoReturn:
    """Answer requests, each by the handler of its command, until stdin is closed."""
    stand_alone()
    channel = Channel()
    channel.send(Event.READY, pid=os.getpid(), version=__version__)
    waiting: queue.Queue[Fields] = queue.Queue()
    threading.Thread(target=_listen, args=(channel, waiting), daemon=True).start()
    threading.Thread(target=_beat, args=(channel,), daemon=True).start()
    sweep(channel.temporary)
    while True:
        _answer(channel, handlers, waiting.get())


def stand_alone() -> None:
    """Start a session of its own, which can be ended as a whole, at normal priority: Slicer's may be low."""
    if os.name == "posix":
        if os.getpgrp() != os.getpid():
            os.setsid()
        with suppress(OSError):  # an ordinary user may not raise it
            os.setpriority(os.PRIO_PROCESS, 0, min(0, os.getpriority(os.PRIO_PROCESS, 0)))


def _listen(channel: Channel, waiting: queue.Queue[Fields]) -> None:
    """Read requests in a thread of its own, which notices the end of stdin during any computation."""
    try:
        for request in channel.requests():
            waiting.put(request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
        code, message = describe_error(error)
        channel.send(Event.ERROR, id=None, code=code, message=message, details="")
    finally:
        channel.hang_up()


def _beat(channel: Channel) -> None:
    while True:
        time.sleep(heartbeat_s)
        channel.send(Event.HEARTBEAT)


def end_process_tree() -> NoReturn:
    """End this process and its child processes at once."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    elif os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], capture_output=True, check=False)
    os._exit(1)


def _answer(channel: Channel, handlers: Mapping[str, Handler], request: Fields) -> None:
    identity, files = request.get("id"), {}
    report = Report(lambda event, fields: channel.send(event, id=identity, **fields))
    try:
        handler = handlers.get(str(request.get("command")))
        if handler is None:
            raise ProtocolError(f"The worker does not know the command {request.get('command')!r}.")
        result = handler(request, report)
        if "files" in request:  # from another computer, to which those of the result go
            files = {path.name: path for path in Path(request["folder"]).iterdir() if path.name not in request["files"]}
        channel.send(Event.RESULT, files, id=identity, result=result)
    except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
        code, message = describe_error(error)
        details = "" if isinstance(error, UserError) else traceback.format_exc()
        channel.send(Event.ERROR, id=identity, code=code, message=message, details=details)
    finally:
        if "files" in request:
            shutil.rmtree(request["folder"], ignore_errors=True)


def describe_error(error: Exception) -> tuple[str, str]:
    """Describe any error by a code and one sentence for the user."""
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
