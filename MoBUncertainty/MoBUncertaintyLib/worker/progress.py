"""How far a request is that has several stages, and how long it will still take. Needs only the standard library."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

STAGES = {
    "model": "Loading the model",
    "preprocess": "Preprocessing",
    "network": "Predicting tiles",
    "resample": "Resampling",
    "regions": "Finding doubtful regions",
    "write": "Handing over the results",
}
"""What is shown of each stage of a prediction, in their order."""

SECONDS_PER_MVOXEL = {"preprocess": 0.15, "network": 10.0, "resample": 0.06, "regions": 0.02, "write": 0.01}
"""Measured on one core, but for the network, which takes from 0.1 to 10: a bar that gets faster is better than one that
waits near its end. Only the first prediction of a process relies on them, the others on what it took."""

MODEL_SECONDS = 5.0


class Estimate:
    """Turns the steps of stages into a fraction of the whole and seconds left.

    The seconds left are those of the present stage at its own pace and what is expected of the later ones; the fraction
    is that of the time. Before the network has shown its pace, which no one can know beforehand, nothing is said of the
    seconds, and the fraction weighs each stage by what it is expected to take. The fraction never falls.

    Args:
        expected: Seconds of each stage, in their order.
        clock: Seconds that go forward.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._expected = dict(expected)
        self._clock = clock
        self._began: dict[str, float] = {}
        self._fraction = 0.0
        self.seconds: dict[str, float] = {}
        """What each stage took so far."""

    def step(self, stage: str, done: int, total: int) -> dict[str, Any]:
        """The fields of a `progress` event after `done` of the `total` steps of a stage."""
        now = self._clock()
        taken = self.seconds[stage] = now - self._began.setdefault(stage, now)
        names = list(self._expected)
        later = names[names.index(stage) + 1 :]
        earlier = names[: names.index(stage)]
        share = done / total
        left = taken * (1 - share) / share if done else self._expected[stage]
        left += sum(self._expected[name] for name in later)
        paced = "network" not in later and (done or stage != "network")
        spent = sum(self._expected[name] for name in earlier) + share * self._expected[stage]
        whole = sum(self._expected.values())
        if paced:
            spent = now - min(self._began.values())
            whole = spent + left
        self._fraction = max(self._fraction, spent / whole if whole else 1.0)
        return {
            "stage": stage,
            "text": STAGES[stage] + (f": {done} of {total}" if total > 1 else ""),
            "done": done,
            "total": total,
            "fraction": round(self._fraction, 4),
            "seconds_left": round(left, 1) if paced else None,
        }


class Pace:
    """What stages are expected to take: known rates at first, then those of the last request.

    Attributes:
        rates: Seconds of each stage per million voxels of the image.
    """

    def __init__(self) -> None:
        self.rates = dict(SECONDS_PER_MVOXEL)

    def expected(self, voxels: int, warm: bool) -> dict[str, float]:
        """Seconds of each stage for an image of so many voxels; a warm model need not be loaded."""
        stages = {name: rate * voxels / 1e6 for name, rate in self.rates.items()}
        return {"model": 0.0 if warm else MODEL_SECONDS} | stages

    def learn(self, seconds: Mapping[str, float], voxels: int) -> None:
        """Remember what the stages of a request took."""
        for name in self.rates.keys() & seconds.keys():
            self.rates[name] = max(seconds[name], 1e-3) / (voxels / 1e6)
