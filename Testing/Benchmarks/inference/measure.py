"""Seconds and memory of the stages of a run, measured in the process that runs them."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StageClock:
    """Seconds of stages that may lie within each other: a stage's seconds are without those of the stages in it.

    Args:
        settle: Called before a stage begins and ends; waits for work that a device does behind Python's back.

    Attributes:
        seconds: By stage.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self._settle = settle
        self._inner: list[float] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        self._settle()
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._settle()
            taken = time.perf_counter() - start
            self.seconds[name] += taken - self._inner.pop()
            if self._inner:
                self._inner[-1] += taken

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time every call of a function of an object, class or module; their code stays as it is."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return original(*args, **kwargs)

        setattr(owner, name, timed)

    def take(self) -> dict[str, float]:
        """The seconds so far; begins anew."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes; 0 where the system is not Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def settle(device: Any) -> Callable[[], None]:
    """What waits for a torch device to finish."""
    if device.type != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


def repeated(run: Callable[[], dict[str, Any]], repeats: int, limit: float) -> dict[str, Any]:
    """A first run and warm ones; none of these is begun that would probably end after the limit.

    Args:
        run: Runs once and tells its `total` seconds.
        repeats: Warm runs wanted.
        limit: Seconds for all runs together.

    Returns:
        `cold`, the first run, and `warm`, the list of the others, which may be empty.
    """
    cold = run()
    warm: list[dict[str, Any]] = []
    spent = last = cold["total"]
    while len(warm) < repeats and spent + last <= limit:
        warm.append(run())
        last = warm[-1]["total"]
        spent += last
    return {"cold": cold, "warm": warm}
