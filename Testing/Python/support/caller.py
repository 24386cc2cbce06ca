"""Asks a `WorkerClient`, for its tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from support import TESTS
from support.processes import wait_until

SMOOTH = 0.05
"""Seconds that the main thread may be held."""

FAKE_WORKER = ("-u", "-P", str(TESTS / "support" / "fake_worker.py"))
"""Arguments of Python for the fake worker; its mode follows."""


class Caller:
    """Asks, and keeps what the signals tell."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.progress: list[dict] = []
        self.warnings: list[str] = []
        self.results: list[dict] = []
        self.errors: list[tuple[str, str, str]] = []
        self.turns: list[float] = []

    @property
    def long_turn(self) -> float:
        """Seconds that the third longest turn of the event loop took the main thread."""
        return sorted(self.turns)[-3]

    def ask(self, ct: np.ndarray | None = None, receive: Callable | None = None, **fields: Any) -> Caller:
        array = np.zeros((12, 20, 16), np.int16) if ct is None else ct
        named = {"array": array, "ijk_to_ras": np.diag([2.0, 2.0, 3.0, 1.0]).tolist(), "name": "Müller"}
        message = {"command": "predict", "ct": named, "models": ["tiny"], "settings": {}, "regions": {}} | fields
        job = self.client.request(message, receive)
        job.progress.connect(self.progress.append)
        job.warning.connect(self.warnings.append)
        job.finished.connect(self.results.append)
        job.failed.connect(lambda *error: self.errors.append(error))
        return self

    def turn(self) -> None:
        import qt

        start = time.thread_time()  # of this thread alone: the computer may be busy with other things
        qt.QCoreApplication.processEvents()
        self.turns.append(time.thread_time() - start)

    def until(self, condition: Callable[[], object], seconds: float = 120.0) -> Caller:
        def turn() -> bool:
            self.turn()
            return bool(condition())

        assert wait_until(turn, seconds)
        return self

    def finish(self) -> Caller:
        return self.until(lambda: not self.client.busy)


Start = Callable[..., Caller]
"""The fixture `start`."""


def pid_of(caller: Caller) -> int | None:
    """The worker's process; None before it has said which."""
    return caller.client._process and caller.client._process._pid


def an_export(folder: Path) -> dict[str, Any]:
    """The fields of a request, none of whose files are there."""
    return {"ct": {}, "prediction": {}, "review": {}, "output": str(folder / "review"), "formats": ["report"]}
