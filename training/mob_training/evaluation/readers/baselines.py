"""What else a click could do: corrections that know distances, or the image, but nothing of the model's uncertainty.

Each has settings, and makes of a case what corrects its prediction by clicks. A wide grid of settings is tried on
validation cases (`study.tuned`). Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.special import softmax
from skimage.graph import MCP_Geometric
from skimage.segmentation import random_walker

from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Correct, Voxel, VoxelClick
from MoBUncertaintyLib.base.geometry import Box, bounding_box, shadows, widened
from MoBUncertaintyLib.regions.prediction import Prediction

CUT = 3.0  # in widths of a bump: what is farther from its click is not looked at
SMOOTH_MM = 0.7  # sigma of the window in which the gradient of an image is measured


@dataclass(frozen=True)
class Bump:
    """The logit of the clicked label rises around each click by a Gaussian of the distance.

    Attributes:
        height: In logits.
        width_mm: Sigma of the Gaussian.
        slowness: Along a path, by so much a step is longer where the image changes by its standard deviation in 1 mm:
            distances are geodesic (Criminisi et al. 2008, GeoS). 0: they are straight.
    """

    height: float
    width_mm: float
    slowness: float = 0.0

    def of(self, case: ReadCase) -> Correct:
        """Return what corrects the prediction of a case."""
        spacing, margin, values = case.prediction.grid.spacing, CUT * self.width_mm, _values(case)
        before = np.log(np.maximum(_probability(case), 1e-6))
        unmoved = _Corrected.of(case, softmax(before, axis=0))
        costs = 1 + self.slowness * _gradient(case) if self.slowness else None

        @cache
        def raised(voxel: Voxel) -> tuple[Box, np.ndarray]:
            """Compute the bump in the box that holds it; no path to a place in it is shorter if it leaves the box."""
            box, squares = _around(voxel, margin, case)
            if costs is not None:
                inner = [at - part.start for at, part in zip(voxel, box, strict=True)]
                squares = np.square(MCP_Geometric(costs[box], sampling=tuple(spacing)).find_costs([inner])[0])
            return box, self.height * np.exp(-squares / (2 * self.width_mm**2))

        @lru_cache(2)
        def after(clicks: tuple[VoxelClick, ...]) -> tuple[np.ndarray, _Corrected]:
            """Add the bump of the last click to the logits after the others: readers click one after another."""
            if not clicks:
                return before, unmoved
            logits, corrected = after(clicks[:-1])
            logits, corrected = logits.copy(), corrected.copy()
            voxel, label = clicks[-1]
            box, bump = raised(voxel)
            logits[values.index(label)][box] += bump
            corrected.set(box, softmax(logits[:, *box], axis=0))
            corrected.decree(clicks)
            return logits, corrected

        def correct(clicks: Sequence[VoxelClick]) -> Prediction:
            return after(tuple(clicks))[1].prediction(case)

        return correct


@dataclass(frozen=True)
class Walker:
    """A random walker decides what is near a click (Grady 2006): where it comes to first, a click or a sure voxel.

    Attributes:
        beta: How much it avoids steps across which the image changes.
        reach_mm: Voxels that are farther from all clicks stay as they are.
        sure: Voxels with a label that is as probable as this have it.
    """

    beta: float
    reach_mm: float
    sure: float

    def of(self, case: ReadCase) -> Correct:
        """Return what corrects the prediction of a case."""
        spacing, image, values = case.prediction.grid.spacing, np.asarray(case.image, float), _values(case)
        unmoved = _Corrected.of(case, _probability(case))
        likely, unsure = unmoved.probability.argmax(0) + 1, unmoved.probability.max(0) < self.sure

        def correct(clicks: Sequence[VoxelClick]) -> Prediction:
            corrected, labels = unmoved.copy(), likely.copy()
            for voxel, _ in clicks:
                box, squares = _around(voxel, self.reach_mm, case)
                labels[box][unsure[box] & (np.sqrt(squares) < self.reach_mm)] = 0
            for voxel, label in clicks:
                labels[voxel] = values.index(label) + 1
            free = labels == 0
            box = bounding_box(shadows(free), (1, 1, 1))
            if free[box].any():
                walked = random_walker(
                    image[box], labels[box], self.beta, "cg_j", return_full_prob=True, spacing=spacing, prob_tol=1
                )
                probability = np.where(free[box], 0, corrected.probability[:, *box])
                for label, reached in zip(np.unique(labels[box][~free[box]]), walked, strict=True):
                    np.copyto(probability[label - 1], np.clip(reached, 0, 1), where=free[box])
                corrected.set(box, probability)
            corrected.decree(clicks)
            return corrected.prediction(case)

        return correct


Baseline = Bump | Walker

WIDTHS_MM = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
GRIDS: dict[str, tuple[Baseline, ...]] = {
    "bump": tuple(Bump(*pair) for pair in product((1.0, 2.0, 3.0, 4.0, 6.0, 8.0), WIDTHS_MM)),
    "geodesic": tuple(Bump(*each) for each in product((2.0, 4.0, 8.0), WIDTHS_MM[1:6], (0.5, 2.0, 8.0))),
    "walker": tuple(Walker(*each) for each in product((10.0, 130.0, 1000.0), (4.0, 8.0), (0.9, 0.98))),
}
"""What is tried of each."""


def _values(case: ReadCase) -> list[int]:
    return [0, *(label.value for label in case.prediction.labels)]


def _probability(case: ReadCase) -> np.ndarray:
    """Return a copy of the probability of background and labels, (C, *shape)."""
    labels = np.asarray(case.prediction.probability)
    return np.concatenate([np.clip(1 - labels.sum(0, keepdims=True), 0, 1), labels])


def _gradient(case: ReadCase) -> np.ndarray:
    """Compute by how many of its standard deviations the image changes in 1 mm."""
    spacing, image = case.prediction.grid.spacing, np.asarray(case.image, float)
    smooth = ndimage.gaussian_filter(image, SMOOTH_MM / spacing)
    return np.asarray(np.sqrt(sum(np.square(each) for each in np.gradient(smooth, *spacing))) / max(image.std(), 1e-9))


def _around(voxel: Voxel, margin_mm: float, case: ReadCase) -> tuple[Box, np.ndarray]:
    """Return the box that is so much wider than a voxel, and the square of the distance to it, mm2."""
    spacing = case.prediction.grid.spacing
    box = widened(tuple(slice(at, at + 1) for at in voxel), (margin_mm / spacing).tolist(), case.truth.shape)
    axes = (np.arange(part.start, part.stop) - at for part, at in zip(box, voxel, strict=True))
    return box, np.asarray(sum(np.square(axis * step) for axis, step in zip(np.ix_(*axes), spacing, strict=True)))


@dataclass(frozen=True, eq=False)
class _Corrected:
    """The probability of background and labels, (C, *shape), and the most probable label of each voxel."""

    probability: np.ndarray
    segmentation: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, case: ReadCase, probability: np.ndarray) -> _Corrected:
        values = np.array(_values(case), np.uint8)
        return cls(probability, values[probability.argmax(0)], values)

    def copy(self) -> _Corrected:
        return _Corrected(self.probability.copy(), self.segmentation.copy(), self.values)

    def set(self, box: Box, probability: np.ndarray) -> None:
        """Change the probability in a box."""
        self.probability[:, *box], self.segmentation[box] = probability, self.values[probability.argmax(0)]

    def decree(self, clicks: Sequence[VoxelClick]) -> None:
        """Make clicked voxels certain."""
        for voxel, label in clicks:
            self.probability[(slice(None), *voxel)] = self.values == label
            self.segmentation[voxel] = label

    def prediction(self, case: ReadCase) -> Prediction:
        """Make it a prediction."""
        return replace(case.prediction, segmentation=self.segmentation, probability=self.probability[1:])
