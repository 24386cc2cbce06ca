"""How strongly the logits of two voxels are correlated, by their distance.

A kernel is *stationary* (it takes a distance in mm), 1 at distance 0, positive definite in three dimensions, and has
*compact support*: it is 0 from `reach_mm` on, so that far clicks do not meet and a click has a box of influence. A
Gaussian that is cut off is not positive definite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

HALF_OF_GAUSSIAN = 1.1774100225154747
"""exp(-d^2 / 2) is 1/2 at d = sqrt(2 ln 2)."""

HALF_OF_WENDLAND = 0.31381017045569753
"""(1 - r)^4 (4 r + 1) is 1/2 here."""


class Kernel(Protocol):
    """A correlation of compact support."""

    @property
    def reach_mm(self) -> float:
        """Distance from which on the correlation is 0."""
        ...

    def __call__(self, distances_mm: np.ndarray) -> np.ndarray:
        """Return the correlation at each distance, any shape, in the precision of the distances."""
        ...


@dataclass(frozen=True)
class Wendland:
    """Wendland's C2 function, (1 - r)^4 (4 r + 1) for r = d / reach < 1.

    Of the functions of compact support that are positive definite in three dimensions and twice differentiable, it has
    the smallest degree (Wendland 1995, Advances in Computational Mathematics 4).

    Attributes:
        length_mm: It falls to 1/2 where a Gaussian exp(-d^2 / 2 length^2) does, at 1.18 lengths; its reach is 3.75
            lengths.
    """

    length_mm: float

    @property
    def reach_mm(self) -> float:
        """Distance from which on the correlation is 0."""
        return self.length_mm * (HALF_OF_GAUSSIAN / HALF_OF_WENDLAND)

    def __call__(self, distances_mm: np.ndarray) -> np.ndarray:
        """Return the correlation at each distance, any shape, in the precision of the distances."""
        r = distances_mm * (1 / self.reach_mm)
        np.minimum(r, 1, out=r)
        result = 1 - r
        for _ in range(2):
            np.multiply(result, result, out=result)
        r *= 4
        r += 1
        result *= r
        return np.asarray(result)
