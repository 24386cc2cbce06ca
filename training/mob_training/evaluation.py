"""Whole cases in the image's own geometry: a model folder and a data set's held-out cases -> scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import SimpleITK as sitk
from MoBUncertaintyLib.prediction import Prediction, PredictionSettings, Predictor

from MoBUncertaintyLib.agreement import dice, error_share
from MoBUncertaintyLib.model import load_model
from MoBUncertaintyLib.regions import Measure, RegionSettings, find_regions


@dataclass(frozen=True)
class TestCase:
    """An image and the label map that a reader drew on it."""

    __test__ = False

    name: str
    image: sitk.Image
    truth: sitk.Image


def test_cases(dataset: Path) -> list[tuple[str, Path, Path]]:
    """Name, image and label map of every held-out case of a raw nnU-Net data set (`imagesTs`, `labelsTs`)."""
    return [
        (path.name.removesuffix(".nii.gz"), dataset / "imagesTs" / path.name.replace(".nii.gz", "_0000.nii.gz"), path)
        for path in sorted((dataset / "labelsTs").glob("*.nii.gz"))
    ]


test_cases.__test__ = False  # type: ignore[attr-defined]


def evaluate(
    model_path: Path,
    dataset: Path,
    settings: PredictionSettings = PredictionSettings(),  # noqa: B008 - frozen
    report: Callable[[str], None] = print,
) -> dict:
    """Dice per case, and how much of the segmentation's error lies in the flagged regions, for both measures.

    Returns:
        `summary` (means and medians over the cases) and `cases`, ready to be written as JSON.
    """
    predictor = Predictor(load_model(model_path), settings)
    rows = []
    for name, image_path, truth_path in test_cases(dataset):
        prediction = predictor.predict(sitk.ReadImage(str(image_path)))
        row = {"case": name} | score(prediction, sitk.ReadImage(str(truth_path)))
        report(f"{name}: Dice {row['dice']:.4f}, {row['variance_regions']} regions")
        rows.append(row)
    return {"summary": summarise(rows), "cases": rows}


def score(prediction: Prediction, truth: sitk.Image) -> dict:
    """Scores of one case."""
    row: dict = {"dice": dice(prediction.segmentation, truth)}
    for measure in (Measure.VARIANCE, Measure.BERNOULLI):
        settings = RegionSettings.for_measure(measure)
        regions = find_regions(prediction.probability, prediction.variance, prediction.segmentation, settings)
        row[f"{measure.value}_regions"] = len(regions.regions)
        row[f"{measure.value}_longest_mm"] = max((region.extent_mm for region in regions.regions), default=0.0)
        row |= {
            f"{measure.value}_{key}": value
            for key, value in error_share(regions, prediction.segmentation, truth).items()
        }
    return row


def summarise(rows: list[dict]) -> dict:
    """Mean and median over the cases of every number in the rows."""
    keys = [key for key, value in rows[0].items() if isinstance(value, int | float)]
    return {
        key: {
            "mean": mean(row[key] for row in rows),
            "median": median(row[key] for row in rows),
            "worst": max(row[key] for row in rows) if key.endswith("_mm") else min(row[key] for row in rows),
        }
        for key in keys
    }


def write_scores(scores: dict, path: Path) -> None:
    """Write scores as JSON, rounded to what they mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(json.loads(json.dumps(scores), parse_float=lambda x: round(float(x), 5)), indent=1) + "\n"
    )
