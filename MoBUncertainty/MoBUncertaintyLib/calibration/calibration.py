"""Calibrate a model on signed-off reviews, or say why it stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from MoBUncertaintyLib.calibration.cases import SignedCase
from MoBUncertaintyLib.calibration.site import extend_fingerprint
from MoBUncertaintyLib.calibration.temperature import Fit, fit_temperature
from MoBUncertaintyLib.calibration.threshold import fit_threshold
from MoBUncertaintyLib.errors import CalibrationError
from MoBUncertaintyLib.model.card import ModelCard
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.fingerprint import Fingerprint

MIN_REVIEWS = 5
SIGNIFICANCE = 0.05
"""A model is changed only if chance alone would make it seem better less often than this."""


@dataclass(frozen=True)
class Calibration:
    """What reviews make of a model.

    Attributes:
        reviews: How many it is fitted to.
        fit: The temperature, and how good it is.
        regions: What the card states of doubtful regions, with the new threshold of the variance.
        click_settings: How a click changes its surroundings, in the new logits.
        fingerprint: What ordinary cases look like now; None: the card does not say.
    """

    reviews: int
    fit: Fit
    regions: dict[str, float]
    click_settings: ClickSettings
    fingerprint: Fingerprint | None

    def description(self, model: ModelCard, digest: str) -> dict[str, Any]:
        """Describe it for the card of the new model, which is made of `model`."""
        before, after = self.fit.before, self.fit.after
        return {
            "reviews": self.reviews,
            "made": date.today().isoformat(),
            "temperature": round(self.fit.temperature, 4),
            "nll": [round(before.nll, 4), round(after.nll, 4)],
            "ece": [round(before.ece, 4), round(after.ece, 4)],
            "p_value": round(self.fit.p_value, 4),
            "of": f"{model.name}, {digest}",
        }


def calibrate(cases: Sequence[SignedCase], card: ModelCard) -> Calibration:
    """Fit temperature, threshold and ordinary cases.

    Args:
        cases: Reviews of the model's predictions.
        card: Of the model.

    Raises:
        CalibrationError: There are too few reviews, the model would be worse, or is not shown to be better, each by
            leaving one review out.
    """
    if len(cases) < MIN_REVIEWS:
        raise CalibrationError(
            f"A calibration needs {MIN_REVIEWS} signed-off reviews or more, and {len(cases)} of these can be used; "
            "sign off more cases."
        )
    kept = card.covariance.keep_probability
    fit = fit_temperature([case.evidence for case in cases], kept)
    before, after, instead = fit.before.nll, fit.after.nll, "so the model stays as it is"
    if after > before:
        raise CalibrationError(
            f"By leaving one out of these {len(cases)} reviews, the model would be worse (NLL {after:.4f}, now "
            f"{before:.4f}), {instead}."
        )
    if not fit.p_value < SIGNIFICANCE:
        raise CalibrationError(
            f"These {len(cases)} reviews do not show that the model would be better (NLL {after:.4f}, now "
            f"{before:.4f}, p = {fit.p_value:.2g}), {instead}."
        )
    regions = dict(card.regions)
    without = card.covariance.kind is Covariance.DETERMINISTIC
    if not without:
        known = card.region_settings.variance_threshold
        everything = [each for case in cases for each in case.evidence]
        regions["variance_threshold"] = fit_threshold(everything, fit.temperature, known, kept)
    clicks = card.click_settings
    moved = DEFAULT_PRIOR_DEVIATION if without else None
    if (moved := clicks.prior_deviation or moved) is not None:
        clicks = replace(clicks, prior_deviation=moved / fit.temperature)
    known_cases = card.fingerprint and extend_fingerprint(card.fingerprint, cases, fit.temperature, kept)
    return Calibration(len(cases), fit, regions, clicks, known_cases)
