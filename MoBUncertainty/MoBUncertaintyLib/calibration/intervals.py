"""Intervals of a site's volumes, by the residuals of its own cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from MoBUncertaintyLib.calibration.cases import SiteCase, counted, error_growth
from MoBUncertaintyLib.conformal.calibration import LabelCalibration, VolumeBounds, VolumeCalibration
from MoBUncertaintyLib.conformal.quantile import TooFewCasesError
from MoBUncertaintyLib.conformal.volumes import Residuals, Scale, StatedVolume


@dataclass(frozen=True)
class Intervals:
    """How intervals are made now, and how often they hold.

    Attributes:
        calibration: For the card.
        level: Of the intervals.
        before: Fraction of the cases' volumes in the model's intervals of that level; None: it stated none.
        after: The same, each case with the intervals that the others give.
    """

    calibration: VolumeCalibration
    level: float
    before: float | None
    after: float


def fit_intervals(
    cases: Sequence[SiteCase], known: VolumeCalibration | None, temperature: float, keep_probability: bool = False
) -> Intervals | None:
    """Take the residuals of a site's cases in place of the model's, which are of other cases.

    Args:
        cases: The site's.
        known: What the model states; its scales are kept.
        temperature: By which the logits are divided: the expected error of a case changes with it.
        keep_probability: As for `Evidence.moments`.

    Returns:
        None if there are too few cases in which the labels were found.
    """
    stated = [_now(case, temperature, keep_probability) for case in cases]
    scales = {name: each.predicted.scale for name, each in known.labels.items()} if known else {}
    names = sorted({name for case in stated for name in case})
    try:
        made = _fit(names, stated, scales, f"{counted(cases)} on site")
        level = made.bounds().level
        held, held_before = [], []
        bounds_before = known and known.bounds(level)
        for number, case in enumerate(stated):
            others = _fit(names, [*stated[:number], *stated[number + 1 :]], scales, "").bounds(level)
            held += _holds(others, case)
            if bounds_before:
                held_before += _holds(bounds_before, cases[number].volumes)
    except (TooFewCasesError, ValueError):  # ValueError: a label was found in no other case
        return None
    before = float(np.mean(held_before)) if held_before else None
    return Intervals(made, level, before, float(np.mean(held)))


Volumes = Mapping[str, tuple[StatedVolume, float]]


def _now(case: SiteCase, temperature: float, keep_probability: bool) -> Volumes:
    """Return what is stated of each label at a temperature, where it was found, and the truth."""
    found = {name: each for name, each in case.volumes.items() if each[0].ml > 0}
    growth = {
        name: np.exp(error_growth([evidence], temperature, keep_probability))
        for name, evidence in zip(case.volumes, case.evidence, strict=True)
    }
    return {
        name: (replace(stated, error_ml=float(stated.error_ml * growth[name])), true)
        for name, (stated, true) in found.items()
    }


def _fit(names: Sequence[str], cases: Sequence[Volumes], scales: Mapping[str, Scale], data: str) -> VolumeCalibration:
    labels = {}
    for name in names:
        own = [case[name] for case in cases if name in case]
        labels[name] = LabelCalibration(Residuals.of(own, scales.get(name, Scale.VOLUME)))
    return VolumeCalibration(data, labels)


def _holds(bounds: VolumeBounds, case: Volumes) -> list[bool]:
    found = ((bounds.interval(name, stated), true) for name, (stated, true) in case.items())
    return [interval.low <= true <= interval.high for interval, true in found if interval]
