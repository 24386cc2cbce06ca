"""Intervals of a volume, by the residuals of cases whose true volume is known.

A residual is the distance of the true volume from the stated one, in units of a scale. The interval of a case is its
stated volume, plus and minus its scale times the quantile of split-conformal prediction of the residuals (Vovk et al.
2005, Lei et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.wording import percent

LEVELS = (0.9, 0.8, 0.5)
"""Of the intervals by which a scale is chosen."""
STATED_LEVELS = (0.9, 0.8)
"""Of the intervals that are stated: the first for which there are cases enough."""
CLEARLY = 0.95
"""Of the width of equally wide intervals: a scale must make them narrower than that to be chosen."""
ENOUGH_TO_CHOOSE = 20
"""Calibration cases; of fewer, a choice by themselves costs much of the coverage that they promise."""
_SMALLEST = 1e-6  # of a scale
_ROUNDING = 1e-9  # 0.9 * 10 is a little more than 9


class TooFewCasesError(SettingsError):
    """There are fewer calibration cases than a level needs; the message says how many are needed."""

    def __init__(self, level: float, cases: int) -> None:
        super().__init__(
            f"An interval that holds in {percent(level)} of cases needs {needed_cases(level)} calibration cases, but "
            f"there are only {cases}; add cases, or choose a lower level."
        )


def needed_cases(level: float) -> int:
    """Return the smallest number n of calibration cases for a level 1 - alpha: n >= 1 / alpha - 1.

    Example:
        >>> [needed_cases(level) for level in (0.5, 0.8, 0.9)]
        [1, 4, 9]
    """
    return math.ceil(1 / (1 - level) - 1 - _ROUNDING)


def conformal_quantile(scores: Sequence[float], level: float) -> float:
    """Return the bound that the score of a further case does not exceed with at least the probability `level`.

    It is the score of rank ceil((n + 1) level), and the probability at most 1 / (n + 1) above the level if no two
    scores are equal.

    Raises:
        TooFewCasesError: Nothing finite would do.
        ValueError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must be between 0 and 1, not {level}")
    rank = math.ceil(level * (len(scores) + 1) - _ROUNDING)
    if rank > len(scores):
        raise TooFewCasesError(level, len(scores))
    return float(np.sort(np.asarray(scores, float))[max(rank, 1) - 1])


class Scale(StrEnum):
    """In what the distance of two volumes is measured."""

    NOTHING = "ml"
    """As it is: all intervals are equally wide. Plain conformal prediction."""
    ROOT = "square root of the volume"
    VOLUME = "volume"
    """Intervals have one width in percent."""
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
        """Compute the residuals of cases from what is stated and the truth in ml; those without the label do not count.

        Raises:
            ValueError: The label was found in none.
        """
        cases = [(volume, true) for volume, true in cases if volume.ml > 0]
        kind = scale or choose_scale(cases)
        return cls(kind, tuple(short(volume.residual(true, kind)) for volume, true in cases))

    def quantile(self, level: float) -> float:
        """Return the residual that a further case does not exceed with this probability; raises `TooFewCasesError`."""
        return conformal_quantile(self.values, level)


def choose_scale(*stages: Sequence[tuple[StatedVolume, float]]) -> Scale:
    """Choose the scale whose intervals are narrowest at the nominal rate.

    Of each scale the intervals' mean width over the cases counts, relative to that of equally wide ones, and averaged
    over those of `LEVELS` that the cases allow. What is not clearly narrower is not worth a choice: each choice by the
    calibration cases costs a little of the coverage that they promise. Fewer than `ENOUGH_TO_CHOOSE` have the square
    root of the expected error, unseen: what is given beforehand costs nothing.

    Args:
        stages: Of each stage of a review, or of the prediction alone, what is stated of each case, and its true volume
            in ml; a case in which the label was not found does not count.

    Raises:
        ValueError: There are none.
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


def short(value: float) -> float:
    """Keep five digits: the card stays a few kB."""
    return float(f"{value:.5g}")
