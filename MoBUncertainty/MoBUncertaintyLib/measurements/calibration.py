"""What a model's card keeps of its calibration cases, and what a prediction keeps of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.measurements.volumes import STATED_LEVELS, Residuals, Scale, StatedVolume, needed_cases, short

STAGES = 4
"""Of a review: a quarter of the regions decided, half, three quarters, all."""


@dataclass(frozen=True)
class LabelCalibration:
    """What calibration cases say of a label: residuals as predicted and, if known, after `STAGES` of a review."""

    predicted: Residuals
    reviewed: tuple[Residuals, ...] = ()

    def __post_init__(self) -> None:
        if len(self.reviewed) not in (0, STAGES):
            raise ValueError(f"a review has {STAGES} stages")
        if len({stage.scale for stage in self.reviewed}) > 1:
            raise ValueError("the residuals of all stages of a review must be in one scale")


@dataclass(frozen=True)
class LabelBounds:
    """The quantiles of a label's residuals at one level, in units of a scale: what a prediction keeps of them.

    After a review those of each of `STAGES` count, in a scale of their own; without them no interval is stated.
    """

    scale: Scale
    quantile: float
    reviewed: tuple[float, ...] = ()
    reviewed_scale: Scale = Scale.NOTHING

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) and number >= 0 for number in (self.quantile, *self.reviewed)):
            raise ValueError("bounds must be finite numbers from 0 on")
        if len(self.reviewed) not in (0, STAGES):
            raise ValueError(f"a review has {STAGES} stages")


@dataclass(frozen=True)
class VolumeBounds:
    """How intervals of a model's volumes are made, which hold in a fraction `level` of cases like those it knows."""

    level: float
    cases: int
    labels: Mapping[str, LabelBounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("the level must be between 0 and 1")

    def interval(self, label: str, stated: StatedVolume, reviewed: tuple[int, int] | None = None) -> Interval | None:
        """Compute the interval of a label's volume as predicted or, with decided regions of all, within a review.

        Returns:
            None where nothing can be said: of a label that was not found, without calibration cases, or within a
            review whose like was not measured.
        """
        bounds = self.labels.get(label)
        if bounds is None or stated.ml <= 0:
            return None
        scale, quantile = bounds.scale, bounds.quantile
        if reviewed is not None and reviewed[0]:
            stage = STAGES * reviewed[0] // reviewed[1]
            if not bounds.reviewed or not stage:
                return None
            scale, quantile = bounds.reviewed_scale, bounds.reviewed[stage - 1]
        half = quantile * stated.scale(scale)
        return Interval(max(stated.ml - half, 0.0), stated.ml + half, self.level)

    def intervals(
        self, stated: Mapping[str, StatedVolume], reviewed: tuple[int, int] | None = None
    ) -> dict[str, Interval]:
        """Compute the intervals of several labels, by name, where something can be said."""
        all_intervals = {name: self.interval(name, volume, reviewed) for name, volume in stated.items()}
        return {name: interval for name, interval in all_intervals.items() if interval is not None}


@dataclass(frozen=True)
class VolumeCalibration:
    """What a model's card keeps of its calibration cases (`data` names them), so that a site can replace them.

    Raises:
        TooFewCasesError: There are too few for any of `STATED_LEVELS`.
    """

    data: str
    labels: Mapping[str, LabelCalibration]

    def __post_init__(self) -> None:
        self.bounds()

    def bounds(self, level: float | None = None) -> VolumeBounds:
        """Return how intervals are made; default: at the highest of `STATED_LEVELS` for which there are cases enough.

        Raises:
            TooFewCasesError: There are too few.
        """
        counts = [len(label.predicted.values) for label in self.labels.values()]
        if level is None:
            level = next(filter(self._allows, STATED_LEVELS), STATED_LEVELS[-1])
        return VolumeBounds(
            level, min(counts, default=0), {name: _bounds(label, level) for name, label in self.labels.items()}
        )

    @classmethod
    def from_dict(cls, values: Any) -> VolumeCalibration:
        """Read what JSON made of it; raises `SettingsError`."""
        try:
            return from_json(cls, values)
        except ValueError as error:
            raise SettingsError(f"The calibration of volumes is invalid ({error}).") from error

    def _allows(self, level: float) -> bool:
        return min((len(label.predicted.values) for label in self.labels.values()), default=0) >= needed_cases(level)


def _bounds(label: LabelCalibration, level: float) -> LabelBounds:
    # Of few cases a quantile may grow by chance from one stage to the next; then it is the next one, which holds, too.
    later = accumulate(reversed([stage.quantile(level) for stage in label.reviewed]), max)
    return LabelBounds(
        label.predicted.scale,
        short(label.predicted.quantile(level)),
        tuple(map(short, reversed(tuple(later)))),
        next((stage.scale for stage in label.reviewed), Scale.NOTHING),
    )
