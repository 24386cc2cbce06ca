"""Fit to a model, on its validation cases, how far a click reaches and how strongly it counts.

First what moves the outline, by the Dice that it gains; then what the uncertainty is after clicks, by the error left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, product
from typing import Any

import numpy as np

from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.corrections import Bump, BumpSettings, Correction, Refined
from mob_training.evaluation.readers.simulation import CLICKS_IN_A_REGION
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.model.click_settings import ClickSettings

SCORED = (1, 3, 5)
"""After so many free clicks Dice counts."""

DEVIATIONS = (None, 0.4, 0.6, 1.0, 1.5, 2.2)
LENGTHS_MM = (2.5, 3.5, 5.0, 7.0, 10.0)
STRENGTH, STRENGTHS = 32.0, (8.0, 16.0, 64.0)
"""What is tried: all pairs of the first two at one strength, since a larger strength does about the same as a larger
deviation; then the other strengths with the best pair."""

CERTAINTY_STRENGTHS = (8.0, 32.0)
SHARPENINGS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""What is tried of the uncertainty."""

HEIGHTS, WIDTHS_MM = (1.0, 1.5, 2.0, 3.0), (2.0, 3.0, 4.0, 6.0, 8.0)
"""What is tried of the baseline."""


@dataclass(frozen=True, eq=False)
class Trial:
    """How a correction does on the validation cases.

    Attributes:
        gains: Of Dice outside of the clicked voxels, for each case: the mean of clicks at the largest errors (after
            `SCORED`) and of clicks in the listed regions (after all).
        harm: Voxels made wrong over voxels corrected, at the end of both.
    """

    gains: np.ndarray
    harm: float

    @property
    def gain(self) -> float:
        """The mean gain."""
        return float(self.gains.mean())


@dataclass(frozen=True, eq=False)
class Fit:
    """What was found.

    Attributes:
        settings: For the model's card.
        bump: Of the baseline, fitted likewise.
        trials: What each setting that was tried gave, for a table.
        honesty: Expected error over error left, by the number of clicks.
    """

    settings: ClickSettings
    bump: BumpSettings
    trials: list[dict[str, Any]]
    honesty: dict[str, float]


def fit(cases: Sequence[ReadCase], start: ClickSettings, report: Callable[[str], None] = print) -> Fit:
    """Fit the settings of clicks, and those of the baseline.

    Of all settings whose gain is, by the paired standard error over the cases, as good as the best one's, that with the
    least harm is taken.

    Args:
        cases: Validation cases, whose predictions were not used to train the model.
        start: The settings that are not fitted.
        report: Called with one line for each setting.

    Raises:
        SettingsError: There are fewer than two cases.
    """
    if len(cases) < 2:
        raise SettingsError("Clicks are fitted on two validation cases at least; name them in splits_final.json.")
    bumps = [BumpSettings(*each) for each in product(HEIGHTS, WIDTHS_MM)]
    lengths = [None] if any(case.prediction.correlation_mm for case in cases) else []  # its own, of a local model
    pairs = [
        replace(start, prior_deviation=deviation, length_mm=length, strength=STRENGTH)
        for deviation, length in product(DEVIATIONS, [*lengths, *LENGTHS_MM])
    ]
    total, done = len(bumps) + len(pairs) + len(STRENGTHS), count(1)

    def try_all(what: str, corrections: Sequence[Correction]) -> Trial:
        trial = try_out(cases, corrections)
        report(f"{next(done)} of {total}: {what}: Dice {100 * trial.gain:+.2f} %, harm {percent(trial.harm)}")
        return trial

    def try_bump(bump: BumpSettings) -> Trial:
        corrections = [Bump(case.prediction, bump) for case in cases]
        return try_all(f"bump of {bump.height:g}, {bump.width_mm:g} mm", corrections)

    def try_clicks(settings: ClickSettings) -> Trial:
        deviation = "own" if settings.prior_deviation is None else f"{settings.prior_deviation:g}"
        length = "own length" if settings.length_mm is None else f"{settings.length_mm:g} mm"
        what = f"deviation {deviation}, {length}, strength {settings.strength:g}"
        return try_all(what, [Refined(case.prediction, settings) for case in cases])

    baseline = {bump: try_bump(bump) for bump in bumps}
    tried = {settings: try_clicks(settings) for settings in pairs}
    best = max(tried, key=lambda each: tried[each].gain)
    tried |= {each: try_clicks(each) for each in (replace(best, strength=strength) for strength in STRENGTHS)}
    chosen = least_harmful(tried)
    rows = [
        {"deviation": each.prior_deviation, "length_mm": each.length_mm, "strength": each.strength}
        | {"gain": trial.gain, "harm": trial.harm}
        for each, trial in tried.items()
    ]
    settings, honesty = fit_certainty(cases, chosen)
    return Fit(settings, least_harmful(baseline), rows, honesty)


def fit_certainty(cases: Sequence[ReadCase], settings: ClickSettings) -> tuple[ClickSettings, dict[str, float]]:
    """Fit what is said of the uncertainty after clicks, which moves no outline between two labels.

    The expected error of all cases together should be what is left, after each of `SCORED` free clicks and after those
    in the listed regions: of all settings tried, these have the smallest mean square of the logarithm of their ratio.

    Returns:
        The settings, and the ratios, by the number of clicks.
    """
    clicked = [
        {when: step.clicks for when, step in _clicked(case, Refined(case.prediction, settings)).items()}
        for case in cases
    ]
    tried = {}
    for strength, sharpening in product(CERTAINTY_STRENGTHS, SHARPENINGS):
        each = replace(settings, variance_strength=strength, sharpening=sharpening)
        sums: dict[str, np.ndarray] = {}
        for case, own in zip(cases, clicked, strict=True):
            correct = Refined(case.prediction, each)
            for when, clicks in own.items():
                scores = case.scores(correct(clicks), case.unclicked(), surfaces=False)
                expected_and_left = np.array([scores["expected_error_mm3"], scores["error_mm3"]])
                sums[when] = sums.get(when, 0) + expected_and_left
        tried[each] = {when: float(expected / max(left, 1e-9)) for when, (expected, left) in sums.items()}
    chosen = min(tried, key=lambda each: float(np.mean(np.log(list(tried[each].values())) ** 2)))
    return chosen, tried[chosen]


def _clicked(case: ReadCase, correct: Correction) -> dict[str, readers.Step]:
    """Return what is left after each of `SCORED` free clicks, and after all in the listed regions."""
    nothing = [readers.Step(case.prediction)]
    free = list(islice(readers.click_at_errors(case, correct), SCORED[-1])) or nothing
    listed = list(readers.click_in_regions(case, correct, CLICKS_IN_A_REGION)) or nothing
    return {f"free {n}": free[min(n, len(free)) - 1] for n in SCORED} | {"listed": listed[-1]}


def least_harmful(tried: Mapping[Any, Trial]) -> Any:
    """Choose what harms least among all that gain as much as the best, by the paired standard error over the cases."""
    best = max(tried.values(), key=lambda trial: trial.gain)

    def as_good(trial: Trial) -> bool:
        less = best.gains - trial.gains
        return bool(less.mean() <= less.std(ddof=1) / np.sqrt(len(less)))

    return min((each for each in tried if as_good(tried[each])), key=lambda each: tried[each].harm)


def try_out(cases: Sequence[ReadCase], corrections: Sequence[Correction]) -> Trial:
    """Let readers click in all cases, anywhere and in the listed regions."""
    gains, corrected, harmed = [], 0.0, 0.0
    for case, correct in zip(cases, corrections, strict=True):
        start = case.scores(case.prediction, case.unclicked(), surfaces=False)
        *after, end = (
            case.scores(step.prediction, step.clicked, surfaces=False) for step in _clicked(case, correct).values()
        )
        mean = np.mean([scores["dice_elsewhere"] for scores in after])
        gains.append((mean + end["dice_elsewhere"]) / 2 - start["dice_elsewhere"])
        for scores in (after[-1], end):
            corrected += scores["corrected_mm3"]
            harmed += scores["harmed_mm3"]
    return Trial(np.array(gains), float(harmed / max(corrected, 1e-9)))
