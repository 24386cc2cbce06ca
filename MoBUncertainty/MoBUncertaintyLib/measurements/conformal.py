"""Quantiles that hold for a further case with a stated probability: split-conformal prediction.

After Vovk et al. 2005, and Lei et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.wording import percent

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
    scores are equal. Raises `TooFewCasesError` if nothing finite would do.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must be between 0 and 1, not {level}")
    rank = math.ceil(level * (len(scores) + 1) - _ROUNDING)
    if rank > len(scores):
        raise TooFewCasesError(level, len(scores))
    return float(np.sort(np.asarray(scores, float))[max(rank, 1) - 1])


def short(value: float) -> float:
    """Keep five digits: the card stays a few kB."""
    return float(f"{value:.5g}")
