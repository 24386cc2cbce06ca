"""The quantile of split-conformal prediction (Vovk et al. 2005, Lei et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.files.wording import percent

_ROUNDING = 1e-9  # 0.9 * 10 is a little more than 9


class TooFewCasesError(SettingsError):
    """There are fewer calibration cases than a level needs; the message says how many are needed."""

    def __init__(self, level: float, cases: int) -> None:
        super().__init__(
            f"A statement that holds in {percent(level)} of cases needs {needed_cases(level)} calibration cases, these "
            f"are {cases}; add cases, or ask for less."
        )


def needed_cases(level: float) -> int:
    """Return the smallest number n of calibration cases for a level 1 - alpha: n >= 1 / alpha - 1.

    Example:
        >>> [needed_cases(level) for level in (0.5, 0.8, 0.9)]
        [1, 4, 9]
    """
    return math.ceil(1 / (1 - level) - 1 - _ROUNDING)


def conformal_quantile(scores: Sequence[float], level: float) -> float:
    """Return the bound that the score of a further case does not exceed with at least this probability.

    It is the score of rank ceil((n + 1) level), and the probability at most 1 / (n + 1) above the level if no two
    scores are equal.

    Args:
        scores: Of the calibration cases.
        level: 1 - alpha, between 0 and 1.

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
