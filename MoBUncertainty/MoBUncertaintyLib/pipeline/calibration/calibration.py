"""From a model and a site's signed-off reviews or labelled cases to a model of the site, or why it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import CalibrationError
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.model.card import ModelCard, overlap
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.fingerprint import Fingerprint
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network.export import check_exportable, check_new, export
from MoBUncertaintyLib.pipeline.calibration.cases import (
    SiteCase,
    find_reviews,
    gather,
    holds_labels,
    predicted_cases,
    read_review,
)
from MoBUncertaintyLib.pipeline.calibration.fitting import (
    Fit,
    Intervals,
    extend_fingerprint,
    fit_intervals,
    fit_temperature,
    fit_threshold,
)
from MoBUncertaintyLib.regions.prediction import CancelledCallback, PredictionSettings, ProgressCallback

ADDED_NAME = ", calibrated"
LONGEST_NAME = 100
MIN_CASES = 5
SIGNIFICANCE = 0.05
"""A model is changed only if chance alone would make it seem better less often than this."""


@dataclass(frozen=True)
class Calibration:
    """What a site's cases make of a model."""

    # reviews, labelled: how many cases of each kind it is fitted to
    reviews: int
    labelled: int
    fit: Fit  # the temperature, and how good it is
    regions: dict[str, float]  # what the card states of doubtful regions, with the new threshold of the variance
    click_settings: ClickSettings  # how a click changes its surroundings, in the new logits
    fingerprint: Fingerprint | None  # what ordinary cases look like now, if the card says
    intervals: Intervals | None = None  # of the volumes; None: too few cases have the labels, and the model's stay

    @property
    def counts(self) -> dict[str, int]:
        """How many cases of each kind it is fitted to."""
        return {"reviews": self.reviews, "labelled cases": self.labelled}

    def description(self, model: ModelCard, digest: str) -> dict[str, Any]:
        """Describe it for the card of the new model, which is made of `model`."""
        before, after, intervals = self.fit.before, self.fit.after, self.intervals
        coverage = (
            {f"coverage of {percent(intervals.level)}": [_short(intervals.before), _short(intervals.after)]}
            if intervals
            else {}
        )
        return {
            **{name: count for name, count in self.counts.items() if count},
            "made": date.today().isoformat(),
            "temperature": round(self.fit.temperature, 4),
            "nll": [_short(before.nll), _short(after.nll)],
            "ece": [_short(before.ece), _short(after.ece)],
            "p_value": _short(self.fit.p_value),
            **coverage,
            "of": f"{model.name}, {digest}",
        }


def check_model(card: ModelCard) -> None:
    """Raise `CalibrationError` for a model whose labels overlap, or that is calibrated on reviews already."""
    if overlap(card.labels):
        raise CalibrationError(
            "The labels of this model overlap, so it cannot be calibrated; use it without a calibration."
        )
    # By reviews T would move on each time, towards what decided voxels alone ask for. Labels ask all voxels.
    if "reviews" in (card.training.get("calibration") or ()):
        raise CalibrationError("The model has already been calibrated; calibrate the original model, on its own cases.")


def calibrate(cases: Sequence[SiteCase], card: ModelCard) -> Calibration:
    """Fit temperature, threshold, ordinary cases and intervals to cases of the model with this card.

    Raises:
        CalibrationError: `check_model` refuses it, there are too few cases, or the model would be worse, or is not
            shown to be better, by leaving one case out.
    """
    check_model(card)
    if len(cases) < MIN_CASES:
        raise CalibrationError(
            f"A calibration needs at least {MIN_CASES} signed-off reviews or labelled cases, but only {len(cases)} of "
            "these can be used; sign off or label more."
        )
    keep_probability = card.covariance.keep_probability
    reviews = sum(not case.labelled for case in cases)
    fit = fit_temperature([case.evidence for case in cases], keep_probability, lowest=1.0 if reviews else 0.0)
    before, after, instead = fit.before.nll, fit.after.nll, "so the model stays as it is"
    if after > before:
        raise CalibrationError(
            f"In a leave-one-out test on these {len(cases)} cases, the model became worse (NLL {after:.4f}, now "
            f"{before:.4f}), {instead}."
        )
    if not fit.p_value < SIGNIFICANCE:
        raise CalibrationError(
            f"A leave-one-out test on these {len(cases)} cases does not show that the model becomes better (NLL "
            f"{after:.4f}, now {before:.4f}, p = {fit.p_value:.2g}), {instead}."
        )
    regions = dict(card.regions)
    without = card.covariance.kind is Covariance.DETERMINISTIC
    if not without:
        threshold = card.region_settings.variance_threshold
        everything = [evidence for case in cases for evidence in case.evidence]
        regions["variance_threshold"] = fit_threshold(everything, fit.temperature, threshold, keep_probability)
    clicks = card.click_settings
    moved = DEFAULT_PRIOR_DEVIATION if without else None
    if (moved := clicks.prior_deviation or moved) is not None:
        clicks = replace(clicks, prior_deviation=moved / fit.temperature)
    fingerprint = card.fingerprint and extend_fingerprint(card.fingerprint, cases, fit.temperature, keep_probability)
    intervals = fit_intervals(cases, card.volume_calibration, fit.temperature, keep_probability)
    return Calibration(reviews, len(cases) - reviews, fit, regions, clicks, fingerprint, intervals)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


@dataclass(frozen=True)
class CalibratedModel:
    """A model of a site as written, what was changed, and one sentence on each case that was not used."""

    model: Model
    calibration: Calibration
    refused: list[str]


def calibrate_model(
    model: str | Path,
    folders: Iterable[Path],
    output: Path,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    device: str = "auto",
) -> CalibratedModel:
    """Calibrate a model on a site's cases, and write it under another name; it stays as it is.

    Args:
        model: Path or name.
        folders: Of signed-off reviews of the model's predictions (exports, or results with exports in them), or of
            labelled cases (`cases.predicted_cases`), which are predicted as users' are.
        output: Model folder or `.zip` to make; must not exist.
        name: Of the new model. Default: that of the model, with `ADDED_NAME`.
        progress, cancelled: As for `cases.predicted_cases`.
        device: Predicts labelled cases.

    Raises:
        CalibrationError: There are too few cases, or the model would not be better; nothing is written.
        ReviewError, ImageError: A folder holds no case.
        ModelError, OutputError: As for `export`.
        Cancelled: `cancelled` said so; nothing is written.
    """
    check_new(output)
    old = load_model(find_model(model))
    check_model(old.card)
    check_exportable(old)
    paths = [*map(Path, folders)]
    labelled = [folder for folder in paths if holds_labels(folder)]
    reviews = find_reviews(folder for folder in paths if folder not in labelled)
    reads: list[Callable[[], SiteCase]] = [partial(read_review, folder, old.digest) for folder in reviews]
    if labelled:  # only that needs the network
        from MoBUncertaintyLib.inference.predictor import Predictor

        predictor = Predictor(old, PredictionSettings(device=device))
        reads += predicted_cases(labelled, predictor, progress or (lambda _: None), cancelled or (lambda: False))
    cases, refused = gather(reads)
    try:
        calibration = calibrate(cases, old.card)
    except CalibrationError as error:
        raise CalibrationError(" ".join([str(error), *refused])) from error
    written = export(
        old.path,
        output,
        name=name or old.card.name[: LONGEST_NAME - len(ADDED_NAME)].rstrip() + ADDED_NAME,
        training={"calibration": calibration.description(old.card, old.digest)},
        regions=calibration.regions,
        click_settings=calibration.click_settings,
        fingerprint=calibration.fingerprint,
        volume_calibration=calibration.intervals.calibration if calibration.intervals else None,
        temperature=calibration.fit.temperature,
        half=None,
    )
    return CalibratedModel(written, calibration, refused)
