"""The measurement of how good a segmentation is expected to be: what it judges is what a model would state."""

from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.measurements.drawn import DrawnCalibration
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.regions.agreement import dice, expected_agreement, jaccard_distance
from second_reader import LEVEL, Examined, Judged, line
from support.probability_images import ball


def test_a_case_is_judged_by_the_calibration_of_the_others() -> None:
    prediction = replace(ball(size=(40, 40, 40)), stated_bounds=None)
    (label,), own = prediction.labels, prediction.segmentation
    rows, residuals = [], []
    for shift in range(12):
        truth = np.roll(own, shift, axis=0)
        rows.append({"subject": str(shift), "labels": Examined(prediction, truth).own()})
        expected = expected_agreement(prediction, own)[label.name].dice
        residuals.append(jaccard_distance(dice(own, truth)) - jaccard_distance(expected))
    drawn = np.roll(own, 3, axis=1)
    judged = Judged(rows[4], rows[:4] + rows[5:]).expected(Examined(prediction, own).agreement(drawn, label))
    others = residuals[:4] + residuals[5:]
    bounds = DrawnCalibration.of([()] * len(others), others, [0.0] * len(others)).bounds(LEVEL)
    calibrated = VolumeBounds(LEVEL, len(others), {label.name: LabelBounds(Scale.NOTHING, 1.0, drawn=bounds)})
    of_product = expected_agreement(replace(prediction, stated_bounds=calibrated), drawn)[label.name]
    assert judged == pytest.approx((of_product.dice, of_product.dice_low), abs=1e-4)
    assert of_product.dice_low < of_product.dice


def test_a_line_is_fitted_to_other_subjects() -> None:
    overlap = np.linspace(0.5, 1, 24)
    true, subjects = 2 * overlap - 1, np.arange(24) // 2
    true[:2] = 0.9  # of the first subject alone, so that it must not bend the line for itself
    at, low = line(overlap, true, subjects)
    assert at[:2] == pytest.approx(2 * overlap[:2] - 1)
    assert (low <= at + 1e-9).all()
