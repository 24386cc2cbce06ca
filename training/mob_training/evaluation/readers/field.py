"""The product's refinement of one small case under many settings: the logits are solved once, not for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mob_training.evaluation.readers.corrections import Correction, VoxelClick, decree
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.refinement.conditioning import Field, solve, spread
from MoBUncertaintyLib.refinement.kernel import kernel_of, pairs_mm
from MoBUncertaintyLib.refinement.logits import logits_of, movable
from MoBUncertaintyLib.refinement.spreading import refined_maps

MOVED = 1e-4
"""A voxel whose probability is nearer to 0 or 1 stays as it is."""


class CaseField:
    """The logits of a prediction, at all voxels that clicks can make a difference to.

    Args:
        prediction: Never changed.
        more: Mask of further voxels that may be clicked.
    """

    def __init__(self, prediction: Prediction, more: np.ndarray) -> None:
        p, v = np.array(prediction.probability), np.array(prediction.variance)
        used = more | ((p > MOVED) & (p < 1 - MOVED)).any(axis=0)
        self.prediction = prediction
        self._at = tuple(np.argwhere(used).T)
        self._index = np.full(used.shape, -1)
        self._index[self._at] = np.arange(len(self._at[0]))
        self._mean, self._variance = logits_of(p[:, used], v[:, used])
        self._mm = (np.argwhere(used) * prediction.grid.spacing).astype(np.float32)
        self._values = np.array([label.value for label in prediction.labels], np.uint8)

    def refined(self, settings: ClickSettings) -> Correction:
        """Return what refines the prediction as `Refiner` does."""
        kernel = kernel_of(self.prediction, settings)

        def correct(clicks: Sequence[VoxelClick]) -> Prediction:
            labels = np.array([label for _, label in clicks])
            own = self._index[tuple(np.array([voxel for voxel, _ in clicks]).T)]
            near, correlation = kernel.reached(pairs_mm(self._mm[own], self._mm))
            means, fractions = [], []
            for value, mean, variance in zip(self._values, self._mean, self._variance, strict=True):
                deviation = movable(variance, settings.prior_deviation)
                field = Field(mean[own], deviation[own], self._mm[own])
                signs = np.where(labels == value, 1, -1)
                shift, kept = spread(
                    correlation, *solve(field, kernel, signs, settings.strength, settings.variance_strength)
                )
                means.append(mean[near] + deviation[near] * shift)
                fractions.append(kept)
            p, _, segmentation = refined_maps(
                np.array(means, np.float32),
                self._variance[:, near],
                np.array(fractions, np.float32),
                settings.sharpening,
                self._values,
            )
            return self._made(near, p, segmentation, clicks)

        return correct

    def _made(self, near: np.ndarray, p: np.ndarray, labels: np.ndarray, clicks: Sequence[VoxelClick]) -> Prediction:
        at = tuple(axis[near] for axis in self._at)
        segmentation, probability = self.prediction.segmentation.copy(), np.array(self.prediction.probability)
        segmentation[at] = labels
        probability[(slice(None), *at)] = p
        decree(self.prediction, segmentation, probability, clicks)
        return replace(self.prediction, segmentation=segmentation, probability=probability)
