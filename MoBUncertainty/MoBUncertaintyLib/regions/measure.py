"""The maps of a prediction in a box, and how uncertain each voxel is; needs no scipy, as `region.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.region_settings import Measure

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.card import Label
    from MoBUncertaintyLib.regions.prediction import Maps, Prediction


class VoxelMaps(NamedTuple):
    """Probability and variance of each label in a box, (C - 1, *box) float32, and the segmentation, (*box) uint8."""

    probability: np.ndarray
    variance: np.ndarray
    segmentation: np.ndarray


def maps_in(prediction: Prediction, box: Box) -> VoxelMaps:
    """Copy the maps of a box."""
    return VoxelMaps(
        np.array(values_in(box, prediction.probability), np.float32),
        np.array(values_in(box, prediction.variance), np.float32),
        np.array(prediction.segmentation[box], np.uint8),
    )


def with_maps(prediction: Prediction, box: Box, maps: VoxelMaps) -> Prediction:
    """Copy a prediction, with other maps in a box."""
    segmentation = np.array(prediction.segmentation, np.uint8)
    segmentation[box] = maps.segmentation
    probability, variance = (np.array(each, np.float32) for each in (prediction.probability, prediction.variance))
    probability[:, *box], variance[:, *box] = maps.probability, maps.variance
    return replace(prediction, segmentation=segmentation, probability=probability, variance=variance)


def values_in(box: Box, maps: Maps) -> list[np.ndarray]:
    """Return what each map holds in a box."""
    return [label_map[box] for label_map in maps]


def expected_error(probability: Maps) -> np.ndarray:
    """Compute 1 - max_c p, the probability that a voxel is labelled wrongly, from one array for each label."""
    return np.asarray(1 - reduce(np.maximum, [1 - any_label(probability), *probability]))


def error_of(maps: VoxelMaps, prediction: Prediction) -> np.ndarray:
    """Compute the probability that the label of each voxel is wrong, of the maps of a part of a prediction.

    A predicted label is the most probable one (`expected_error`); one that others have drawn may be any.
    """
    return error_of_any(maps, prediction.labels) if prediction.checked else expected_error(maps.probability)


def error_of_any(maps: VoxelMaps, labels: Sequence[Label]) -> np.ndarray:
    """Compute the probability that the label of each voxel is wrong, whichever of some labels, or none, it is."""
    error = np.where(maps.segmentation == 0, any_label(maps.probability), np.float32(1))
    for label, probability in zip(labels, maps.probability, strict=True):
        error = np.where(maps.segmentation == label.value, 1 - probability, error)
    return error


def error_in(box: Box, prediction: Prediction) -> np.ndarray:
    """Compute the same in a box, of a prediction as it is."""
    return error_of(views_in(box, prediction), prediction)


def any_label(probability: Maps) -> np.ndarray:
    """Compute the probability of any label."""
    return np.asarray(np.clip(sum(probability[1:], probability[0]), 0, 1))


def uncertainty_in(box: Box, prediction: Prediction, measure: Measure) -> np.ndarray:
    """Compute the uncertainty of each voxel in a box."""
    return uncertainty_of(measure, views_in(box, prediction), prediction)


def uncertainty_of(measure: Measure, maps: VoxelMaps, prediction: Prediction) -> np.ndarray:
    """Compute the uncertainty of each voxel of a part of a prediction, or of what clicks have made of that."""
    if measure is Measure.ERROR:
        return error_of(maps, prediction)
    return voxel_uncertainty(measure, list(maps.probability), list(maps.variance))


def views_in(box: Box, prediction: Prediction) -> VoxelMaps:
    """Return the maps of a box without copying them."""
    probability, variance = (values_in(box, each) for each in (prediction.probability, prediction.variance))
    return VoxelMaps(probability, variance, prediction.segmentation[box])  # type: ignore[arg-type]  # lists will do


def voxel_uncertainty(
    measure: Measure, probability: Sequence[np.ndarray], variance: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute how uncertain each voxel is, in the measure's unit, from arrays of one shape for each label."""
    if measure is Measure.VARIANCE:
        return reduce(np.maximum, variance)
    if measure is Measure.BERNOULLI:
        return reduce(np.maximum, [p * (1 - p) for p in probability])
    background = np.clip(1 - sum(probability[1:], probability[0]), 0, 1)
    terms = (p * np.log(np.maximum(p, np.float32(1e-12))) for p in (*probability, background))  # 0 ln 0 is 0
    return np.asarray(-sum(terms))
