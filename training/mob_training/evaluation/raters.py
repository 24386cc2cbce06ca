"""A prediction against several raters: energy distance, and the error of the predicted probability."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.optimize import linear_sum_assignment

from mob_training.evaluation.case_scores import ScoredCase, check_grid
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.regions.prediction import Prediction


def read_raters(folder: Path, case: str, prediction: Prediction) -> tuple[list[np.ndarray], np.ndarray]:
    """Read the masks of several raters, as `mob-training phantom --raters` writes them.

    Masks are `CASE/raters/LABEL_1.nii.gz`, `LABEL_2.nii.gz`, ...; the probability that a rater calls a voxel so, where
    it is known, is `CASE/raters/LABEL_probability.nii.gz`, else the fraction of the raters.

    Return the label map of each rater, (z, y, x), and the probability of each foreground class, (C - 1, z, y, x).

    Raises:
        SettingsError: There are no masks of a label, or not as many as of another.
        ImageError: A mask is on another grid than the image.
    """
    place = folder / case / "raters"
    maps: list[np.ndarray] = []
    probabilities = []
    for label in prediction.labels:
        files = sorted(place.glob(f"{label.name}_[0-9]*.nii.gz"))
        if not files or (maps and len(files) != len(maps)):
            raise SettingsError(f"{place} has {len(files)} raters' masks of {label.name}; check --raters.")
        masks = [_read(file, prediction) > 0 for file in files]
        if not maps:
            maps = [np.zeros(mask.shape, np.uint8) for mask in masks]
        for drawn, mask in zip(maps, masks, strict=True):
            drawn[mask] = label.value
        exact = place / f"{label.name}_probability.nii.gz"
        probabilities.append(_read(exact, prediction) if exact.exists() else np.mean(masks, axis=0, dtype=np.float32))
    return maps, np.stack(probabilities)


def rater_scores(
    case: ScoredCase, maps: Sequence[np.ndarray], probability: np.ndarray, drawn: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Score a case against its raters (`read_raters`), by segmentations that are drawn from the model.

    Return `ged` and `matched_iou` of the drawn segmentations, `ged_segmentation` and `matched_iou_segmentation` of the
    segmentation alone; `probability`, the error of the predicted probability (mean over the classes) in the `volume`,
    the `box`, and where raters differ (`ambiguous`, 0 < q < 1).
    """
    values = [label.value for label in case.prediction.labels]
    predicted = case.prediction.probability
    errors = {}
    for name, box in case.places().items():
        place = slice(0) if box is None else (slice(None), *box)
        errors[name] = probability_error(predicted[place], probability[place])
    errors["ambiguous"] = probability_error(predicted, probability, (probability > 0) & (probability < 1))
    alone = [case.prediction.segmentation]
    return {
        "ged": generalised_energy_distance(drawn, maps, values),
        "ged_segmentation": generalised_energy_distance(alone, maps, values),
        "matched_iou": matched_iou(drawn, maps, values),
        "matched_iou_segmentation": matched_iou(alone, maps, values),
        "probability": errors,
    }


def generalised_energy_distance(
    samples: Sequence[np.ndarray], raters: Sequence[np.ndarray], labels: Sequence[int] = (1,)
) -> float:
    """Compute the squared GED 2 E d(S, Y) - E d(S, S') - E d(Y, Y'), with d = 1 - IoU (Kohl et al. 2018).

    S are label maps of the model, one only if it has no samples, Y those of the raters, in one shape; d is the mean
    over the foreground classes. Expectations are means over all pairs, a mask with itself included, as in Stochastic
    Segmentation Networks. Two empty masks have the distance 0; without a sample or a rater it is NaN.
    """
    if not samples or not raters:
        return float("nan")
    drawn, rated = (_masks(maps, labels) for maps in (samples, raters))
    return 2 * _mean_distance(drawn, rated) - _mean_distance(drawn, drawn) - _mean_distance(rated, rated)


def matched_iou(samples: Sequence[np.ndarray], raters: Sequence[np.ndarray], labels: Sequence[int] = (1,)) -> float:
    """Compute the Hungarian-matched IoU: the mean IoU of samples and raters, paired so that it is highest.

    Both are repeated until there are equally many of them (Kohl et al. 2019, A hierarchical probabilistic U-Net). NaN
    without a sample or a rater.
    """
    if not samples or not raters:
        return float("nan")
    drawn, rated = (_masks(maps, labels) for maps in (samples, raters))
    distances = np.array([[_distance(a, b) for b in rated] for a in drawn])
    pairs = lcm(*distances.shape)
    repeated = distances.repeat(pairs // len(drawn), axis=0).repeat(pairs // len(rated), axis=1)
    return 1 - float(repeated[linear_sum_assignment(repeated)].mean())


def probability_error(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Compute the error of a predicted probability p against the raters' q, in a mask of the same shape, if any.

    Return `mae` (mean of |p - q|), `rmse` and `bias` (mean of p - q); NaN without a voxel.
    """
    predicted, true = (np.asarray(a, np.float64) for a in (predicted, true))
    difference = (predicted - true).ravel() if mask is None else (predicted - true)[np.asarray(mask, bool)]
    if not difference.size:
        return dict.fromkeys(("mae", "rmse", "bias"), float("nan"))
    return {
        "mae": float(np.abs(difference).mean()),
        "rmse": float(np.sqrt(np.square(difference).mean())),
        "bias": float(difference.mean()),
    }


def _read(path: Path, prediction: Prediction) -> np.ndarray:
    image = read_volume(path)
    check_grid(image, prediction, f"raters' file {path.name}")
    return sitk.GetArrayFromImage(image)


def _masks(maps: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray]:
    return [np.stack([np.asarray(one) == label for label in labels]).reshape(len(labels), -1) for one in maps]


def _mean_distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return float(np.mean([_distance(a, b) for a, b in product(first, second)]))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute 1 - IoU of two bool arrays (classes, voxels), mean over the classes."""
    union = np.count_nonzero(a | b, axis=1)
    return float(np.mean(np.where(union, 1 - np.count_nonzero(a & b, axis=1) / np.maximum(union, 1), 0.0)))
