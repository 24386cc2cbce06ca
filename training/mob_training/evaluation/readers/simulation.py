"""What every reader leaves after 0, 1, 2, ... actions, case by case and over all cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np

from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.baselines import Baseline
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Correct, Refined, Step
from MoBUncertaintyLib.model.click_settings import ClickSettings

ACTIONS = 10
CLICKS_IN_A_REGION = 2
CLICKS = (1, 3, 5)
STATIONARY, OWN = "stationary", "own"
CHALLENGE, IN_TURN = "challenge", "in_turn"
"""In the scores, beside readers: rounds of a click for each label, after the protocol of the CVPR 2025 challenge on
interactive segmentation (github.com/JunMa11/CVPR-MedSegFMCompetition); and labels that are corrected in turn."""
CLICKS_ON_A_LABEL = 3
REACHED = (0.90, 0.95)
"""Values of Dice for which the actions are counted that it takes to reach them."""


@dataclass(frozen=True)
class Reader:
    """A kind of reader.

    Attributes:
        key: In the scores.
        title: In tables.
        clicks: Whether an action is a click, or else a region.
        against: The key of a reader who does the same with what the product makes of clicks; default: this is one.
    """

    key: str
    title: str
    clicks: bool = True
    against: str | None = None


READERS = (
    Reader("errors", "clicks at the largest error"),
    Reader("errors_conditioned", "largest error, conditioning alone", against="errors"),
    Reader("errors_bump", "largest error, Gaussian bump", against="errors"),
    Reader("errors_geodesic", "largest error, geodesic bump", against="errors"),
    Reader("errors_walker", "largest error, random walker", against="errors"),
    Reader("errors_local", "largest error, only the clicked voxel", against="errors"),
    Reader("mistakes", "largest error, with mistakes"),
    Reader("mistakes_conditioned", "with mistakes, conditioning alone", against="mistakes"),
    Reader("regions", f"at most {CLICKS_IN_A_REGION} clicks in each listed region"),
    Reader("regions_bump", "listed regions, Gaussian bump", against="regions"),
    Reader("suggested", "clicks at the suggested place"),
    Reader("buttons", "accept, include or exclude", clicks=False),
    Reader("painting", "painting the regions", clicks=False),
)
"""In this order. Conditioning alone is simulated where more is learned; clicks that change one voxel, and those with a
bump in the regions, are in kept scores only."""


def simulate(
    case: ReadCase, settings: ClickSettings, baselines: Mapping[str, Baseline] = MappingProxyType({}), seed: int = 0
) -> dict[str, Any]:
    """Simulate all readers of one case, with these settings of clicks; mistakes depend on the seed.

    Return for each reader and each score of `ReadCase.scores`, but for surfaces, its values after 0 to `ACTIONS`
    actions, the last one repeated where less was to do; `actions`, how many there were in all, and under `end` the
    scores after the last. Besides, under `CHALLENGE`, what rounds of clicks on each label leave; and of several labels,
    under `IN_TURN`, what clicks on one after another do.
    """
    prediction = replace(case.prediction, click_settings=settings)
    case = replace(case, prediction=prediction)
    corrections: dict[str, Correct] = {"": Refined(prediction, settings)}
    if settings.learned:
        corrections["_conditioned"] = Refined(prediction, replace(settings, learned=None))
    steps: dict[str, Iterator[Step]] = {}
    for suffix, correct in corrections.items():
        steps[f"errors{suffix}"] = readers.click_at_errors(case, correct)
        steps[f"mistakes{suffix}"] = readers.click_with_mistakes(case, correct, np.random.default_rng(seed))
    corrections |= {f"_{name}": own.of(case) for name, own in baselines.items()}
    for suffix, correct in corrections.items():
        steps.setdefault(f"errors{suffix}", readers.click_at_errors(case, correct))
    steps |= {
        "regions": readers.click_in_regions(case, corrections[""], CLICKS_IN_A_REGION),
        "suggested": readers.click_as_suggested(case),
        "buttons": readers.press_buttons(case),
        "painting": readers.paint(case),
    }
    endless = [key for key in steps if key.startswith(("errors", "mistakes", "suggested"))]
    steps |= {key: islice(steps[key], ACTIONS) for key in endless}
    scores = {key: _curves(case, own) for key, own in steps.items()}
    corrections.pop("_walker", None)
    scores[CHALLENGE] = {key.strip("_") or "product": _challenge(case, correct) for key, correct in corrections.items()}
    if len(prediction.labels) > 1:
        conditioned = replace(case, prediction=replace(prediction, click_settings=replace(settings, learned=None)))
        scores[IN_TURN] = {
            "apart": _in_turn(case, readers.correct_apart(conditioned, CLICKS_ON_A_LABEL)),
            "conditioned": _in_turn(case, readers.correct_in_turn(conditioned, False, CLICKS_ON_A_LABEL)),
            "together": _in_turn(case, readers.correct_in_turn(case, False, CLICKS_ON_A_LABEL)),
            "locked": _in_turn(case, readers.correct_in_turn(case, True, CLICKS_ON_A_LABEL)),
        }
    return scores


def _curves(case: ReadCase, steps: Iterable[Step]) -> dict[str, Any]:
    last = Step(case.prediction)
    rows = [case.scores(last.prediction, last.clicked, surfaces=False)]
    for last in steps:
        rows.append(case.scores(last.prediction, last.clicked, surfaces=False))
    shown = [*rows[: ACTIONS + 1], *[rows[-1]] * (ACTIONS + 1 - len(rows))]
    return {
        **{name: [row[name] for row in shown] for name in rows[0]},
        "actions": len(rows) - 1,
        "end": case.scores(last.prediction, last.clicked),
    }


def _challenge(case: ReadCase, correct: Correct) -> dict[str, list[float]]:
    """Return `dice` and `nsd` after 0 to 5 rounds of clicks; below a Dice of 0.2 the challenge counts no surfaces."""
    scores: dict[str, list[float]] = {"dice": [], "nsd": []}
    steps = [Step(case.prediction), *islice(readers.click_each_label(case, correct), max(CLICKS))]
    for step in steps:
        own = case.scores(step.prediction, step.clicked)
        scores["dice"].append(own["dice"])
        scores["nsd"].append(own["nsd_2mm"] if own["dice"] > 0.2 else 0.0)
    return {name: values + values[-1:] * (max(CLICKS) + 1 - len(values)) for name, values in scores.items()}


def _in_turn(case: ReadCase, steps: Iterable[Step]) -> dict[str, float]:
    """Return the scores after all labels, and `undone_mm3`: what of a label was right when it was done, but is not."""
    step, right = Step(case.prediction), []
    for label, step in zip(case.prediction.labels, steps, strict=True):
        own = (case.truth == label.value) & (step.prediction.segmentation == label.value)
        right.append(own)
    wrong = case.wrong(step.prediction.segmentation)
    undone = sum(np.count_nonzero(own & wrong) for own in right) * case.prediction.grid.voxel_mm3
    scores = case.scores(step.prediction, step.clicked, surfaces=False)
    return {name: scores[name] for name in ("dice", "corrected_mm3", "harmed_mm3")} | {
        "start": case.dice(case.prediction.segmentation),
        "undone_mm3": undone,
        "clicks": len(step.clicks),
    }


def pooled(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up readers over cases, as `simulate` returns them.

    Return for each reader, after 0, 1, ... actions: `harm`, the voxels made wrong over those corrected; `honesty`, the
    expected error over the error left; `reached_D`, the fraction of the cases whose Dice is at least D; and each under
    `end` after the last action.
    """
    result: dict[str, Any] = {}
    for reader in (reader.key for reader in READERS if reader.key in cases[0]):
        own = [case[reader] for case in cases]
        result[reader] = _ratios(own) | {"end": _ratios([case["end"] for case in own])}
    return result


def _ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute ratios of sums over cases; the values of a row are numbers, or lists by the number of actions."""
    total = {name: np.sum([row[name] for row in rows], axis=0) for name in rows[0] if name not in ("actions", "end")}
    dice = np.array([row["dice"] for row in rows])
    ratios = {
        "harm": np.divide(total["harmed_mm3"], np.maximum(total["corrected_mm3"], 1e-9)),
        "honesty": np.divide(total["expected_error_mm3"], np.maximum(total["error_mm3"], 1e-9)),
        **{f"reached_{level:.2f}": (dice >= level).mean(axis=0) for level in REACHED},
    }
    return {name: ratio.tolist() for name, ratio in ratios.items()}


def dice_after_clicks(case: ReadCase) -> dict[str, dict[str, float]]:
    """Click at the largest errors with the settings of clicks that the model states.

    Return for each correlation `dice_1`, `dice_3`, `dice_5`, and `elsewhere_5`, of the voxels that were not clicked.
    The correlations: `stationary`, a kernel of the settings' length, or one by the organ's size, for every model; for
    one of the scope `local` `own`, its own.
    """
    prediction = case.prediction
    plain = replace(prediction, correlation_mm=None).with_click_length()
    kinds = {STATIONARY: Refined(plain, plain.click_settings)}
    if prediction.correlation_mm is not None:
        kinds[OWN] = Refined(prediction, replace(prediction.click_settings, length_mm=None))
    scores = {}
    for kind, correct in kinds.items():
        start = case.scores(prediction, case.unclicked(), surfaces=False)
        steps = islice(readers.click_at_errors(case, correct), max(CLICKS))
        rows = [start, *(case.scores(step.prediction, step.clicked, surfaces=False) for step in steps)]
        rows += [rows[-1]] * (max(CLICKS) + 1 - len(rows))
        scores[kind] = {f"dice_{n}": rows[n]["dice"] for n in CLICKS}
        scores[kind][f"elsewhere_{max(CLICKS)}"] = rows[max(CLICKS)]["dice_elsewhere"]
    return scores
