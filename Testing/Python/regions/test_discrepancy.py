"""A drawn segmentation against a model: where it is improbable, and how good it probably is."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.measurements.drawn import DrawnBounds, DrawnCalibration
from MoBUncertaintyLib.measurements.volumes import LabelBounds, Scale, VolumeBounds
from MoBUncertaintyLib.regions.agreement import dice, expected_agreement, jaccard_distance
from MoBUncertaintyLib.regions.discrepancy import find_discrepancies, improbable_pieces
from MoBUncertaintyLib.regions.prediction import Prediction
from support.probability_images import ball


def checked() -> tuple[Prediction, np.ndarray]:
    prediction = ball(size=(40, 40, 40))
    return prediction, prediction.segmentation.copy()


def calibrated(prediction: Prediction, *discrepancies: float, jaccard: float = 0.0, cases: int = 19) -> Prediction:
    drawn = DrawnBounds(cases, discrepancies, jaccard, 0.0)
    bounds = VolumeBounds(0.9, cases, {"organ 1": LabelBounds(Scale.NOTHING, 1.0, drawn=drawn)})
    return replace(prediction, stated_bounds=bounds)


def test_the_models_own_segmentation_has_no_discrepancy() -> None:
    prediction, own = checked()
    assert find_discrepancies(prediction, own).ranked == ()


def test_what_is_missing_and_what_is_too_much_is_found_where_it_is() -> None:
    prediction, drawn = checked()
    drawn[20] = 0
    drawn[2:6, 2:6, 2:6] = 1
    found = find_discrepancies(prediction, drawn)
    numbers = found.whole_map()
    missing = [region for region in found.ranked if region.missing]
    extra = [region for region in found.ranked if not region.missing]
    wrong = drawn != prediction.segmentation
    assert missing and extra and wrong[numbers > 0].all()
    assert numbers[3:5, 3:5, 3:5].all() and (numbers[20] > 0).sum() > 0.6 * wrong[20].sum()
    assert all(region.label == "organ 1" and region.false_alarms is None for region in found.ranked)
    assert sum(region.volume_mm3 for region in found.ranked) == pytest.approx(8 * (numbers > 0).sum())
    # Nearly all of it is expected to be labelled wrongly as drawn.
    assert all(0.7 * region.volume_mm3 < region.expected_error_mm3 <= region.volume_mm3 for region in extra)


def test_a_margin_is_a_habit_and_a_leak_of_the_same_size_is_not() -> None:
    prediction, own = checked()
    margin = ndimage.binary_dilation(own).astype(np.uint8)
    leak = own.copy()
    outside = np.argwhere(own == 0)
    at = np.linalg.norm(outside - (20, 20, 36), axis=1).argsort()[: int(margin.sum() - own.sum())]
    leak[tuple(outside[at].T)] = 1
    label = prediction.labels[0]
    first, second = (
        sum(piece.discrepancy for piece in improbable_pieces(prediction, drawn, label)) for drawn in (margin, leak)
    )
    assert first < 0.2 * second


def test_a_finer_image_says_no_more_of_an_organ() -> None:
    shift, leak = (3, 4, 0), np.s_[12:26, 12:26, 4:12]
    sums = []
    for every in (1, 2):
        fine = ball(size=(40 * every,) * 3, spacing=(2.0 / every,) * 3)
        prediction = replace(fine, network_mm=(2.0, 2.0, 2.0), correlation_mm=(6.0, 6.0, 6.0))
        drawn = np.roll(prediction.segmentation, [by * every for by in shift], (0, 1, 2))
        drawn[tuple(slice(part.start * every, part.stop * every) for part in leak)] = 1
        pieces = improbable_pieces(prediction, drawn, prediction.labels[0])
        sums.append(sum(piece.discrepancy for piece in pieces))
    assert sums[1] == pytest.approx(sums[0], rel=0.25)  # eight times as many voxels


def test_a_region_such_as_ordinary_contours_have_is_not_listed() -> None:
    prediction, drawn = checked()
    drawn[20] = 0
    (first, *_) = improbable_pieces(prediction, drawn, prediction.labels[0])
    lower, higher = first.discrepancy / 2, first.discrepancy * 2
    listed = find_discrepancies(calibrated(prediction, *[lower] * 20), drawn).ranked
    assert listed[0].false_alarms == pytest.approx(1 / 20)
    assert listed[0].discrepancy == first.discrepancy
    assert find_discrepancies(calibrated(prediction, *[higher] * 20), drawn).ranked == ()
    more = find_discrepancies(calibrated(prediction, *[higher] * 20), drawn, most=1.05).ranked
    assert [region.false_alarms for region in more[:1]] == [pytest.approx(21 / 20)]


def test_a_list_holds_as_many_false_regions_as_promised() -> None:
    rng = np.random.default_rng(0)
    listed = []
    for _ in range(2000):
        contours = [np.sort(rng.exponential(rng.exponential(), rng.integers(0, 8)))[::-1] for _ in range(10)]
        known = DrawnBounds(9, tuple(sorted(np.concatenate(contours[1:]))[-10:]), 0.0, 0.0)
        ranked = enumerate(contours[0], start=1)
        listed.append(sum(known.false_alarms(score, rank) <= 1 for rank, score in ranked))
    assert 0.9 < np.mean(listed) <= 1.03


def test_an_image_of_another_size_is_refused() -> None:
    prediction, own = checked()
    for check in (find_discrepancies, expected_agreement):
        with pytest.raises(ImageError):
            check(prediction, own[1:])


def test_expected_agreement_is_the_agreement_where_nothing_is_in_doubt() -> None:
    prediction, own = checked()
    sure = replace(prediction, probability=own[None].astype(np.float32))
    distance = np.linalg.norm(prediction.grid.to_ras(np.moveaxis(np.indices(own.shape), 0, -1)), axis=-1)
    for radius in (26.0, 30.0):
        drawn = (distance < radius).astype(np.uint8)
        (agreement,) = expected_agreement(sure, drawn).values()
        assert agreement.dice == pytest.approx(dice(drawn, own))
        assert agreement.habit_mm == pytest.approx(radius - 28, abs=0.15)
        assert agreement.surface_mm == pytest.approx(2, abs=0.3)
        assert agreement.dice_low is None


def test_bound_holds_for_any_segmentation_if_it_holds_for_the_models_own() -> None:
    prediction, own = checked()
    rng = np.random.default_rng(1)
    (agreement,) = expected_agreement(prediction, own).values()
    for _ in range(5):
        truth, drawn = (np.roll(own, rng.integers(-4, 5, 3), (0, 1, 2)) for _ in range(2))
        residual = jaccard_distance(dice(own, truth)) - jaccard_distance(agreement.dice)
        (bounded,) = expected_agreement(calibrated(prediction, jaccard=residual), drawn).values()
        assert bounded.dice_low is not None and bounded.dice_low <= dice(drawn, truth) + 1e-6
        assert bounded.level == 0.9


def test_bound_of_the_models_own_segmentation_is_what_it_expects_and_the_residual() -> None:
    prediction, own = checked()
    (expected,) = expected_agreement(calibrated(prediction, jaccard=0.1), prediction.segmentation).values()
    assert jaccard_distance(expected.dice_low or 0) == pytest.approx(jaccard_distance(expected.dice) + 0.1)
    assert expected.surface_high_mm == expected.surface_mm
    assert expected.habit_mm == 0
    (copied,) = expected_agreement(calibrated(prediction, jaccard=0.1), own).values()
    assert copied == expected


def test_calibration_cases_shift_what_is_expected_by_their_median() -> None:
    prediction, own = checked()
    (raw,) = expected_agreement(prediction, own).values()
    drawn = DrawnCalibration.of([()] * 9, [0.1] * 5 + [0.3] * 4, [1.0] * 9).bounds(0.8)
    bounds = VolumeBounds(0.8, 9, {"organ 1": LabelBounds(Scale.NOTHING, 1.0, drawn=drawn)})
    (shifted,) = expected_agreement(replace(prediction, stated_bounds=bounds), own).values()
    assert jaccard_distance(shifted.dice) == pytest.approx(jaccard_distance(raw.dice) + 0.1)
    assert shifted.surface_mm == pytest.approx(raw.surface_mm + 1.0)
    assert shifted.dice_low < shifted.dice
