"""What becomes of a prediction when some voxels are given their labels: the product's refinement, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
from scipy.special import expit, logit

from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.refinement.refiner import Refiner

Voxel = tuple[int, int, int]
VoxelClick = tuple[Voxel, int]
"""A voxel (z, y, x) and its true label."""

_START = datetime(2000, 1, 1, tzinfo=UTC)
_SURE = 1e-6


Correction = Callable[[Sequence[VoxelClick]], Prediction]
"""Corrects one prediction by a reader's clicks."""


class Refined:
    """The Gaussian conditioned on the clicks, as the product does it.

    Args:
        prediction: Never changed.
        settings: How far a click reaches, and how strongly it counts.
    """

    def __init__(self, prediction: Prediction, settings: ClickSettings) -> None:
        self._refiner = Refiner(prediction, settings)

    def __call__(self, clicks: Sequence[VoxelClick]) -> Prediction:
        """Return the prediction after a reader's clicks."""
        prediction = self._refiner.prediction
        if not clicks:
            return prediction
        labelled = [
            Click(f"c{n}", (point_of(prediction, voxel),), label, _START + timedelta(seconds=n))
            for n, (voxel, label) in enumerate(clicks, start=1)
        ]
        return self._refiner.refine(labelled).paste(prediction)


@dataclass(frozen=True, eq=False)
class LocalEdit:
    """Baseline: only the clicked voxels change."""

    prediction: Prediction

    def __call__(self, clicks: Sequence[VoxelClick]) -> Prediction:
        """Return the prediction after a reader's clicks."""
        segmentation, probability = self.prediction.segmentation.copy(), np.array(self.prediction.probability)
        decree(self.prediction, segmentation, probability, clicks)
        return replace(self.prediction, segmentation=segmentation, probability=probability)


@dataclass(frozen=True)
class BumpSettings:
    """Of the baseline `Bump`.

    Attributes:
        height: Of the Gaussian, in logits.
        width_mm: Its standard deviation.
    """

    height: float = 3.0
    width_mm: float = 3.0


@dataclass(frozen=True, eq=False)
class Bump:
    """Baseline: each click adds a Gaussian to the logits around it, up for its label and down for the others."""

    prediction: Prediction
    settings: BumpSettings

    @cached_property
    def _logits(self) -> np.ndarray:
        p = np.array(self.prediction.probability, np.float32)
        return np.asarray(logit(np.clip(p, _SURE, 1 - _SURE)))

    def __call__(self, clicks: Sequence[VoxelClick]) -> Prediction:
        """Return the prediction after a reader's clicks."""
        prediction, spacing = self.prediction, self.prediction.grid.spacing
        logits = self._logits.copy()
        for voxel, label in clicks:
            axes = [
                np.exp(-((((np.arange(n) - at) * mm) / self.settings.width_mm) ** 2) / 2)
                for n, at, mm in zip(prediction.shape, voxel, spacing, strict=True)
            ]
            bump = self.settings.height * np.einsum("i,j,k->ijk", *axes).astype(np.float32)
            for channel, organ in zip(logits, prediction.labels, strict=True):
                channel += bump if organ.value == label else -bump
        values = np.array([organ.value for organ in prediction.labels])
        probability = expit(logits)
        none = 1 - probability.sum(axis=0) >= probability.max(axis=0)
        segmentation = np.where(none, 0, values[probability.argmax(axis=0)]).astype(np.uint8)
        decree(prediction, segmentation, probability, clicks)
        return replace(prediction, segmentation=segmentation, probability=probability)


def point_of(prediction: Prediction, voxel: Voxel) -> tuple[float, float, float]:
    """Return the RAS mm of a voxel's centre."""
    r, a, s = prediction.grid.to_ras(np.array(voxel)).tolist()
    return r, a, s


def decree(
    prediction: Prediction, segmentation: np.ndarray, probability: np.ndarray, clicks: Sequence[VoxelClick]
) -> None:
    """Give the clicked voxels their labels."""
    values = np.array([label.value for label in prediction.labels])
    for voxel, label in clicks:
        segmentation[voxel] = label
        probability[(slice(None), *voxel)] = values == label
