"""Predict with several models at once: configurations or seeds of nnU-Net, or any that have the same labels.

The members' predictions are mixed on the image's own grid, each with the same weight: the mean of their probabilities,
as with `nnUNetv2_ensemble` and, by the law of total variance, the mean of their variances plus the variance of their
means. Where some of the labels are wanted, they compete with the mean of what is most probable of the other classes for
each member: exactly the mixture's where the members agree which class that is, at most more where they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import ModelError, reporting_out_of_memory
from MoBUncertaintyLib.base.geometry import hull
from MoBUncertaintyLib.images.memory import check_memory
from MoBUncertaintyLib.inference.maps.filling import MIN_PROBABILITY, MIN_VARIANCE, label_map, rounded
from MoBUncertaintyLib.inference.maps.members import AnyPredictor, difference, together
from MoBUncertaintyLib.inference.predictor import Clock, Predictor
from MoBUncertaintyLib.inference.suitability import not_found
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.model.fingerprint import Level
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    Prediction,
    PredictionSettings,
    Progress,
    ProgressCallback,
)

if TYPE_CHECKING:
    import SimpleITK as sitk


class Ensemble:
    """Models ready to predict together; otherwise as a `Predictor`.

    Args:
        models: At least two, with the same labels and input channels.
        settings: How each of them predicts.

    Attributes:
        model: Stands for all: the first that has a covariance, else the first, with a digest of them all.
        labels: Those that are wanted.

    Raises:
        ModelError: They have not the same labels and channels.
        SettingsError: As `Predictor`.
    """

    def __init__(self, models: Sequence[Model], settings: PredictionSettings | None = None) -> None:
        first, *others = models
        for other in others:
            what = difference(first, other)
            if what:
                raise ModelError(
                    f"{first.path} and {other.path} have different {what}, so they cannot form an ensemble; choose "
                    "models that were trained on the same data."
                )
        self.model = together(models)
        self._members = [Predictor(model, settings) for model in models]
        self.use(settings or PredictionSettings())

    def use(self, settings: PredictionSettings) -> None:
        """Change how to predict from now on; see `Predictor.use`."""
        for member in self._members:
            member.use(settings)
        self.labels, self.settings = self._members[0].labels, settings

    @reporting_out_of_memory()
    def predict(
        self,
        image: sitk.Image,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        exact: bool = False,
        channels: Mapping[str, sitk.Image] | None = None,
    ) -> Prediction:
        """Segment one image by all models; arguments and errors as for `Predictor.predict`."""
        check_memory(image.GetNumberOfPixels(), len(self.labels), holders=2)
        clock = Clock(progress or (lambda _: None), cancelled or (lambda: False))
        predictions: list[Prediction] = []
        for member in self._members:
            steps = self._steps(clock, len(predictions))
            prediction = member.predict(image, steps, exact=True, channels=channels, rival=True)
            if predictions:
                mix(predictions[0], prediction, 1 / (len(predictions) + 1))
                prediction = replace(prediction, probability=(), variance=(), labels=(), rival=None)
            predictions.append(prediction)
        clock.step("resample", 1, 1)
        return self._mixed(predictions, exact)

    def close(self) -> None:
        """As `Predictor.close`."""
        for member in self._members:
            member.close()

    def _steps(self, clock: Clock, before: int) -> ProgressCallback:
        """Return what reports the steps of a member; members to come are taken to have as many tiles as it has."""
        ahead, latest = len(self._members) - before, clock.latest
        done, total = (latest.done, latest.total) if before and latest else (0, 0)

        def report(step: Progress) -> None:
            ends = step.stage == "resample" or (step.stage == "preprocess" and before)
            if step.stage == "network":
                clock.step("network", done + step.done, done + step.total * ahead if step.total else total)
            elif not ends:
                clock.step(step.stage, step.done, step.total)

        return report

    def _mixed(self, predictions: Sequence[Prediction], exact: bool) -> Prediction:
        """Make the prediction of all from the first, whose maps are the mixture, and what the others have noticed."""
        mixture = predictions[0]
        probability, variance = list(mixture.probability), list(mixture.variance)
        if not exact:
            for maps, minimum in ((probability, MIN_PROBABILITY), (variance, MIN_VARIANCE)):
                for volume in maps:
                    volume[:] = rounded(volume, minimum)
        segmentation = label_map(probability, self.labels, mixture.rival, overlap(self._members[0].model.card.labels))
        # What one has not found, all together may have.
        missing = not_found(dict.fromkeys((label.name for label in self.labels), 0.0))
        noticed = dict.fromkeys(text for one in predictions for text in one.warnings if text not in missing)
        timings = {stage: sum(one.timings.get(stage, 0.0) for one in predictions) for stage in mixture.timings}
        prediction = Prediction(
            segmentation,
            probability,
            variance,
            mixture.grid,
            self.labels,
            self._provenance(predictions),
            list(noticed),
            timings,
            self._members[0].model.card.click_settings,
            mixture.measures,
            overlap(self.labels),
            predicted_part=hull(one.processed_box for one in predictions),
            covariance=self.model.card.covariance.kind,
            one_piece=tuple(name for name in mixture.one_piece if all(name in one.one_piece for one in predictions)),
            region_settings=self.model.card.region_settings,
        )
        prediction.warnings.extend(not_found(prediction.volumes_ml()))
        judged = [one.suitability for one in predictions if one.suitability is not None]
        levels = list(Level)
        judgement = max(judged, key=lambda suitability: levels.index(suitability.level))
        return prediction.with_click_length().annotated(suitability=judgement)

    def _provenance(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        of_all = {key: value for key, value in predictions[0].provenance.items() if key != "first_stage"}
        card = self.model.card
        return of_all | {
            "model": {"name": card.name, "path": str(self.model.path), "digest": self.model.digest},
            "ensemble": [
                {"configuration": member.model.card.configuration, "folds": list(member.folds)}
                | prediction.provenance["model"]
                for member, prediction in zip(self._members, predictions, strict=True)
            ],
            "settings": asdict(self.settings),
            "tiles": sum(prediction.provenance["tiles"] for prediction in predictions),
        }


def mix(mixture: Prediction, other: Prediction, fraction: float) -> None:
    """Mix the maps of another prediction into those of a mixture, with that fraction: the law of total variance."""
    means = zip(mixture.probability, other.probability, strict=True)
    variances = zip(mixture.variance, other.variance, strict=True)
    for (mean, p), (variance, v) in zip(means, variances, strict=True):
        change = p - mean
        variance += fraction * (v - variance) + fraction * (1 - fraction) * change**2
        mean += fraction * change
    if mixture.rival is not None:
        mixture.rival[:] += fraction * (other.rival - mixture.rival)


def predictor_of(models: Sequence[Model], settings: PredictionSettings | None = None) -> AnyPredictor:
    """Return what predicts with one model, or with several at once."""
    return Predictor(models[0], settings) if len(models) == 1 else Ensemble(models, settings)
