"""Long work in small steps on the main thread: write, read and remove files of arrays while Slicer stays responsive.

(Python threads starve in Slicer, whose event loop holds the interpreter's lock.)
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import qt

SLAB_BYTES = 4 << 20
"""Read or written in one step: a few milliseconds."""


def _log(error: Exception) -> None:
    logging.error("Work in steps has failed.", exc_info=error)


class Steps:
    """Runs a generator, one step in each turn of the event loop; for the seconds `atOnce` in this constructor."""

    def __init__(
        self,
        generator: Iterator[None] | None = None,
        onDone: Callable[[Any], None] = lambda value: None,
        onFailed: Callable[[Exception], None] = _log,
        atOnce: float = 0.0,
    ) -> None:
        self._generator = generator
        self._onDone = onDone
        self._onFailed = onFailed
        self._latest = time.monotonic() + atOnce
        if generator is not None:
            (self._step if atOnce else self._next)()

    @property
    def running(self) -> bool:
        """Whether there is still something to do."""
        return self._generator is not None

    def cancel(self) -> None:
        """Stop; neither callback is called any more."""
        if self._generator is not None:
            self._generator.close()
            self._generator = None

    def _next(self) -> None:
        qt.QTimer.singleShot(0, lambda: self._step())  # the lambda keeps this object alive; a bound method would not

    def _step(self) -> None:
        if self._generator is None:
            return
        try:
            next(self._generator)
            while time.monotonic() < self._latest:
                next(self._generator)
        except StopIteration as end:
            value = end.value
        except Exception as error:
            self._generator = None
            self._onFailed(error)
            return
        else:
            self._next()
            return
        self._generator = None
        try:
            self._onDone(value)
        except Exception as error:
            self._onFailed(error)


def writeArrays(message: Any, folder: Path) -> Iterator[None]:
    """Write each array in a message to a .npy file; returns the message with the files' paths in their places.

    Arrays of float64 become float32.
    """
    if isinstance(message, np.ndarray):
        path = folder / f"{len(os.listdir(folder))}.npy"
        yield from _write(message, path)
        return str(path)
    if isinstance(message, dict):
        written = {}
        for key, value in message.items():
            written[key] = yield from writeArrays(value, folder)
        return written
    return message


def readArrays(message: Any, folder: Path) -> Iterator[None]:
    """Read each .npy file in `folder` that a message names; returns the message with the arrays in their places."""
    if isinstance(message, str) and message.endswith(".npy") and Path(message).parent == folder:
        return (yield from _read(message))
    if isinstance(message, dict):
        read = {}
        for key, value in message.items():
            read[key] = yield from readArrays(value, folder)
        return read
    return message


def removeFolder(folder: Path) -> Iterator[None]:
    """Remove a folder, one file in each step; another process may be removing it as well."""
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                os.unlink(os.path.join(parent, name))
            yield
    shutil.rmtree(folder, ignore_errors=True)


def _write(array: np.ndarray, path: Path) -> Iterator[None]:
    dtype = np.dtype(np.float32) if array.dtype == np.float64 else array.dtype
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    rows = max(1, SLAB_BYTES // max(1, dtype.itemsize * int(np.prod(array.shape[1:]))))
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(array), rows):
            file.write(np.ascontiguousarray(array[start : start + rows], dtype).data)
            yield


def _read(path: str) -> Iterator[None]:
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, columnsFirst, dtype = np.lib.format.read_array_header_1_0(file)
        array = np.empty(shape, dtype, order="F" if columnsFirst else "C")
        unread = memoryview(array.ravel(order="K").view(np.uint8))
        while unread:
            count = file.readinto(unread[:SLAB_BYTES])
            if not count:
                raise OSError(f"{path} is shorter than it says")
            unread = unread[count:]
            yield
    return array
