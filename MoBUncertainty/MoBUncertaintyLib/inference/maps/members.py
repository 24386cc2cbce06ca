"""What every predictor does, and a model that stands for several; needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.regions.prediction import CancelledCallback, Prediction, PredictionSettings, ProgressCallback

if TYPE_CHECKING:
    import SimpleITK as sitk


class AnyPredictor(Protocol):
    """What predicts an image: with one model or with several, here or on another computer; see `Predictor`."""

    model: Model
    labels: tuple[Label, ...]
    settings: PredictionSettings

    def use(self, settings: PredictionSettings) -> None:
        """Change how to predict from now on."""

    def predict(
        self,
        image: sitk.Image,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        exact: bool = False,
        channels: Mapping[str, sitk.Image] | None = None,
    ) -> Prediction:
        """Segment one image."""

    def close(self) -> None:
        """Give back what it holds besides memory."""


def difference(one: Model, other: Model) -> str:
    """Say in which respect two models cannot be mixed; "" if they can."""
    labels = [[(label.value, label.name, label.covers) for label in model.card.labels] for model in (one, other)]
    return "labels" if labels[0] != labels[1] else "" if one.channels == other.channels else "input channels"


def together(models: Sequence[Model]) -> Model:
    """Make a model that stands for all: what holds for one alone, such as its ordinary cases, is left out."""
    stochastic = (model for model in models if model.card.covariance.kind is not Covariance.DETERMINISTIC)
    lead = next(stochastic, models[0])
    name = f"{lead.card.name[:70].rstrip()}, ensemble of {len(models)}"
    card = replace(lead.card, name=name, fingerprint=None, volume_calibration=None)
    digest = hashlib.sha256("".join(model.digest for model in models).encode()).hexdigest()
    files = replace(lead.files, trained=False, digests={"model.json": digest})
    return Model(card, lead.plans, lead.dataset, lead.weights, files)
