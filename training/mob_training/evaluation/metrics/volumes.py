"""How good a distribution of an organ's volume is, which samples stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from MoBUncertaintyLib.files.wording import percent

LEVELS = (0.5, 0.8, 0.9)
"""Of the intervals that are scored."""


def crps(samples: Sequence[float] | np.ndarray, truth: float) -> float:
    """Compute the continuous ranked probability score of samples, E|V - v| - E|V - V'| / 2.

    Pairs of a sample with itself do not count, so that the score does not depend on how many there are (the "fair"
    form; Ferro 2014, Quarterly Journal of the Royal Meteorological Society 140). One sample has its absolute error.

    Args:
        samples: V, at least one.
        truth: v.
    """
    values = np.sort(np.asarray(samples, float))
    count = len(values)
    error = float(np.abs(values - truth).mean())
    if count == 1:
        return error
    # The k-th of n sorted values is the larger one in k pairs and the smaller one in n - 1 - k.
    spread = 2 * float((2 * np.arange(count) - count + 1) @ values) / (count * (count - 1))
    return error - 0.5 * spread


def interval(samples: Sequence[float] | np.ndarray, level: float) -> tuple[float, float]:
    """Return the interval between two of the sorted samples that holds a further sample with this probability.

    With n samples, that of the k-th smallest and the k-th largest holds it with 1 - 2 k / (n + 1): exactly, whatever
    the distribution. 19, 39, 99 or 199 samples have all of `LEVELS`.

    Raises:
        ValueError: There are too few samples for the level.
    """
    values = np.sort(np.asarray(samples, float))
    rank = round((1 - level) / 2 * (len(values) + 1))
    if rank < 1:
        raise ValueError(f"{len(values)} samples have no interval of {percent(level)}")
    return float(values[rank - 1]), float(values[-rank])


def volume_scores(samples: Sequence[float] | np.ndarray, truth: float) -> dict[str, float]:
    """Score the distribution of a volume.

    Returns:
        `crps`; for each of `LEVELS`, in percent, `covered_90`, 1 or 0, whether the interval holds the truth, and
        `width_90`; and the samples' standard `deviation`; in the unit of the volume.
    """
    scores = {"crps": crps(samples, truth), "deviation": float(np.std(samples, ddof=1))}
    for level in LEVELS:
        low, high = interval(samples, level)
        scores[f"covered_{100 * level:g}"] = float(low <= truth <= high)
        scores[f"width_{100 * level:g}"] = high - low
    return scores
