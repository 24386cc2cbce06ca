"""Asks a worker for one thing after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from MoBUncertaintyLib.slicer_app.widgets.section import shown
from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

Receive = Callable[[dict[str, Any]], Iterator[None]]


class Asking:
    """A queue of requests to one worker.

    Args:
        client: Of the worker; closed with this.
    """

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._waiting: deque[tuple[dict[str, Any], Callable, Callable, Receive | None]] = deque()

    @property
    def busy(self) -> bool:
        """Whether something is asked."""
        return bool(self._client.busy or self._waiting)

    def ask(
        self,
        message: dict[str, Any],
        onFinished: Callable[[Any], None],
        onFailed: Callable[[str, str, str], None],
        receive: Receive | None = None,
    ) -> None:
        """Ask as soon as all that was asked before is answered; arguments as for `WorkerClient.request` and `Job`."""
        self._waiting.append((message, onFinished, onFailed, receive))
        self._go()

    def close(self) -> None:
        """Drop all requests, and end the worker."""
        self._waiting.clear()
        self._client.close()

    def _go(self) -> None:
        if self._client.busy or not self._waiting:
            return
        message, onFinished, onFailed, receive = self._waiting.popleft()
        job = self._client.request(message, receive)
        job.finished.connect(shown(onFinished))
        job.failed.connect(shown(onFailed))
        for signal in (job.finished, job.failed):
            signal.connect(lambda *_args: self._go())
