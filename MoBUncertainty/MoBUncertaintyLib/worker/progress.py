"""Estimate the progress of a request with several stages, and the time left. Needs only the standard library."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

SECONDS_PER_MVOXEL = {
    "first_stage": 0.0,
    "preprocess": 0.15,
    "network": 10.0,
    "resample": 0.06,
    "regions": 0.02,
    "write": 0.01,
}
"""Measured on one core. The network takes 0.1 to 10; the slow end is assumed, since a bar that gets faster is better
than one that stalls near its end. Only the first prediction of a process relies on these.
"""

OF_A_FILE = {"read": 0.02} | SECONDS_PER_MVOXEL | {"write": 0.1}
"""The same for a case that is read from a file, and written to a results folder."""

_BEFORE = {"read": OF_A_FILE["read"], "send model": 0.0, "send": 0.3}
_AFTER = {"receive": 0.1, "regions": OF_A_FILE["regions"], "write": OF_A_FILE["write"]}
ELSEWHERE = _BEFORE | {name: rate for name, rate in OF_A_FILE.items() if name not in _BEFORE | _AFTER} | _AFTER
"""The same where another computer runs the network."""

MODEL_SECONDS = 5.0


ENOUGH_STEPS = 2
"""Steps, after the first one, from which the pace of a stage is known."""


class Estimate:
    """Convert the steps of stages to the fraction done of the whole, and the seconds left.

    The seconds left are those of the current stage at its own pace plus the expected ones of later stages; the fraction
    is that of the time. The network's pace cannot be known beforehand, so until a few of its steps are done there are
    no seconds left, and the fraction weights each stage by its expected time. The fraction never decreases.

    Args:
        expected: Expected seconds of each stage, in their order.

    Attributes:
        seconds: Time taken by each stage so far.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = dict(expected)
        self._clock = clock
        self._began: dict[str, float] = {}
        self._first: dict[str, tuple[int, float]] = {}  # step of each stage, and when it was done
        self._fraction = 0.0
        self.seconds: dict[str, float] = {}

    def step(self, stage: str, done: int, total: int) -> dict[str, Any]:
        """Return the fields of a `progress` event after `done` of `total` steps (0: not known) of a stage."""
        now = self._clock()
        self.seconds[stage] = now - self._began.setdefault(stage, now)
        names = list(self._expected)
        earlier, later = names[: names.index(stage)], names[names.index(stage) + 1 :]
        fraction = done / total if total else 0.0
        measured = self._measured(stage, done, total, now)
        left = self._expected[stage] * (1 - fraction) if measured is None else measured
        left += sum(self._expected[name] for name in later)
        paced = "network" not in later and (stage != "network" or measured is not None)
        spent = sum(self._expected[name] for name in earlier) + fraction * self._expected[stage]
        whole = sum(self._expected.values())
        if paced:
            spent = now - min(self._began.values())
            whole = spent + left
        self._fraction = max(self._fraction, spent / whole if whole else 1.0)
        return {
            "stage": stage,
            "done": done,
            "total": total,
            "fraction": round(self._fraction, 4),
            "seconds_left": round(left, 1) if paced else None,
        }

    def _measured(self, stage: str, done: int, total: int, now: float) -> float | None:
        """Estimate the seconds to the last step by the pace after the first, in which a network is compiled."""
        first, since = self._first.setdefault(stage, (done, now)) if done else (0, now)
        if total and done == total:
            return 0.0
        enough = total and first and done - first >= ENOUGH_STEPS
        return (now - since) / (done - first) * (total - done) if enough else None


class Pace:
    """Expected times of stages: from default rates at first, then from those of the last request.

    Args:
        rates: Seconds per million voxels of the image, by stage, to begin with.
    """

    def __init__(self, rates: Mapping[str, float] = MappingProxyType(SECONDS_PER_MVOXEL)) -> None:
        self.rates = dict(rates)

    def expected(self, voxels: int, warm: bool) -> dict[str, float]:
        """Return the expected seconds of each stage for an image of that size; a warm model is already loaded."""
        stages = {name: rate * voxels / 1e6 for name, rate in self.rates.items()}
        return {"model": 0.0 if warm else MODEL_SECONDS} | stages

    def learn(self, seconds: Mapping[str, float], voxels: int) -> None:
        """Remember how long the stages of a request took."""
        for name in self.rates.keys() & seconds.keys():
            self.rates[name] = max(seconds[name], 1e-3) / (voxels / 1e6)
