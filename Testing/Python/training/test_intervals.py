"""Calibration cases: what is measured of each, and what of that goes to a card."""

import numpy as np
import pytest

from mob_training.evaluation.case_scores import ScoredCase
from mob_training.evaluation.intervals import (
    KEY,
    MEASUREMENTS,
    TAILS,
    calibration_of,
    interval_measures,
    measurement_scores,
    stated,
)
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import decide_regions
from mob_training.evaluation.score_files import Run, flatten
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.measurements.conformal import TooFewCasesError
from MoBUncertaintyLib.measurements.distribution import LEVELS, QuantileBounds, ends
from MoBUncertaintyLib.measurements.volumes import STAGES
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.agreement import dice, expected_agreement, jaccard_distance
from MoBUncertaintyLib.review.outcome import stated_volumes
from support.clicked_cases import clicked_prediction

REGIONS = RegionSettings(threshold=0.1, depth_mm=0.5, window_mm=2, grow_mm=3, minimum_mm3=1)
NAMES = {"dataset": "Dataset1_Balls", "name": "fake", "seed": 0}


def run_of(cases: dict) -> Run:
    return Run(NAMES, {}, {name: dict(flatten({KEY: measures})) for name, measures in cases.items()})


def test_a_review_ends_with_less_open_and_nearer_to_the_truth() -> None:
    prediction = clicked_prediction()
    truth = image_on(prediction.grid, np.roll(prediction.segmentation, 1, axis=2))
    case = ReadCase.of(prediction, truth, REGIONS)
    measures = interval_measures(ScoredCase.of(prediction, truth), case)
    (label,) = prediction.labels
    of_label = measures[label.name]
    assert len(of_label["ml"]) == len(of_label["error_ml"]) == STAGES + 1
    first, *_, last = prediction.stated_volumes[label.name], *decide_regions(case)
    assert (of_label["ml"][0], of_label["error_ml"][0]) == pytest.approx((first.ml, first.error_ml))
    end = stated_volumes(last)[label.name]
    assert of_label["ml"][-1] == pytest.approx(end.ml)
    elsewhere = first.error_ml - case.prediction.stated_volumes[label.name].error_ml
    assert of_label["error_ml"][-1] == pytest.approx(end.error_ml + elsewhere)
    assert last.reviewed == (len(case.regions.ranked),) * 2 and end.error_ml < first.error_ml
    volume, true_ml = stated(dict(flatten({KEY: measures})), label.name, STAGES)
    assert volume.ml == of_label["ml"][-1]
    assert true_ml == pytest.approx(case.truth.sum() * prediction.grid.voxel_mm3 / 1000)
    apart = jaccard_distance(dice(prediction.segmentation, np.roll(prediction.segmentation, 1, axis=2)))
    (expected,) = expected_agreement(prediction, prediction.segmentation).values()
    assert of_label["jaccard"] == pytest.approx(apart - jaccard_distance(expected.dice))


def measured(seed: int, ordinary: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    volumes = [50 + rng.normal() / (1 + stage) for stage in range(STAGES + 1)]
    label = {"true_ml": 50.0, "ml": volumes, "error_ml": [2.0] * (STAGES + 1)}
    label |= {"discrepancies": [20.0 + seed, 3.0], "jaccard": 0.01 * seed, "surface_mm": -0.1}
    return {"ordinary": ordinary, "liver": label}


def test_card_keeps_the_ordinary_cases() -> None:
    cases = {f"case{i}": measured(i, float(i % 5 > 0)) for i in range(20)}
    made = calibration_of(run_of(cases))
    (label,) = made.labels.values()
    assert made.data.startswith("16 cases of ")
    assert len(label.predicted.values) == 16 and len(label.reviewed) == STAGES
    (kept,) = made.bounds().labels.values()
    assert kept.drawn is not None and kept.drawn.cases == 16
    assert kept.drawn.discrepancies == (3.0, *(20.0 + i for i in range(20) if i % 5))  # one more than cases
    assert kept.drawn.jaccard == pytest.approx(0.19)  # rank 16 of 16
    with pytest.raises(TooFewCasesError):
        calibration_of(run_of({f"case{i}": measured(i) for i in range(3)}))


def test_card_keeps_how_far_truths_lie_beyond_the_samples() -> None:
    """The truths of 24 ordinary cases are 1, 2, ... above the higher quantile, and 9 more above the lower."""
    tails = dict.fromkeys(TAILS, 5.0) | {ends(LEVELS[0])[0]: -4.0}
    cases = {f"case{i}": measured(i, float(i % 5 > 0)) for i in range(30)}
    ranks = {name: rank for rank, name in enumerate((name for name, own in cases.items() if own["ordinary"]), 1)}
    rows = {name: {"D0.1ml:liver": [5.0 + ranks.get(name, 1000), 5.0, *tails.values()]} for name in cases}
    few = {name: {"volume:liver": [1.0, 1.0, *tails.values()]} for name in list(ranks)[:3]}
    scores = {name: {KEY: own, MEASUREMENTS: rows[name] | few.get(name, {})} for name, own in cases.items()}
    made = calibration_of(Run(NAMES, {}, {name: dict(flatten(own)) for name, own in scores.items()}))
    # Above the middle by 17 in the median; rank 23 of 24 of the distances from the median of the others, 12, less 4.5.
    assert made.measurements == {"D0.1ml:liver": QuantileBounds(0.9, 24, 7.5 - 17, 7.5 + 17)}


def test_a_case_is_measured_as_it_is_and_as_predicted_and_lacks_what_it_has_not() -> None:
    prediction = clicked_prediction()
    truth, (label,) = np.roll(prediction.segmentation, 1, axis=2), prediction.labels
    truth[:, :, : truth.shape[2] // 2] = 0
    scores = measurement_scores(prediction, truth, [f"volume:{label.name}", "volume:spleen"], {})
    ((true, own, *tails),) = scores.values()
    assert true == pytest.approx((truth > 0).sum() * prediction.grid.voxel_mm3 / 1000, rel=1e-4)
    assert own == pytest.approx(prediction.volumes_ml()[label.name], rel=1e-4)
    assert len(tails) == len(TAILS) and tails[0] < tails[-1]
