"""Measure of which labels it is right to take back what lies apart, for a model's card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mob_training.data.partial_labels import read_missing
from mob_training.evaluation.case_scores import ScoredCase, only
from mob_training.evaluation.held_out import check_labels, split_cases
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.maps.pieces import strays
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.card import Pieces, overlap
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.regions.agreement import dice
from MoBUncertaintyLib.regions.prediction import PredictionSettings


def measure_pieces(model_path: Path, dataset: Path, settings: PredictionSettings) -> dict[str, Pieces]:
    """Compute the mean Dice of each label with and without its strays, over the validation cases that have it.

    Without such cases over those that calibrate; the volumes of these are then of a model that they chose a little of.

    Raises:
        SettingsError: The data set has no such cases, or other labels than the model, or these overlap.
    """
    model = loaded(model_path)
    check_labels(dataset, model.card.labels)
    cases = split_cases(dataset, "val") or split_cases(dataset, "calibrate")
    if not cases or overlap(model.card.labels):
        raise SettingsError(f"{dataset} needs validation cases, and the model labels that do not overlap.")
    predictor = Predictor(replace(model, card=replace(model.card, pieces={})), settings)
    missing = read_missing(dataset, [label.name for label in model.card.labels])
    scores: dict[str, list[tuple[float, float]]] = {}
    for case, image, truth in cases:
        prediction = only(predictor.predict(read_image(image).image), missing.get(case, frozenset()))
        true = ScoredCase.of(prediction, read_volume(truth)).truth
        for label in prediction.labels:
            mask, drawn = prediction.segmentation == label.value, true == label.value
            pieces, numbers = strays(mask)
            scores.setdefault(label.name, []).append((dice(mask, drawn), dice(mask & ~np.isin(pieces, numbers), drawn)))
        print(f"{case}: {len(prediction.labels)} labels")
    means = {name: np.round(np.mean(pairs, axis=0), 4).tolist() for name, pairs in scores.items()}
    return {name: Pieces(len(scores[name]), *pair) for name, pair in means.items()}
