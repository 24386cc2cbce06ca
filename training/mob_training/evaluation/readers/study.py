"""Fit the settings of clicks on a data set's validation cases, and simulate readers on those held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mob_training.data.datasets import CASES_FILE
from mob_training.data.partial_labels import read_missing
from mob_training.data.split import read_subjects
from mob_training.evaluation.case_scores import only
from mob_training.evaluation.held_out import Files, check_labels, held_out_cases, validation_cases
from mob_training.evaluation.naming import describe_run
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.fitting import Fit, fit
from mob_training.evaluation.readers.simulation import BumpSettings, pooled, simulate
from mob_training.evaluation.score_files import Run, flatten
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import contrast_factors
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.covariance import Scope
from MoBUncertaintyLib.model.folder import load_model

if TYPE_CHECKING:
    from MoBUncertaintyLib.model.click_settings import ClickSettings
    from MoBUncertaintyLib.prediction import PredictionSettings

Report = Callable[[str], None]


def study_readers(
    model_path: Path,
    dataset: Path,
    settings: PredictionSettings | None = None,
    *,
    fitted: bool = True,
    name: str | None = None,
    regions: Mapping[str, float] | None = None,
    report: Report = print,
) -> tuple[Run, ClickSettings]:
    """Simulate readers who review a model's predictions.

    Args:
        model_path: A model folder, a zip, or a training folder of nnU-Net.
        dataset: Raw nnU-Net data set.
        settings: How to predict.
        fitted: Fit the settings of clicks and of the baseline on the validation cases first; else they are the model's,
            and the baseline's usual ones.
        name: Name of the model in tables; None: from its plans.
        regions: As for `held_out.evaluate`.
        report: Called with one line for each step, with the time left.

    Returns:
        The scores, and the settings of clicks.

    Raises:
        SettingsError: The data set has no held-out cases, too few validation cases, or other labels than the model.
    """
    held_out = held_out_cases(dataset)
    model = load_model(model_path)
    check_labels(dataset, model.card.labels)
    predictor = Predictor(model, settings)

    missing = read_missing(dataset, [label.name for label in model.card.labels])
    directed = model.card.covariance.scope is Scope.LOCAL and len(model.card.labels) == 1
    region_settings = model.card.region_settings.changed(regions or {})

    def read(files: Files) -> ReadCase:
        case, image, truth = files
        volume = read_image(image).image
        prediction = only(predictor.predict(volume, exact=True), missing.get(case, frozenset()))
        factors = contrast_factors(predictor, volume) if directed else None
        return ReadCase.of(prediction, read_volume(truth), region_settings, factors)

    clicks, bump, found = model.card.click_settings, BumpSettings(), None
    if fitted:
        validating = []
        for files, left in _countdown(validation_cases(dataset)):
            validating.append(read(files))
            report(f"Predicting validation cases: {left()}")
        found = fit(validating, clicks, report)
        clicks, bump = found.settings, found.bump
    known = dataset / CASES_FILE
    subjects = read_subjects(known) if known.exists() else {}
    scored, rows = {}, []
    for files, left in _countdown(held_out):
        case, case_name = read(files), files[0]
        rows.append(simulate(case, clicks if found else case.prediction.click_settings, bump))
        scored[case_name] = {
            "subject": subjects.get(case_name, case_name),
            "regions": len(case.regions.ranked),
            **dict(flatten(rows[-1])),
        }
        report(f"Simulating readers: {left()}")
    description = describe_run(model, dataset, name) | {"clicks": asdict(clicks), "bump": asdict(bump)}
    if found:
        description["fit"] = _fit_record(found)
    return Run(description, dict(flatten(pooled(rows))), scored), clicks


def _fit_record(found: Fit) -> dict[str, Any]:
    return {"trials": found.trials, "honesty": found.honesty}


def _countdown(cases: Sequence[Files]) -> Iterator[tuple[Files, Callable[[], str]]]:
    """Return each case, with what says, once it is done, how many are done and how long the rest will take."""
    start = time.monotonic()
    for done, files in enumerate(cases, start=1):

        def left(done: int = done) -> str:
            seconds = (time.monotonic() - start) / done * (len(cases) - done)
            return f"{done} of {len(cases)}, {seconds / 60:.0f} min left"

        yield files, left
