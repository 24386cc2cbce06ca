"""How doubtful each voxel of a prediction is, and how thick the doubt is around it.

Every boundary carries a thin shell of doubt. What sets a doubtful place apart is that the doubt there is *thicker* than
along the rest of the boundary. With u the measure of doubt,

    thickness(x) = sigma sqrt(2 pi) (G_sigma * u)(x)         G_sigma: a Gaussian of sigma mm

is the integral of u across a boundary through x, as long as the doubt is thin against sigma (for a border
p = sigmoid(d / s) and u = p(1 - p) it is s, in mm). Its median over an organ's surface is the typical thickness there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.geometry import Box, Grid, bounding_box
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.regions.blocks import BlockGrid
from MoBUncertaintyLib.regions.settings import Measure

# Below this probability no measure reaches a useful threshold: bounds the box that is looked at.
NEGLIGIBLE = 0.005


class DoubtMap:
    """The doubt in a prediction, in the box in which any foreground has a chance, in blocks of voxels (`blocks.py`).

    Args:
        probability: Foreground probability (z, y, x), by label value.
        variance: Predictive variance, likewise.
        labels: Label map of the prediction, 0 is background.
        grid: Where the voxels lie.
        measure: The measure of doubt.
        window_mm: Sigma of the window in which the thickness is taken.

    Attributes:
        shape: Of the arrays given.
        grid: Where their voxels lie.
        blocks: Where the blocks lie in them.
        spacing: Of the blocks in mm, (z, y, x).
        voxels: Number of voxels in each block; all that follow are means over a block's voxels unless said otherwise.
        doubt: The measure, float32.
        thickness: Of the doubt, in mm times the measure's unit.
        typical: Median thickness along the surface of the nearest organ, one number for all blocks if there is but one
            organ; 0 without any.
        variance: The largest over the foreground classes.
        peak: The largest variance in the block.
        foreground: Probability of any foreground.
        expected_error: 1 - max_c p, background included: the probability that the label is wrong.
        inside: Share of the block that is segmented.
        labels: The label that most of the block has.

    Raises:
        ImageError: The arrays do not have the same shape or classes.
    """

    def __init__(
        self,
        probability: Mapping[int, np.ndarray],
        variance: Mapping[int, np.ndarray],
        labels: np.ndarray,
        grid: Grid,
        measure: Measure = Measure.VARIANCE,
        window_mm: float = 4.0,
    ) -> None:
        for _step in self._make(probability, variance, labels, grid, measure, window_mm):
            pass

    @classmethod
    def in_steps(cls, *arguments: Any) -> Generator[None, None, DoubtMap]:
        """Make the map in steps, between which a user interface can answer: a generator that returns it."""
        made = cls.__new__(cls)
        yield from made._make(*arguments)
        return made

    def _make(
        self,
        probability: Mapping[int, np.ndarray],
        variance: Mapping[int, np.ndarray],
        labels: np.ndarray,
        grid: Grid,
        measure: Measure,
        window_mm: float,
    ) -> Iterator[None]:
        _check_shapes(probability, variance, labels)
        self.measure, self.window_mm = Measure(measure), window_mm
        self.shape, self.grid = labels.shape, grid
        box = _box_of_interest(list(probability.values()), np.ceil(3 * window_mm / grid.spacing))
        self.blocks = BlockGrid(box, grid.spacing)
        self.spacing, self.voxels = self.blocks.spacing, self.blocks.voxels
        yield
        yield from self._gather(probability, variance, labels)
        smooth = self.doubt
        for axis, sigma in enumerate(window_mm / self.spacing):
            smooth = ndimage.gaussian_filter1d(smooth, sigma, axis, mode="nearest", truncate=3)
            yield
        self.thickness = smooth * np.float32(window_mm * np.sqrt(2 * np.pi))
        self.typical = _typical(self.thickness, self.labels, self.spacing)

    @classmethod
    def of(
        cls, probability: sitk.Image, variance: sitk.Image, segmentation: sitk.Image, measure: Measure, window_mm: float
    ) -> DoubtMap:
        """The doubt in images, which are vector images with one component per foreground class for C > 2.

        Raises:
            ImageError: The images do not have the same geometry or number of components.
        """
        _check_geometry(probability, variance, segmentation)
        maps = [dict(enumerate(components(image), start=1)) for image in (probability, variance)]
        return cls(*maps, sitk.GetArrayViewFromImage(segmentation), grid_of(segmentation), measure, window_mm)

    def _gather(
        self, probability: Mapping[int, np.ndarray], variance: Mapping[int, np.ndarray], labels: np.ndarray
    ) -> Iterator[None]:
        """Fill the maps layer by layer of blocks, one in each step, so that no volume is copied."""
        maps = np.empty((5, *self.blocks.shape), np.float32)
        self.foreground, self.expected_error, self.variance, self.peak, self.doubt = maps
        shares = np.empty((len(probability), *self.blocks.shape), np.float32)
        merge = self.blocks.merge
        for layer, box in self.blocks.layers():
            channels = [channel[box] for channel in probability.values()]
            spread = np.maximum.reduce([channel[box] for channel in variance.values()])
            foreground = np.clip(sum(channels[1:], channels[0]), 0, 1)
            self.foreground[layer] = merge(foreground)
            self.expected_error[layer] = merge(1 - np.maximum.reduce([1 - foreground, *channels]))
            self.variance[layer] = merge(spread)
            self.peak[layer] = merge(spread, np.maximum)
            self.doubt[layer] = merge(voxel_doubt(self.measure, channels, [spread]))
            for share, value in zip(shares, probability, strict=True):
                share[layer] = merge((labels[box] == value).astype(np.float32))
            yield
        for summed in (self.foreground, self.expected_error, self.variance, self.doubt, shares):
            summed /= self.voxels
        self.inside = shares.sum(axis=0)
        self.labels, most = np.zeros(self.blocks.shape, np.uint8), 1 - self.inside
        for share, value in zip(shares, probability, strict=True):
            self.labels[share > most] = value
            most = np.maximum(share, most)
            yield

    def to_ras(self, index: np.ndarray) -> np.ndarray:
        """RAS mm (N, 3) of the middles of blocks (N, 3), given as (z, y, x)."""
        return self.grid.to_ras(self.blocks.centres(index))


def voxel_doubt(measure: Measure, probability: Sequence[np.ndarray], variance: Sequence[np.ndarray]) -> np.ndarray:
    """How doubtful each voxel is, in the measure's unit.

    Args:
        measure: The measure of doubt.
        probability: Of each foreground class, arrays of one shape.
        variance: Predictive variance, likewise.
    """
    if measure is Measure.VARIANCE:
        return np.maximum.reduce(variance)
    if measure is Measure.BERNOULLI:
        return np.maximum.reduce([p * (1 - p) for p in probability])
    background = np.clip(1 - sum(probability[1:], probability[0]), 0, 1)
    return -sum(p * np.log(np.maximum(p, np.float32(1e-12))) for p in (*probability, background))  # 0 ln 0 is 0


def _check_shapes(
    probability: Mapping[int, np.ndarray], variance: Mapping[int, np.ndarray], labels: np.ndarray
) -> None:
    if list(probability) != list(variance):
        raise ImageError("Probability and variance must have the same classes.")
    if any(array.shape != labels.shape for array in [*probability.values(), *variance.values()]):
        raise ImageError("Probability, variance and segmentation do not have the same number of voxels; predict again.")


def _check_geometry(probability: sitk.Image, variance: sitk.Image, segmentation: sitk.Image) -> None:
    if probability.GetNumberOfComponentsPerPixel() != variance.GetNumberOfComponentsPerPixel():
        raise ImageError("Probability and variance must have the same number of classes.")
    for name, image in (("variance", variance), ("segmentation", segmentation)):
        alike = image.GetSize() == probability.GetSize() and all(
            np.allclose(getattr(image, get)(), getattr(probability, get)(), atol=1e-3)
            for get in ("GetSpacing", "GetOrigin", "GetDirection")
        )
        if not alike:
            raise ImageError(f"The {name} does not lie on the probability's voxel grid; predict again.")


def components(image: sitk.Image) -> list[np.ndarray]:
    """Views (z, y, x) of each component; they do not outlive the image."""
    array = sitk.GetArrayViewFromImage(image)
    return [array] if array.ndim == 3 else [array[..., c] for c in range(array.shape[-1])]


def _box_of_interest(foreground: Sequence[np.ndarray], margin: np.ndarray) -> Box:
    """Box of what may be foreground, widened by `margin` voxels; one voxel if there is none."""
    shadow = np.zeros(foreground[0].shape[1:], bool)
    slices = np.zeros(len(foreground[0]), bool)
    for channel in foreground:
        for z, plane in enumerate(channel):
            likely = plane > NEGLIGIBLE
            slices[z] |= likely.any()
            shadow |= likely
    return bounding_box([slices, shadow.any(axis=1), shadow.any(axis=0)], margin)


def _typical(thickness: np.ndarray, labels: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Each organ has a typical thickness of its own: among blurred ones the doubt in a sharp one would not show."""
    organs = np.setdiff1d(labels, 0)
    if organs.size < 2:
        return np.array(_median_at_surface(thickness, labels))
    medians = np.zeros(organs.max() + 1, np.float32)
    for organ in organs:
        medians[organ] = _median_at_surface(thickness, labels == organ)
    nearest = ndimage.distance_transform_edt(labels == 0, spacing, return_distances=False, return_indices=True)
    return medians[labels[tuple(nearest)]]


def _median_at_surface(values: np.ndarray, labels: np.ndarray) -> float:
    """Median over the voxels on either side of every voxel face that parts two labels; 0 without a surface."""
    sides = []
    for axis in range(labels.ndim):
        label, value = np.moveaxis(labels, axis, 0), np.moveaxis(values, axis, 0)
        face = label[:-1] != label[1:]
        sides += [value[:-1][face], value[1:][face]]
    together = np.concatenate(sides)
    return float(np.median(together)) if together.size else 0.0
