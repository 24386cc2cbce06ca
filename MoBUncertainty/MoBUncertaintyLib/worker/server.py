"""The process that computes for Slicer: `python -m MoBUncertaintyLib.worker` speaks `protocol` on stdin and stdout.

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
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import NOT_ENOUGH_MEMORY, UserError, is_out_of_memory
from MoBUncertaintyLib.files.publishing import remove_leftovers, sweep
from MoBUncertaintyLib.worker.protocol import HEARTBEAT_S, Command, Decoder, Event, ProtocolError, check_request, encode

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
    except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
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
