"""Dice after some clicks at the largest errors, by each correlation that a model can spread them with."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from mob_training.evaluation.readers import readers
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.corrections import Refined

CLICKS = (1, 3, 5)
STATIONARY, OWN, LOADINGS = "stationary", "own", "loadings"


def dice_after_clicks(case: ReadCase) -> dict[str, dict[str, float]]:
    """Click at the largest errors with the settings of clicks that the model states.

    Returns:
        For each correlation `dice_1`, `dice_3`, `dice_5`, and `elsewhere_5`, of the voxels that were not clicked. The
        correlations: `stationary`, a kernel of the settings' length, or one by the organ's size, for every model; for
        one of the scope `local` `own`, its own; and `loadings`, its own times the cosine of its loadings, where they
        are known.
    """
    prediction = case.prediction
    settings = prediction.click_settings
    plain = replace(prediction, correlation_mm=None).with_click_length()
    kinds = {STATIONARY: Refined(plain, plain.click_settings)}
    if prediction.correlation_mm is not None:
        own = replace(settings, length_mm=None)
        kinds[OWN] = Refined(prediction, own)
        if case.directions is not None:
            kinds[LOADINGS] = Refined(prediction, own, case.directions)
    scores = {}
    for kind, correct in kinds.items():
        start = case.scores(prediction, case.unclicked(), surfaces=False)
        steps = islice(readers.click_at_errors(case, correct), max(CLICKS))
        rows = [start, *(case.scores(step.prediction, step.clicked, surfaces=False) for step in steps)]
        rows += [rows[-1]] * (max(CLICKS) + 1 - len(rows))
        scores[kind] = {f"dice_{n}": rows[n]["dice"] for n in CLICKS}
        scores[kind][f"elsewhere_{max(CLICKS)}"] = rows[max(CLICKS)]["dice_elsewhere"]
    return scores
