"""The distribution of a measurement over samples of the segmentation, and the interval that calibration makes of it.

Quantiles of the samples are moved by what the truth of calibration cases was beyond them: conformalised quantile
regression (Romano, Patterson and Candès 2019, Advances in Neural Information Processing Systems 32). First the bias is
subtracted, then both ends move outwards alike. Each by itself would need twice the cases, and be wider with few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from MoBUncertaintyLib.measurements.conformal import conformal_quantile, needed_cases, short
from MoBUncertaintyLib.measurements.interval import Interval, volume_number

LEVELS = (0.9, 0.8)
"""Of the intervals that are stated: the first for which there are cases enough, 9 or 4."""
SHOWN = 0.9  # fraction of the samples between the quantiles that are shown where nothing is calibrated
BARS = 16  # of a histogram
FEWEST = 0.9  # fraction of the samples in which a measurement must be defined


def ends(level: float) -> tuple[float, float]:
    """Return the two quantiles between which the fraction `level` lies in the middle."""
    return (1 - level) / 2, (1 + level) / 2


@dataclass(frozen=True)
class QuantileBounds:
    """How far both quantiles of the samples are moved outwards, so that a fraction `level` of cases lies between.

    Attributes:
        level: The fraction.
        cases: Calibration cases.
        low, high: By how much, in the unit of the measurement; negative where samples spread too far.
    """

    level: float
    cases: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("bounds of a measurement need a level between 0 and 1, and finite numbers")

    def moved(self, low: float, high: float) -> tuple[float, float]:
        """Move two quantiles; where they would cross, both to their middle."""
        low, high = low - self.low, high + self.high
        middle = (low + high) / 2
        return min(low, middle), max(high, middle)

    @classmethod
    def of(cls, cases: Sequence[tuple[float, Mapping[float, float]]]) -> Self | None:
        """Calibrate with the truth of each case and the quantiles of its samples; default: there are too few cases."""
        for level in LEVELS:
            if len(cases) >= needed_cases(level):
                low, high = np.transpose([[own[end] for end in ends(level)] for _, own in cases])
                above = np.array([true for true, _ in cases]) - (low + high) / 2
                # Each case without its own part in the bias, as a further case will be.
                biases = [np.median(np.delete(above, case)) for case in range(len(cases))]
                margin = conformal_quantile(np.abs(above - biases) - (high - low) / 2, level)
                bias = float(np.median(above))
                return cls(level, len(cases), short(margin - bias), short(margin + bias))
        return None


class Histogram(NamedTuple):
    """How samples are distributed, to be drawn: from the left, 0, to the right, 1, of a picture of a height of 1.

    Attributes:
        bars: Their heights, of equal widths.
        value: Where the value of the segmentation lies; default: it has none.
        interval: Where what is promised begins and ends; default: nothing is promised.
    """

    bars: tuple[float, ...]
    value: float | None
    interval: tuple[float, ...] | None


@dataclass(frozen=True)
class Measured:
    """A measurement of a segmentation, and of samples of it; None where it is not defined.

    Attributes:
        name: As users type it.
        unit: Of the numbers.
        value: Of the segmentation.
        samples: Of samples of it, rising.
        interval: What calibration cases promise of the truth; default: nothing.
    """

    name: str
    unit: str
    value: float | None
    samples: tuple[float, ...] = ()
    interval: Interval | None = None

    @classmethod
    def of(cls, name: str, unit: str, value: float, samples: np.ndarray) -> Self:
        """Make it of numbers that may be NaN; where too few samples are defined there are none."""
        defined = np.sort(samples[np.isfinite(samples)])
        enough = len(defined) >= FEWEST * len(samples)
        rounded = short(value) if math.isfinite(value) else None
        return cls(name, unit, rounded, tuple(map(short, defined.tolist())) if enough else ())

    def quantile(self, fraction: float) -> float | None:
        """Return a quantile of the samples."""
        return float(np.quantile(self.samples, fraction)) if self.samples else None

    @property
    def spread(self) -> Interval | None:
        """What the middle of the samples spans, which promises nothing."""
        if not self.samples:
            return None
        low, high = np.quantile(self.samples, ends(SHOWN)).tolist()
        return Interval(low, high, SHOWN)

    @property
    def histogram(self) -> Histogram | None:
        """Make the histogram of the samples; wide enough for value and interval."""
        if not self.samples:
            return None
        value = () if self.value is None else (self.value,)
        interval = (self.interval.low, self.interval.high) if self.interval else ()
        shown = (*self.samples, *value, *interval)
        counts, edges = np.histogram(self.samples, BARS, (min(shown), max(shown)))

        def at(*numbers: float) -> tuple[float, ...]:
            return tuple(np.interp(numbers, edges[[0, -1]], (0, 1)).round(3).tolist())

        bars = (counts / counts.max()).round(3).tolist()
        return Histogram(tuple(bars), at(*value)[0] if value else None, at(*interval) or None)

    @property
    def text(self) -> str:
        """Write it for people: what is promised of it or, if nothing is, how the samples spread."""
        if self.value is None:
            return "not defined"
        span = self.interval or self.spread
        number = f"{volume_number(self.value, span)} {self.unit}".strip()
        note = "" if self.interval else "of the model's samples, not calibrated"
        return f"{number} {span.text(self.value, note)}" if span else number

    def promised(self, bounds: QuantileBounds, least: float, most: float = math.inf) -> Interval | None:
        """Make the interval that calibration cases promise, within what is possible."""
        if not self.samples:
            return None
        moved = bounds.moved(*np.quantile(self.samples, ends(bounds.level)).tolist())
        low, high = (min(max(end, least), most) for end in moved)
        return Interval(low, high, bounds.level)
