"""How far around an outline the true surface lies: conformal risk control (Angelopoulos et al. 2024).

The sets are nested, all within some distance of the outline; the loss of a case is the fraction of its true surface
that such a set leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MoBUncertaintyLib.conformal.quantile import TooFewCasesError, needed_cases

DISTANCES_MM = tuple(
    float(mm) for mm in np.concatenate([np.arange(0, 5, 0.25), np.arange(5, 10, 0.5), np.arange(10, 31)])
)
"""At which the loss of calibration cases is kept."""


@dataclass(frozen=True)
class SurfaceLoss:
    """How much of the true surface lies farther from the outline than each of `DISTANCES_MM`.

    Attributes:
        outside: Mean over the calibration cases of the fraction, falling.
        cases: Their number; of weighted ones the sum of weights.
    """

    outside: tuple[float, ...]
    cases: float

    def __post_init__(self) -> None:
        if len(self.outside) != len(DISTANCES_MM) or not self.cases > 0:
            raise ValueError(f"the surface's loss needs {len(DISTANCES_MM)} fractions, and cases")
        if any(
            not 0 <= after <= before <= 1 for before, after in zip((1.0, *self.outside), self.outside, strict=False)
        ):
            raise ValueError("the surface's loss must fall, from 1 to 0 at most")

    @classmethod
    def of(cls, distances_mm: Sequence[np.ndarray]) -> SurfaceLoss:
        """Measure calibration cases.

        Args:
            distances_mm: For each case, the distances of its true surface's elements from the outline.
        """
        at = np.array(DISTANCES_MM)
        # Rounded upwards, so that nothing is promised that does not hold.
        curves = [1 - np.searchsorted(np.sort(each), at + 1e-6, "right") / max(len(each), 1) for each in distances_mm]
        mean = np.mean([curve if len(each) else 0 * curve for curve, each in zip(curves, distances_mm, strict=True)], 0)
        return cls(tuple(float(value) for value in np.ceil(1e4 * mean - 1e-6) / 1e4), len(distances_mm))

    def margin_mm(self, level: float) -> float | None:
        """Return the smallest distance within which a further case's true surface is expected to lie to this fraction.

        Returns:
            None if it is farther than the largest of `DISTANCES_MM`.

        Raises:
            TooFewCasesError: Nothing finite would do.
        """
        if self.cases < needed_cases(level):
            raise TooFewCasesError(level, self.cases)
        for mm, loss in zip(DISTANCES_MM, self.outside, strict=True):
            # A further case may lose everything, 1.
            if (self.cases * loss + 1) / (self.cases + 1) <= 1 - level + 1e-9:
                return mm
        return None

    def pooled(self, other: SurfaceLoss, weight: float = 1.0) -> SurfaceLoss:
        """Return that of both; each case of the other counts for `weight`."""
        count = self.cases + weight * other.cases
        outside = (np.array(self.outside) * self.cases + weight * other.cases * np.array(other.outside)) / count
        return SurfaceLoss(tuple(float(value) for value in outside.round(6)), count)
