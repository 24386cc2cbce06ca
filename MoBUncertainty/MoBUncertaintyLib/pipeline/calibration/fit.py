"""What a site's cases make of a model: a temperature, the threshold of regions, ordinary cases and intervals.

**Temperature.** Each case counts alike, however many voxels its reader has decided. Several labels count each against
the rest. Readers decide where a model is in doubt, and errors there are of one piece: those voxels alone would ask for
too high a temperature. All others, of which nobody has said anything, are as probable as the model says.

A reader who is shown a segmentation tends to accept it. So with a review among the cases no temperature below 1 is
tried: reviews show that a model is too sure, never that it is not sure enough. Labels drawn without it show both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from MoBUncertaintyLib.base.errors import CalibrationError
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.measurements.conformal import TooFewCasesError
from MoBUncertaintyLib.measurements.volumes import (
    LabelCalibration,
    Residuals,
    Scale,
    StatedVolume,
    VolumeBounds,
    VolumeCalibration,
)
from MoBUncertaintyLib.model.card import ModelCard, overlap
from MoBUncertaintyLib.model.click_settings import DEFAULT_PRIOR_DEVIATION, ClickSettings
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.fingerprint import Fingerprint, Ordinary
from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE
from MoBUncertaintyLib.review.refinement.evidence import Evidence

TEMPERATURES = 2.0 ** (np.arange(-96, 97) / 32)  # those tried, 1/8 to 8, in steps of 2 %
CLIP = 2.0**-23  # probabilities are held this far from 0 and 1, as for the scores of `mob-training evaluate`
BINS = 15
WINDOW = 0.25  # voxels whose variance differs by this factor's logarithm from a threshold are called at it
CANDIDATES = 2.0 ** (np.arange(-48, 49) / 16)
QUANTILE, NORMAL = 0.95, 1.96  # this fraction of ordinary cases deviates by less than so many standard deviations
MIN_CASES = 5
SIGNIFICANCE = 0.05  # a model is changed only if chance alone would make it seem better less often than this

Volumes = Mapping[str, tuple[StatedVolume, float]]
"""Of each label by its name: what the prediction states, and the truth in ml."""


@dataclass(frozen=True)
class SiteCase:
    """A case whose truth a site knows: from a review or, of a labelled image, whole."""

    place: Path  # folder of the review's export, or file of the image
    image_sha256: str | None
    evidence: tuple[Evidence, ...]  # of each label, where the truth is known
    deviations: Mapping[str, float]  # from the model's ordinary cases; none if it was not compared with any
    volumes: Volumes  # of the labels, in the order of `evidence`
    labelled: bool = False  # without the model's segmentation

    @property
    def what(self) -> str:
        """Name it in a sentence."""
        return f"The image {self.place}" if self.labelled else f"The review in {self.place}"


def counted(cases: Sequence[SiteCase]) -> str:
    """Say how many cases there are of each kind, such as `5 reviewed`."""
    labelled = sum(case.labelled for case in cases)
    counts = {"reviewed": len(cases) - labelled, "labelled": labelled}
    return " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def error_growth(evidence: Sequence[Evidence], temperature: float, keep_probability: bool = False) -> float:
    """Compute the logarithm of the factor by which a temperature changes the expected error of a case."""

    def expected(scaled_by: float) -> float:
        maps = ((one, one.moments(scaled_by, keep_probability)[0]) for one in evidence)
        return sum(float(one.counts.sum(axis=0) @ np.minimum(p, 1 - p)) for one, p in maps)

    before, after = expected(1.0), expected(temperature)
    return math.log(after / before) if before > 0 and after > 0 else 0.0


@dataclass(frozen=True)
class Scores:
    """Calibration over cases: NLL per voxel (mean over the cases), and the expected calibration error."""

    nll: float
    ece: float


@dataclass(frozen=True)
class Fit:
    """A temperature, and what leaving each case out says of it."""

    temperature: float
    before: Scores  # of the model as it is
    after: Scores  # of each case with the temperature that the other cases give
    p_value: float  # that NLL, with undecided voxels as expected, improves by chance (one-sided signed-rank test)


def fit_temperature(cases: Sequence[Sequence[Evidence]], keep_probability: bool = False, lowest: float = 1.0) -> Fit:
    """Find the temperature from `lowest` on with the lowest NLL of decided voxels, and of the others as expected."""
    kinds, weights = _pooled(cases)
    tried = TEMPERATURES[lowest <= TEMPERATURES]
    as_it_is = int(np.searchsorted(tried, 1.0))
    probability = np.stack([kinds.moments(t, keep_probability)[0] for t in tried])
    p = np.clip(probability, CLIP, 1 - CLIP)
    without, labelled, undecided = weights
    decided = _nll(without, labelled, p)
    expected = _nll(undecided * (1 - p[as_it_is]), undecided * p[as_it_is], p)
    losses = (decided + expected) / weights.sum(axis=(0, 2))[:, None]
    every, total = np.arange(len(cases)), losses.sum(axis=0)
    others = np.argmin(total - losses, axis=1)  # for each case, what the others choose
    before, after = decided[:, as_it_is], decided[every, others]
    gain = losses[:, as_it_is] - losses[every, others]
    return Fit(
        float(tried[np.argmin(total)]),
        Scores(float(before.mean()), _ece(weights, probability[np.full_like(others, as_it_is)])),
        Scores(float(after.mean()), _ece(weights, probability[others])),
        float(wilcoxon(gain, alternative="greater").pvalue) if gain.any() else 1.0,
    )


def _nll(without: np.ndarray, labelled: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Sum -ln p up, from weights (cases, K) and probabilities (temperatures, K); returns (cases, temperatures)."""
    nll: np.ndarray = -(without @ np.log1p(-p).T + labelled @ np.log(p).T)
    return nll


def _pooled(cases: Sequence[Sequence[Evidence]]) -> tuple[Evidence, np.ndarray]:
    """List all K kinds of voxels once, without counts, and how many each case has of them, over those decided.

    These are (3, cases, K) as `Evidence.counts`, of which the first two sum to the number of labels of a case.
    """
    every = [evidence for case in cases for evidence in case]
    steps, index = np.unique(np.concatenate([evidence.kinds[:, :2] for evidence in every]), axis=0, return_inverse=True)
    owners = np.repeat(np.arange(len(cases)), [sum(len(evidence.kinds) for evidence in case) for case in cases])
    counts = np.concatenate([evidence.counts / max(evidence.voxels, 1) for evidence in every], axis=1)
    weights = np.zeros((3, len(cases), len(steps)))
    for row, values in zip(weights, counts, strict=True):
        np.add.at(row, (owners, index.ravel()), values)
    return Evidence(np.column_stack([steps, np.zeros((len(steps), 3), np.int64)])), weights


def _ece(weights: np.ndarray, probability: np.ndarray) -> float:
    """Compute the gap between mean probability (by case and kind) and fraction of the label, in bins."""
    index = np.minimum((probability * BINS).astype(int), BINS - 1).ravel()
    both = weights[:2].sum(axis=0)
    confidence, labelled = (np.bincount(index, values.ravel(), BINS) for values in (both * probability, weights[1]))
    return float(np.abs(confidence - labelled).sum() / both.sum())


def fit_threshold(
    evidence: Iterable[Evidence], temperature: float, threshold: float, keep_probability: bool = False
) -> float:
    """Find the variance at which as much error is expected as at the threshold before the temperature scaled it.

    It stays if no voxel was at it.
    """
    kinds = list(evidence)
    counts = np.concatenate([one.counts.sum(axis=0) for one in kinds])

    def error_at(scaled_by: float, thresholds: np.ndarray) -> np.ndarray:
        moments = [one.moments(scaled_by, keep_probability) for one in kinds]
        p, variance = (np.concatenate(values) for values in zip(*moments, strict=True))
        error, logarithm = np.minimum(p, 1 - p), np.log(np.maximum(variance, 1e-12))
        near = counts * (np.abs(logarithm - np.log(thresholds)[:, None]) < WINDOW)
        voxels = near.sum(axis=1)
        return np.where(voxels > 0, near @ error / np.maximum(voxels, 1), np.nan)

    (wanted,) = error_at(1.0, np.array([threshold]))
    candidates = threshold * CANDIDATES
    candidates = candidates[candidates < MAX_VARIANCE]
    errors = error_at(temperature, candidates)
    if temperature == 1 or np.isnan(wanted) or np.isnan(errors).all():
        return threshold
    return float(f"{candidates[np.nanargmin(np.abs(errors - wanted))]:.3g}")


def extend_fingerprint(
    fingerprint: Fingerprint, cases: Sequence[SiteCase], temperature: float, keep_probability: bool = False
) -> Fingerprint:
    """Widen what is ordinary so far that it holds a site's cases, measure by measure.

    The medians stay, but for that of the expected error, which a temperature changes of every case: a review does not
    say on which side of the ordinary ones its case is.
    """
    compared = [case for case in cases if case.deviations]
    if not compared:
        return fingerprint
    measures = {}
    for name, ordinary in fingerprint.measures.items():
        seen = [case.deviations[name] for case in compared if name in case.deviations]
        far = float(np.quantile(seen, QUANTILE, method="higher")) / NORMAL if seen else 0.0
        measures[name] = replace(ordinary, deviation=round(ordinary.deviation * max(far, 1.0), 4))
    if "error" in measures:
        own = measures["error"]
        shift = np.mean([error_growth(case.evidence, temperature, keep_probability) for case in cases])
        measures["error"] = Ordinary(round(own.median + float(shift), 4), own.deviation)
    data = f"{fingerprint.data}, and {counted(compared)} on site"
    # How often it is wrong about ordinary cases was measured with the narrower ranges.
    return replace(
        fingerprint, cases=fingerprint.cases + len(compared), data=data, measures=measures, false_alarms=None
    )


@dataclass(frozen=True)
class Intervals:
    """How intervals are made now, and how often they hold."""

    calibration: VolumeCalibration  # for the card
    level: float
    before: float | None  # fraction of the cases' volumes in the model's intervals of that level, if it stated any
    after: float  # the same, each case with the intervals that the others give


def fit_intervals(
    cases: Sequence[SiteCase], bounds: VolumeCalibration | None, temperature: float, keep_probability: bool = False
) -> Intervals | None:
    """Take the residuals of a site's cases, if enough have the labels, in place of the model's, whose scales stay.

    What is known of drawn contours stays as well: a review does not tell what its reader would have drawn.
    """
    volumes = [_now(case, temperature, keep_probability) for case in cases]
    old = {name: label.divided(temperature) for name, label in bounds.labels.items()} if bounds else {}
    names = sorted({name for case in volumes for name in case})
    try:
        made = _fit(names, volumes, old, f"{counted(cases)} on site")
        level = made.bounds().level
        holds, holds_before = [], []
        bounds_before = bounds and bounds.bounds(level)
        for number, case in enumerate(volumes):
            others = _fit(names, [*volumes[:number], *volumes[number + 1 :]], old, "").bounds(level)
            holds += _holds(others, case)
            if bounds_before:
                holds_before += _holds(bounds_before, cases[number].volumes)
    except (TooFewCasesError, ValueError):  # ValueError: a label was found in no other case
        return None
    before = float(np.mean(holds_before)) if holds_before else None
    return Intervals(made, level, before, float(np.mean(holds)))


def _now(case: SiteCase, temperature: float, keep_probability: bool) -> Volumes:
    """Return what is stated of each label at a temperature, which changes its expected error, where it was found."""
    volumes = {}
    for (name, (volume, true)), evidence in zip(case.volumes.items(), case.evidence, strict=True):
        if volume.ml > 0:
            growth = math.exp(error_growth([evidence], temperature, keep_probability))
            volumes[name] = replace(volume, error_ml=volume.error_ml * growth), true
    return volumes


def _fit(
    names: Sequence[str], cases: Sequence[Volumes], old: Mapping[str, LabelCalibration], data: str
) -> VolumeCalibration:
    labels = {}
    for name in names:
        own, before = [case[name] for case in cases if name in case], old.get(name)
        residuals = Residuals.of(own, before.predicted.scale if before else Scale.VOLUME)
        labels[name] = LabelCalibration(residuals, drawn=before.drawn if before else None)
    return VolumeCalibration(data, labels)


def _holds(bounds: VolumeBounds, case: Volumes) -> list[bool]:
    intervals = ((bounds.interval(name, volume), true) for name, (volume, true) in case.items())
    return [interval.low <= true <= interval.high for interval, true in intervals if interval]


@dataclass(frozen=True)
class Calibration:
    """What a site's cases make of a model."""

    reviews: int  # how many it is fitted to
    labelled: int  # how many labelled cases
    fit: Fit  # the temperature, and how good it is
    regions: dict[str, float]  # what the card states of doubtful regions, with the new threshold of the variance
    click_settings: ClickSettings  # how a click changes its surroundings, in the new logits
    fingerprint: Fingerprint | None  # what ordinary cases look like now, if the card says
    intervals: Intervals | None = None  # of volumes; default: the model's, if too few cases have the labels

    @property
    def counts(self) -> dict[str, int]:
        """How many cases of each kind it is fitted to."""
        return {"reviews": self.reviews, "labelled cases": self.labelled}

    def description(self, model: ModelCard, digest: str) -> dict[str, Any]:
        """Describe it for the card of the new model, which is made of `model`."""
        before, after, intervals = self.fit.before, self.fit.after, self.intervals
        description: dict[str, Any] = {name: count for name, count in self.counts.items() if count}
        description |= {
            "made": date.today().isoformat(),
            "temperature": round(self.fit.temperature, 4),
            "nll": [_short(before.nll), _short(after.nll)],
            "ece": [_short(before.ece), _short(after.ece)],
            "p_value": _short(self.fit.p_value),
        }
        if intervals:
            coverage = [_short(intervals.before), _short(intervals.after)]
            description[f"coverage of {percent(intervals.level)}"] = coverage
        return description | {"of": f"{model.name}, {digest}"}


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

    Raises `CalibrationError` as `check_model` does, for too few cases, and unless leaving one case out shows that the
    model becomes better.
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
    regions, clicks = dict(card.regions), card.click_settings
    if card.covariance.kind is not Covariance.DETERMINISTIC:
        threshold = card.region_settings.variance_threshold
        everything = [evidence for case in cases for evidence in case.evidence]
        regions["variance_threshold"] = fit_threshold(everything, fit.temperature, threshold, keep_probability)
    elif clicks.prior_deviation is None:
        clicks = replace(clicks, prior_deviation=DEFAULT_PRIOR_DEVIATION)
    fingerprint = card.fingerprint and extend_fingerprint(card.fingerprint, cases, fit.temperature, keep_probability)
    intervals = fit_intervals(cases, card.volume_calibration, fit.temperature, keep_probability)
    return Calibration(
        reviews, len(cases) - reviews, fit, regions, clicks.divided(fit.temperature), fingerprint, intervals
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
