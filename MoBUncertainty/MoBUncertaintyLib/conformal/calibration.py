"""What a model's card keeps of its calibration cases, and what a prediction keeps of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from MoBUncertaintyLib.conformal.interval import Interval
from MoBUncertaintyLib.conformal.quantile import needed_cases
from MoBUncertaintyLib.conformal.volumes import STATED_LEVELS, Residuals, Scale, StatedVolume, short
from MoBUncertaintyLib.errors import SettingsError, reason_of

STAGES = 4
"""Of a review: a quarter of the regions decided, half, three quarters, all."""


@dataclass(frozen=True)
class LabelCalibration:
    """What calibration cases say of a label.

    Attributes:
        predicted: Residuals of the predictions.
        reviewed: Residuals after each of `STAGES` of a review, in one scale; none: not known, and no interval is stated
            after one.
    """

    predicted: Residuals
    reviewed: tuple[Residuals, ...] = ()

    def __post_init__(self) -> None:
        if len(self.reviewed) not in (0, STAGES):
            raise ValueError(f"a review has {STAGES} stages")
        if len({stage.scale for stage in self.reviewed}) > 1:
            raise ValueError("the residuals of all stages of a review must be in one scale")


@dataclass(frozen=True)
class LabelBounds:
    """The quantiles of a label's residuals at one level: what a prediction keeps of them.

    Attributes:
        scale: Of the residuals.
        quantile: Of the prediction.
        reviewed: After each of `STAGES` of a review; none: no interval is stated then.
        reviewed_scale: Of the residuals after a review.
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
    """How intervals of a model's volumes are made.

    Attributes:
        level: Fraction of cases whose true volume they hold.
        cases: Number of calibration cases.
        labels: By the label's name.
    """

    level: float
    cases: int
    labels: Mapping[str, LabelBounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("the level must be between 0 and 1")

    def interval(self, label: str, stated: StatedVolume, reviewed: tuple[int, int] | None = None) -> Interval | None:
        """Compute the interval of a volume.

        Args:
            label: Its name.
            stated: What is stated of it now.
            reviewed: Number of regions that are decided, and of all; None, or none decided: as predicted.

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
        found = {name: self.interval(name, each, reviewed) for name, each in stated.items()}
        return {name: each for name, each in found.items() if each is not None}

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        labels = {
            name: {
                "scale": bounds.scale.value,
                "quantile": short(bounds.quantile),
                "reviewed": [short(value) for value in bounds.reviewed],
                "reviewed_scale": bounds.reviewed_scale.value,
            }
            for name, bounds in self.labels.items()
        }
        return {"level": self.level, "cases": self.cases, "labels": labels}

    @classmethod
    def from_dict(cls, values: Any) -> VolumeBounds:
        """Invert `to_dict`.

        Raises:
            ValueError: It is of another form.
        """
        try:
            labels = {
                str(name): LabelBounds(
                    Scale(each["scale"]),
                    float(each["quantile"]),
                    tuple(map(float, each["reviewed"])),
                    Scale(each["reviewed_scale"]),
                )
                for name, each in values["labels"].items()
            }
            return cls(float(values["level"]), int(values["cases"]), labels)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the bounds of volumes are not as they should be ({reason_of(error)})") from error


@dataclass(frozen=True)
class VolumeCalibration:
    """What a model's card keeps of its calibration cases, so that a site can replace them.

    Attributes:
        data: Which cases they are, in a few words.
        labels: By the label's name.

    Raises:
        TooFewCasesError: There are too few for any of `STATED_LEVELS`.
    """

    data: str
    labels: Mapping[str, LabelCalibration]

    def __post_init__(self) -> None:
        self.bounds()

    def bounds(self, level: float | None = None) -> VolumeBounds:
        """Return how intervals are made.

        Args:
            level: None: the highest of `STATED_LEVELS` for which there are cases enough.

        Raises:
            TooFewCasesError: There are too few.
        """
        known = [len(each.predicted.values) for each in self.labels.values()]
        if level is None:
            level = next((each for each in STATED_LEVELS if self._allows(each)), STATED_LEVELS[-1])
        return VolumeBounds(
            level, min(known, default=0), {name: _bounds(each, level) for name, each in self.labels.items()}
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        labels = {
            name: {
                "predicted": each.predicted.to_dict(),
                "reviewed": [stage.to_dict() for stage in each.reviewed],
            }
            for name, each in self.labels.items()
        }
        return {"data": self.data, "labels": labels}

    @classmethod
    def from_dict(cls, values: Any) -> VolumeCalibration:
        """Invert `to_dict`.

        Raises:
            SettingsError: It is of another form.
        """
        try:
            labels = {
                str(name): LabelCalibration(
                    Residuals.from_dict(each["predicted"]),
                    tuple(map(Residuals.from_dict, each["reviewed"])),
                )
                for name, each in values["labels"].items()
            }
            return cls(str(values["data"]), labels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"The calibration of volumes is not as it should be ({reason_of(error)}).") from error

    def _allows(self, level: float) -> bool:
        return min((len(each.predicted.values) for each in self.labels.values()), default=0) >= needed_cases(level)


def _bounds(label: LabelCalibration, level: float) -> LabelBounds:
    # Of few cases a quantile may grow by chance from one stage to the next; then it is the next one, which holds, too.
    later = accumulate(reversed([stage.quantile(level) for stage in label.reviewed]), max)
    return LabelBounds(
        label.predicted.scale,
        label.predicted.quantile(level),
        tuple(reversed(tuple(later))),
        next((stage.scale for stage in label.reviewed), Scale.NOTHING),
    )
