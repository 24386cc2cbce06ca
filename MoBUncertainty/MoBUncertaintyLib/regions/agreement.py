"""A segmentation against a truth: Dice, distance of surfaces, and how much of the error is inside doubtful regions.

Where the truth is not known, what is expected of them under a model. Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.geometry import hull, occupied
from MoBUncertaintyLib.measurements.drawn import Agreement
from MoBUncertaintyLib.regions.prediction import Prediction, channels_of, drawn_bounds
from MoBUncertaintyLib.regions.region import Regions

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.card import Label


def dice(segmentation: np.ndarray, truth: np.ndarray, label: int = 1) -> float:
    """Compute the Dice overlap of one label, 1 where neither has it; raises `ImageError` if the shapes differ."""
    check_shapes(segmentation, truth)
    a, b = segmentation == label, truth == label
    both, one, other = (int(np.count_nonzero(mask)) for mask in (a & b, a, b))
    return 2 * both / (one + other) if one + other else 1.0


def surface_distance(a: np.ndarray, b: np.ndarray, spacing: Sequence[float] | np.ndarray) -> float | None:
    """Compute the mean distance of two masks' surfaces, in mm, both ways: from a border voxel to the nearest other one.

    Args:
        a, b: Masks (z, y, x) of one shape.
        spacing: Of the voxels in mm, (z, y, x).

    Returns:
        At least 0; None where a mask is empty.
    """
    if not (a.any() and b.any()):
        return None
    box = occupied(a | b)
    places = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (a[box], b[box])]
    distances = [KDTree(other).query(own)[0] for own, other in (places, places[::-1])]
    return float(np.concatenate(distances).mean())


def expected_agreement(prediction: Prediction, drawn: np.ndarray) -> dict[str, Agreement]:
    """State what is expected of each label that a label map (z, y, x) or the prediction has, by its name.

    With A the drawn label, M the model's and p its probability, the expected Dice is 2 sum_A p / (|A| + sum p), and the
    expected distance of the surfaces the expected volume of the error over the area of A; both are shifted by the
    median, over the calibration cases, of how far M was from that. The Jaccard distance J is a metric, so that
    J(A, truth) <= J(A, M) + J(M, truth), whatever A is; of the last term the calibration cases know the bound. With the
    mean distance of surfaces, which is nearly one, it is done likewise. The label map may be the prediction's own.

    Raises:
        ImageError: The shapes differ.
    """
    check_shapes(prediction.segmentation, drawn)
    box = hull([prediction.segmented_box, occupied(drawn)])
    result = {}
    for label in prediction.labels:
        a, own = label.mask(drawn[box]), label.mask(prediction.segmentation[box])
        if not (a.any() or own.any()):
            continue
        p = label_probability(prediction, label)
        total = sum(float(plane.sum(dtype=float)) for plane in p[prediction.processed_box])
        expected = _Expected(p[box], total, prediction.grid.spacing)
        agreement = Agreement(expected.dice(a))
        if a.any() and own.any():
            areas_mm2 = expected.area_mm2(a) + expected.area_mm2(own)
            habit = 2 * prediction.grid.voxel_mm3 * (int(a.sum()) - int(own.sum())) / areas_mm2
            calibration, bounds = drawn_bounds(prediction, label), prediction.bounds
            agreement = Agreement(agreement.dice, expected.surface_mm(a), habit)
            if calibration and bounds:
                usual = jaccard_distance(agreement.dice) + calibration.usual_jaccard
                surface_mm = max(0.0, expected.surface_mm(a) + calibration.usual_surface_mm)
                agreement = Agreement(min(1.0, dice_at(usual)), surface_mm, habit)
                apart = 0.0 if drawn is prediction.segmentation else surface_distance(a, own, expected.spacing) or 0.0
                jaccard = jaccard_distance(dice(a, own)) + jaccard_distance(expected.dice(own)) + calibration.jaccard
                surface = apart + expected.surface_mm(own) + calibration.surface_mm
                agreement = agreement.bounded(dice_at(jaccard), surface, bounds.level)
        result[label.name] = agreement
    return result


def jaccard_distance(dice: float) -> float:
    """Convert Dice to the Jaccard distance, 1 minus intersection over union."""
    return 2 * (1 - dice) / (2 - dice)


def dice_at(jaccard: float) -> float:
    """Convert a Jaccard distance, or a bound of it, to Dice."""
    return 2 * (1 - jaccard) / (2 - jaccard) if jaccard < 1 else 0.0


def label_probability(prediction: Prediction, label: Label) -> np.ndarray:
    """Sum the maps of a label, (z, y, x)."""
    first, *rest = (prediction.probability[n] for n in channels_of(prediction, label))
    return np.asarray(sum(rest, first))


@dataclass(frozen=True, eq=False)
class _Expected:
    """What is expected of masks in a box, by the probability p of a label there and its sum over the image."""

    p: np.ndarray
    total: float
    spacing: np.ndarray

    def dice(self, mask: np.ndarray) -> float:
        return 2 * float(self.p[mask].sum(dtype=float)) / (int(mask.sum()) + self.total)

    def surface_mm(self, mask: np.ndarray) -> float:
        error = (int(mask.sum()) + self.total) * (1 - self.dice(mask))
        return float(np.prod(self.spacing)) * error / self.area_mm2(mask)

    def area_mm2(self, mask: np.ndarray) -> float:
        """Estimate the area of a mask's surface: of faces in all directions, voxels have 3/2 times as much."""
        faces = [np.count_nonzero(np.diff(np.pad(mask[occupied(mask)], 1), axis=axis)) for axis in range(3)]
        return float(np.dot(faces, np.prod(self.spacing) / self.spacing)) * 2 / 3


def error_split(segmentation: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where the labels differ, and where that error is thicker than one voxel: two bool arrays (z, y, x).

    Thick is every error voxel in some block of 2 x 2 x 2 error voxels (a morphological opening): a layer of one voxel
    along a border, on a plane or a staircase, has no such block. Raises `ImageError` if the shapes differ.
    """
    check_shapes(segmentation, truth)
    error = segmentation != truth
    return error, ndimage.binary_opening(error, np.ones((2, 2, 2), bool))


def error_fraction(prediction: Prediction, regions: Regions, truth: np.ndarray) -> dict[str, float | None]:
    """Measure how much of the segmentation's true error lies inside the doubtful regions; raises `ImageError`.

    `error_mm3` and `thick_error_mm3` are volumes, `error_fraction` and `thick_error_fraction` their fractions inside
    the regions (None where there is no such error), `regions_mm3` is the volume to review.
    """
    error, thick = error_split(prediction.segmentation, truth)
    inside = regions.map > 0
    voxel = prediction.grid.voxel_mm3
    result: dict[str, float | None] = {"regions_mm3": voxel * int(inside.sum())}
    for name, mask in (("error", error), ("thick_error", thick)):
        count = int(mask.sum())
        result[f"{name}_mm3"] = voxel * count
        result[f"{name}_fraction"] = int((mask[regions.box] & inside).sum()) / count if count else None
    return result


def check_shapes(a: np.ndarray, b: np.ndarray) -> None:
    """Raise `ImageError` if two segmentations differ in size."""
    if a.shape != b.shape:
        sizes = " and ".join(" x ".join(map(str, reversed(one.shape))) for one in (a, b))
        raise ImageError(f"The segmentations to compare differ in size: {sizes} voxels.")
