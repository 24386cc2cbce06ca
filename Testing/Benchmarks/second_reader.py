"""Measure how well errors in a clinician's contour are found, and how good a segmentation is expected to be.

    python Testing/Benchmarks/second_reader.py OUTPUT [MODEL DATASET] [--sets SET ...] [--cases N] [--network OTHER]

DATASET is as for `region_frontier.py`. A case is judged by the calibration of all other subjects. The sets:

- `regions`: each of `ERRORS` is put into the contour of one of the labels, in turn. A method lists regions of a contour
  by a score; its threshold is that at which the unaltered contours of the others have one region a case on average
  (`DrawnBounds.false_alarms`). An error is found if one of the first three listed regions lies in it by at least half,
  or holds at least half of it. 6 s a hippocampus, of one free core; each other set takes 2 s.
- `clicks`: a reader mends errors by clicks, in the listed regions or anywhere.
- `errors`: the contours with these errors are the segmentations of which Dice is expected.
- `network`: another network, such as one after some minutes of `mob-training train`, has made the segmentation.
- `raters`: so have the raters of phantoms (`mob-training phantom --raters 5`), as exchangeable with the truth.

Expected Dice of these three, and of our own segmentation, is compared with Dice, beside two baselines: the mean Dice
with samples of the model (of our own segmentation, that of pairs of samples), and a line through Dice at the overlap
with our segmentation, fitted to the others' segmentations of the same set, which expected Dice has not seen. One order
is better than another if the 95 % interval of the difference of Spearman's correlations with Dice is above 0. Orders
are those before calibration, which all cases of a cohort share: what leaves a case out is higher where the case is bad.

OUTPUT/MODEL-PART.json.gz holds what was measured of each case, and is taken up again. Summary and tables, with
intervals over the subjects, are of all sets there, each and pooled. Rows of a part `val` or `calibrate` that lie beside
calibrate. Without MODEL they are made anew.

The constants of `regions.discrepancy` were chosen on the validation cases of the hippocampus, by what is found at one
false region a case and at 0.3, over all errors: the best definition (.992 and .992) was passed over for the second one
(.992 and .983), whose score is a lower bound of a joint likelihood.
"""

import argparse
import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations, islice, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr

from mob_training.comparison.significance import holm, signed_rank
from mob_training.comparison.tables import interval
from mob_training.data.datasets import CASES_FILE
from mob_training.data.split import read_subjects
from mob_training.evaluation.raters import read_raters
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import Refined, click_at_errors, click_in_regions
from mob_training.evaluation.score_files import write_json
from MoBUncertaintyLib.base.geometry import Box, whole
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.measurements.conformal import conformal_quantile
from MoBUncertaintyLib.measurements.drawn import DrawnBounds, DrawnCalibration
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.regions.agreement import dice, dice_at, expected_agreement, jaccard_distance, label_probability
from MoBUncertaintyLib.regions.description import masks
from MoBUncertaintyLib.regions.discrepancy import (
    FALSE_ALARMS,
    Piece,
    find_discrepancies,
    improbable_pieces,
    pieces_of,
)
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.findings import Checked, plain_findings
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.regions.samples import ChangingVoxels
from region_frontier import cases, rounded

FIRST = 3
LARGE = 0.05
"""Of the organ: smaller local errors are not promised to be found."""
STRICT = 0.3
"""False regions a case, besides `FALSE_ALARMS`."""
LEVEL = 0.9
SAMPLES = 16
CLICKS = 5
RESAMPLES = 1000
OURS, P05 = "discrepancy", "p < .05"
OWN, SETS = "our own", ("errors", "network", "raters")

Mask = np.ndarray


@dataclass(frozen=True, eq=False)
class Contour:
    """A clinician's contour of a label, and another patient's, to put errors into; masks (z, y, x), spacing in mm."""

    mask: Mask
    other: Mask
    spacing: np.ndarray
    rng: np.random.Generator

    def nearest(self, allowed: Mask, point: np.ndarray, mm3: float) -> Mask:
        """Mark the allowed voxels that are nearest to a point, of a volume."""
        index = np.argwhere(allowed)
        away = (((index - point) * self.spacing) ** 2).sum(1)
        marked = np.zeros_like(allowed)
        count = max(round(mm3 / self.spacing.prod()), 1)
        marked[tuple(index[np.argsort(away, kind="stable")[:count]].T)] = True
        return marked

    def any_of(self, mask: Mask) -> np.ndarray:
        """Choose one of the voxels of a mask."""
        index = np.argwhere(mask)
        return index[self.rng.integers(len(index))]

    @property
    def mm3(self) -> float:
        """Its volume."""
        return float(self.mask.sum() * self.spacing.prod())

    @property
    def slices(self) -> tuple[int, int]:
        """First slice, and the one after the last."""
        used = np.flatnonzero(self.mask.any(axis=(1, 2)))
        return int(used[0]), int(used[-1]) + 1

    def border(self) -> np.ndarray:
        """Choose a voxel of the border."""
        return self.any_of(self.mask & ~ndimage.binary_erosion(self.mask))

    def moved(self, offset: np.ndarray) -> Mask:
        """Move the mask by so many voxels."""
        return ndimage.shift(self.mask.astype(np.uint8), offset, order=0) > 0

    def away(self) -> np.ndarray:
        """Compute the distance from the mask, in mm."""
        return np.asarray(ndimage.distance_transform_edt(~self.mask, self.spacing))


def slice_missing(contour: Contour) -> Mask:
    """Lose a slice of the middle half."""
    first, end = contour.slices
    mask = contour.mask.copy()
    mask[first + int((end - first) * contour.rng.uniform(0.25, 0.75))] = False
    return mask


def every_third_slice_missing(contour: Contour) -> Mask:
    """Lose every third slice between the first and the last."""
    first, end = contour.slices
    mask = contour.mask.copy()
    mask[first + 1 + contour.rng.integers(2) : end - 1 : 3] = False
    return mask


def shifted_by_a_slice(contour: Contour) -> Mask:
    """Move it up or down."""
    return contour.moved(np.array([contour.rng.choice([-1, 1]), 0, 0]))


def shifted_by_4_mm(contour: Contour) -> Mask:
    """Move it within the slices."""
    angle = contour.rng.uniform(0, 2 * np.pi)
    return contour.moved(np.round(np.array([0, np.cos(angle), np.sin(angle)]) * 4 / contour.spacing))


def outline_3_mm_out(contour: Contour) -> Mask:
    """Widen the third that lies farthest in a direction."""
    direction = contour.spacing * contour.rng.normal(size=3)
    along = np.tensordot(np.moveaxis(np.indices(contour.mask.shape), 0, -1), direction, 1)
    third = along > np.quantile(along[contour.mask], 2 / 3)
    return contour.mask | (third & (contour.away() <= 3))


def leak(contour: Contour) -> Mask:
    """Add 1 ml, at most a tenth of the organ, at a place of the border."""
    return contour.mask | contour.nearest(~contour.mask, contour.border(), min(1000, contour.mm3 / 10))


def lobe_cut_off(contour: Contour) -> Mask:
    """Lose 6 % of the organ at a place of the border."""
    return contour.mask & ~contour.nearest(contour.mask, contour.border(), 0.06 * contour.mm3)


def hole(contour: Contour) -> Mask:
    """Lose 2 % of the organ, deep inside."""
    depth = ndimage.distance_transform_edt(contour.mask, contour.spacing)
    return contour.mask & ~contour.nearest(contour.mask, contour.any_of(depth >= 0.7 * depth.max()), 0.02 * contour.mm3)


def island(contour: Contour) -> Mask:
    """Add 2 % of the organ, 8 to 20 mm away."""
    away = contour.away()
    near = (away >= 8) & (away <= 20)
    place = contour.any_of(near if near.any() else away == away.max())
    return contour.mask | contour.nearest(away > 3, place, 0.02 * contour.mm3)


def sides_swapped(contour: Contour) -> Mask:
    """Mirror it in the image, right and left."""
    return contour.mask[:, :, ::-1].copy()


def of_another_patient(contour: Contour) -> Mask:
    """Take another patient's, voxel by voxel."""
    mask = np.zeros_like(contour.mask)
    part = tuple(slice(min(sizes)) for sizes in zip(mask.shape, contour.other.shape, strict=True))
    mask[part] = contour.other[part]
    return mask


def half_resolution(contour: Contour) -> Mask:
    """Take every second voxel along each axis for its neighbours, too."""
    at = [np.arange(size) // 2 * 2 for size in contour.mask.shape]
    return np.asarray(contour.mask[np.ix_(*at)])


GROSS = (
    slice_missing,
    every_third_slice_missing,
    shifted_by_a_slice,
    shifted_by_4_mm,
    sides_swapped,
    of_another_patient,
    half_resolution,
)
LOCAL = (outline_3_mm_out, leak, lobe_cut_off, hole, island)
ERRORS: tuple[Callable[[Contour], Mask], ...] = GROSS + LOCAL
CLICKED = [error.__name__ for error in (slice_missing, every_third_slice_missing, *LOCAL)]
"""Errors that a reader would mend by clicks; of the others the contour is drawn anew."""
GROSS_NAMES = {error.__name__: error for error in GROSS}

ELSEWHERE = "another patient", "from where the model sees", "lies where the model sees", "is not seen by the model"
NAMED = {
    slice_missing: ("is missing in",),
    every_third_slice_missing: ("is missing in",),
    shifted_by_a_slice: ("shifted",),
    shifted_by_4_mm: ("shifted",),
    sides_swapped: ("mirrored", "swapped", *ELSEWHERE),
    of_another_patient: ELSEWHERE,
    half_resolution: ("coarser voxels",),
}
"""What a finding says that names a gross error."""

Method = Callable[[Prediction, np.ndarray, Label], list[Piece]]


def improbable_voxels(prediction: Prediction, drawn: np.ndarray, label: Label) -> list[Piece]:
    """Mark the voxels whose drawn label has a probability below .05."""
    labelled, p = label.mask(drawn), label_probability(prediction, label)
    weight = (np.where(labelled, p, 1 - p) < 0.05).astype(float)
    return pieces_of(prediction, label, whole(drawn.shape), labelled, weight)


def disagreement(prediction: Prediction, drawn: np.ndarray, label: Label) -> list[Piece]:
    """Mark the voxels where the model's segmentation differs."""
    labelled = label.mask(drawn)
    weight = (labelled != label.mask(prediction.segmentation)).astype(float)
    return pieces_of(prediction, label, whole(drawn.shape), labelled, weight)


@lru_cache(maxsize=1)
def doubtful(prediction: Prediction) -> list[tuple[Region, Box, Mask]]:
    """List the doubtful regions of the prediction."""
    return masks(find_regions(prediction))


def expected_error(prediction: Prediction, _given: np.ndarray, label: Label) -> list[Piece]:
    """List them whatever is drawn."""
    return [Piece(label, box, mask, False, region.expected_error_mm3) for region, box, mask in doubtful(prediction)]


METHODS: dict[str, Method] = {
    OURS: improbable_pieces,
    "without correlation": lambda *of: improbable_pieces(*of, reach=0),
    "SSN's noise": lambda *of: improbable_pieces(*of, reach=np.inf),
    P05: improbable_voxels,
    "disagreement": disagreement,
    "expected error": expected_error,
}


def hits(pieces: list[Piece], wrong: Mask) -> list[tuple[float, int]]:
    """List the score of each piece, and whether it is in the error."""
    total, listed = int(wrong.sum()), []
    for piece in pieces:
        inside = int(wrong[piece.box][piece.mask].sum())
        hit = 2 * inside >= min(int(piece.mask.sum()), total) > 0
        listed.append((float(f"{piece.discrepancy:.4g}"), int(hit)))
    return listed


@dataclass(frozen=True, eq=False)
class Examined:
    """A prediction, without its model's own calibration, and the truth."""

    prediction: Prediction
    truth: np.ndarray

    @property
    def labels(self) -> list[Label]:
        """Those that both have."""
        both = self.truth, self.prediction.segmentation
        return [label for label in self.prediction.labels if all(label.mask(each).any() for each in both)]

    @cached_property
    def samples(self) -> dict[str, list[Mask]]:
        """Masks of each label that are drawn from the model."""
        drawn: dict[str, list[Mask]] = {}
        for label in self.labels:
            voxels = ChangingVoxels.of(self.prediction, [label])
            for values in voxels.samples(SAMPLES):
                sample = self.prediction.segmentation.copy()
                sample[tuple(voxels.places)] = values
                drawn.setdefault(label.name, []).append(label.mask(sample))
        return drawn

    def own(self) -> dict[str, Any]:
        """Measure our own segmentation, label by label."""
        rows = {}
        for label in self.labels:
            volume, pairs = self.prediction.stated_volumes[label.name], combinations(self.samples[label.name], 2)
            rows[label.name] = self.agreement(self.prediction.segmentation, label) | {
                "doubt": -volume.error_ml / volume.ml,
                "samples": float(np.mean([dice(a, b) for a, b in pairs])),
            }
        return rows

    def drawn(self, segmentations: Iterable[np.ndarray]) -> list[dict[str, Any]]:
        """Measure segmentations by others, label by label."""
        return [self.agreement(each, label) for each in segmentations for label in self.labels]

    def agreement(self, drawn: np.ndarray, label: Label) -> dict[str, Any]:
        """Measure Dice, and what is expected of it; all but `dice`, `overlap` and `samples` are Jaccard distances."""
        own = self.prediction.segmentation
        expected, ours = (
            jaccard_distance(expected_agreement(self.prediction, mask)[label.name].dice) for mask in (drawn, own)
        )
        overlap = dice(drawn, own, label.value)
        return {
            "label": label.name,
            "dice": dice(drawn, self.truth, label.value),
            "expected": expected,
            "bound": jaccard_distance(overlap) + ours,  # but for a residual of calibration cases
            "overlap": overlap,
            "samples": float(np.mean([dice(label.mask(drawn), each) for each in self.samples[label.name]])),
        }

    def wrong(self, other: np.ndarray, number: int) -> Iterator[tuple[str, Label, np.ndarray, Mask]]:
        """Put each error into the contour of one of the labels that another patient has, too.

        Yields its name, the label, the label map and where that is wrong.
        """
        labels = [label for label in self.labels if label.mask(other).any()]
        for place, error in enumerate(ERRORS if labels else ()):
            label = labels[(number + place) % len(labels)]
            rng = np.random.default_rng([number, zlib.crc32(error.__name__.encode())])
            contour = Contour(label.mask(self.truth), label.mask(other), self.prediction.grid.spacing, rng)
            mask = error(contour)
            drawn = np.where(contour.mask & ~mask, 0, self.truth)
            drawn[mask] = label.value
            yield error.__name__, label, drawn, mask != contour.mask

    def regions(self, other: np.ndarray, number: int) -> dict[str, Any]:
        """Check the contours with each error in one label, and with the gross ones in all labels."""
        tried: dict[str, Any] = {}
        for name, label, drawn, wrong in self.wrong(other, number):
            size = float(np.count_nonzero(wrong) / np.count_nonzero(label.mask(self.truth)))
            tried[name] = {"label": label.name, "size": size, "listed": self.listed(drawn, label, wrong)}
            if name in GROSS_NAMES:
                tried[name] |= {"named": self.named(drawn)[name], "named in all": self.all_named(name, other, number)}
        return tried

    def clicks(self, other: np.ndarray, number: int) -> dict[str, dict[str, list[float]]]:
        """Let a reader mend an error by clicks: which fraction of what is wrong is left after 1 to `CLICKS` of them.

        A reader knows the truth, and clicks in the listed regions, two times in each at most, or anywhere.
        """
        left: dict[str, dict[str, list[float]]] = {}
        for name, _, drawn, wrong in self.wrong(other, number):
            if name in CLICKED and wrong.any():
                checked = replace(self.prediction, segmentation=drawn, checked=Checked("drawn", "0" * 64, {}))
                case = ReadCase(checked, self.truth, find_discrepancies(checked, drawn), 0.0)
                correct = Refined(checked, checked.click_settings)
                ways = {"list": click_in_regions(case, correct), "anywhere": click_at_errors(case, correct)}
                left[name] = {
                    way: [
                        np.count_nonzero(case.wrong(step.prediction.segmentation)) / np.count_nonzero(wrong)
                        for step in islice(steps, CLICKS)
                    ]
                    for way, steps in ways.items()
                }
        return left

    def unaltered(self) -> dict[str, Any]:
        """Check the contours as they are."""
        nothing = np.zeros(self.truth.shape, bool)
        listed = {label.name: self.listed(self.truth, label, nothing) for label in self.labels}
        return {"listed": listed, "named": self.named(self.truth)}

    def all_named(self, name: str, other: np.ndarray, number: int) -> bool:
        """Put a gross error into all labels alike, and tell whether it is named."""
        drawn, error = np.zeros_like(self.truth), GROSS_NAMES[name]
        for label in self.prediction.labels:
            mask = label.mask(self.truth)
            if mask.any():
                rng = np.random.default_rng([number, zlib.crc32(name.encode())])
                drawn[error(Contour(mask, label.mask(other), self.prediction.grid.spacing, rng))] = label.value
        return self.named(drawn)[name]

    def named(self, drawn: np.ndarray) -> dict[str, bool]:
        """Tell of each gross error whether a finding names it."""
        labels = [label for label in self.prediction.labels if label.mask(drawn).any()]
        text = " ".join(each.sentence for each in plain_findings(drawn, self.prediction, labels))
        return {error.__name__: any(words in text for words in NAMED[error]) for error in GROSS}

    def listed(self, drawn: np.ndarray, label: Label, wrong: Mask) -> dict[str, list[tuple[float, int]]]:
        """List the regions of each method."""
        return {name: hits(method(self.prediction, drawn, label), wrong) for name, method in METHODS.items()}


@dataclass(frozen=True)
class Judged:
    """A held-out case, judged by what all other subjects calibrate."""

    row: dict[str, Any]
    others: list[dict[str, Any]]

    def listed(self, method: str, drawn: dict[str, dict[str, list[tuple[float, int]]]], alarms: float) -> list[int]:
        """Tell of each region on the list of all labels whether it is in the error, in the order of the list."""
        ranked = []
        for label, pieces in drawn.items():
            bounds = self._bounds[method, label]
            for rank, (score, hit) in enumerate(pieces[method], start=1):
                ranked.append((len(drawn) * bounds.false_alarms(score, rank), -score, hit))
        return [hit for expected, _, hit in sorted(ranked) if expected <= alarms]

    @cached_property
    def _bounds(self) -> dict[tuple[str, str], DrawnBounds]:
        bounds = {}
        for method, label in product(METHODS, self.row["unaltered"]["listed"]):
            others = [row["unaltered"]["listed"].get(label) for row in self.others]
            contours = [[score for score, _ in each[method]] for each in others if each]
            bounds[method, label] = DrawnBounds(
                len(contours), DrawnCalibration.of(contours, (), ()).discrepancies, 0, 0
            )
        return bounds

    def false_regions(self, method: str) -> int:
        """Count the regions on the list of the unaltered contours."""
        return len(self.listed(method, self.row["unaltered"]["listed"], FALSE_ALARMS))

    def first(self, method: str, error: str, alarms: float) -> int | None:
        """Find the rank of the first region in an error, at so many false regions a case."""
        tried = self.row["regions"][error]
        listed = self.listed(method, self.row["unaltered"]["listed"] | {tried["label"]: tried["listed"]}, alarms)
        return listed.index(1) + 1 if 1 in listed else None

    def found(self, method: str, error: str, alarms: float) -> bool:
        """Tell whether that is among the first."""
        return (self.first(method, error, alarms) or FIRST + 1) <= FIRST

    def of_size(self, errors: Iterable[str], least: float) -> list[str]:
        """Choose errors of at least a fraction of the organ."""
        return [name for name in errors if self.row["regions"][name]["size"] > least]

    def expected(self, entry: dict[str, Any]) -> tuple[float, float]:
        """Compute expected Dice, and its lower bound, of a segmentation, as `expected_agreement` does."""
        labels = [row["labels"][entry["label"]] for row in self.others if entry["label"] in row["labels"]]
        residuals = [jaccard_distance(each["dice"]) - each["expected"] for each in labels]
        expected = min(dice_at(entry["expected"] + median(residuals)), 1.0)
        return expected, min(dice_at(entry["bound"] + conformal_quantile(residuals, LEVEL)), expected)


def segmentations(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """List the segmentations of a case, of a set or our own."""
    return list(row["labels"].values()) if name == OWN else row.get(name, [])


def over_subjects(values: Sequence[float], cases: Sequence[Judged]) -> list[float]:
    """Take means over the cases of a subject."""
    together: dict[str, list[float]] = {}
    for value, case in zip(values, cases, strict=True):
        together.setdefault(case.row["subject"], []).append(value)
    return [float(np.mean(each)) for each in together.values()]


def errors_found(tried: list[Judged]) -> dict[str, Any]:
    """Tell how often each method finds each error, how often that is named, and what ours gains."""
    groups = {error.__name__: [error.__name__] for error in ERRORS}
    groups |= {"gross": [*GROSS_NAMES], "local": [error.__name__ for error in LOCAL], "all": [*groups]}

    def rate(method: str, names: list[str], alarms: float, least: float = 0) -> list[float]:
        chosen = [(case, case.of_size(names, least)) for case in tried]
        chosen = [(case, names) for case, names in chosen if names]
        values = [float(np.mean([case.found(method, name, alarms) for name in names])) for case, names in chosen]
        return over_subjects(values, [case for case, _ in chosen])

    def rates(*of: Any) -> dict[str, str]:
        return {method: interval(rate(method, *of)) for method in METHODS}

    def looked_at(method: str) -> str:
        ranks = [[case.first(method, name, FALSE_ALARMS) for name in groups["all"]] for case in tried]
        return interval(over_subjects([float(np.mean([r for r in each if r])) for each in ranks], tried))

    def of(value: Callable[[Judged], float]) -> str:
        return interval(over_subjects([value(case) for case in tried], tried))

    table = {group: rates(names, FALSE_ALARMS) for group, names in groups.items()}
    table[f"local, above {LARGE:.0%} of the organ"] = rates(groups["local"], FALSE_ALARMS, LARGE)
    for group in ("gross", "local", "all"):
        table[f"{group}, at {STRICT} false regions a case"] = rates(groups[group], STRICT)
    table["false regions a case"] = {
        method: of(lambda case, method=method: float(case.false_regions(method))) for method in METHODS
    }
    table["regions up to the first in an error"] = {method: looked_at(method) for method in (OURS, P05)}
    gains = {
        f"{method}, at {alarms:g} false regions a case": np.subtract(
            rate(OURS, groups["all"], alarms), rate(method, groups["all"], alarms)
        ).tolist()
        for alarms in (FALSE_ALARMS, STRICT)
        for method in METHODS
        if method != OURS
    }
    p = holm([signed_rank(values) for values in gains.values()])
    named = {
        name: {
            "in one label": of(lambda case, name=name: case.row["regions"][name]["named"]),
            "in all": of(lambda case, name=name: case.row["regions"][name]["named in all"]),
            "of contours as they are": of(lambda case, name=name: case.row["unaltered"]["named"][name]),
            "found or named": of(
                lambda case, name=name: case.row["regions"][name]["named"] or case.found(OURS, name, FALSE_ALARMS)
            ),
        }
        for name in GROSS_NAMES
    }
    return {
        "found": table,
        "named": named,
        "gain over": {
            m: {"found": interval(values), "p": p_m} for (m, values), p_m in zip(gains.items(), p, strict=True)
        },
    }


def orders(judged: list[Judged]) -> dict[str, Any]:
    """Compare orders of our own segmentations: as they are and, with each label's median error known, shifted by it.

    The median is that over all cases of its set, one number for each label and order.
    """
    entries = [(case, label, entry) for case in judged for label, entry in case.row["labels"].items()]
    subjects = np.array([case.row["subject"] for case, _, _ in entries])
    true = np.array([entry["dice"] for _, _, entry in entries])
    groups = np.array([f"{case.row.get('set')} {label}" for case, label, _ in entries])
    raw = {
        "expected Dice": np.array([dice_at(entry["expected"]) for _, _, entry in entries]),
        "samples": np.array([entry["samples"] for _, _, entry in entries]),
        "expected error / volume": np.array([1 + entry["doubt"] for _, _, entry in entries]),
    }
    result: dict[str, Any] = {"segmentations": len(true), "Dice": f"{true.mean():.3f}"}
    for way in ("as they are", "shifted"):
        scores = dict(raw)
        if way == "shifted":
            for name, values in raw.items():
                shift = {group: np.median((true - values)[groups == group]) for group in set(groups)}
                scores[name] = values + np.array([shift[group] for group in groups])
        for what, measure, better in (("Spearman", spearman, 1), ("area", area, -1)):
            row = {name: estimate(measure, subjects, values, true) for name, values in scores.items()}
            for name in ("samples", "expected error / volume"):

                def gain(ours: np.ndarray, other: np.ndarray, dice: np.ndarray, m=measure, sign=better) -> float:
                    return sign * (m(ours, dice) - m(other, dice))

                row[f"gain over {name}"] = estimate(gain, subjects, scores["expected Dice"], scores[name], true)
            result[f"{what}, {way}"] = row
    result["area, at best"] = estimate(area, subjects, true, true)
    result["area, of no order"] = estimate(lambda dice: float(1 - dice.mean()), subjects, true)
    return result


def mended(clicked: list[Judged]) -> dict[str, dict[str, str]]:
    """Sum up which fraction of the error in a contour is mended after 3 and 5 clicks."""

    def fraction(way: str, clicks: int, names: Iterable[str]) -> str:
        values, tried = [], []
        for case in clicked:
            left = [[1.0, *each[way]][: clicks + 1][-1] for name, each in case.row["clicks"].items() if name in names]
            if left:
                values.append(1 - float(np.mean(left)))
                tried.append(case)
        return interval(over_subjects(values, tried))

    return {
        name: {f"{way}, {n} clicks": fraction(way, n, names) for way in ("list", "anywhere") for n in (3, CLICKS)}
        for name, names in {**{name: [name] for name in CLICKED}, "all": CLICKED}.items()
    }


def area(score: np.ndarray, dice: np.ndarray) -> float:
    """Compute the area under the risk-coverage curve: the mean of 1 - Dice of the n best by a score, over all n."""
    risks = 1 - dice[np.argsort(-score, kind="stable")]
    return float(np.mean(np.cumsum(risks) / np.arange(1, len(risks) + 1)))


def expectations(name: str, judged: list[Judged]) -> dict[str, str]:
    """Compare expected Dice with Dice, and with what else could be stated of the segmentations of a set."""
    listed = [(case, entry) for case in judged for entry in segmentations(case.row, name)]
    subjects = np.array([case.row["subject"] for case, _ in listed])
    true, overlap, samples = (np.array([entry[key] for _, entry in listed]) for key in ("dice", "overlap", "samples"))
    expected, low = np.array([case.expected(entry) for case, entry in listed]).T
    ways, orders = {"expected Dice": expected, "samples": samples}, {"samples": samples}
    if name == OWN:
        orders["expected error / volume"] = np.array([entry["doubt"] for _, entry in listed])
    else:
        ways["line"], line_low = line(overlap, true, subjects)
        orders["line"] = overlap
    ours = np.array([-entry["expected"] for _, entry in listed])

    def gain(ours: np.ndarray, other: np.ndarray, dice: np.ndarray) -> float:
        return spearman(ours, dice) - spearman(other, dice)

    row = {"segmentations": f"{len(listed)}", "Dice": f"{true.mean():.3f}", "expected Dice": f"{expected.mean():.3f}"}
    for what, bound in {"bound": low, **({} if name == OWN else {"bound of the line": line_low})}.items():
        row[f"{what} holds"] = estimate(np.mean, subjects, true >= bound)
        row[f"{what}, mean"] = f"{bound.mean():.3f}"
    for way, values in ways.items():
        row[f"mean error, {way}"] = estimate(np.mean, subjects, np.abs(values - true))
    row["Spearman, expected Dice"] = estimate(spearman, subjects, ours, true)
    for way, values in orders.items():
        row[f"Spearman, {way}"] = estimate(spearman, subjects, values, true)
        row[f"gain over {way}"] = estimate(gain, subjects, ours, values, true)
    return row


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Spearman's correlation."""
    return float(spearmanr(a, b)[0])


def line(overlap: np.ndarray, true: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict Dice by its overlap with ours, by a line through those of all other subjects, and its lower bound."""
    at, low = np.zeros(len(true)), np.zeros(len(true))
    for subject in np.unique(subjects):
        mine = subjects == subject
        fitted = np.polynomial.Polynomial.fit(overlap[~mine], true[~mine], 1)
        at[mine] = fitted(overlap[mine])
        low[mine] = at[mine] - conformal_quantile(fitted(overlap[~mine]) - true[~mine], LEVEL)
    return at, low


def estimate(statistic: Callable[..., float], subjects: np.ndarray, *values: np.ndarray) -> str:
    """Write a statistic of values of each segmentation, and its 95 % interval: a bootstrap over the subjects."""
    groups = [np.flatnonzero(subjects == subject) for subject in np.unique(subjects)]
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(groups), size=len(groups)) for _ in range(RESAMPLES))
    chosen = (np.concatenate([groups[number] for number in numbers]) for numbers in drawn)
    low, high = np.nanquantile([statistic(*(each[at] for each in values)) for at in chosen], (0.025, 0.975))
    return f"{statistic(*values):.3f} ({low:.3f} to {high:.3f})"


def summed_up(judged: list[Judged]) -> dict[str, Any]:
    """Sum judged cases up; means with intervals over the subjects."""
    rows = [case.row for case in judged]
    tried = [case for case in judged if case.row.get("regions")]
    return {
        "cases": len(rows),
        "subjects": len({row["subject"] for row in rows}),
        "cases with regions": len(tried),
        **(errors_found(tried) if tried else {}),
        **({"mended": mended(clicked)} if (clicked := [case for case in judged if case.row.get("clicks")]) else {}),
        "orders": orders(judged),
        "expected": {
            name: expectations(name, [case for case in judged if segmentations(case.row, name)])
            for name in (OWN, *SETS)
            if any(segmentations(row, name) for row in rows)
        },
    }


def text(name: str, summary: dict[str, Any]) -> str:
    """Write the results of a set as Markdown."""
    lines = ["## {}: {cases} cases of {subjects} subjects, regions of {cases with regions}".format(name, **summary)]

    def table(head: str, rows: dict[str, dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines.extend(["", f"| {head} | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"])
        for name, row in rows.items():
            cells = (str(row.get(column, "–")) for column in columns)
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")

    if "found" in summary:
        table("found among the first three", summary["found"])
        table("named", summary["named"])
        table("gain over", {m: row | {"p": f"{row['p']:.2g}"} for m, row in summary["gain over"].items()})
    if "mended" in summary:
        table("mended", summary["mended"])
    table("order of our own", {name: row for name, row in summary["orders"].items() if isinstance(row, dict)})
    lines += ["", *(f"- {name}: {row}" for name, row in summary["orders"].items() if not isinstance(row, dict))]
    if expected := summary["expected"]:
        keys = dict.fromkeys(key for row in expected.values() for key in row)
        table("expected Dice", {key: {name: row.get(key, "–") for name, row in expected.items()} for key in keys})
    return "\n".join(lines) + "\n"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read what was measured of the cases of a set, and the name of the set."""
    rows = json.loads(gzip.decompress(file.read_bytes()))
    name = file.name.removesuffix(".json.gz")
    return [{"set": name, **row, "subject": f"{name} {row['subject']}"} for row in rows.values()]


def judge(rows: list[dict[str, Any]], calibration: list[dict[str, Any]]) -> list[Judged]:
    """Judge cases by others: those of a part for that or, without one, all other subjects of their own."""
    return [Judged(row, calibration or [other for other in rows if other["subject"] != row["subject"]]) for row in rows]


def summarise(folder: Path) -> None:
    """Judge all sets of a folder, each and pooled, and write numbers and tables."""
    sets: dict[str, list[Judged]] = {}
    for file in sorted(folder.glob("*-test.json.gz")):
        beside = [file.with_name(file.name.replace("-test", f"-{part}")) for part in ("val", "calibrate")]
        calibration = [row for each in beside if each.exists() for row in read_rows(each)]
        sets[file.name.removesuffix("-test.json.gz")] = judge(read_rows(file), calibration)
    if len(sets) > 1:
        sets["pooled"] = [case for each in sets.values() for case in each]
    summary = {name: rounded(summed_up(judged)) for name, judged in sets.items()}
    write_json(summary, folder / "summary.json")
    (folder / "summary.md").write_text("\n".join(text(name, each) for name, each in summary.items()), encoding="utf-8")


def main() -> None:
    """Measure what OUTPUT does not have already, and write the numbers and the tables of all that it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("model", nargs="?"), parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--part", default="test", help="of the split, for a raw data set")
    parser.add_argument("--sets", nargs="*", choices=("regions", "clicks", *SETS), default=["regions"])
    parser.add_argument("--network", type=Path, help="model folder, or training folder")
    parser.add_argument("--cases", type=int, help="only so many")
    asked = parser.parse_args()
    if asked.model:
        measure(asked)
    summarise(asked.output)


def measure(asked: argparse.Namespace) -> None:
    """Measure the cases of a set."""
    model, on_cpu = load_model(find_model(asked.model)), PredictionSettings(device="cpu")
    predictor = Predictor(model, on_cpu)
    network = Predictor(load_model(asked.network), on_cpu) if asked.network else None
    table = asked.dataset / CASES_FILE
    subjects = read_subjects(table) if table.exists() else {}
    listed = list(cases(asked.dataset, model.card.labels, asked.part))
    asked.output.mkdir(parents=True, exist_ok=True)
    file = asked.output / f"{model.card.name}-{asked.part}.json.gz"
    rows = json.loads(gzip.decompress(file.read_bytes())) if file.exists() else {}
    for number, (name, path, truth) in enumerate(listed[: asked.cases]):
        start = time.monotonic()
        row = rows.setdefault(name, {"subject": subjects.get(name, name)})
        if missing := {"labels", "unaltered", *asked.sets} - row.keys():
            image = read_image(path).image
            case = Examined(replace(predictor.predict(image), stated_bounds=None), truth)
            other = listed[(number + 1) % len(listed)][2]
            if "labels" in missing:
                row["labels"] = case.own()
            if "unaltered" in missing:
                row["unaltered"] = case.unaltered()
            if "regions" in missing:
                row["regions"] = case.regions(other, number)
            if "clicks" in missing:
                row["clicks"] = case.clicks(other, number)
            if "errors" in missing:
                row["errors"] = [case.agreement(drawn, label) for _, label, drawn, _ in case.wrong(other, number)]
            if "network" in missing:
                row["network"] = case.drawn([network.predict(image).segmentation])
            if "raters" in missing:
                row["raters"] = case.drawn(read_raters(asked.dataset, name, case.prediction)[0])
            file.write_bytes(gzip.compress(json.dumps(rounded(rows)).encode(), mtime=0))
        print(f"{number + 1} of {len(listed)}: {name}, {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
