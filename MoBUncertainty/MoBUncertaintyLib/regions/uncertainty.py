"""How uncertain each voxel of a prediction is, and how thick the uncertainty is around it.

Every boundary carries a thin shell of uncertainty. What sets a doubtful place apart is that the uncertainty there is
*thicker* than along the rest of the boundary. With u the measure of uncertainty,

    thickness(x) = sigma sqrt(2 pi) (G_sigma * u)(x)         G_sigma: a Gaussian of sigma mm

is the integral of u across a boundary through x, as long as the uncertainty is thin against sigma (for a border
p = sigmoid(d / s) and u = p(1 - p) it is s, in mm). Its median over an organ's surface is the typical thickness there.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.geometry import Box, Grid, bounding_box, intersection, nested, shape_of, widened
from MoBUncertaintyLib.regions.blocks import LONGEST_MM, BlockGrid
from MoBUncertaintyLib.regions.settings import Measure

if TYPE_CHECKING:
    from MoBUncertaintyLib.prediction import Prediction

# Below this probability no measure reaches a useful threshold: it bounds the box that is searched.
NEGLIGIBLE = 0.005
ERROR_WINDOW = 3 / 8
"""Of the window of the thickness: sigma of that in which the expected error is averaged."""


@dataclass(frozen=True, eq=False)
class UncertaintyMap:
    """The uncertainty of a prediction in blocks of voxels (`blocks.py`), in the box in which there may be foreground.

    All maps but `max_variance` are means over a block's voxels.

    Attributes:
        blocks: Where the blocks lie.
        grid: Where the voxels lie.
        uncertainty: The measure, float32.
        thickness: Of the uncertainty, in mm times the measure's unit.
        typical: Median thickness along the surface of the nearest organ, one number for all blocks if there is but one
            organ; 0 without any.
        variance: The maximum over the labels.
        max_variance: Its maximum in the block.
        foreground: Probability of any label.
        expected_error: 1 - max_c p, background included: the probability that the segmentation is wrong.
        error_around: The same, averaged in a Gaussian window of `ERROR_WINDOW`.
        inside: Fraction of the block that is segmented.
        segmentation: The label that most of the block has.
    """

    blocks: BlockGrid
    grid: Grid
    uncertainty: np.ndarray
    thickness: np.ndarray
    typical: np.ndarray
    variance: np.ndarray
    max_variance: np.ndarray
    foreground: np.ndarray
    expected_error: np.ndarray
    error_around: np.ndarray
    inside: np.ndarray
    segmentation: np.ndarray

    def to_ras(self, index: np.ndarray) -> np.ndarray:
        """Convert blocks (N, 3), given as (z, y, x), to the RAS mm of their middles."""
        return self.grid.to_ras(self.blocks.centres(index))


def map_uncertainty(
    prediction: Prediction, measure: Measure, window_mm: float
) -> Generator[None, None, UncertaintyMap]:
    """Make the map of a prediction in steps, between which a user interface can answer: a generator that returns it.

    Args:
        prediction: It is read layer by layer of blocks, so that no volume is copied.
        measure: The measure of uncertainty.
        window_mm: Sigma of the window in which the thickness is taken.
    """
    grid, labels = prediction.grid, prediction.labels
    probability, variances = list(prediction.probability), list(prediction.variance)
    box = _box_of_interest(prediction, np.ceil(3 * window_mm / grid.spacing))
    blocks = BlockGrid(box, grid.spacing, min(LONGEST_MM, window_mm / 2))
    yield
    foreground, expected_error, variance, max_variance, uncertainty = np.empty((5, *blocks.shape), np.float32)
    fractions = np.zeros((len(labels), *blocks.shape), np.float32)
    for layer, box in blocks.layers():
        p, spread = [each[box] for each in probability], reduce(np.maximum, [each[box] for each in variances])
        any_label = np.clip(sum(p[1:], p[0]), 0, 1)
        foreground[layer] = blocks.merge(any_label)
        expected_error[layer] = blocks.merge(1 - reduce(np.maximum, [1 - any_label, *p]))
        variance[layer] = blocks.merge(spread)
        max_variance[layer] = blocks.merge(spread, np.maximum)
        is_variance = measure is Measure.VARIANCE
        uncertainty[layer] = variance[layer] if is_variance else blocks.merge(voxel_uncertainty(measure, p, [spread]))
        if intersection(box, prediction.segmented_box):
            for fraction, label in zip(fractions, labels, strict=True):
                fraction[layer] = blocks.merge((prediction.segmentation[box] == label.value).astype(np.float32))
        yield
    for summed in (foreground, expected_error, variance, uncertainty, fractions):
        summed /= blocks.voxels
    inside = fractions.sum(axis=0)
    segmentation, most = np.zeros(blocks.shape, np.uint8), 1 - inside
    for fraction, label in zip(fractions, labels, strict=True):
        segmentation[fraction > most] = label.value
        most = np.maximum(fraction, most)
        yield
    thickness, error_around = uncertainty * np.float32(window_mm * np.sqrt(2 * np.pi)), expected_error.copy()
    for values, width in ((thickness, window_mm), (error_around, ERROR_WINDOW * window_mm)):
        for axis, sigma in enumerate(width / blocks.spacing):
            ndimage.gaussian_filter1d(values, sigma, axis, output=values, mode="nearest", truncate=3)
            yield
    return UncertaintyMap(
        blocks,
        grid,
        uncertainty,
        thickness,
        _typical(thickness, segmentation, blocks.spacing),
        variance,
        max_variance,
        foreground,
        expected_error,
        error_around,
        inside,
        segmentation,
    )


def uncertainty_in(box: Box, prediction: Prediction, measure: Measure) -> np.ndarray:
    """Compute the uncertainty of each voxel in a box."""
    return voxel_uncertainty(
        measure, *([each[box] for each in m] for m in (prediction.probability, prediction.variance))
    )


def voxel_uncertainty(
    measure: Measure, probability: Sequence[np.ndarray], variance: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute how uncertain each voxel is, in the measure's unit.

    Args:
        measure: The measure of uncertainty.
        probability: Of each label, arrays of one shape.
        variance: Predictive variance, likewise.
    """
    if measure is Measure.VARIANCE:
        return reduce(np.maximum, variance)
    if measure is Measure.BERNOULLI:
        return reduce(np.maximum, [p * (1 - p) for p in probability])
    background = np.clip(1 - sum(probability[1:], probability[0]), 0, 1)
    terms = (p * np.log(np.maximum(p, np.float32(1e-12))) for p in (*probability, background))  # 0 ln 0 is 0
    return np.asarray(-sum(terms))


def _box_of_interest(prediction: Prediction, margin: np.ndarray) -> Box:
    """Return the box of what may be foreground, widened by `margin` voxels; one voxel if there is none."""
    processed = prediction.processed_box
    depth, *plane = shape_of(processed)
    shadow, slices = np.zeros(plane, bool), np.zeros(depth, bool)
    for each in prediction.probability:
        for z, values in enumerate(each[processed]):
            likely = values > NEGLIGIBLE
            slices[z] |= likely.any()
            shadow |= likely
    found = bounding_box([slices, np.any(shadow, axis=1), np.any(shadow, axis=0)])
    return widened(nested(processed, found), margin.tolist(), prediction.shape)


def _typical(thickness: np.ndarray, labels: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Take each label's own typical thickness: among blurred ones the uncertainty in a sharp one would not show."""
    values = np.setdiff1d(labels, 0)
    if values.size < 2:
        return np.array(_median_at_surface(thickness, labels))
    medians = np.zeros(values.max() + 1, np.float32)
    for value in values:
        medians[value] = _median_at_surface(thickness, labels == value)
    nearest = ndimage.distance_transform_edt(labels == 0, spacing, return_distances=False, return_indices=True)
    return np.asarray(medians[labels[tuple(nearest)]])


def _median_at_surface(values: np.ndarray, labels: np.ndarray) -> float:
    """Take the median over the voxels on either side of every voxel face that parts two labels; 0 without a surface."""
    sides = []
    for axis in range(labels.ndim):
        label, value = np.moveaxis(labels, axis, 0), np.moveaxis(values, axis, 0)
        face = label[:-1] != label[1:]
        sides += [value[:-1][face], value[1:][face]]
    together = np.concatenate(sides)
    return float(np.median(together)) if together.size else 0.0
