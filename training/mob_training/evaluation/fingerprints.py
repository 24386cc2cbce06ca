"""Measure what a model's ordinary cases look like, for its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mob_training.evaluation.held_out import check_labels, split_cases
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.suitability import fit_fingerprint
from MoBUncertaintyLib.model.fingerprint import FalseAlarms, Fingerprint, Level
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.regions.prediction import Precision, PredictionSettings


def measure_fingerprint(
    model_path: Path,
    dataset: Path,
    data: str | None = None,
    settings: PredictionSettings | None = None,
) -> Fingerprint:
    """Predict cases in float32 and fit the fingerprint of the model to them; then judge the held-out ones, if any.

    They are the cases that calibrate and the validation cases. Cases that trained the model do not count: it is surer
    of them than of others. `data` says which cases they are, in a few words. Default: the data set's name.

    Raises:
        SettingsError: The data set has too few such cases, or other labels than the model.
    """
    model = loaded(model_path)
    check_labels(dataset, model.card.labels)
    settings = replace(settings or PredictionSettings(), precision=Precision.FLOAT32)
    ordinary = split_cases(dataset, "calibrate", "val")
    if not ordinary:
        raise SettingsError(f"{dataset} names no validation cases; convert the data set with mob-training.")
    predictor, measured = Predictor(model, settings), []
    for files in ordinary:
        prediction = predictor.predict(read_image(files[1]).image)
        assert prediction.measures is not None
        measured.append(prediction.measures)
        numbers = (f"{key} {value:.3g}" for key, value in prediction.measures.values.items())
        print(f"{files[0]}: {', '.join(numbers)}")
    words, made = data or dataset.name, prediction.provenance
    names = [label.name for label in model.card.labels]
    fingerprint = fit_fingerprint(names, measured, words, made["engine"], made["precision"])
    if not (cases := split_cases(dataset, "test")):
        return fingerprint
    predictor = Predictor(replace(model, card=replace(model.card, fingerprint=fingerprint)), settings)
    alarms = 0
    for name, image, _ in cases:
        suitability = predictor.predict(read_image(image).image).suitability
        assert suitability is not None
        alarms += suitability.level is not Level.ORDINARY
        print(f"held out {name}: {suitability.text}")
    return replace(fingerprint, false_alarms=FalseAlarms(alarms, len(cases), f"held out, of {words}"))
