"""The protocol between the application and its worker: one JSON object per line, UTF-8, on stdin and stdout.

Requests hold `id` and `command`; events hold `event`, and the `id` of the request that they belong to. Arrays are
passed as .npy files in the folder that a request names. A worker on another computer shares no folder with the
application: there a message has `files`, the sizes of its files by their names, and their bytes follow its line, one
file after another; in the message `$file/NAME` is in the place of a path, and whoever receives them says where they go.

This module imports only the standard library, since both Slicer and the worker use it.

Request        Fields beside `id` and `command`
-------------  ----------------------------------------------------------------------------------------------------
predict        `ct` {array, ijk_to_ras, name, modality (DICOM's term, or null)}, `models` (one, or several that make an
               ensemble), `settings`, `folder`;
               `channels`, the volumes of their other input channels by name, or null; `regions`, settings that the
               reader has changed, and `regions_of_model`, the digest of the model they were changed for, or null;
               `segmentation` to check {array, of the CT's shape; structures, each {value, name, terminology}; name}, or
               null; `against`, a second one to compare it with, or null;
               `computer`, the host that does it, as ssh knows it, or null
export         see `commands.export_review`
measure        see `commands.measure_review`
list           `index`, the address of a catalogue of models
picture        `index`, `entry` of the catalogue, `folder`
install        `index`, `entry`, and `output`, the folder that the model is installed to
cases          `cohort`, the folder of the results folders; `source`, what the user has named, or `cases`, what an
               earlier answer listed; `channels`, the number of images that a case has; `title`; `failed`, reasons by
               case beside the table's; `table`, whether to write the cohort's table
predict-case   `case`, of those listed; `output`, its results folder; `models`, `settings`; `computer`, the host that
               runs the network, as ssh knows it, or null
open-case      `results`, a results folder; `reader`; `folder`
sign-case      `results`, `reader`, `review`, `versions` that it may replace, and `output`, the export to make
calibrate      `model`, `cases`, folders of reviews or of labelled cases, and `output`, the model to make
computer       `computer`; the result has the `version` there, the `device` that Auto takes, and the number of `cores`
model          `digest`; the result says whether that model is `here`
keep           `name`, `digests` and files of a model that is not

Event          Fields beside `event` and `id`
-------------  ----------------------------------------------------------------------------------------------------
ready          `pid`, `version`; once, before anything is asked
heartbeat      none; every `HEARTBEAT_S`, also during a computation
progress       `stage`, its `done` and `total` steps, `fraction` of the whole request 0 to 1, `seconds_left` or null
warning        `message`, one sentence
result         `result`; ends the request
error          `code`, `message`, one sentence, and `details` for a bug report, or ""; ends the request or, if its `id`
               is null, the worker
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from MoBUncertaintyLib.base.errors import OutputError, UserError, reason_of
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT, JsonError, is_whole, parse_object

SCRATCH = "MOB_UNCERTAINTY_SCRATCH"
"""The environment variable of the worker's folder for temporary files, which it removes when stdin is closed."""
HEARTBEAT_S = 2.0
CHUNK = 1 << 18  # bytes
FILES_LIMIT = 2000
_FILE = "$file/"
_FILE_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)

Fields = dict[str, Any]


class Command(StrEnum):
    """Commands of the application to the worker."""

    PREDICT = "predict"
    EXPORT = "export"
    MEASURE = "measure"
    LIST = "list"
    PICTURE = "picture"
    INSTALL = "install"
    CALIBRATE = "calibrate"
    CASES = "cases"
    PREDICT_CASE = "predict-case"
    OPEN_CASE = "open-case"
    SIGN_CASE = "sign-case"
    COMPUTER = "computer"
    MODEL = "model"
    KEEP = "keep"


class Event(StrEnum):
    """Events that the worker sends."""

    READY = "ready"
    HEARTBEAT = "heartbeat"
    PROGRESS = "progress"
    WARNING = "warning"
    RESULT = "result"
    ERROR = "error"


PROGRESS_FIELDS = ("stage", "done", "total", "fraction", "seconds_left")
_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    Event.READY: {"pid": (int,), "version": (str,)},
    Event.HEARTBEAT: {},
    Event.PROGRESS: {"stage": (str,), "done": (int,), "total": (int,)}
    | {"fraction": _NUMBER, "seconds_left": (*_NUMBER, type(None))},
    Event.WARNING: {"message": (str,)},
    Event.RESULT: {"result": (dict,)},
    Event.ERROR: {"code": (str,), "message": (str,), "details": (str,)},
}


class ProtocolError(Exception):
    """A line is not a valid message."""


@contextmanager
def understanding(what: str) -> Iterator[None]:
    """Tell that a part of a request is not what it must be."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The request's {what} cannot be understood ({error}).") from error


class UnreadableError(UserError):
    """A file that is sent cannot be read; what was sent of it is no whole message."""

    code = "input"


def encode(message: Fields, errors: str = "strict") -> bytes:
    """Encode a message as one line; `errors`, see `str.encode`: text may be no valid Unicode, as a file's name.

    Raises `ProtocolError` if it holds something that JSON cannot, such as NaN or an array.
    """
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False).encode(errors=errors) + b"\n"
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The message cannot be sent ({error}).") from error


def send(
    target: IO[bytes],
    message: Fields,
    files: Mapping[str, Path] | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Send a message, in which the paths of its files are text, and the files, by the names under which they travel.

    The bytes of the files that are sent, and that there are, are reported. Raises `ProtocolError` if the message holds
    something that JSON cannot, `OSError` if the other side is gone, and `UnreadableError` if a file cannot be read.
    """
    sizes = {}
    for name, path in (files or {}).items():
        with _reading(path):
            sizes[name] = path.stat().st_size
    if files:
        message = _replaced(message, {str(path): _FILE + name for name, path in files.items()}) | {"files": sizes}
    target.write(encode(message, errors="replace"))
    total, done = sum(sizes.values()), 0
    for name, path in (files or {}).items():
        with _reading(path):
            file = path.open("rb")
        with file:
            left = sizes[name]
            while left:
                with _reading(path):
                    chunk = file.read(min(left, CHUNK))
                    if not chunk:
                        raise OSError("it is shorter than it was")
                target.write(chunk)
                left -= len(chunk)
                done += len(chunk)
                report(done, total)
    target.flush()


def receive(
    source: IO[bytes], place: Callable[[Fields], Path], report: Callable[[int, int], None] = lambda _done, _total: None
) -> Fields:
    """Receive the next message; its `files`, for which `place` says the folder, are then their paths by their names.

    The bytes of the files that have arrived, and that there are, are reported. Raises `EOFError` if the other side is
    gone, `ProtocolError` if it sends something else, `OutputError` if there is no room for the files, and `OSError` if
    they cannot be written.
    """
    line = b"\n"
    while line.endswith(b"\n") and not line.strip():
        line = source.readline(SIZE_LIMIT + 1)
    if len(line) > SIZE_LIMIT:
        raise ProtocolError(f"A line is longer than {SIZE_LIMIT >> 20} MB.")
    if not line.endswith(b"\n"):
        raise EOFError
    message = _message(line)
    if "files" not in message:
        return message
    sizes = message["files"]
    if not _are_files(sizes):
        raise ProtocolError("A message has files without proper names or sizes.")
    folder, total, done = place(message), sum(sizes.values()), 0
    if shutil.disk_usage(folder).free < total:
        raise OutputError(f"There is no space for {total >> 20} MB in {folder.parent}; free some there.")
    files = {name: folder / name for name in sizes}
    for name, path in files.items():
        with path.open("xb") as file:
            left = sizes[name]
            while left:
                chunk = source.read(min(left, CHUNK))
                if not chunk:
                    raise EOFError
                file.write(chunk)
                left -= len(chunk)
                done += len(chunk)
                report(done, total)
    placed: Fields = _replaced(message, {_FILE + name: str(path) for name, path in files.items()})
    return placed | {"files": {name: str(path) for name, path in files.items()}}


def read_event(line: bytes) -> Fields:
    """Read an event without files from its line; raises `ProtocolError` if it is none, or as `check_event` does."""
    event = _message(line)
    check_event(event)
    return event


def check_event(event: Fields) -> None:
    """Check that an event is one of `Event`, with all its fields.

    Raises `ProtocolError` if it is not, or a field is missing or of another type.
    """
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ProtocolError(f"There is no event {kind!r}.")
    for name, types in _FIELDS[kind].items():
        if not isinstance(event.get(name), types) or (name not in event):
            raise ProtocolError(f"The event {kind} has no proper {name!r}.")


def _message(line: bytes) -> Fields:
    try:
        return parse_object(line)
    except JsonError as error:
        raise ProtocolError(f"This is no message ({error}): {line[:200]!r}.") from error


def _are_files(sizes: Any) -> bool:
    return (
        isinstance(sizes, dict)
        and len(sizes) <= FILES_LIMIT
        and all(_FILE_NAME.fullmatch(name) and is_whole(size) and size >= 0 for name, size in sizes.items())
    )


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """Replace each text of a message that is one of the given ones."""
    if isinstance(value, dict):
        return {key: _replaced(inner, texts) for key, inner in value.items()}
    return texts.get(value, value) if isinstance(value, str) else value


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell that a file that is sent cannot be read; not around what sends it, which fails otherwise."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(
            f"{path} could not be sent to the other computer ({reason_of(error)}); leave it in place and try again."
        ) from error
