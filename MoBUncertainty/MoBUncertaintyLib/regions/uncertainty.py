"""How uncertain each voxel of a prediction is, and how thick the uncertainty is around it.

Every boundary carries a thin shell of uncertainty. What sets a doubtful place apart is that the uncertainty there is
*thicker* than along the rest of the boundary. With u the measure of uncertainty,

    thickness(x) = sigma sqrt(2 pi) (G_sigma * u)(x)         G_sigma: a Gaussian of sigma mm

is the integral of u across a boundary through x, as long as the uncertainty is thin against sigma (for a border
p = sigmoid(d / s) and u = p(1 - p) it is s, in mm). Its median over an organ's surface is the typical thickness there.

Uncertainty is judged over millimetres, so that finer voxels cost time and tell nothing: whole voxels are combined in
blocks of at most 2 mm, with every sum kept. Where voxels are longer than 1 mm, a block is one voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, bounding_box, nested, shape_of, whole, widened, within
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.regions.measure import any_label, error_in, uncertainty_in, values_in

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction

LONGEST_MM = 2.0  # no block of several voxels is longer
_AT_ONCE = 2**16  # voxels that are merged at once: what is computed of them stays in a processor's cache
# Below this probability no measure reaches a useful threshold: it bounds the box that is searched.
NEGLIGIBLE = 0.005
ERROR_WINDOW = 3 / 8  # of the window of the thickness: sigma of that in which the expected error is averaged
_TRUNCATE = 3  # standard deviations at which a Gaussian window ends


class BlockGrid:
    """The blocks that fill a box of an array (z, y, x), none of several voxels longer than `longest_mm`.

    `factors` are the voxels in a block along each axis; `shape` and `spacing` (mm) are those of the blocks.
    """

    def __init__(self, box: Box, spacing: np.ndarray, longest_mm: float = LONGEST_MM) -> None:
        self.factors = np.maximum(1, np.floor(longest_mm / spacing + 1e-6).astype(int))
        self.spacing = spacing * self.factors
        # Where each block begins; the last one along an axis may hold fewer voxels.
        self._edges = [np.append(np.arange(s.start, s.stop, f), s.stop) for s, f in zip(box, self.factors, strict=True)]
        self.shape = tuple(len(edges) - 1 for edges in self._edges)

    def voxels(self, box: Box) -> np.ndarray:
        """Return the number of voxels in each block of a box of blocks, float32."""
        ends = zip(self._edges, box, strict=True)
        z, y, x = (np.diff(edges[s.start : s.stop + 1]).astype(np.float32) for edges, s in ends)
        return np.asarray(z[:, None, None] * (y[:, None] * x))

    def voxel_box(self, box: Box) -> Box:
        """Return the box, in the array, of the voxels in a box of blocks."""
        return tuple(slice(int(edges[s.start]), int(edges[s.stop])) for edges, s in zip(self._edges, box, strict=True))

    def covering(self, box: Box) -> Box:
        """Return the box of the blocks that have voxels in a box of the array; an empty one if none has."""
        ends = zip(self._edges, box, strict=True)
        blocks = [np.flatnonzero((edges[1:] > s.start) & (edges[:-1] < s.stop)) for edges, s in ends]
        return tuple(slice(int(along[0]), int(along[-1]) + 1) if along.size else slice(0, 0) for along in blocks)

    def layers(self) -> Iterator[Box]:
        """Iterate over layers of blocks along z, each a box of blocks."""
        for layer in range(self.shape[0]):
            yield (slice(layer, layer + 1), *whole(self.shape[1:]))

    def means(self, box: Box, values: Callable[[Box], np.ndarray]) -> np.ndarray:
        """Compute the mean over each block of a box, float32, of what `values` returns for parts of the array."""
        return np.asarray(self._merged(box, values, np.add) / self.voxels(box))

    def maxima(self, box: Box, values: Callable[[Box], np.ndarray]) -> np.ndarray:
        """Find the maximum of numbers from 0 on in each block of a box of blocks; arguments as for `means`."""
        return self._merged(box, values, np.maximum)

    def _merged(self, box: Box, values: Callable[[Box], np.ndarray], operation: np.ufunc) -> np.ndarray:
        layers, rows, columns = box
        merged = np.empty(shape_of(box), np.float32)
        height = int(max(1, _AT_ONCE // (self.factors.prod() * max(1, merged.shape[2]))))
        for layer in range(layers.start, layers.stop):
            for row in range(rows.start, rows.stop, height):
                part = slice(layer, layer + 1), slice(row, min(row + height, rows.stop)), columns
                merged[within(part, box)] = self._merge_layer(values(self.voxel_box(part)), operation)
        return merged

    def _merge_layer(self, voxels: np.ndarray, operation: np.ufunc) -> np.ndarray:
        """Merge the voxels of one layer to its blocks, (Y, X); `operation` counts a missing voxel as 0."""
        merged: np.ndarray = reduce(operation, voxels)
        for factor in self.factors[1:]:  # first along y, then along x
            if factor > 1:
                blocks = merged[::factor].copy()
                for n in range(1, factor):
                    others = merged[n::factor]  # one less where the last block is short
                    operation(blocks[: len(others)], others, out=blocks[: len(others)])
                merged = blocks
            merged = merged.T
        return merged

    def centres(self, index: np.ndarray) -> np.ndarray:
        """Return the middles of blocks (N, 3) in voxels of the array, (z, y, x)."""
        middles = [(edges[:-1] + edges[1:] - 1) / 2 for edges in self._edges]
        return np.stack([middle[along] for middle, along in zip(middles, index.T, strict=True)], axis=1)

    def expand(self, box: Box, blocks: np.ndarray) -> tuple[Box, np.ndarray]:
        """Find the voxels of some blocks, a mask that fills `box`: their box in the array, and its mask."""
        voxels = blocks
        for axis, (edges, s) in enumerate(zip(self._edges, box, strict=True)):
            voxels = np.repeat(voxels, np.diff(edges[s.start : s.stop + 1]), axis)
        return self.voxel_box(box), voxels


@dataclass(frozen=True, eq=False)
class UncertaintyMap:
    """The uncertainty of a prediction in blocks of voxels, in the box in which there may be foreground.

    Methods compute maps in a box of blocks: means over a block's voxels, float32, but for `max_variance`.
    """

    prediction: Prediction
    blocks: BlockGrid
    window_mm: float  # sigma of the window in which the thickness is taken
    uncertainty: np.ndarray  # the measure
    expected_error: np.ndarray  # the probability that the segmentation is wrong; see `measure.error_of`
    inside: np.ndarray  # fraction of the block that is segmented
    segmentation: np.ndarray  # the label that most of the block has
    organs: Box  # the box of the blocks in which anything is segmented
    # median thickness along the surface of the nearest organ; one number if there is but one organ, 0 without any
    typical: np.ndarray

    def thickness(self, box: Box) -> np.ndarray:
        """Compute the thickness of the uncertainty, in mm times the measure's unit."""
        return _thickness(self.uncertainty, box, self.blocks.spacing, self.window_mm)

    def error_around(self, box: Box) -> np.ndarray:
        """Compute the expected error, averaged in a Gaussian window of `ERROR_WINDOW`."""
        return _smoothed(self.expected_error, box, ERROR_WINDOW * self.window_mm / self.blocks.spacing)

    @cached_property
    def total_error(self) -> float:
        """The expected error, summed over all voxels."""
        layers = self.blocks.layers()
        return sum(float((self.expected_error[box] * self.blocks.voxels(box)).sum(dtype=float)) for box in layers)

    def foreground(self, box: Box) -> np.ndarray:
        """Compute the probability of any label."""
        return self.blocks.means(box, lambda voxels: any_label(values_in(voxels, self.prediction.probability)))

    def variance(self, box: Box) -> np.ndarray:
        """Compute the variance, the maximum over the labels."""
        return self.blocks.means(box, self._variance_of_voxels)

    def max_variance(self, box: Box) -> np.ndarray:
        """Find the maximum of the variance over labels and voxels."""
        return self.blocks.maxima(box, self._variance_of_voxels)

    def to_ras(self, index: np.ndarray) -> np.ndarray:
        """Convert blocks (N, 3), given as (z, y, x), to the RAS mm of their middles."""
        return self.prediction.grid.to_ras(self.blocks.centres(index))

    def _variance_of_voxels(self, voxels: Box) -> np.ndarray:
        return reduce(np.maximum, values_in(voxels, self.prediction.variance))


def map_uncertainty(
    prediction: Prediction, measure: Measure, window_mm: float
) -> Generator[None, None, UncertaintyMap]:
    """Make the map of a prediction in steps, between which a user interface can answer; no volume is copied."""
    spacing, labels = prediction.grid.spacing, prediction.labels
    box = _box_of_interest(prediction, np.ceil(3 * window_mm / spacing))
    blocks = BlockGrid(box, spacing, min(LONGEST_MM, window_mm / 2))
    yield

    def has(value: int) -> Callable[[Box], np.ndarray]:
        return lambda voxels: (prediction.segmentation[voxels] == value).astype(np.float32)

    uncertainty, errors, inside = (np.zeros(blocks.shape, np.float32) for _ in range(3))
    for layer in blocks.layers():
        uncertainty[layer] = blocks.means(layer, lambda voxels: uncertainty_in(voxels, prediction, measure))
        errors[layer] = blocks.means(layer, lambda voxels: error_in(voxels, prediction))
        yield
    segmentation, organs = np.zeros(blocks.shape, np.uint8), blocks.covering(prediction.segmented_box)
    fractions = []
    for label in labels:
        fractions.append(blocks.means(organs, has(label.value)))
        yield
    inside[organs] = sum(fractions[1:], fractions[0])
    most = 1 - inside[organs]
    for fraction, label in zip(fractions, labels, strict=True):
        segmentation[organs][fraction > most] = label.value
        most = np.maximum(fraction, most)
        yield
    near = widened(organs, (1, 1, 1), blocks.shape)  # a surface has two sides
    thickness = _thickness(uncertainty, near, blocks.spacing, window_mm)
    typical = _typical(thickness, segmentation, near, blocks.spacing)
    return UncertaintyMap(prediction, blocks, window_mm, uncertainty, errors, inside, segmentation, organs, typical)


def _box_of_interest(prediction: Prediction, margin: np.ndarray) -> Box:
    """Return the box of what may be foreground, widened by `margin` voxels; one voxel if there is none."""
    processed = prediction.processed_box
    depth, *plane = shape_of(processed)
    shadow, slices = np.zeros(plane, bool), np.zeros(depth, bool)
    for label in prediction.probability:
        for z, values in enumerate(label[processed]):
            likely = values > NEGLIGIBLE
            slices[z] |= likely.any()
            shadow |= likely
    likely_box = bounding_box([slices, np.any(shadow, axis=1), np.any(shadow, axis=0)])
    return widened(nested(processed, likely_box), margin.tolist(), prediction.shape)


def _thickness(uncertainty: np.ndarray, box: Box, spacing: np.ndarray, window_mm: float) -> np.ndarray:
    return _smoothed(uncertainty, box, window_mm / spacing, window_mm * np.sqrt(2 * np.pi))


def _smoothed(values: np.ndarray, box: Box, sigmas: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Average values, scaled before, in a Gaussian window: a box of what that gives for the whole array."""
    around = widened(box, np.ceil(_TRUNCATE * sigmas).tolist(), values.shape)
    smoothed = values[around] * np.float32(scale)
    for axis, sigma in enumerate(sigmas):
        ndimage.gaussian_filter1d(smoothed, sigma, axis, output=smoothed, mode="nearest", truncate=_TRUNCATE)
    return smoothed[within(box, around)]


def _typical(thickness: np.ndarray, labels: np.ndarray, near: Box, spacing: np.ndarray) -> np.ndarray:
    """Take each label's own typical thickness, which fills `near`, the box of all organs' surfaces.

    Among blurred organs the uncertainty in a sharp one would not show.
    """
    surfaces = labels[near]
    values = np.setdiff1d(surfaces, 0)
    if values.size < 2:
        return np.array(_median_at_surface(thickness, surfaces))
    medians = np.zeros(values.max() + 1, np.float32)
    for value in values:
        medians[value] = _median_at_surface(thickness, surfaces == value)
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
