"""The protocol between the application and its worker: one JSON object per line, UTF-8, on stdin and stdout.

Requests hold `id` and `command`; events hold `event`, and the `id` of the request that they belong to. Arrays are
passed as .npy files in the folder that a request names. This module imports only the standard library, since both
Slicer and the worker use it.

Request        Fields beside `id` and `command`
-------------  ----------------------------------------------------------------------------------------------------
predict        `ct` {array, ijk_to_ras, name, modality (DICOM's term, or null)}, `models` (one, or several that make an
               ensemble), `settings`, `folder`;
               `channels`, the volumes of their other input channels by name, or null; `regions`, settings that the
               reader has changed, and `regions_of_model`, the digest of the model they were changed for, or null
export         see `commands.export_review`
list           `index`, the address of a catalogue of models
picture        `index`, `entry` of the catalogue, `folder`
install        `index`, `entry`, and `output`, the folder that the model is installed to
cases          `cohort`, the folder of the results folders; `source`, what the user has named, or `cases`, what an
               earlier answer listed; `channels`, the number of images that a case has; `title`; `failed`, reasons by
               case, or null; `predicted`, names of cases; `table`, whether to write the cohort's table
predict-case   `case`, of those listed; `output`, its results folder; `models`, `settings`; `computer`, the host that
               runs the network, as ssh knows it, or null
open-case      `results`, a results folder; `reader`; `folder`
sign-case      `results`, `reader`, `review`, `versions` that it may replace, and `output`, the export to make
calibrate      `model`, `cases`, folders of reviews or of labelled cases, and `output`, the model to make
computer       none; the result has the `version` there, the `device` that Auto takes, and the number of `cores`
scratch        `folder` for the worker's own temporary files; it is removed when stdin is closed. Has no answer
shutdown       -

Event          Fields beside `event` and `id`
-------------  ----------------------------------------------------------------------------------------------------
ready          `pid`, `version`, `niceness` (0: of usual priority); once, before anything is asked
heartbeat      none; every `HEARTBEAT_S`, also during a computation
progress       `stage`, its `done` and `total` steps, `fraction` of the whole request 0 to 1, `seconds_left` or null
warning        `message`, one sentence
result         `result`; ends the request
error          `code`, `message`, one sentence, and `details` for a bug report, or ""; ends the request or, if its `id`
               is null, the worker
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from MoBUncertaintyLib.files.json_input import SIZE_LIMIT, JsonError, parse_object

HEARTBEAT_S = 2.0


class Command(StrEnum):
    """Commands of the application to the worker."""

    PREDICT = "predict"
    EXPORT = "export"
    LIST = "list"
    PICTURE = "picture"
    INSTALL = "install"
    CALIBRATE = "calibrate"
    CASES = "cases"
    PREDICT_CASE = "predict-case"
    OPEN_CASE = "open-case"
    SIGN_CASE = "sign-case"
    COMPUTER = "computer"
    SCRATCH = "scratch"
    SHUTDOWN = "shutdown"


class Event(StrEnum):
    """Events that the worker sends."""

    READY = "ready"
    HEARTBEAT = "heartbeat"
    PROGRESS = "progress"
    WARNING = "warning"
    RESULT = "result"
    ERROR = "error"


_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    Event.READY: {"pid": (int,), "version": (str,), "niceness": (int,)},
    Event.HEARTBEAT: {},
    Event.PROGRESS: {"stage": (str,), "done": (int,), "total": (int,)}
    | {"fraction": _NUMBER, "seconds_left": (*_NUMBER, type(None))},
    Event.WARNING: {"message": (str,)},
    Event.RESULT: {"result": (dict,)},
    Event.ERROR: {"code": (str,), "message": (str,), "details": (str,)},
}
_NULL = type(None)
_REQUESTS: dict[str, dict[str, tuple[type, ...]]] = {
    Command.PREDICT: {"ct": (dict,), "models": (list,), "folder": (str,)}
    | dict.fromkeys(("settings", "regions", "channels"), (dict, _NULL))
    | {"regions_of_model": (str, _NULL)},
    Command.EXPORT: dict.fromkeys(("ct", "prediction", "review"), (dict,))
    | {"output": (str,), "formats": (list,), "dicom_files": (list, _NULL)},
    Command.LIST: {"index": (str,)},
    Command.PICTURE: {"index": (str,), "entry": (dict,), "folder": (str,)},
    Command.INSTALL: {"index": (str,), "entry": (dict,), "output": (str,)},
    Command.CALIBRATE: {"model": (str,), "cases": (list,), "output": (str,)},
    Command.CASES: {"cohort": (str,), "channels": (int,), "title": (str,), "table": (bool,), "predicted": (list,)}
    | {"source": (str, _NULL), "cases": (list, _NULL), "failed": (dict, _NULL)},
    Command.PREDICT_CASE: {"case": (dict,), "output": (str,), "models": (list,), "settings": (dict, _NULL)}
    | {"computer": (str, _NULL)},
    Command.OPEN_CASE: {"results": (str,), "reader": (str,), "folder": (str,)},
    Command.SIGN_CASE: {"results": (str,), "reader": (str,), "review": (dict,), "versions": (list,), "output": (str,)},
    Command.SCRATCH: {"folder": (str,)},
}
"""Types of the fields that the worker relies on; a field that may be null may also be missing."""


class ProtocolError(Exception):
    """A line is not a valid message."""


def encode(message: dict[str, Any], errors: str = "strict") -> bytes:
    """Encode a message as one line.

    Args:
        message: The message.
        errors: How to handle text that is not valid Unicode, as a file name may be; see `str.encode`.

    Raises:
        ProtocolError: It holds something that JSON cannot, such as NaN or an array.
    """
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False).encode(errors=errors) + b"\n"
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The message cannot be sent ({error}).") from error


class Decoder:
    """Decode messages from bytes as they arrive, and keep an incomplete line until the rest comes."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that `data` completes.

        Raises:
            ProtocolError: A line is not a JSON object, or too long.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > SIZE_LIMIT:
            raise ProtocolError(f"A line is longer than {SIZE_LIMIT >> 20} MB.")
        return [_message(line) for line in lines if line.strip()]


def check_request(request: dict[str, Any]) -> None:
    """Check that a request has a command and, if it is one of `Command`, all its fields.

    Raises:
        ProtocolError: One is missing or of another type.
    """
    types = {"id": (int, str, _NULL), "command": (str,)}
    if isinstance(command := request.get("command"), str):
        types |= _REQUESTS.get(command, {})
    for name, allowed in types.items():
        if not isinstance(request.get(name), allowed):
            raise ProtocolError(f"The request {command!r} has no proper {name!r}.")


def check_event(event: dict[str, Any]) -> None:
    """Check that an event is one of `Event`, with all its fields.

    Raises:
        ProtocolError: It is not, or a field is missing or of another type.
    """
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ProtocolError(f"There is no event {kind!r}.")
    for name, types in _FIELDS[kind].items():
        if not isinstance(event.get(name), types) or (name not in event):
            raise ProtocolError(f"The event {kind} has no proper {name!r}.")


def _message(line: bytes) -> dict[str, Any]:
    try:
        return parse_object(line)
    except JsonError as error:
        raise ProtocolError(f"This is no message ({error}): {line[:200]!r}.") from error
