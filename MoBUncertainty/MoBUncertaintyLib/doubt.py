"""How doubtful each voxel of a prediction is, and how thick the doubt is around it.

Every boundary carries a thin shell of doubt. What sets a doubtful place apart is that the doubt there is *thicker* than
along the rest of the boundary. With u the measure of doubt,

    thickness(x) = sigma sqrt(2 pi) (G_sigma * u)(x)         G_sigma: a Gaussian of sigma mm

is the integral of u across a boundary through x, as long as the doubt is thin against sigma (for a border
p = sigmoid(d / s) and u = p(1 - p) it is s, in mm). Its median over the segmentation's surface is the typical
thickness.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, special

from MoBUncertaintyLib.errors import ImageError

Box = tuple[slice, slice, slice]

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
# Below this probability no measure reaches a useful threshold: bounds the box that is looked at.
NEGLIGIBLE = 0.005


class Measure(StrEnum):
    """What is called doubt at a voxel."""

    VARIANCE = "variance"
    """Predictive variance, the largest over the foreground classes; at most 0.25."""
    BERNOULLI = "bernoulli"
    """p (1 - p), the largest over the foreground classes; at most 0.25."""
    ENTROPY = "entropy"
    """Entropy of the mean probabilities, background included, in nats; at most ln C."""


class DoubtMap:
    """The doubt in a prediction, in the box in which any foreground has a chance.

    Args:
        probability: Foreground probability; a vector image with one component per foreground class for C > 2.
        variance: Predictive variance, with as many components.
        segmentation: Label map of the prediction, 0 is background.
        measure: The measure of doubt.
        window_mm: Sigma of the window in which the thickness is taken.

    Attributes:
        box: Where the arrays below lie in the image's array (z, y, x).
        doubt: The measure, float32.
        thickness: Of the doubt, in mm times the measure's unit.
        typical: Median thickness along the segmentation's surface; 0 without a segmentation.
        variance: The largest over the foreground classes.
        foreground: Probability of any foreground.
        expected_error: 1 - max_c p, background included: the probability that the label is wrong.
        labels: The segmentation.
        spacing: mm, (z, y, x).
        rotation: (3, 3), from the array's axes to RAS.

    Raises:
        ImageError: The three images do not have the same geometry or number of components.
    """

    def __init__(
        self,
        probability: sitk.Image,
        variance: sitk.Image,
        segmentation: sitk.Image,
        measure: Measure = Measure.VARIANCE,
        window_mm: float = 4.0,
    ) -> None:
        _check_geometry(probability, variance, segmentation)
        self.measure, self.window_mm = Measure(measure), window_mm
        self.spacing = np.array(segmentation.GetSpacing())[::-1]
        self.rotation = LPS_TO_RAS[:, None] * np.array(segmentation.GetDirection()).reshape(3, 3)[:, ::-1]
        self._origin = LPS_TO_RAS * segmentation.GetOrigin()

        self.box = _box_of_interest(_channels(probability), np.ceil(3 * window_mm / self.spacing))
        foreground = [channel[self.box] for channel in _channels(probability)]
        self.foreground = np.clip(sum(foreground), 0, 1)
        self.expected_error = 1 - np.maximum.reduce([1 - self.foreground, *foreground])
        self.variance = np.maximum.reduce([channel[self.box] for channel in _channels(variance)])
        self.labels = sitk.GetArrayViewFromImage(segmentation)[self.box].copy()

        self.doubt = self._measured(foreground)
        smooth = ndimage.gaussian_filter(self.doubt, window_mm / self.spacing, mode="nearest", truncate=3)
        self.thickness = smooth * np.float32(window_mm * np.sqrt(2 * np.pi))
        self.typical = _median_at_surface(self.thickness, self.labels)

    def _measured(self, foreground: list[np.ndarray]) -> np.ndarray:
        if self.measure is Measure.VARIANCE:
            return self.variance
        if self.measure is Measure.BERNOULLI:
            return np.maximum.reduce([p * (1 - p) for p in foreground])
        return sum(special.entr(np.clip(p, 0, 1)) for p in [*foreground, 1 - self.foreground])

    def to_ras(self, index: np.ndarray) -> np.ndarray:
        """RAS mm (N, 3) of voxels (N, 3), given as (z, y, x) in `box`."""
        return self._origin + ((index + [s.start for s in self.box]) * self.spacing) @ self.rotation.T


def bounding_box(mask: np.ndarray, margin: np.ndarray) -> Box:
    """Smallest box of the mask, widened by `margin` voxels as far as the array goes; one voxel if the mask is empty."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return (slice(0, 1),) * 3
    return tuple(
        slice(max(0, s.start - int(m)), min(n, s.stop + int(m)))
        for s, m, n in zip(found[0], margin, mask.shape, strict=True)
    )


def nested(outer: Box, inner: Box) -> Box:
    """`inner`, a box within the box `outer`, in the coordinates that `outer` is given in."""
    return tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))


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


def _channels(image: sitk.Image) -> list[np.ndarray]:
    """Views (z, y, x) of each component."""
    array = sitk.GetArrayViewFromImage(image)
    return [array] if array.ndim == 3 else [array[..., c] for c in range(array.shape[-1])]


def _box_of_interest(foreground: list[np.ndarray], margin: np.ndarray) -> Box:
    likely = foreground[0] > NEGLIGIBLE
    for channel in foreground[1:]:
        likely |= channel > NEGLIGIBLE
    return bounding_box(likely, margin)


def _median_at_surface(values: np.ndarray, labels: np.ndarray) -> float:
    """Median over the voxels on either side of every voxel face that parts two labels; 0 without a surface."""
    sides = []
    for axis in range(labels.ndim):
        label, value = np.moveaxis(labels, axis, 0), np.moveaxis(values, axis, 0)
        face = label[:-1] != label[1:]
        sides += [value[:-1][face], value[1:][face]]
    together = np.concatenate(sides)
    return float(np.median(together)) if together.size else 0.0
