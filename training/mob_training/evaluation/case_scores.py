"""The scores of one case, and the sums that pool them over cases without keeping a volume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import surface_distance

from mob_training.evaluation.metrics import defined_mean
from mob_training.evaluation.metrics.calibration import Calibration, negative_log_likelihood
from mob_training.evaluation.metrics.ranking import ErrorRanking
from mob_training.evaluation.scoreboard import BOX_MARGIN_MM
from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.region_settings import UNCERTAINTIES, Measure, RegionSettings
from MoBUncertaintyLib.regions.agreement import dice, error_fraction, error_split
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.measure import voxel_uncertainty
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions

NSD_MM = 2.0
OVERLAP = ("dice", "nsd_2mm", "median_mm", "hd95_mm", "volume_error")
"""Of a label: `surface_scores`, and the error of its volume as a fraction of the true one, NaN without that."""
PLACES = ("volume", "box")
"""Where voxels are scored: in the whole volume, or in the box of prediction and truth plus `BOX_MARGIN_MM`."""
NOTHING = Calibration.of(np.zeros(0), np.zeros(0, bool))


@dataclass(frozen=True, eq=False)
class ScoredCase:
    """A prediction and the truth, a label map (z, y, x) on its grid."""

    prediction: Prediction
    truth: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction, truth: sitk.Image) -> ScoredCase:
        """Make a case from a prediction and the true segmentation.

        Raises:
            ImageError: The truth is not on the prediction's grid.
            SettingsError: The truth has a class that the model does not know.
        """
        check_grid(truth, prediction, "truth")
        true = sitk.GetArrayFromImage(truth)
        unknown = set(np.unique(true).tolist()) - {0, *(label.value for label in prediction.labels)}
        if unknown:
            listed = ", ".join(f"{value:g}" for value in sorted(unknown))
            raise SettingsError(f"The truth has the values {listed}, which are not labels of the model.")
        return cls(prediction, true)

    def places(self) -> dict[str, tuple[slice, ...] | None]:
        """Return the voxels of each of `PLACES`; None for the box if neither mask has any foreground."""
        mask = (self.prediction.segmentation > 0) | (self.truth > 0)
        margin = np.ceil(BOX_MARGIN_MM / self.prediction.grid.spacing)
        return {"volume": (slice(None),) * 3, "box": bounding_box(shadows(mask), margin) if mask.any() else None}


@dataclass(eq=False)
class PlaceSums:
    """Sums over the voxels of one place, from which its scores are computed; sums of several cases add up.

    Attributes:
        nll: Sum of -ln p of the true class.
        overlaps: Voxels of each foreground class, by name: predicted and true, and predicted plus true.
        calibrations: Of each foreground class against the rest.
        rankings: Of uncertainty against error (any class), for each uncertainty map.
    """

    voxels: int = 0
    nll: float = 0.0
    overlaps: dict[str, np.ndarray] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    rankings: dict[Measure, ErrorRanking] = field(default_factory=dict)

    @classmethod
    def of(cls, case: ScoredCase, box: tuple[slice, ...] | None) -> PlaceSums:
        """Sum over a box of a case; over nothing if there is no box."""
        box = (slice(0),) * 3 if box is None else box
        prediction, truth, segmentation = case.prediction, case.truth[box], case.prediction.segmentation[box]
        p, variance = (maps[(slice(None), *box)] for maps in (prediction.probability, prediction.variance))
        of_truth = np.clip(1 - p.sum(axis=0), 0, 1)  # the background's, at first
        overlaps, calibrations = {}, {}
        for label, channel in zip(prediction.labels, p, strict=True):
            predicted, true = segmentation == label.value, truth == label.value
            of_truth = np.where(true, channel, of_truth)
            overlaps[label.name] = np.array([np.count_nonzero(predicted & true), predicted.sum() + true.sum()])
            calibrations[label.name] = Calibration.of(channel, true)
        error = truth != segmentation
        rankings = {
            measure: ErrorRanking.of(voxel_uncertainty(measure, p, variance), error) for measure in UNCERTAINTIES
        }
        return cls(truth.size, negative_log_likelihood(of_truth), overlaps, calibrations, rankings)

    def add(self, other: PlaceSums) -> None:
        """Add the voxels of another case."""
        self.voxels += other.voxels
        self.nll += other.nll
        for name, calibration in other.calibrations.items():
            self.overlaps[name] = self.overlaps.get(name, 0) + other.overlaps[name]
            self.calibrations[name] = self.calibrations.get(name, NOTHING) + calibration
        for measure, ranking in other.rankings.items():
            self.rankings.setdefault(measure, ErrorRanking()).add(ranking)

    def scores(self) -> dict[str, float]:
        """Return `nll` over all classes, and `brier`, `ece`, `mce` as means over the one-vs-rest foreground classes."""
        calibrations = list(self.calibrations.values())
        return {"nll": self.nll / self.voxels if self.voxels else float("nan")} | {
            name: float(np.mean([getattr(one, name) for one in calibrations])) for name in ("brier", "ece", "mce")
        }


def pooled_scores(sums: Mapping[str, PlaceSums]) -> dict[str, Any]:
    """Score the voxels of all cases together, by their sums of each of `PLACES`.

    Return `dice`; for each place the scores, and the calibration `curve` of each class; for each uncertainty map and
    place the ranking's scores, and the error rate by uncertainty (`curve`).
    """
    ratios = [2 * both / total if total else 1.0 for both, total in sums["volume"].overlaps.values()]
    result: dict[str, Any] = {"dice": float(np.mean(ratios))}
    for place, one in sums.items():
        curves = {name: calibration.curve() for name, calibration in one.calibrations.items()}
        result[place] = one.scores() | {"curve": curves}
    tops = dict.fromkeys(UNCERTAINTIES, 0.25) | {Measure.ENTROPY: math.log(len(ratios) + 1)}
    for measure, top in tops.items():
        rankings = {place: one.rankings[measure] for place, one in sums.items()}
        result[measure.value] = {
            place: ranking.scores() | {"curve": ranking.binned(top)} for place, ranking in rankings.items()
        }
    return result


def only(prediction: Prediction, missing: frozenset[int]) -> Prediction:
    """Take the labels that a case has: with those that it lacks, background is everything else."""
    if not missing:
        return prediction
    places = [place for place, label in enumerate(prediction.labels) if label.value not in missing]
    segmentation = np.where(np.isin(prediction.segmentation, list(missing)), 0, prediction.segmentation)
    return replace(
        prediction,
        segmentation=segmentation.astype(prediction.segmentation.dtype),
        probability=np.stack([prediction.probability[place] for place in places]),
        variance=np.stack([prediction.variance[place] for place in places]),
        labels=tuple(prediction.labels[place] for place in places),
        rival=None,
    )


def score(
    case: ScoredCase, regions: RegionSettings, by_label: bool = True
) -> tuple[dict[str, Any], dict[str, PlaceSums]]:
    """Compute all scores of one case, and the sums of each of `PLACES` for pooling.

    Doubtful regions are as the settings say, but for the uncertainty map, which is each in turn, at its default
    threshold.

    Return the scores, nested: those of `OVERLAP`; for each place `nll`, `brier`, `ece`, `mce`; for each uncertainty map
    its regions, the error inside them, and for each place `auroc`, `auprc`, `aurc`, `augrc`. Dice and the like are
    means over the foreground classes; if the model has several, though the case may lack some, `labels` has them class
    by class, where `nll` is of the class against the rest.
    """
    prediction, sums = case.prediction, {place: PlaceSums.of(case, box) for place, box in case.places().items()}
    classes = {label.name: _class_scores(case, label, sums) for label in prediction.labels}
    row: dict[str, Any] = {name: defined_mean([scores[name] for scores in classes.values()]) for name in OVERLAP}
    row |= {place: one.scores() for place, one in sums.items()}
    for measure in UNCERTAINTIES:
        regions_of_map = find_regions(prediction, replace(regions, measure=measure, threshold=None))
        row[measure.value] = {
            "regions": len(regions_of_map.ranked),
            "longest_mm": max((region.extent_mm for region in regions_of_map.ranked), default=0.0),
            **error_fraction(prediction, regions_of_map, case.truth),
            "caught": caught_by_rank(prediction, regions_of_map, case.truth),
            **{place: one.rankings[measure].scores() for place, one in sums.items()},
        }
    if by_label:
        row["labels"] = classes
    return row, sums


def caught_by_rank(prediction: Prediction, regions: Regions, truth: np.ndarray) -> dict[str, list[float] | None]:
    """Compute the fraction of error and thick error inside the first 1, 2, ... regions; None without error."""
    region_map = regions.whole_map()
    fractions: dict[str, list[float] | None] = {}
    for name, mask in zip(("error", "thick_error"), error_split(prediction.segmentation, truth), strict=True):
        counts = np.bincount(region_map[mask], minlength=len(regions.ranked) + 1)
        fractions[name] = (np.cumsum(counts[1:]) / counts.sum()).tolist() if counts.any() else None
    return fractions


def check_grid(image: sitk.Image, prediction: Prediction, name: str) -> None:
    """Check that an image lies on a prediction's voxel grid.

    Raises:
        ImageError: They differ.
    """
    if not on_same_grid(image, image_on(prediction.grid, prediction.segmentation)):
        raise ImageError(f"The {name} does not lie on the image's voxel grid; convert the data set again.")


def surface_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | np.ndarray, tolerance_mm: float = 2.0
) -> dict[str, float]:
    """Compare the surfaces of two masks (z, y, x) by `surface-distance`; elements count by their area in mm2.

    Return `nsd`, the normalised surface distance (Nikolov et al. 2018): the surface fraction within the tolerance, 1
    where both masks are empty, 0 where one is. `median_mm` and `hd95_mm`, the 50th and 95th percentile of the distance
    from one surface to the other, whichever direction has more; NaN where a mask is empty.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if not prediction.any() or not truth.any():
        return {"nsd": float(prediction.any() == truth.any()), "median_mm": np.nan, "hd95_mm": np.nan}
    distances = surface_distance.compute_surface_distances(truth, prediction, np.asarray(spacing, float).tolist())
    return {
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        "median_mm": float(surface_distance.compute_robust_hausdorff(distances, 50)),
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(distances, 95)),
    }


def _class_scores(case: ScoredCase, label: Label, sums: dict[str, PlaceSums]) -> dict[str, Any]:
    predicted, true = case.prediction.segmentation == label.value, case.truth == label.value
    surfaces = surface_scores(predicted, true, case.prediction.grid.spacing, NSD_MM)
    volume, true_volume = np.count_nonzero(predicted), np.count_nonzero(true)
    volume_error = abs(volume / true_volume - 1) if true_volume else float("nan")
    overlap = dict(zip(OVERLAP, (dice(predicted, true), *surfaces.values(), volume_error), strict=True))
    return overlap | {
        place: {name: getattr(one.calibrations[label.name], name) for name in ("nll", "brier", "ece", "mce")}
        for place, one in sums.items()
    }
