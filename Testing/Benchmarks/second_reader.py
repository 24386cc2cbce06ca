"""Measure how well errors in a clinician's contour are found, and how good a segmentation is expected to be.

    python Testing/Benchmarks/second_reader.py MODEL DATASET OUTPUT [--part PART] [--cases N]

DATASET is as for `region_frontier.py`. In each case, each of `ERRORS` is put into the contour of one of the labels, in
turn. A method lists regions of a contour by a score; its threshold is that at which the unaltered contours of all other
subjects have one region a case on average (`DrawnBounds.false_alarms`). An error is found if one of the first three
listed regions lies in it by at least half, or holds at least half of it. OUTPUT then holds
`second-reader-MODEL-PART.json` and `second-reader-MODEL-PART.md`, with intervals over the subjects.

The constants of `regions.discrepancy` were chosen on the validation cases of the hippocampus, by what is found at one
false region a case and at 0.3, over all errors: the best definition (.992 and .992) was passed over for the second one
(.992 and .983), whose score is a lower bound of a joint likelihood.
"""

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.stats import bootstrap, spearmanr

from mob_training.comparison.significance import holm, signed_rank
from mob_training.comparison.tables import interval
from mob_training.data.datasets import CASES_FILE
from mob_training.data.split import read_subjects
from mob_training.evaluation.intervals import drawn_measures
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
from MoBUncertaintyLib.regions.discrepancy import FALSE_ALARMS, Piece, improbable_pieces, pieces_of
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.findings import plain_findings
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings
from MoBUncertaintyLib.regions.region import Region
from region_frontier import cases, rounded

FIRST = 3
STRICT = 0.3
"""False regions a case, besides `FALSE_ALARMS`."""
LEVEL = 0.9
OURS, P05 = "discrepancy", "p < .05"

Mask = np.ndarray


@dataclass(frozen=True)
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


def hits(pieces: list[Piece], wrong: Mask) -> list[tuple[float, bool]]:
    """List the score of each piece, and whether it is in the error."""
    total, listed = int(wrong.sum()), []
    for piece in pieces:
        inside = int(wrong[piece.box][piece.mask].sum())
        listed.append((piece.discrepancy, 2 * inside >= min(int(piece.mask.sum()), total) > 0))
    return listed


def examined(prediction: Prediction, truth: np.ndarray, other: np.ndarray, number: int) -> dict[str, Any]:
    """Check the contours of a case as they are, and with each error in one of its labels."""
    labels = [label for label in prediction.labels if label.mask(truth).any() and label.mask(other).any()]
    row: dict[str, Any] = {"labels": {}, "errors": {}}
    nothing = np.zeros(truth.shape, bool)
    for label in labels:
        measured = drawn_measures(prediction, truth, label)
        if measured:
            listed = {name: hits(method(prediction, truth, label), nothing) for name, method in METHODS.items()}
            volume = prediction.stated_volumes[label.name]
            own = {"dice": dice(prediction.segmentation, truth, label.value), "doubt": volume.error_ml / volume.ml}
            row["labels"][label.name] = measured | own | {"listed": listed}
    checked = [label for label in labels if label.name in row["labels"]]
    for place, error in enumerate(ERRORS if checked else ()):
        label = checked[(number + place) % len(checked)]
        rng = np.random.default_rng([number, zlib.crc32(error.__name__.encode())])
        contour = Contour(label.mask(truth), label.mask(other), prediction.grid.spacing, rng)
        mask = error(contour)
        drawn = np.where(contour.mask & ~mask, 0, truth)
        drawn[mask] = label.value
        row["errors"][error.__name__] = {
            "label": label.name,
            "dice": dice(drawn, truth, label.value),
            "overlap": dice(drawn, prediction.segmentation, label.value),
            "listed": {
                name: hits(method(prediction, drawn, label), mask != contour.mask) for name, method in METHODS.items()
            },
            "expected": expected(prediction, drawn, label),
        }
    moved = ndimage.shift(truth, [1 if number % 2 else -1, 0, 0], order=0)
    row["called shifted"] = {
        name: float(any("may be shifted" in each.sentence for each in plain_findings(drawn, prediction, checked)))
        for name, drawn in (("unaltered", truth), ("all labels moved by a slice", moved))
    }
    for label in checked:
        row["labels"][label.name]["expected"] = expected(prediction, prediction.segmentation, label)
    return row


def expected(prediction: Prediction, drawn: np.ndarray, label: Label) -> dict[str, float]:
    """State the expected Dice, and the Jaccard distance that with a residual of calibration cases bounds it."""
    own = expected_agreement(prediction, prediction.segmentation)[label.name].dice
    agreement = expected_agreement(prediction, drawn).get(label.name)
    apart = dice(drawn, prediction.segmentation, label.value)
    return {
        "dice": agreement.dice if agreement else 0.0,
        "jaccard": jaccard_distance(apart) + jaccard_distance(own),
    }


@dataclass(frozen=True)
class Judged:
    """A held-out case, judged by what all other subjects calibrate."""

    row: dict[str, Any]
    others: list[dict[str, Any]]

    def listed(self, method: str, label: str, pieces: list[tuple[float, bool]], alarms: float) -> list[bool]:
        """Tell of each region on the list of a label whether it is in the error."""
        others = [row["labels"][label] for row in self.others if label in row["labels"]]
        contours = [[score for score, _ in each["listed"][method]] for each in others]
        bounds = DrawnBounds(len(others), DrawnCalibration.of(contours, (), ()).discrepancies, 0, 0)
        most = alarms / len(self.row["labels"])
        ranked = enumerate(pieces, start=1)
        return [hit for rank, (score, hit) in ranked if bounds.false_alarms(score, rank) <= most]

    def false_regions(self, method: str) -> int:
        """Count the regions on the list of the unaltered contours."""
        labels = self.row["labels"].items()
        return sum(len(self.listed(method, name, each["listed"][method], FALSE_ALARMS)) for name, each in labels)

    def found(self, method: str, error: str, alarms: float) -> bool:
        """Tell whether an error is found at so many false regions a case."""
        tried = self.row["errors"][error]
        return any(self.listed(method, tried["label"], tried["listed"][method], alarms)[:FIRST])

    def low(self, label: str, of: dict[str, float]) -> float:
        """Return the lower bound of Dice."""
        residuals = [row["labels"][label]["jaccard"] for row in self.others if label in row["labels"]]
        return min(dice_at(of["jaccard"] + conformal_quantile(residuals, LEVEL)), of["dice"])


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Judge all cases; means with intervals over the subjects."""
    judged = [Judged(row, [other for other in rows if other["subject"] != row["subject"]]) for row in rows]
    tried = [each for each in judged if each.row["errors"]]

    def over_subjects(values: list[float], cases: list[Judged]) -> list[float]:
        together: dict[str, list[float]] = {}
        for value, case in zip(values, cases, strict=True):
            together.setdefault(case.row["subject"], []).append(value)
        return [float(np.mean(each)) for each in together.values()]

    groups = {error.__name__: (error,) for error in ERRORS} | {"gross": GROSS, "local": LOCAL, "all": ERRORS}

    def rate(method: str, group: str, alarms: float) -> list[float]:
        names = [error.__name__ for error in groups[group]]
        return over_subjects([float(np.mean([c.found(method, name, alarms) for name in names])) for c in tried], tried)

    table = {group: {method: interval(rate(method, group, FALSE_ALARMS)) for method in METHODS} for group in groups}
    for group in ("gross", "local", "all"):
        rates = {method: interval(rate(method, group, STRICT)) for method in METHODS}
        table[f"{group}, at {STRICT} false regions a case"] = rates
    table["false regions a case"] = {
        method: interval(over_subjects([float(each.false_regions(method)) for each in judged], judged))
        for method in METHODS
    }
    gains = {
        f"{method}, at {alarms:g} false regions a case": np.subtract(
            rate(OURS, "all", alarms), rate(method, "all", alarms)
        ).tolist()
        for alarms in (FALSE_ALARMS, STRICT)
        for method in METHODS
        if method != OURS
    }
    p = holm([signed_rank(values) for values in gains.values()])
    own = [(case, name, label) for case in judged for name, label in case.row["labels"].items()]
    drawn = [(case, each) for case in tried for each in case.row["errors"].values()]
    held = [float(label["dice"] >= case.low(name, label["expected"])) for case, name, label in own]
    held_drawn = [float(each["dice"] >= case.low(each["label"], each["expected"])) for case, each in drawn]
    true, stated, doubt = ([label[k] for *_, label in own] for k in ("dice", "expected", "doubt"))
    stated_drawn = [each["expected"]["dice"] for _, each in drawn]
    true_drawn, overlap = ([each[key] for _, each in drawn] for key in ("dice", "overlap"))
    shifted = {
        name: interval(over_subjects([case.row["called shifted"][name] for case in judged], judged))
        for name in rows[0]["called shifted"]
    }
    return {
        "cases": len(rows),
        "subjects": len({row["subject"] for row in rows}),
        "table": table,
        "gain over": {
            m: {"found": interval(values), "p": p_m} for (m, values), p_m in zip(gains.items(), p, strict=True)
        },
        "our segmentation": {
            "expected Dice and Dice, Spearman": correlation([each["dice"] for each in stated], true),
            "expected error / volume and Dice, Spearman": correlation(doubt, true),
            "Dice": float(np.mean(true)),
            "expected Dice": float(np.mean([each["dice"] for each in stated])),
            "bound held": interval(over_subjects(held, [case for case, *_ in own])),
            "bound, mean": float(np.mean([case.low(name, label["expected"]) for case, name, label in own])),
        },
        "drawn, with errors": {
            "expected Dice and Dice, Spearman": correlation(stated_drawn, true_drawn),
            "overlap with ours and Dice, Spearman": correlation(overlap, true_drawn),
            "bound held": interval(over_subjects(held_drawn, [case for case, _ in drawn])),
        },
        "called shifted": shifted,
    }


def correlation(a: list[float], b: list[float]) -> str:
    """Write Spearman's correlation with the 95 % interval of a bootstrap over the pairs."""
    made = bootstrap((a, b), lambda x, y: spearmanr(x, y)[0], paired=True, vectorized=False, n_resamples=1000,
                     method="percentile", random_state=0)  # fmt: skip
    low, high = made.confidence_interval
    return f"{spearmanr(a, b)[0]:.2f} ({low:.2f} to {high:.2f})"


def text(summary: dict[str, Any]) -> str:
    """Write the results as Markdown."""
    lines = [f"{summary['model']}: {summary['cases']} cases of {summary['subjects']} subjects", ""]
    lines += ["| found among the first three | " + " | ".join(METHODS) + " |", "| --- " * (len(METHODS) + 1) + "|"]
    for group, row in summary["table"].items():
        lines.append(f"| {group.replace('_', ' ')} | " + " | ".join(row.values()) + " |")
    lines += ["", "| gain over | found | p, Holm |", "| --- | --- | --- |"]
    lines += [f"| {method} | {row['found']} | {row['p']:.2g} |" for method, row in summary["gain over"].items()]
    for name in ("our segmentation", "drawn, with errors", "called shifted"):
        lines += ["", f"| {name} | |", "| --- | --- |", *(f"| {key} | {v} |" for key, v in summary[name].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the numbers and the table; cases that OUTPUT has already are not checked again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model"), parser.add_argument("dataset", type=Path), parser.add_argument("output", type=Path)
    parser.add_argument("--part", default="test", help="of the split, for a raw data set")
    parser.add_argument("--cases", type=int, help="only so many")
    asked = parser.parse_args()
    model = load_model(find_model(asked.model))
    predictor = Predictor(model, PredictionSettings(device="cpu"))
    table = asked.dataset / CASES_FILE
    subjects = read_subjects(table) if table.exists() else {}
    listed = list(cases(asked.dataset, model.card.labels, asked.part))[: asked.cases]
    folder = asked.output / f"second-reader-{model.card.name}-{asked.part}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (name, image, truth) in enumerate(listed):
        file = folder / f"{name}.json"
        if not file.exists():
            other = listed[(number + 1) % len(listed)][2]
            row = examined(predictor.predict(read_image(image).image), truth, other, number)
            write_json(row | {"subject": subjects.get(name, name)}, file)
        rows.append(json.loads(file.read_text()))
        print(f"{number + 1} of {len(listed)}: {name}", flush=True)
    summary = {"model": model.card.name, "part": asked.part} | rounded(summed_up(rows))
    write_json(summary, folder.with_suffix(".json"))
    folder.with_suffix(".md").write_text(text(summary))
    print(text(summary))


if __name__ == "__main__":
    main()
