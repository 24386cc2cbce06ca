"""One request to the worker, with signals for what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.slicer_app.worker.steps import Steps


class Signal:
    """A signal as Qt's, between Python objects: a `qt.Signal` that is declared in Python crashes Slicer."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call a slot each time the signal is emitted."""
        self._slots.append(slot)

    def emit(self, *values: Any) -> None:
        """Call the slots, in the order in which they were connected."""
        for slot in self._slots:
            slot(*values)


class Job:
    """A request that the worker works on. A job that is cancelled emits nothing more.

    Attributes:
        progress: Emitted with how far it is, a dict of `protocol.PROGRESS_FIELDS`.
        warning: Emitted with each warning, one sentence.
        finished: Emitted with the result.
        failed: Emitted with a code, a message (one sentence) and details (the last lines of the worker's log).
        receive: Takes the worker's result in steps and returns the job's result; None: that is the worker's.
        folder: The files of its arrays.
        steps: Hands over the request, or the result; None while the worker computes.
        received: Whether the worker has sent the result, and is needed no more.
    """

    def __init__(self, receive: Callable[[dict[str, Any]], Iterator[None]] | None = None) -> None:
        self.progress, self.warning, self.finished, self.failed = Signal(), Signal(), Signal(), Signal()
        self.receive = receive
        self.folder: Path | None = None
        self.steps: Steps | None = None
        self.received = False
