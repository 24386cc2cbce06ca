"""What else a click could do: corrections that know distances, or the image, but nothing of the model's uncertainty.

Each has settings, and makes of a case what corrects its prediction by clicks. A wide grid of settings is tried on
validation cases (`study.tuned`). Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.special import softmax
from skimage.graph import MCP_Geometric
from skimage.segmentation import random_walker

from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Correct, Voxel, VoxelClick
from MoBUncertaintyLib.base.geometry import Box, bounding_box, shadows, shape_of, widened
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
        spacing, margin = case.prediction.grid.spacing, CUT * self.width_mm
        costs = 1 + self.slowness * _gradient(case) if self.slowness else None

        @cache
        def raised(voxel: Voxel) -> tuple[Box, np.ndarray]:
            """Compute the bump in the box that holds it; no path to a place in it is shorter if it leaves the box."""
            place = tuple(slice(at, at + 1) for at in voxel)
            box = widened(place, (margin / spacing).tolist(), case.truth.shape)
            inner = [at - part.start for at, part in zip(voxel, box, strict=True)]
            if costs is None:
                axes = (np.arange(size) - at for size, at in zip(shape_of(box), inner, strict=True))
                squares = sum(np.square(axis * step) for axis, step in zip(np.ix_(*axes), spacing, strict=True))
            else:
                squares = np.square(MCP_Geometric(costs[box], sampling=tuple(spacing)).find_costs([inner])[0])
            return box, self.height * np.exp(-squares / (2 * self.width_mm**2))

        def correct(clicks: Sequence[VoxelClick]) -> Prediction:
            logits = np.log(np.maximum(_probability(case), 1e-6))
            for voxel, label in clicks:
                box, bump = raised(voxel)
                logits[_values(case).index(label)][box] += bump
            return _corrected(case, softmax(logits, axis=0), clicks)

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
        spacing, image = case.prediction.grid.spacing, np.asarray(case.image, float)

        def correct(clicks: Sequence[VoxelClick]) -> Prediction:
            probability, seeds = _probability(case), np.ones(case.truth.shape, bool)
            for voxel, _ in clicks:
                seeds[voxel] = False
            near = ndimage.distance_transform_edt(seeds, spacing) < self.reach_mm
            free = near & (probability.max(0) < self.sure)
            labels = np.where(free, 0, probability.argmax(0) + 1)
            for voxel, label in clicks:
                labels[voxel] = _values(case).index(label) + 1
            box = bounding_box(shadows(free), (1, 1, 1))
            if free[box].any():
                walked = random_walker(
                    image[box], labels[box], self.beta, "cg_j", return_full_prob=True, spacing=spacing, prob_tol=1
                )
                present = np.unique(labels[box][labels[box] > 0]) - 1
                own = np.zeros_like(probability[:, *box])
                own[present] = np.clip(walked, 0, 1)
                probability[:, *box] = np.where(free[box], own, probability[:, *box])
            return _corrected(case, probability, clicks)

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


def _corrected(case: ReadCase, probability: np.ndarray, clicks: Sequence[VoxelClick]) -> Prediction:
    """Make the prediction of which labels are this probable, and clicked voxels certain."""
    values = np.array(_values(case))
    for voxel, label in clicks:
        probability[(slice(None), *voxel)] = values == label
    segmentation = values[probability.argmax(0)].astype(np.uint8)
    return replace(case.prediction, segmentation=segmentation, probability=probability[1:])
