"""Measure what a model's ordinary cases look like, for its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mob_training.evaluation.held_out import Files, check_labels, training_cases, validation_cases
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import fit_fingerprint
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Measures
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.prediction import PredictionSettings


def measure_fingerprint(
    model_path: Path,
    dataset: Path,
    data: str | None = None,
    limit: int = 80,
    settings: PredictionSettings | None = None,
    report: Callable[[str], None] = print,
) -> Fingerprint:
    """Predict training and validation cases, and fit the fingerprint of the model to them.

    Args:
        model_path: A model folder, a zip, or a training folder.
        dataset: Raw nnU-Net data set.
        data: Which cases they are, in a few words; None: the data set's name.
        limit: At most so many training cases are predicted.
        settings: How to predict.
        report: Called with one line for each case.

    Raises:
        SettingsError: The data set has no validation cases, too few cases, or other labels than the model.
    """
    model = load_model(model_path)
    check_labels(dataset, model.card.labels)
    parts = {"training": training_cases(dataset)[:limit], "validation": validation_cases(dataset)}
    if not parts["validation"]:
        raise SettingsError(f"{dataset} names no validation cases; convert the data set with mob-training.")
    predictor = Predictor(model, settings)

    def measures(part: str, files: Files) -> Measures:
        name, image, _ = files
        found = predictor.predict(read_image(image).image).measures
        assert found is not None
        report(f"{part} {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in found.values.items()))
        return found

    training, validation = ([measures(part, files) for files in cases] for part, cases in parts.items())
    return fit_fingerprint(training, validation, data or dataset.name)
