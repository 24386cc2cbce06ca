"""How strongly the logits of two voxels are correlated, by how far apart they are along each axis.

A kernel is stationary, 1 at distance 0, positive definite in three dimensions, and has compact support: far clicks do
not meet, and a click has a box of influence. A Gaussian that is cut off is not positive definite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from MoBUncertaintyLib.model.click_settings import DEFAULT_LENGTH_MM, ClickSettings
from MoBUncertaintyLib.model.covariance import HALF_OF_GAUSSIAN, REACH, axis_correlation
from MoBUncertaintyLib.regions.prediction import Prediction

HALF_OF_WENDLAND = 0.31381017045569753
"""(1 - r)^4 (4 r + 1) is 1/2 here."""

Offsets = Sequence[np.ndarray]
"""How far apart voxels are along each axis, mm: three arrays (P, ...) that broadcast, in the precision wanted."""


def offsets_mm(points: np.ndarray, axes: Sequence[np.ndarray], spacing: np.ndarray) -> Offsets:
    """Compute how far points (P, 3) are from voxels whose coordinates broadcast; float32."""
    dimensions = np.broadcast(*axes).ndim
    return [
        (coordinate - place.reshape(-1, *(1,) * dimensions)).astype(np.float32) * step
        for coordinate, place, step in zip(axes, points.T, spacing, strict=True)
    ]


def pairs_mm(places: np.ndarray, others: np.ndarray) -> Offsets:
    """Compute how far places (P, 3) are from others (N, 3), all in mm."""
    return [place[:, None] - other for place, other in zip(places.T, others.T, strict=True)]


@dataclass(frozen=True)
class Spline:
    """The correlation of a model of the scope `local`: a length for each axis of the array (see `model.covariance`)."""

    lengths_mm: tuple[float, float, float]

    @property
    def length_mm(self) -> float:
        """The geometric mean of the lengths."""
        return float(prod(self.lengths_mm) ** (1 / 3))

    @property
    def box_mm(self) -> np.ndarray:
        """Distance along each axis from which on the correlation is 0, (3,)."""
        return np.multiply(self.lengths_mm, REACH)

    def between(self, offsets: Offsets) -> np.ndarray:
        """Return the correlation at each offset, in their precision."""
        return np.asarray(prod(map(axis_correlation, offsets, self.lengths_mm), start=np.float32(1)))

    def reached(self, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
        """Find the voxels that any of P points reaches: flat indices (N,), and their correlations (P, N)."""
        correlation = self.between(offsets)
        correlation = correlation.reshape(len(correlation), -1)
        voxels = np.flatnonzero(correlation.max(0) > 0)
        return voxels, correlation[:, voxels]


@dataclass(frozen=True)
class Wendland:
    """Wendland's C2 function, (1 - r)^4 (4 r + 1) for r = d / reach < 1.

    Of the functions of compact support that are positive definite in three dimensions and twice differentiable, it has
    the smallest degree (Wendland 1995, Advances in Computational Mathematics 4). It falls to 1/2 where a Gaussian
    exp(-d^2 / 2 length^2) does, at 1.18 lengths; its reach is 3.75 lengths.
    """

    length_mm: float

    @property
    def reach_mm(self) -> float:
        """Distance from which on the correlation is 0."""
        return self.length_mm * (HALF_OF_GAUSSIAN / HALF_OF_WENDLAND)

    @property
    def box_mm(self) -> np.ndarray:
        """As of `Spline`, like what follows."""
        return np.full(3, self.reach_mm)

    def between(self, offsets: Offsets) -> np.ndarray:
        return self(np.sqrt(_squares(offsets)))

    def reached(self, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
        squares = _squares(offsets)
        voxels = np.flatnonzero(squares.min(0) < self.reach_mm**2)
        return voxels, self(np.sqrt(squares.reshape(len(squares), -1)[:, voxels]))

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


def _squares(offsets: Offsets) -> np.ndarray:
    total: np.ndarray | float = 0.0
    for offset in offsets:
        total = total + offset * offset
    return np.asarray(total)


Kernel = Spline | Wendland


def kernel_of(prediction: Prediction, settings: ClickSettings) -> Kernel:
    """Choose a stationary correlation of the stated length; where none is stated the model's own, of a local model."""
    if settings.length_mm is None and prediction.correlation_mm is not None:
        return Spline(prediction.correlation_mm)
    return Wendland(settings.length_mm or DEFAULT_LENGTH_MM)
