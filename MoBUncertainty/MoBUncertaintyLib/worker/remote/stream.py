"""The stream between two computers: messages, each followed by the files that it names.

A frame is the size of its head (4 bytes, big-endian), the head, `{"message": {...}, "sizes": [...]}` as JSON in UTF-8,
and the bytes of the files, one after another. In a message a file is a `Path`; in the head `{"$file": NUMBER}` stands
in its place. So no file's name travels, and whoever receives a file says where it goes.

Command   Fields beside `command`, from the application's computer
--------  ----------------------------------------------------------------------------------------------------
beat      none; every `BEAT_S`, so that the host notices when nobody is there any more
model     `digest`: asks whether the host has this model
keep      `id`, `name`, `digests` and `files` of a model that the host lacks
predict   as in `protocol`; `models` are digests
computer  as in `protocol`

Event     Fields beside `event`, from the host
--------  ----------------------------------------------------------------------------------------------------
hello     `version`; first of all
model     `here`: answers the command
others    as in `protocol`
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from MoBUncertaintyLib.errors import OutputError, UserError, reason_of
from MoBUncertaintyLib.files.json_input import SIZE_LIMIT, JsonError, is_whole, parse_object
from MoBUncertaintyLib.worker.protocol import ProtocolError

BEAT_S = 10.0
SILENCE_S = 90.0
"""Seconds without a byte after which the host takes the other side for gone."""

GREETING = b"\nMoB Uncertainty's stream\n"
"""Sent first by the host: what its shell has printed before is no part of the stream."""
GREETING_LIMIT = 1 << 16  # bytes

CHUNK = 1 << 18  # bytes
FILES_LIMIT = 2000
_FILE = "$file"

Fields = dict[str, Any]
Tell = Callable[[int, int], None]


class Notice(StrEnum):
    """Messages that `protocol` does not have."""

    HELLO = "hello"
    BEAT = "beat"
    MODEL = "model"
    KEEP = "keep"


class FrameError(ProtocolError):
    """What has arrived is no frame."""


class UnreadableError(UserError):
    """A file that was to be sent cannot be read.

    Attributes:
        half_sent: A part of its frame is sent: the other side waits for the rest, and takes what follows for it.
    """

    code = "input"
    half_sent = False


class Stream:
    """Sends messages, from any thread, and receives them.

    Attributes:
        heard: When the last byte has arrived, as `time.monotonic` has it.

    Args:
        source, target: The two pipes.
    """

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self._source, self._target = source, target
        self._lock = threading.Lock()
        self.heard = time.monotonic()

    def greet(self) -> None:
        """Mark the beginning of the stream."""
        with self._lock:
            self._target.write(GREETING)
            self._target.flush()

    def await_greeting(self) -> None:
        """Skip everything before the beginning of the stream.

        Raises:
            EOFError: The other side is gone.
            FrameError: It sends something else.
        """
        seen = bytearray()
        while not seen.endswith(GREETING):
            seen += self._read(1)
            if len(seen) > GREETING_LIMIT:
                raise FrameError("There is no stream.")

    def send(self, message: Fields, tell: Tell | None = None) -> None:
        """Send a message with its files.

        Args:
            message: The message.
            tell: Called with the bytes of its files that are sent, and that there are.

        Raises:
            OSError: The other side is gone.
            UnreadableError: A file cannot be read.
        """
        files: list[Path] = []
        stated = _detached(message, files)
        sizes = [_size_of(file) for file in files]
        head = json.dumps({"message": stated, "sizes": sizes}, ensure_ascii=False, allow_nan=False)
        content = head.encode(errors="replace")
        total, done = sum(sizes), 0
        with self._lock:
            self._target.write(len(content).to_bytes(4) + content)
            try:
                for file, size in zip(files, sizes, strict=True):
                    for chunk in _chunks(file, size):
                        self._target.write(chunk)
                        done += len(chunk)
                        if tell:
                            tell(done, total)
            except UnreadableError as error:
                error.half_sent = True
                raise
            self._target.flush()

    def receive(
        self, place: Callable[[Fields], Path], tell: Callable[[Fields, int, int], None] | None = None
    ) -> Fields:
        """Receive the next message and its files.

        Args:
            place: Says, for a message with files, which folder they go to.
            tell: Called with that message, and the bytes of its files that have arrived, and that there are.

        Raises:
            EOFError: The other side is gone.
            FrameError: It sends something else.
            OutputError: There is no room for the files.
            OSError: They cannot be written.
        """
        size = int.from_bytes(self._read(4))
        if size > SIZE_LIMIT:
            raise FrameError(f"A message is longer than {SIZE_LIMIT >> 20} MB.")
        try:
            head = parse_object(self._read(size))
        except JsonError as error:
            raise FrameError(f"This is no message: {error}.") from error
        message, sizes = head.get("message"), head.get("sizes")
        if not isinstance(message, dict) or not _are_sizes(sizes):
            raise FrameError("This is no message: it does not say what it is, or which files follow.")
        if not sizes:
            return _attached(message, [])
        folder = place(message)
        files = [folder / f"received-{number}.npy" for number in range(len(sizes))]
        received = _attached(message, files)
        total, done = sum(sizes), 0
        if shutil.disk_usage(folder).free < total:
            raise OutputError(f"There is no room for {total >> 20} MB in {folder.parent}; free some space there.")
        for path, length in zip(files, sizes, strict=True):
            with path.open("xb") as file:
                while length:
                    chunk = self._read(min(length, CHUNK))
                    file.write(chunk)
                    length -= len(chunk)
                    done += len(chunk)
                    if tell:
                        tell(message, done, total)
        return received

    def _read(self, count: int) -> bytes:
        """Read exactly so many bytes."""
        content = bytearray()
        while len(content) < count:
            part = self._source.read(count - len(content))
            if not part:
                raise EOFError
            self.heard = time.monotonic()
            content += part
        return bytes(content)


def name_files(value: Any, folder: Path) -> Any:
    """Turn each text in a message that is the path of an array in `folder` into a `Path`."""
    if isinstance(value, str) and value.endswith(".npy") and Path(value).parent == folder:
        return Path(value)
    if isinstance(value, dict):
        return {key: name_files(each, folder) for key, each in value.items()}
    return value


def as_text(value: Any) -> Any:
    """Turn each `Path` in a message into its text."""
    if isinstance(value, dict):
        return {key: as_text(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= FILES_LIMIT and all(is_whole(size) and size >= 0 for size in value)


def _detached(value: Any, files: list[Path]) -> Any:
    """Put numbers in the places of files, which are added to a list."""
    if isinstance(value, Path):
        files.append(value)
        return {_FILE: len(files) - 1}
    if isinstance(value, dict):
        return {key: _detached(each, files) for key, each in value.items()}
    return value


def _attached(message: Fields, files: list[Path]) -> Fields:
    """Put the files in the places of their numbers.

    Raises:
        FrameError: There is a number without a file, or a file without a number.
    """
    left = dict(enumerate(files))

    def put(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if _FILE not in value:
            return {key: put(each) for key, each in value.items()}
        if not is_whole(value[_FILE]) or value[_FILE] not in left:
            raise FrameError("A message names a file that does not follow.")
        return left.pop(value[_FILE])

    attached: Fields = {key: put(each) for key, each in message.items()}
    if left:
        raise FrameError("A message is followed by a file that it does not name.")
    return attached


def _size_of(path: Path) -> int:
    with _reading(path):
        return path.stat().st_size


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    with _reading(path):
        file = path.open("rb")
    with file:
        while size:
            with _reading(path):
                chunk = file.read(min(size, CHUNK))
                if not chunk:
                    raise OSError("it is shorter than it was")
            yield chunk
            size -= len(chunk)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say that a file that is sent cannot be read; not around what sends it, which fails otherwise."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(
            f"{path} could not be sent to the other computer ({reason_of(error)}); leave it in its place and try again."
        ) from error
