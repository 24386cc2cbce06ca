"""The worklist's two workers: one predicts cases in the background, the other does one thing after another.

The first keeps the models loaded meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.widgets.section import shown
from MoBUncertaintyLib.slicer_app.widgets.work import stageText
from MoBUncertaintyLib.slicer_app.worker.client import Job, WorkerClient
from MoBUncertaintyLib.worker.protocol import Command

if TYPE_CHECKING:
    from MoBUncertaintyLib.slicer_app.worklist.cases import WorklistCase

OF_ALL = ("not_started", "installation", "model", "protocol", "connection")
"""Codes of errors that every other case would have too."""
CUT = "cut"
"""Of the error that the connection to another computer was lost."""

Receive = Callable[[dict[str, Any]], Iterator[None]]


class RequestQueue:
    """A queue of requests to one worker."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._waiting: deque[tuple[dict[str, Any], Callable, Callable, Receive | None]] = deque()

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


class BackgroundRun:
    """A run through cases. One that fails is reported, and the others go on, in another worker if theirs has ended.

    A case amid which the connection to another computer is cut is tried once more.

    Args:
        onCase: Called after each case with its name, the reason if it failed, and whether it was predicted now.
        onEnd: Called when all are done, with the error (message, details) that has ended the run, or None.
    """

    def __init__(
        self,
        client: WorkerClient,
        onCase: Callable[[str, str | None, bool], None],
        onEnd: Callable[[tuple[str, str] | None], None],
    ) -> None:
        self._client, self._onCase, self._onEnd = client, onCase, onEnd
        self._cases: Sequence[WorklistCase] = ()
        self._done = self._cuts = 0  # cuts of this case
        self._began = self._caseBegan = 0.0
        self._whole = Job()
        self.running = False
        self.text = ""  # which case it is, and what is done with it

    def start(
        self, cases: Sequence[WorklistCase], models: Sequence[str], settings: Mapping[str, Any], computer: str | None
    ) -> Job:
        """Begin; returns a job whose progress is that of the whole run."""
        self._cases, self._done, self._cuts = list(cases), 0, 0
        self._how = {"models": models, "settings": settings, "computer": computer}
        self._began, self._whole, self.running = time.monotonic(), Job(), True
        self._next()
        return self._whole

    def cancel(self) -> None:
        """Stop; what was begun of a case is removed, and what is done stays."""
        self.running = False
        self._client.cancel()

    def close(self) -> None:
        """Stop, and end the worker."""
        self.running = False
        self._client.close()

    def _next(self) -> None:
        if self._done == len(self._cases):
            self._end(None)
            return
        case = self._cases[self._done]
        self._caseBegan = time.monotonic()
        message = {"command": Command.PREDICT_CASE, "case": case.case, "output": str(case.folder)}
        job = self._client.request({**message, **self._how})
        job.progress.connect(self._onProgress)
        job.warning.connect(self._whole.warning.emit)
        job.finished.connect(shown(lambda result: self._onDone(None, result["outcome"] == "predicted")))
        job.failed.connect(shown(self._onFailed))

    def _onProgress(self, step: dict[str, Any]) -> None:
        """Tell how far the whole run is: the other cases are expected to take as long as those before, or as this."""
        now, others = time.monotonic(), len(self._cases) - self._done - 1
        taken, left = now - self._caseBegan, step["seconds_left"]
        mean = (self._caseBegan - self._began) / self._done if self._done else None
        if left is None and mean is not None:
            left = max(mean - taken, 0.0)
        if left is not None:
            left += others * (taken + left if mean is None else mean)
        fraction = (self._done + step["fraction"]) / len(self._cases)
        name, count = self._cases[self._done].name, len(self._cases)
        what = stageText({**step, "stage": "export"} if step["stage"] == "write" else step)
        text = _("Case {number} of {count}, {name}. {step}")
        self.text = text.format(number=self._done + 1, count=count, name=name, step=what)
        self._whole.progress.emit({**step, "fraction": fraction, "seconds_left": left})

    def _onFailed(self, code: str, message: str, details: str) -> None:
        if code in OF_ALL:
            self._end((message, details))
        elif code == CUT and not self._cuts:
            self._cuts += 1
            self._next()
        else:
            self._onDone(message, False)

    def _onDone(self, reason: str | None, predicted: bool) -> None:
        name, self._done, self._cuts = self._cases[self._done].name, self._done + 1, 0
        self._onCase(name, reason, predicted)
        if self.running:
            self._next()

    def _end(self, error: tuple[str, str] | None) -> None:
        self.running = False
        self._onEnd(error)
