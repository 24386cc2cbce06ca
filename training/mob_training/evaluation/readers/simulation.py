"""What every reader leaves after 0, 1, 2, ... actions, case by case and over all cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np

from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.baselines import Baseline
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Refined, Step
from MoBUncertaintyLib.model.click_settings import ClickSettings

ACTIONS = 10
CLICKS_IN_A_REGION = 2
CLICKS = (1, 3, 5)
STATIONARY, OWN = "stationary", "own"
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

    Return for each reader and each score of `ReadCase.scores` its values after 0 to `ACTIONS` actions, the last one
    repeated where less was to do; `actions`, how many there were in all, and under `end` the scores after the last.
    """
    prediction = replace(case.prediction, click_settings=settings)
    case = replace(case, prediction=prediction)
    corrections = {"": Refined(prediction, settings)}
    if settings.learned:
        corrections["_conditioned"] = Refined(prediction, replace(settings, learned=None))
    steps: dict[str, Iterator[Step]] = {}
    for suffix, refined in corrections.items():
        steps[f"errors{suffix}"] = readers.click_at_errors(case, refined)
        steps[f"mistakes{suffix}"] = readers.click_with_mistakes(case, refined, np.random.default_rng(seed))
    steps |= {f"errors_{name}": readers.click_at_errors(case, own.of(case)) for name, own in baselines.items()}
    steps |= {
        "regions": readers.click_in_regions(case, corrections[""], CLICKS_IN_A_REGION),
        "suggested": readers.click_as_suggested(case),
        "buttons": readers.press_buttons(case),
        "painting": readers.paint(case),
    }
    endless = [key for key in steps if key.startswith(("errors", "mistakes", "suggested"))]
    steps |= {key: islice(steps[key], ACTIONS) for key in endless}
    start = case.scores(prediction, case.unclicked())
    return {key: _curves([start, *(case.scores(s.prediction, s.clicked) for s in own)]) for key, own in steps.items()}


def _curves(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    shown = [*rows[: ACTIONS + 1], *[rows[-1]] * (ACTIONS + 1 - len(rows))]
    return {
        **{name: [row[name] for row in shown] for name in rows[0]},
        "actions": len(rows) - 1,
        "end": dict(rows[-1]),
    }


def pooled(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up readers over cases, as `simulate` returns them.

    Return for each reader, after 0, 1, ... actions: `harm`, the voxels made wrong over those corrected; `honesty`, the
    expected error over the error left; `reached_D`, the fraction of the cases whose Dice is at least D; and each under
    `end` after the last action.
    """
    result: dict[str, Any] = {}
    for reader in cases[0]:
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
