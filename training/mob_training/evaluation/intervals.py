"""Measure what volumes and other numbers a model states, and how far these are from the truth, for its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mob_training.evaluation.case_scores import ScoredCase
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import decide_regions
from mob_training.evaluation.score_files import Run
from MoBUncertaintyLib.measurements.distribution import LEVELS, QuantileBounds, ends
from MoBUncertaintyLib.measurements.drawn import DrawnCalibration
from MoBUncertaintyLib.measurements.volumes import (
    STAGES,
    LabelCalibration,
    Residuals,
    StatedVolume,
    VolumeCalibration,
    choose_scale,
)
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.regions.agreement import dice, expected_agreement, jaccard_distance, surface_distance
from MoBUncertaintyLib.regions.discrepancy import improbable_pieces
from MoBUncertaintyLib.regions.measurements import measure
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.outcome import stated_volumes

KEY = "intervals"
"""Of these measures in the scores of a case."""
MEASUREMENTS = "measurements"
TAILS = tuple(tail for level in LEVELS for tail in ends(level))
"""Quantiles of the samples that calibration needs."""


def interval_measures(scored: ScoredCase, case: ReadCase) -> dict[str, Any]:
    """Measure a case, whose reader sees the same prediction (`readers.decide_regions`).

    Return `ordinary`, 1 or 0: whether the model suits the case, as far as it can tell. For each label `true_ml`; `ml`
    and `error_ml`, what is stated in the network's voxels (`Prediction.compared`), as predicted and after each of
    `STAGES` of a review; and, if truth and prediction have the label, what `drawn_measures` returns.
    """
    prediction, truth = scored.prediction, scored.truth
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
    stages = [prediction.compared(stage) for stage in stages]
    measures: dict[str, Any] = {"ordinary": float(suitability is None or suitability.level is Level.ORDINARY)}
    for label in prediction.labels:
        measures[label.name] = {
            "true_ml": prediction.grid.voxel_mm3 / 1000 * np.count_nonzero(label.mask(truth)),
            "ml": [stage[label.name].ml for stage in stages],
            "error_ml": [stage[label.name].error_ml for stage in stages],
        } | drawn_measures(prediction, truth, label)
    return measures


def drawn_measures(prediction: Prediction, truth: np.ndarray, label: Label) -> dict[str, Any]:
    """Measure `discrepancies`, of the true contour, and by how much `jaccard` and `surface_mm` are above expectation.

    The latter two are distances of the prediction from the truth. A label that one of them lacks has no measures.
    """
    true, own = label.mask(truth), label.mask(prediction.segmentation)
    if not (true.any() and own.any()):
        return {}
    uncalibrated = replace(prediction, stated_bounds=None)
    expected = expected_agreement(uncalibrated, prediction.segmentation)[label.name]
    distance = surface_distance(own, true, prediction.grid.spacing)
    assert distance is not None
    return {
        "discrepancies": [piece.discrepancy for piece in improbable_pieces(prediction, truth, label)],
        "jaccard": jaccard_distance(dice(own, true)) - jaccard_distance(expected.dice),
        "surface_mm": distance - expected.surface_mm,
    }


def measurement_scores(
    prediction: Prediction, truth: np.ndarray, wanted: Sequence[str], values: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """Measure labels that truth and prediction have: what is true, what is stated, and `TAILS` of the samples.

    `values` are as for `measure`; a measurement of a label that the case lacks, or that is not defined, is left out.
    """
    names = {label.name for label in prediction.labels}
    possible = [text for text in wanted if names.issuperset(text.split(":")[1:])]
    true = measure(replace(prediction, segmentation=truth), possible, values, samples=0)
    scores = {}
    for own, of_truth in zip(measure(prediction, possible, values), true, strict=True):
        row = [of_truth.value, own.value, *map(own.quantile, TAILS)]
        if None not in row:
            scores[own.name] = [float(number) for number in row if number is not None]
    return scores


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
    data = f"{len(cases)} cases of {run.dataset} that did not train the model"
    return VolumeCalibration(data, labels, _of_measurements(cases))


def _of_measurements(cases: Sequence[Mapping[str, Any]]) -> dict[str, QuantileBounds]:
    """Calibrate each measurement of which there are cases enough."""
    start = f"{MEASUREMENTS}."
    names = {key: key.removeprefix(start) for case in cases for key in case if key.startswith(start)}
    rows = {name: [case[key] for case in cases if key in case] for key, name in sorted(names.items())}
    bounds = {
        name: QuantileBounds.of([(true, dict(zip(TAILS, tails, strict=True))) for true, _, *tails in own])
        for name, own in rows.items()
    }
    return {name: own for name, own in bounds.items() if own}


def stated(case: dict[str, Any], label: str, stage: int = 0) -> tuple[StatedVolume, float]:
    """Return what is stated of a label after a stage of the review, and the true volume in ml."""
    volume, error = (case[f"{KEY}.{label}.{name}"][stage] for name in ("ml", "error_ml"))
    return StatedVolume(volume, error), case[f"{KEY}.{label}.true_ml"]


def _of_label(cases: list[dict[str, Any]], name: str) -> LabelCalibration:
    stages = [[stated(case, name, stage) for case in cases] for stage in range(STAGES + 1)]
    scale = choose_scale(*stages[1:])
    names = [f"{KEY}.{name}.{measure}" for measure in ("discrepancies", "jaccard", "surface_mm")]
    measured = [[case[key] for key in names] for case in cases if names[0] in case]
    drawn = DrawnCalibration.of(*zip(*measured, strict=True)) if measured else None
    return LabelCalibration(Residuals.of(stages[0]), tuple(Residuals.of(stage, scale) for stage in stages[1:]), drawn)
