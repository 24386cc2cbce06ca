"""Intervals of a volume, by the residuals of cases whose true volume is known, as a card and a prediction keep them.

A residual is the distance of the true volume from the stated one, in units of a scale. The interval of a case is its
stated volume, plus and minus its scale times the quantile of split-conformal prediction of the residuals (Vovk et al.
2005, Lei et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.measurements.conformal import conformal_quantile, needed_cases, short
from MoBUncertaintyLib.measurements.distribution import QuantileBounds
from MoBUncertaintyLib.measurements.drawn import DrawnBounds, DrawnCalibration
from MoBUncertaintyLib.measurements.interval import Interval

LEVELS = (0.9, 0.8, 0.5)  # of the intervals by which a scale is chosen
STATED_LEVELS = (0.9, 0.8)  # of the intervals that are stated: the first for which there are cases enough
CLEARLY = 0.95
"""Of the width of equally wide intervals: a scale must make them narrower than that to be chosen."""
ENOUGH_TO_CHOOSE = 20
"""Calibration cases; of fewer, a choice by themselves costs much of the coverage that they promise."""
_SMALLEST = 1e-6  # of a scale


class Scale(StrEnum):
    """In what the distance of two volumes is measured."""

    NOTHING = "ml"
    """As it is: all intervals are equally wide. Plain conformal prediction."""
    ROOT = "square root of the volume"
    VOLUME = "volume"  # intervals have one width in percent
    ERROR = "expected error"
    """The volume that is expected to be labelled wrongly, where nothing is decided yet."""
    ROOT_ERROR = "square root of the expected error"
    """In proportion to the deviation of a volume whose voxels are wrong one by one. That of few cases."""


CHOICES = (Scale.NOTHING, Scale.ROOT, Scale.VOLUME, Scale.ERROR)
"""Scales among which calibration cases choose."""


@dataclass(frozen=True)
class StatedVolume:
    """What is stated of a label in a case: its volume, and the volume expected to be labelled wrongly or missing."""

    ml: float
    error_ml: float

    def scale(self, kind: Scale) -> float:
        """Return the case's value of a scale."""
        of = self.error_ml if kind in (Scale.ERROR, Scale.ROOT_ERROR) else self.ml
        size = math.sqrt(of) if kind in (Scale.ROOT, Scale.ROOT_ERROR) else of
        return max(1.0 if kind is Scale.NOTHING else size, _SMALLEST)

    def residual(self, true_ml: float, kind: Scale) -> float:
        """Compute the distance of the true volume."""
        return abs(true_ml - self.ml) / self.scale(kind)


@dataclass(frozen=True)
class Residuals:
    """The residuals of calibration cases, one for each, in units of a scale."""

    scale: Scale
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(math.isfinite(number) and number >= 0 for number in self.values):
            raise ValueError("residuals must be finite numbers from 0 on, one or more")

    @classmethod
    def of(cls, cases: Sequence[tuple[StatedVolume, float]], scale: Scale | None = None) -> Residuals:
        """Compute the residuals of cases by what is stated and the truth in ml; `ValueError` if none has the label."""
        cases = [(volume, true) for volume, true in cases if volume.ml > 0]
        kind = scale or choose_scale(cases)
        return cls(kind, tuple(short(volume.residual(true, kind)) for volume, true in cases))

    def quantile(self, level: float) -> float:
        """Return the residual that a further case does not exceed with this probability; raises `TooFewCasesError`."""
        return conformal_quantile(self.values, level)


def choose_scale(*stages: Sequence[tuple[StatedVolume, float]]) -> Scale:
    """Choose the scale whose intervals are narrowest at the nominal rate; raises `ValueError` without cases.

    Of each stage of a review, or of the prediction alone, `stages` hold what is stated of each case, and its true
    volume in ml; a case in which the label was not found does not count. Of each scale the intervals' mean width over
    the cases counts, relative to that of equally wide ones, and averaged over those of `LEVELS` that the cases allow.
    Each choice by the calibration cases costs a little of the coverage that they promise: a scale must be clearly
    narrower, and fewer cases than `ENOUGH_TO_CHOOSE` have the square root of the expected error, unseen.
    """
    segmented = [[(volume, true) for volume, true in stage if volume.ml > 0] for stage in stages]
    if not any(segmented):
        raise ValueError("there are no cases to choose a scale by")
    if max(map(len, segmented)) < ENOUGH_TO_CHOOSE:
        return Scale.ROOT_ERROR
    cases = [case for stage in segmented for case in stage]
    levels = [level for level in LEVELS if len(cases) >= needed_cases(level)]  # of one case, the lowest
    widths = {}
    for kind in CHOICES:
        mean = float(np.mean([volume.scale(kind) for volume, _ in cases]))
        residuals = [volume.residual(true, kind) for volume, true in cases]
        widths[kind] = np.array([mean * conformal_quantile(residuals, level) for level in levels])
    usual = np.maximum(widths[Scale.NOTHING], _SMALLEST)
    relative = {kind: float(np.mean(width / usual)) for kind, width in widths.items()}
    best = min(relative, key=relative.__getitem__)
    return best if relative[best] < CLEARLY else Scale.NOTHING


STAGES = 4  # of a review: a quarter of the regions decided, half, three quarters, all


@dataclass(frozen=True)
class LabelCalibration:
    """What calibration cases say of a label: residuals as predicted and, if known, after `STAGES` of a review."""

    predicted: Residuals
    reviewed: tuple[Residuals, ...] = ()
    drawn: DrawnCalibration | None = None  # of segmentations that are checked, if that was measured

    def __post_init__(self) -> None:
        if len(self.reviewed) not in (0, STAGES):
            raise ValueError(f"a review has {STAGES} stages")
        if len({stage.scale for stage in self.reviewed}) > 1:
            raise ValueError("the residuals of all stages of a review must be in one scale")

    def divided(self, temperature: float) -> LabelCalibration:
        """Return that of a model whose logits a temperature divides."""
        return replace(self, drawn=self.drawn and self.drawn.divided(temperature))


@dataclass(frozen=True)
class LabelBounds:
    """The quantiles of a label's residuals at one level, in units of a scale: what a prediction keeps of them.

    After a review those of each of `STAGES` count, in a scale of their own; without them no interval is stated.
    """

    scale: Scale
    quantile: float
    reviewed: tuple[float, ...] = ()
    reviewed_scale: Scale = Scale.NOTHING
    drawn: DrawnBounds | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) and number >= 0 for number in (self.quantile, *self.reviewed)):
            raise ValueError("bounds must be finite numbers from 0 on")
        if len(self.reviewed) not in (0, STAGES):
            raise ValueError(f"a review has {STAGES} stages")


@dataclass(frozen=True)
class VolumeBounds:
    """How intervals of a model's volumes are made, which hold in a fraction `level` of cases like those it knows.

    Those of other measurements, by their names, have a level of their own.
    """

    level: float
    cases: int
    labels: Mapping[str, LabelBounds] = field(default_factory=dict)
    measurements: Mapping[str, QuantileBounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("the level must be between 0 and 1")

    def interval(self, label: str, stated: StatedVolume, reviewed: tuple[int, int] | None = None) -> Interval | None:
        """Compute the interval of a label's volume as predicted or, with decided regions of all, within a review.

        None where nothing can be said: of a label that was not found, or a review whose like was not measured.
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
    """What a model's card keeps of its calibration cases, so that a site can replace them; `TooFewCasesError`."""

    data: str
    labels: Mapping[str, LabelCalibration]
    measurements: Mapping[str, QuantileBounds] = field(default_factory=dict)  # by the name that a user types

    def __post_init__(self) -> None:
        self.bounds()

    def divided(self, temperature: float) -> VolumeCalibration:
        """Return that of a model whose logits a temperature divides; nothing is known of its other measurements."""
        labels = {name: label.divided(temperature) for name, label in self.labels.items()}
        return self if temperature == 1 else replace(self, labels=labels, measurements={})

    def bounds(self, level: float | None = None) -> VolumeBounds:
        """Return how intervals are made, by default at the highest level that the cases allow; `TooFewCasesError`."""
        cases = min((len(label.predicted.values) for label in self.labels.values()), default=0)
        if level is None:
            level = next((each for each in STATED_LEVELS if cases >= needed_cases(each)), STATED_LEVELS[-1])
        labels = {name: _bounds(label, level) for name, label in self.labels.items()}
        return VolumeBounds(level, cases, labels, self.measurements)

    @classmethod
    def from_dict(cls, values: Any) -> VolumeCalibration:
        """Read what JSON made of it; raises `SettingsError`."""
        try:
            return from_json(cls, values)
        except ValueError as error:
            raise SettingsError(f"The calibration of volumes is invalid ({error}).") from error


def _bounds(label: LabelCalibration, level: float) -> LabelBounds:
    # Of few cases a quantile may grow by chance from one stage to the next; then it is the next one, which holds, too.
    later = accumulate(reversed([stage.quantile(level) for stage in label.reviewed]), max)
    return LabelBounds(
        label.predicted.scale,
        short(label.predicted.quantile(level)),
        tuple(map(short, reversed(tuple(later)))),
        next((stage.scale for stage in label.reviewed), Scale.NOTHING),
        label.drawn.bounds(level) if label.drawn else None,
    )
