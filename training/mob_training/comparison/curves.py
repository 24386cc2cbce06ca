"""The curves that figures of a comparison draw, as mean and standard deviation over the seeds.

Each is of the runs of one model, and None if none of them has such scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mob_training.evaluation.metrics.volumes import LEVELS, STEP_MM
from mob_training.evaluation.readers.simulation import CLICKS
from mob_training.evaluation.score_files import Run
from mob_training.evaluation.scoreboard import Metric

MAX_REGIONS = 12
FEWEST_VOXELS = 20
"""A bin with fewer voxels, averaged over the seeds, gets no point: its fraction would be noise."""


@dataclass(frozen=True)
class Curve:
    """A curve over seeds, (n,) each; NaN where no seed has a point.

    Attributes:
        x, mean: Mean over the seeds that have the point.
        deviation: Standard deviation of y (n - 1); NaN with fewer than two seeds.
        count: Voxels behind each point, mean over all seeds; None where it is not about voxels.
    """

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    count: np.ndarray | None = None

    @classmethod
    def over(cls, x: np.ndarray, y: np.ndarray, count: np.ndarray | None = None) -> Curve:
        """Average the seeds' curves, (seeds, n) each; NaN where a seed has no point."""
        x, y = (np.ma.masked_invalid(np.broadcast_to(values, np.shape(y))) for values in (x, y))
        deviation = y.std(axis=0, ddof=1) if len(y) > 1 else np.ma.masked_all(y.shape[1])
        voxels = None if count is None else np.mean(count, axis=0)
        return cls(x.mean(axis=0).filled(np.nan), y.mean(axis=0).filled(np.nan), deviation.filled(np.nan), voxels)

    @property
    def drawn(self) -> np.ndarray:
        """Points that exist and have enough voxels, (n,) bool."""
        defined = np.isfinite(self.mean)
        return defined if self.count is None else defined & (self.count >= FEWEST_VOXELS)

    def changed(self, offset: np.ndarray | float = 0.0, factor: float = 1.0) -> Curve:
        """Replace y by (y + offset) * factor."""
        return replace(self, mean=(self.mean + offset) * factor, deviation=self.deviation * factor)


def labels(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """List the foreground classes of a data set, in the order of their values."""
    return list(dict.fromkeys(name for runs in groups.values() for run in runs for name in run.description["labels"]))


def calibration(runs: Sequence[Run], label: str) -> Curve | None:
    """Compute the frequency of a class by its predicted probability (15 bins), over all voxels of all cases."""
    columns = [f"volume.curve.{label}.{name}" for name in ("confidence", "frequency", "count")]
    curves = [[run.over_voxels(column) for column in columns] for run in runs]
    curves = [curve for curve in curves if None not in curve]
    # An empty bin has None.
    return Curve.over(*np.array(curves, float).swapaxes(0, 1)) if curves else None


def correlation(runs: Sequence[Run], what: str) -> Curve | None:
    """Compute the correlation of `errors` or of `samples` by the distance of two voxels, over all cases together."""
    values_of_runs = [run.over_voxels(f"joint.variogram.{what}") for run in runs]
    values = np.array([values for values in values_of_runs if values is not None], float)
    return Curve.over(STEP_MM * np.arange(values.shape[1]), values) if values.size else None


def coverage(runs: Sequence[Run]) -> Curve | None:
    """Compute how often the intervals of the volume hold the truth, by how often they should."""
    return _of_keys(runs, np.array(LEVELS), [f"joint.volume.covered_{100 * level:g}" for level in LEVELS])


def dice_by_clicks(runs: Sequence[Run], correlation: str) -> Curve | None:
    """Compute the mean Dice after 0, 1, ... clicks that spread by a correlation of `readers.simulation`."""
    keys = ["dice", *(f"clicks.{correlation}.dice_{n}" for n in CLICKS)]
    return _of_keys(runs, np.array([0, *CLICKS], float), keys)


def _of_keys(runs: Sequence[Run], x: np.ndarray, keys: Sequence[str]) -> Curve | None:
    rows = [row for row in ([run.mean(key) for key in keys] for run in runs) if None not in row]
    return Curve.over(x, np.array(rows, float)) if rows else None


def padded(values: Sequence[float], length: int) -> list[float]:
    """Return the first `length` values, the last one repeated if there are fewer."""
    return [*values[:length], *[values[-1]] * (length - len(values))]


def over_bases(numbers: Mapping[int, Sequence[Run]], metric: Metric) -> tuple[Curve, np.ndarray]:
    """Compute the mean of a score over the cases for each number of bases (paper, Fig. 4), in the units of the tables.

    Also return the seeds' own values, (seeds, numbers); NaN where a number has fewer seeds than another.
    """
    values = np.full((max(map(len, numbers.values())), len(numbers)), np.nan)
    for column, runs in enumerate(numbers.values()):
        for row, run in enumerate(runs):
            mean = run.mean(metric.key)
            values[row, column] = np.nan if mean is None else metric.factor * mean
    return Curve.over(np.array(list(numbers), float), values), values
