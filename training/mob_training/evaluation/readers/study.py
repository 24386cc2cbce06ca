"""Fit how clicks change their surroundings on a data set's validation cases, and simulate readers on those held out.

What is fitted first is what moves the outline, by the Dice that it gains; then what the uncertainty is after clicks, by
the error left; and at last what is learned of how far errors reach. Other corrections (`baselines`) are tuned on the
same cases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mob_training.evaluation.held_out import PLAIN, Evaluation, Examination, held_out_cases
from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.baselines import GRIDS, Baseline
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.learning import learn, lesson
from mob_training.evaluation.readers.readers import Correct, Refined, Step
from mob_training.evaluation.readers.simulation import CLICKS_IN_A_REGION, pooled, simulate
from mob_training.evaluation.score_files import Run, flatten
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.regions.prediction import PredictionSettings

Fitting = Literal["fit", "learn", "keep"]

SCORED = (1, 3, 5)
"""After so many free clicks Dice counts."""

DEVIATIONS = (None, 0.6, 1.0, 1.5)
LENGTHS_MM = (2.5, 3.5, 5.0, 7.0, 8.5, 10.0)
STRENGTH, STRENGTHS = 32.0, (8.0, 16.0, 64.0)
"""What is tried: all pairs of the first two at one strength, since a larger strength does about the same as a larger
deviation; then the other strengths with the best pair."""

CAUTIONS = (0.0, 0.35, 0.7)
PARTS = 3
"""What is tried of what is learned, with trees of other subjects: each of so many parts of the cases has its own."""

CERTAINTY_STRENGTHS = (8.0, 32.0)
SHARPENINGS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""What is tried of the uncertainty."""


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


def fit(
    cases: Sequence[ReadCase], start: ClickSettings, report: Callable[[str], None] = print
) -> tuple[ClickSettings, dict[str, Any]]:
    """Fit the settings of clicks on validation cases, whose predictions were not used to train the model.

    Of all settings whose gain is, by the paired standard error over the cases, as good as the best one's, that with the
    least harm is taken. What is not fitted is as in `start`.

    Return the settings; and `trials`, what each setting that was tried gave, and `honesty`, as of `fit_certainty`.

    Raises:
        SettingsError: There are fewer than two cases.
    """
    if len(cases) < 2:
        raise SettingsError("Clicks are fitted on two validation cases at least; name them in splits_final.json.")
    lengths = [None] if any(case.prediction.correlation_mm for case in cases) else []  # its own, of a local model
    pairs = [
        replace(start, prior_deviation=deviation, length_mm=length, strength=STRENGTH)
        for deviation, length in product(DEVIATIONS, [*lengths, *LENGTHS_MM])
    ]
    tried: dict[ClickSettings, Trial] = {}

    def try_all(all_settings: Sequence[ClickSettings]) -> None:
        for settings in all_settings:
            tried[settings] = trial = try_out((case, Refined(case.prediction, settings)) for case in cases)
            deviation = "own" if settings.prior_deviation is None else f"{settings.prior_deviation:g}"
            length = "own length" if settings.length_mm is None else f"{settings.length_mm:g} mm"
            report(
                f"{len(tried)} of {len(pairs) + len(STRENGTHS)}: deviation {deviation}, {length}, strength "
                f"{settings.strength:g}: Dice {100 * trial.gain:+.2f} %, harm {percent(trial.harm)}"
            )

    try_all(pairs)
    best = max(tried, key=lambda settings: tried[settings].gain)
    try_all([replace(best, strength=strength) for strength in STRENGTHS])
    trials = [
        {"deviation": settings.prior_deviation, "length_mm": settings.length_mm, "strength": settings.strength}
        | {"gain": trial.gain, "harm": trial.harm}
        for settings, trial in tried.items()
    ]
    chosen, honesty = fit_certainty(cases, least_harmful(tried))
    return chosen, {"trials": trials, "honesty": honesty}


def fit_certainty(cases: Sequence[ReadCase], settings: ClickSettings) -> tuple[ClickSettings, dict[str, float]]:
    """Fit what is said of the uncertainty after clicks, which moves no outline between two labels.

    The expected error of all cases together should be what is left, after each of `SCORED` free clicks and after those
    in the listed regions: of all settings tried, these have the smallest mean square of the logarithm of their ratio.
    Also return the ratios, by the number of clicks.
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


def _clicked(case: ReadCase, correct: Correct) -> dict[str, Step]:
    """Return what is left after each of `SCORED` free clicks, and after all in the listed regions."""
    nothing = [Step(case.prediction)]
    free = list(islice(readers.click_at_errors(case, correct), SCORED[-1])) or nothing
    listed = deque(readers.click_in_regions(case, correct, CLICKS_IN_A_REGION), maxlen=1) or nothing
    return {f"free {n}": free[min(n, len(free)) - 1] for n in SCORED} | {"listed": listed[-1]}


def least_harmful(tried: Mapping[Any, Trial]) -> Any:
    """Choose what harms least among all that gain as much as the best, by the paired standard error over the cases."""
    best = max(tried.values(), key=lambda trial: trial.gain)

    def as_good(trial: Trial) -> bool:
        less = best.gains - trial.gains
        return bool(less.mean() <= less.std(ddof=1) / np.sqrt(len(less)))

    return min((each for each in tried if as_good(tried[each])), key=lambda each: tried[each].harm)


def fit_learned(
    cases: Sequence[ReadCase], subjects: Sequence[str], settings: ClickSettings, report: Callable[[str], None] = print
) -> tuple[ClickSettings, dict[str, Any]]:
    """Learn from validation cases how far errors reach, if that is better than conditioning with these settings alone.

    Conditioning alone, and trees with each caution, are tried on all cases, with trees that other subjects have taught.
    Chosen is by the rule of `fit`; the trees that are returned have learned from all cases.

    Raises:
        SettingsError: The cases are of one subject.
    """
    _, part = np.unique(np.asarray(subjects), return_inverse=True)
    if not part.any():
        raise SettingsError("Clicks are learned from two subjects at least; name more cases in splits_final.json.")
    parts, lessons = (part % PARTS).tolist(), []
    for number, case in enumerate(cases):
        lessons.append(lesson(case, settings, number))
        report(f"{number + 1} of {len(cases)}: readers have clicked")
    trees = {n: learn([own for own, at in zip(lessons, parts, strict=True) if at != n]) for n in set(parts)}
    tried: dict[float | None, Trial] = {}
    for caution in (None, *CAUTIONS):
        own = [
            replace(settings, learned=None if caution is None else trees[at], caution=caution or 0.0) for at in parts
        ]
        pairs = zip(cases, own, strict=True)
        tried[caution] = trial = try_out((case, Refined(case.prediction, each)) for case, each in pairs)
        name = "conditioning alone" if caution is None else f"learned, caution {caution:g}"
        report(f"{name}: Dice {100 * trial.gain:+.2f} %, harm {percent(trial.harm)}")
    made = {"cautions": [{"caution": each, "gain": own.gain, "harm": own.harm} for each, own in tried.items()]}
    chosen = least_harmful(tried)
    return settings if chosen is None else replace(settings, learned=learn(lessons), caution=chosen), made


def tuned(cases: Sequence[ReadCase], report: Callable[[str], None] = print) -> dict[str, Baseline]:
    """Choose for each other correction the settings that gain most on validation cases."""
    chosen = dict[str, Baseline]()
    for name, grid in GRIDS.items():
        gains = {each: try_out((case, each.of(case)) for case in cases).gain for each in grid}
        chosen[name] = max(gains, key=lambda each: gains[each])
        report(f"{chosen[name]}: Dice {100 * gains[chosen[name]]:+.2f} %, the best of {len(grid)}")
    return chosen


def try_out(pairs: Iterable[tuple[ReadCase, Correct]]) -> Trial:
    """Let readers click in all cases, each with what corrects it, anywhere and in the listed regions.

    What corrects keeps much in memory; make it one by one.
    """
    gains, corrected, harmed = [], 0.0, 0.0
    for case, correct in pairs:
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


def study_readers(
    model_path: Path,
    dataset: Path,
    evaluation: Evaluation = PLAIN,
    settings: PredictionSettings | None = None,
    report: Callable[[str], None] = print,
    fitting: Fitting = "fit",
) -> tuple[Run, ClickSettings]:
    """Fit how clicks change their surroundings, and simulate readers who review a model's predictions.

    With `learn` conditioning stays as the card states it, with `keep` all does. Return scores and settings.

    Raises:
        SettingsError: The data set has no held-out cases, too few validation cases, or other labels than the model.
    """
    cases, model, validating = held_out_cases(dataset), Examination(model_path, dataset, evaluation, settings), {}
    for files in held_out_cases(dataset, "val"):
        validating[files[0]] = model.read(files)
        report(f"{files[0]}: predicted")
    clicks, made = model.predictor.model.card.click_settings, {}
    if fitting == "fit":
        clicks, made = fit(list(validating.values()), replace(clicks, learned=None, caution=0.0), report)
    if fitting != "keep":
        plain, subjects = replace(clicks, learned=None, caution=0.0), list(map(model.subject, validating))
        clicks, learned = fit_learned(list(validating.values()), subjects, plain, report)
        made |= learned
    baselines = tuned(list(validating.values()), report)
    scored, rows = {}, []
    for number, files in enumerate(cases, start=1):
        case = model.read(files)
        rows.append(simulate(case, clicks, baselines, number))
        scored[files[0]] = model.row(files[0], {"regions": len(case.regions.ranked), **rows[-1]})
        report(f"{files[0]}: readers simulated, {number} of {len(cases)}")
    stated = {"clicks": asdict(replace(clicks, learned=None)), "fit": made}
    stated["baselines"] = {name: asdict(own) for name, own in baselines.items()}
    return Run(model.description | stated, dict(flatten(pooled(rows))), scored), clicks
