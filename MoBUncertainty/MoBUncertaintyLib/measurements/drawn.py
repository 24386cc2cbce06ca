"""What calibration cases say of a drawn segmentation: how improbable a clinician's own contour looks, how good ours is.

A further case is exchangeable with those. So of n + 1 cases together the k regions of highest discrepancy are k / (n +
1) a case on average, wherever they are: a region of rank r in its own case, with c others at least so discrepant on the
contours of n cases, has (c + r) / (n + 1) `false_alarms`, and a list of all regions where that is at most a number has
at most that many false ones a case on average.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Self

from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.conformal import conformal_quantile, needed_cases, short


@dataclass(frozen=True)
class Agreement:
    """What is expected of one label of a segmentation, against the unknown truth.

    Attributes:
        dice: Dice.
        surface_mm: Mean distance of the surfaces. Default: the segmentation, or the model's own, lacks the label.
        habit_mm: By how much it is wider than the model's own segmentation, on average over the border; default: as
            for `surface_mm`.
        dice_low, surface_high_mm: Bounds that hold in a fraction `level` of cases like the calibration cases; default:
            not calibrated.
    """

    dice: float
    surface_mm: float | None = None
    habit_mm: float | None = None
    dice_low: float | None = None
    surface_high_mm: float | None = None
    level: float | None = None

    def bounded(self, dice_low: float, surface_high_mm: float, level: float) -> Agreement:
        """Return it with bounds, which are at best what is expected."""
        high = max(surface_high_mm, self.surface_mm or 0.0)
        return replace(self, dice_low=min(dice_low, self.dice), surface_high_mm=high, level=level)

    @property
    def text(self) -> str:
        """Write Dice with its bound: "0.91 (90 %: at least 0.84)"."""
        if self.dice_low is None or self.level is None:
            return f"{self.dice:.2f}"
        return f"{self.dice:.2f} ({percent(self.level)}: at least {self.dice_low:.2f})"


@dataclass(frozen=True)
class DrawnBounds:
    """What a prediction keeps of the calibration cases of a label; `ValueError` for what is no finite number."""

    cases: int
    discrepancies: tuple[float, ...]  # of the n + 1 most discrepant regions on their contours, nats, rising
    jaccard: float  # by how much the Jaccard distance of ours exceeds the expected one, at most, at the bounds' level
    surface_mm: float  # the same of the mean distance of the surfaces
    usual_jaccard: float = 0.0  # the medians of both
    usual_surface_mm: float = 0.0

    def __post_init__(self) -> None:
        exceeding = self.jaccard, self.surface_mm, self.usual_jaccard, self.usual_surface_mm
        if not all(map(math.isfinite, (*self.discrepancies, *exceeding))):
            raise ValueError("what is known of drawn segmentations must be finite numbers")

    def false_alarms(self, discrepancy: float, rank: int) -> float:
        """Return how many regions at least so discrepant an ordinary contour has, on average."""
        others = len(self.discrepancies) - bisect_left(self.discrepancies, discrepancy)
        return (others + rank) / (self.cases + 1)


@dataclass(frozen=True)
class DrawnCalibration:
    """What a card keeps of a label's calibration cases, n of them.

    Attributes:
        discrepancies: Of the n + 1 most discrepant regions on the clinicians' contours of all cases together, nats.
        jaccard: Of each case, by how much the Jaccard distance (1 minus the overlap) of our segmentation exceeds the
            expected one.
        surface_mm: The same of the mean distance of the surfaces.
    """

    discrepancies: tuple[float, ...]
    jaccard: tuple[float, ...]
    surface_mm: tuple[float, ...]

    @classmethod
    def of(cls, contours: Sequence[Sequence[float]], jaccard: Sequence[float], surface_mm: Sequence[float]) -> Self:
        """Make it of the discrepancies on each case's contour, and of what `jaccard` and `surface_mm` keep."""
        together = sorted(each for contour in contours for each in contour)[-len(contours) - 1 :]
        parts = (tuple(map(short, values)) for values in (together, jaccard, surface_mm))
        return cls(*parts)

    def divided(self, temperature: float) -> Self:
        """Return that of a model whose logits, and so very nearly the discrepancies, a temperature divides."""
        return replace(self, discrepancies=tuple(short(each / temperature) for each in self.discrepancies))

    def bounds(self, level: float) -> DrawnBounds | None:
        """Return what a prediction keeps, with quantiles at a level; None of too few cases for that."""
        if len(self.jaccard) < needed_cases(level):
            return None
        both = self.jaccard, self.surface_mm
        quantiles = [short(conformal_quantile(values, level)) for values in both]
        medians = [short(median(values)) for values in both]
        return DrawnBounds(len(self.jaccard), tuple(sorted(self.discrepancies)), *quantiles, *medians)
