"""The end of the stream on the computer that computes: a worker, its private folder, and their end.

Started by ssh (`mob-uncertainty worker`), it ends with its worker and all files as soon as the connection does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.errors import ModelError, UserError
from MoBUncertaintyLib.files.json_input import is_whole
from MoBUncertaintyLib.files.publishing import make_private_folder, remove_private_folder
from MoBUncertaintyLib.worker.protocol import Command, Decoder, Event, check_event, check_request, encode
from MoBUncertaintyLib.worker.remote.models import ModelFiles, find, keep
from MoBUncertaintyLib.worker.remote.stream import SILENCE_S, Fields, FrameError, Notice, Stream, as_text, name_files
from MoBUncertaintyLib.worker.server import describe_error, take_pipes

WORKER = ("-m", "MoBUncertaintyLib.worker")


def serve(arguments: Sequence[str] = WORKER) -> NoReturn:
    """Compute for the application at the other end of stdin and stdout until the connection ends.

    Args:
        arguments: Of Python, for the worker.
    """
    Host(Stream(*take_pipes()), arguments).serve()


class Host:
    """The worker of a connection.

    Args:
        stream: To the application's computer.
        arguments: Of Python, for the worker.
    """

    def __init__(self, stream: Stream, arguments: Sequence[str]) -> None:
        self._stream = stream
        stream.greet()
        stream.send({"event": Notice.HELLO, "version": __version__})
        self._folder = make_private_folder("MoBUncertainty")
        self._ending = threading.Lock()
        self._worker = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONUTF8": "1"},
            start_new_session=True,
        )
        self._tell_worker({"command": Command.SCRATCH, "folder": str(self._folder)})

    def serve(self) -> NoReturn:
        """Pass on what comes, until either side ends."""
        threading.Thread(target=self._pass_on_events, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            while True:
                self._answer(self._stream.receive(self._place))
        except EOFError:
            self._hang_up()
        except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
            self._give_up(error)

    def _answer(self, request: Fields) -> None:
        command = request.get("command")
        if command == Notice.MODEL:
            self._stream.send({"event": Notice.MODEL, "here": find(str(request.get("digest"))) is not None})
        elif command == Notice.KEEP:
            keep(_model_files(request))
            shutil.rmtree(self._place(request))
        elif command == Command.PREDICT:
            self._predict(request)
        elif command == Command.COMPUTER:
            self._tell_worker(request)
        elif command != Notice.BEAT:
            raise FrameError(f"{command!r} is no command for another computer.")

    def _predict(self, request: Fields) -> None:
        models, folder = [find(str(each)) for each in request.get("models", [])], self._place(request)
        volumes = [request.get("ct"), *(request.get("channels") or {}).values()]
        if not all(isinstance(each, dict) and isinstance(each.get("array"), Path) for each in volumes):
            raise FrameError("A request names a volume that was not sent.")
        if None in models:
            raise ModelError("The model is no longer there; apply again, and it is sent anew.")
        message = as_text(request) | {"folder": str(folder), "models": list(map(str, models))}
        check_request(message)
        self._tell_worker(message)

    def _place(self, request: Fields) -> Path:
        """Make the folder of a request's files."""
        if not is_whole(request.get("id")):
            raise FrameError("A request has no number.")
        folder = self._folder / f"{'model' if request.get('command') == Notice.KEEP else 'request'} {request['id']}"
        folder.mkdir(exist_ok=True)
        return folder

    def _tell_worker(self, message: Fields) -> None:
        assert self._worker.stdin
        line = memoryview(encode(message))
        while line:
            line = line[self._worker.stdin.write(line) :]

    def _pass_on_events(self) -> None:
        """Send what the worker says, each result with its files, which are then removed."""
        assert self._worker.stdout
        decoder = Decoder()
        try:
            while data := self._worker.stdout.read(1 << 16):
                for event in decoder.feed(data):
                    self._pass_on(event)
            code = self._worker.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise UserError(
                f"The computing process on the other computer ended unexpectedly ({how}); see the details, and if its "
                "memory was not enough choose a region of interest or another device."
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the application is told
            self._give_up(error)

    def _pass_on(self, event: Fields) -> None:
        check_event(event)
        if event["event"] == Event.READY:
            return
        if event["event"] == Event.RESULT:
            event["result"] = name_files(event["result"], self._place({"id": event.get("id")}))
        self._stream.send(event)
        if event["event"] in (Event.RESULT, Event.ERROR) and is_whole(event.get("id")):
            shutil.rmtree(self._place({"id": event["id"]}), ignore_errors=True)

    def _watch(self) -> None:
        """End when the other side has been silent for long: a connection may be dead without being closed."""
        while time.monotonic() - self._stream.heard < SILENCE_S:
            time.sleep(1.0)
        self._hang_up()

    def _give_up(self, error: Exception) -> NoReturn:
        """Tell the other side what has gone wrong, if it is there, and end."""
        code, message = describe_error(error)
        with suppress(OSError):
            self._stream.send({"event": Event.ERROR, "id": None, "code": code, "message": message, "details": ""})
        self._hang_up()

    def _hang_up(self) -> NoReturn:
        """End the worker with all processes that it has started, and leave no file behind."""
        with self._ending:  # never released: whoever comes second waits for the end
            if os.name == "posix":
                with suppress(OSError):
                    os.killpg(self._worker.pid, signal.SIGKILL)
            elif self._worker.stdin:
                self._worker.stdin.close()  # which ends it, and its child processes
            with suppress(subprocess.TimeoutExpired):
                self._worker.wait(10.0)
            remove_private_folder(self._folder)
            os._exit(0)


def _model_files(request: Fields) -> ModelFiles:
    name, digests, files = request.get("name"), request.get("digests"), request.get("files")
    if not isinstance(name, str) or not isinstance(digests, dict) or not isinstance(files, dict):
        raise FrameError("A model was sent without its name or its files.")
    if not all(isinstance(file, Path) for file in files.values()):
        raise FrameError("A model names a file that was not sent.")
    return ModelFiles(name, digests, files)
