"""Measure what volumes a model states, and how far these are from the truth, for its card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import decide_regions
from mob_training.evaluation.score_files import Run
from MoBUncertaintyLib.measurements.volumes import (
    STAGES,
    LabelCalibration,
    Residuals,
    StatedVolume,
    VolumeCalibration,
    choose_scale,
)
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.outcome import stated_volumes

KEY = "intervals"
"""Of these measures in the scores of a case."""


def interval_measures(prediction: Prediction, case: ReadCase) -> dict[str, Any]:
    """Measure a case, whose reader sees the same prediction (`readers.decide_regions`).

    Return `ordinary`, 1 or 0: whether the model suits the case, as far as it can tell. For each label `true_ml`; `ml`
    and `error_ml`, what is stated (`StatedVolume`), as predicted and after each of `STAGES` of a review.
    """
    suitability = prediction.suitability
    whole, inside = prediction.stated_volumes, case.prediction.stated_volumes
    elsewhere = {name: volume.error_ml - inside[name].error_ml for name, volume in whole.items()}
    stages = [whole]
    for review in decide_regions(case):
        decided, total = review.reviewed
        if len(stages) <= STAGES * decided // total:
            now = {
                name: replace(volume, error_ml=volume.error_ml + elsewhere[name])
                for name, volume in stated_volumes(review).items()
            }
            stages += [now] * (STAGES * decided // total + 1 - len(stages))
    stages += stages[-1:] * (STAGES + 1 - len(stages))  # of a case without regions
    measures: dict[str, Any] = {"ordinary": float(suitability is None or suitability.level is Level.ORDINARY)}
    for label in prediction.labels:
        measures[label.name] = {
            "true_ml": prediction.grid.voxel_mm3 / 1000 * np.count_nonzero(label.mask(case.truth)),
            "ml": [stage[label.name].ml for stage in stages],
            "error_ml": [stage[label.name].error_ml for stage in stages],
        }
    return measures


def calibration_of(run: Run) -> VolumeCalibration:
    """Make what a card keeps of a run's cases; unusual ones, of which nothing is promised, do not count.

    Raises:
        TooFewCasesError: There are too few.
    """
    cases = [scores for scores in run.cases.values() if scores.get(f"{KEY}.ordinary")]
    names = {
        key.removeprefix(f"{KEY}.").removesuffix(".true_ml")
        for case in cases
        for key in case
        if key.endswith(".true_ml")
    }
    labels = {
        name: _of_label([case for case in cases if f"{KEY}.{name}.true_ml" in case], name) for name in sorted(names)
    }
    return VolumeCalibration(f"{len(cases)} held-out cases of {run.dataset}", labels)


def stated(case: dict[str, Any], label: str, stage: int = 0) -> tuple[StatedVolume, float]:
    """Return what is stated of a label after a stage of the review, and the true volume in ml."""
    volume, error = (case[f"{KEY}.{label}.{name}"][stage] for name in ("ml", "error_ml"))
    return StatedVolume(volume, error), case[f"{KEY}.{label}.true_ml"]


def _of_label(cases: list[dict[str, Any]], name: str) -> LabelCalibration:
    stages = [[stated(case, name, stage) for case in cases] for stage in range(STAGES + 1)]
    scale = choose_scale(*stages[1:])
    return LabelCalibration(Residuals.of(stages[0]), tuple(Residuals.of(stage, scale) for stage in stages[1:]))
