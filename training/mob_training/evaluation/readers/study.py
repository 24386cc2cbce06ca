"""Fit the settings of clicks on a data set's validation cases, and simulate readers on those held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mob_training.evaluation.held_out import PLAIN, Evaluation, Examination, held_out_cases, split_cases
from mob_training.evaluation.readers.corrections import BumpSettings
from mob_training.evaluation.readers.fitting import fit
from mob_training.evaluation.readers.simulation import pooled, simulate
from mob_training.evaluation.score_files import Run, flatten

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.click_settings import ClickSettings
    from MoBUncertaintyLib.regions.prediction import PredictionSettings


def study_readers(
    model_path: Path,
    dataset: Path,
    evaluation: Evaluation = PLAIN,
    settings: PredictionSettings | None = None,
    fitted: bool = True,
    report: Callable[[str], None] = print,
) -> tuple[Run, ClickSettings]:
    """Simulate readers who review a model's predictions.

    Args:
        model_path, dataset, evaluation, settings: As for `held_out.evaluate`.
        fitted: Fit the settings of clicks and of the baseline on the validation cases first; else they are the model's,
            and the baseline's usual ones.
        report: Called with one line for each step.

    Returns:
        The scores, and the settings of clicks.

    Raises:
        SettingsError: The data set has no held-out cases, too few validation cases, or other labels than the model.
    """
    cases = held_out_cases(dataset)
    model = Examination(model_path, dataset, evaluation, settings)
    clicks, bump, result = model.predictor.model.card.click_settings, BumpSettings(), None
    if fitted:
        validating = []
        for files in split_cases(dataset, "val"):
            validating.append(model.read(files))
            report(f"{files[0]}: predicted")
        result = fit(validating, clicks, report)
        clicks, bump = result.settings, result.bump
    scored, rows = {}, []
    for number, files in enumerate(cases, start=1):
        case = model.read(files)
        rows.append(simulate(case, clicks if result else case.prediction.click_settings, bump))
        scored[files[0]] = model.row(files[0], {"regions": len(case.regions.ranked), **rows[-1]})
        report(f"{files[0]}: readers simulated, {number} of {len(cases)}")
    description = model.description | {"clicks": asdict(clicks), "bump": asdict(bump)}
    if result:
        description["fit"] = {"trials": result.trials, "honesty": result.honesty}
    return Run(description, dict(flatten(pooled(rows))), scored), clicks
