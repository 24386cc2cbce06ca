"""A prediction against several raters: energy distance, and the error of the predicted probability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from mob_training.evaluation.case_scores import ScoredCase, check_grid
from mob_training.evaluation.metrics import generalised_energy_distance, matched_iou, probability_error
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


def _read(path: Path, prediction: Prediction) -> np.ndarray:
    image = read_volume(path)
    check_grid(image, prediction, f"raters' file {path.name}")
    return sitk.GetArrayFromImage(image)
