"""The quantile of split-conformal prediction (Vovk et al. 2005, Lei et al. 2018), and its weighted form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.files.wording import percent

_ROUNDING = 1e-9  # 0.9 * 10 is a little more than 9


class TooFewCasesError(SettingsError):
    """There are fewer calibration cases than a level needs; the message says how many are needed."""

    def __init__(self, level: float, cases: float) -> None:
        super().__init__(
            f"A statement that holds in {percent(level)} of cases needs {needed_cases(level)} calibration cases, these "
            f"are {cases:.3g}; add cases, or ask for less."
        )


def needed_cases(level: float) -> int:
    """Return the smallest number n of calibration cases for a level 1 - alpha: n >= 1 / alpha - 1.

    Example:
        >>> [needed_cases(level) for level in (0.5, 0.8, 0.9)]
        [1, 4, 9]
    """
    return math.ceil(1 / (1 - level) - 1 - _ROUNDING)


def conformal_quantile(scores: Sequence[float], level: float, weights: Sequence[float] = ()) -> float:
    """Return the bound that the score of a further case does not exceed with at least this probability.

    Without weights it is the score of rank ceil((n + 1) level), and the probability at most 1 / (n + 1) above the
    level if no two scores are equal. With weights, relative to the further case's own 1, it is the quantile of their
    distribution with that case at infinity: exact for likelihood ratios (Tibshirani et al. 2019), and close for cases
    that resemble the further one less, the smaller their weight (Barber et al. 2023).

    Args:
        scores: Of the calibration cases.
        level: 1 - alpha, between 0 and 1.
        weights: One for each score, at least 0; none: all 1.

    Raises:
        TooFewCasesError: Nothing finite would do.
        ValueError: The level is not between 0 and 1, or the weights are not one for each score.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must be between 0 and 1, not {level}")
    values, own = np.asarray(scores, float), np.asarray(weights if len(weights) else np.ones(len(scores)), float)
    if own.shape != values.shape or not (np.isfinite(own).all() and (own >= 0).all()):
        raise ValueError("weights must be finite numbers from 0 on, one for each score")
    order = np.argsort(values, kind="stable")
    rank = int(np.searchsorted(np.cumsum(own[order]), level * (own.sum() + 1) - _ROUNDING))
    if rank >= len(values):
        raise TooFewCasesError(level, float(own.sum()))
    return float(values[order[rank]])
