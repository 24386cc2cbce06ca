"""What is promised of a further case holds for each of n + 1 cases in turn: that is what exchangeable means."""

from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.measurements.conformal import TooFewCasesError, conformal_quantile, needed_cases
from MoBUncertaintyLib.measurements.drawn import DrawnCalibration
from MoBUncertaintyLib.measurements.interval import Interval, change_text, volume_text
from MoBUncertaintyLib.measurements.volumes import (
    CHOICES,
    STAGES,
    LabelCalibration,
    Residuals,
    Scale,
    StatedVolume,
    VolumeBounds,
    VolumeCalibration,
    choose_scale,
)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("cases", [9, 10, 23, 30])
def test_quantile_covers_the_nominal_fraction_and_little_more(level: float, cases: int) -> None:
    scores = np.random.default_rng(cases).permutation(np.square(np.arange(cases + 1)))
    held = [own <= conformal_quantile(np.delete(scores, i), level) for i, own in enumerate(scores)]
    assert level - 1e-9 <= np.mean(held) <= level + 1 / (cases + 1)


def test_too_few_cases_are_refused() -> None:
    for level in (0.5, 0.8, 0.9):
        needed = needed_cases(level)
        assert needed == round(1 / (1 - level) - 1)
        assert conformal_quantile(range(needed), level) == needed - 1
        with pytest.raises(TooFewCasesError):
            conformal_quantile(range(needed - 1), level)


def cases(count: int, kind: Scale, seed: int = 0) -> list[tuple[StatedVolume, float]]:
    rng = np.random.default_rng(seed)
    stated = [StatedVolume(ml, ml * rng.uniform(0.05, 0.5)) for ml in rng.uniform(10, 200, count)]
    return [(each, max(each.ml + 0.2 * each.scale(kind) * rng.normal(), 0)) for each in stated]


@pytest.mark.parametrize("kind", [Scale.NOTHING, Scale.VOLUME, Scale.ERROR])
def test_narrowest_scale_is_narrower_on_other_cases(kind: Scale) -> None:
    known, others = cases(400, kind), cases(400, kind, seed=1)
    widths = {}
    for each in CHOICES:
        quantile = Residuals.of(known, each).quantile(0.9)
        widths[each] = quantile * np.mean([stated.scale(each) for stated, _ in others])
    assert (choose_scale(known) is Scale.NOTHING) == (kind is Scale.NOTHING)
    assert widths[choose_scale(known)] <= 1.05 * min(widths.values())


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_few_cases_hold_what_they_promise_since_they_choose_no_scale(level: float) -> None:
    for seed in range(20):
        every = cases(10, Scale.ERROR, seed)
        held = []
        for i, (own, true) in enumerate(every):
            known = Residuals.of([*every[:i], *every[i + 1 :]])
            held.append(own.residual(true, known.scale) <= known.quantile(level))
        assert level - 1e-9 <= np.mean(held) <= level + 1 / len(every)


def test_a_case_without_the_label_is_no_case_to_choose_a_scale_by() -> None:
    known, missed = cases(12, Scale.ERROR), [(StatedVolume(0, 1), 5.0)] * 12
    assert choose_scale([*known, *missed]) is choose_scale(known) is Scale.ROOT_ERROR


def calibration(count: int = 12) -> VolumeCalibration:
    predicted = Residuals.of(cases(count, Scale.ERROR), Scale.ERROR)
    reviewed = tuple(Residuals(Scale.ERROR, tuple(v / stage for v in predicted.values)) for stage in range(2, 6))
    drawn = DrawnCalibration.of([[5.0, 40.0]] * count, [0.02] * count, [0.3] * count)
    return VolumeCalibration("made", {"liver": LabelCalibration(predicted, reviewed, drawn)})


def test_calibration_survives_json_and_damage_is_refused() -> None:
    made = calibration()
    assert VolumeCalibration.from_dict(to_json(made)) == made
    assert from_json(VolumeBounds, to_json(made.bounds())) == made.bounds()
    for change in ({"scale": "mm"}, {"values": [-1.0]}, {"values": []}):
        damaged = to_json(made)
        damaged["labels"]["liver"]["predicted"] |= change
        with pytest.raises(SettingsError):
            VolumeCalibration.from_dict(damaged)


def test_stages_of_a_review_have_one_scale() -> None:
    kept = calibration().bounds()
    assert kept.labels["liver"].reviewed_scale is Scale.ERROR
    plain = replace(kept.labels["liver"], reviewed_scale=Scale.NOTHING)
    bounds = replace(kept, labels={"liver": plain})
    stated, done = StatedVolume(94, 20), (STAGES, STAGES)
    assert bounds.interval("liver", stated, done).high == pytest.approx(94 + plain.reviewed[-1], rel=1e-4)
    label = calibration().labels["liver"]
    with pytest.raises(ValueError, match="one scale"):
        replace(label, reviewed=(*label.reviewed[:-1], replace(label.reviewed[-1], scale=Scale.NOTHING)))


def test_no_stage_of_a_review_is_narrower_than_a_later_one() -> None:
    kept = calibration(30)
    label = kept.labels["liver"]
    mixed = replace(label, reviewed=tuple(label.reviewed[i] for i in (1, 3, 0, 2)))
    before, after = (replace(kept, labels={"liver": each}).bounds().labels["liver"].reviewed for each in (label, mixed))
    assert before == tuple(sorted(before, reverse=True)) and len(set(before)) == STAGES
    assert after == (before[0], before[0], before[0], before[2])


def test_level_is_the_highest_that_the_cases_allow() -> None:
    assert [calibration(count).bounds().level for count in (4, 8, 9, 30)] == [0.8, 0.8, 0.9, 0.9]
    with pytest.raises(TooFewCasesError):
        calibration(8).bounds(0.9)


def test_interval_is_narrower_as_regions_are_decided() -> None:
    bounds, stated = calibration(30).bounds(), StatedVolume(94, 20)
    assert bounds.interval("liver", stated, (0, 5)) == bounds.interval("liver", stated)
    assert bounds.interval("liver", stated, (1, 5)) is None  # less than the first quarter was not measured
    assert bounds.interval("spleen", stated) is bounds.interval("liver", StatedVolume(0, 0)) is None
    shown = [bounds.interval("liver", stated, (decided, STAGES)) for decided in range(STAGES + 1)]
    widths = [each.high - each.low for each in shown]
    assert widths == sorted(widths, reverse=True) and widths[-1] == pytest.approx(widths[0] / 5, rel=1e-3)
    assert volume_text(94, shown[0]).startswith("94.0 ml (90 %: ")


@pytest.mark.parametrize(
    ("ml", "ends", "text"),
    [
        (1.836, (1.4634, 2.2086), "1.84 ml (90 %: 1.46 to 2.21)"),
        (25.31, (20.96, 30.14), "25.3 ml (90 %: 21.0 to 30.1)"),
        (16.86, (6.56, 27.16), "16.9 ml (90 %: 6.6 to 27.2)"),
        (9.996, (9.5, 104.0), "10.0 ml (90 %: 9.5 to 104.0)"),  # as it is rounded
        (9.19, (0.0, 35.89), "9.2 ml (90 %: 0.0 to 35.9)"),
        (0.0, (0.0, 12.34), "0.0 ml (90 %: 0.0 to 12.3)"),
        (1234.4, (1100.0, 1368.8), "1,234 ml (90 %: 1,100 to 1,369)"),
        (0.0347, (0.0, 0.0694), "0.03 ml (90 %: 0.00 to 0.07)"),
        (104.8, (0.0, 209.6), "105 ml (90 %: 0 to 210)"),
    ],
)
def test_volume_and_interval_share_the_digits_that_fit_the_volume(ml, ends, text) -> None:
    assert volume_text(ml, Interval(*ends, 0.9)) == text


@pytest.mark.parametrize(("ml", "text"), [(0.834, "+0.83 ml"), (-12.46, "−12.5 ml"), (-0.004, "0.00 ml")])
def test_change_has_a_sign_unless_nothing_changes(ml, text) -> None:
    assert change_text(ml) == text
