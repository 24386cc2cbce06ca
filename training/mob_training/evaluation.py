"""Whole cases in the image's own geometry: a model folder and a data set's held-out cases -> scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.agreement import dice, error_share, error_split
from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.images import read_image
from MoBUncertaintyLib.model import load_model
from MoBUncertaintyLib.prediction import Prediction, PredictionSettings, Predictor
from MoBUncertaintyLib.regions import Measure, Regions, RegionSettings, find_regions

MEASURES = (Measure.VARIANCE, Measure.BERNOULLI)


def held_out_cases(dataset: Path) -> list[tuple[str, Path, Path]]:
    """Name, image and label map of every held-out case of a raw nnU-Net data set (`imagesTs`, `labelsTs`)."""
    return [
        (path.name.removesuffix(".nii.gz"), dataset / "imagesTs" / path.name.replace(".nii.gz", "_0000.nii.gz"), path)
        for path in sorted((dataset / "labelsTs").glob("*.nii.gz"))
    ]


def evaluate(
    model_path: Path,
    dataset: Path,
    settings: PredictionSettings | None = None,
    report: Callable[[str], None] = print,
) -> dict:
    """Dice per case, and how much of the segmentation's error lies in the flagged regions, for each measure of doubt.

    Returns:
        `summary` (mean, median, least and greatest over the cases) and `cases`, ready to be written as JSON.

    Raises:
        SettingsError: The data set has no held-out cases.
    """
    cases = held_out_cases(dataset)
    if not cases:
        raise SettingsError(f"{dataset} has no held-out cases (imagesTs, labelsTs).")
    predictor = Predictor(load_model(model_path), settings)
    rows = []
    for name, image_path, truth_path in cases:
        prediction = predictor.predict(read_image(image_path)[0])
        row = {"case": name} | score(prediction, sitk.ReadImage(str(truth_path)))
        report(f"{name}: Dice {row['dice']:.4f}, {row['variance']['regions']} regions")
        rows.append(row)
    return {"summary": summarise(rows), "cases": rows}


def score(prediction: Prediction, truth: sitk.Image) -> dict:
    """Dice and, per measure of doubt, the regions and the error inside them, of one case."""
    row: dict = {"dice": dice(prediction.segmentation, truth)}
    for measure in MEASURES:
        regions = find_regions(
            prediction.probability, prediction.variance, prediction.segmentation, RegionSettings(measure)
        )
        row[measure.value] = {
            "regions": len(regions.regions),
            "longest_mm": max((region.extent_mm for region in regions.regions), default=0.0),
            **error_share(regions, prediction.segmentation, truth),
            "caught": caught_by_rank(regions, prediction.segmentation, truth),
        }
    return row


def caught_by_rank(regions: Regions, segmentation: sitk.Image, truth: sitk.Image) -> dict[str, list[float]]:
    """Share of the error, and of the thick error, inside the first 1, 2, ... regions of the ranking."""
    labels = sitk.GetArrayViewFromImage(regions.labels)
    shares = {}
    for name, mask in zip(("error", "thick_error"), error_split(segmentation, truth), strict=True):
        counts = np.bincount(labels[mask], minlength=len(regions.regions) + 1)
        shares[name] = (np.cumsum(counts[1:]) / max(counts.sum(), 1)).tolist()
    return shares


def summarise(rows: list[dict]) -> dict:
    """Mean, median, least and greatest over the cases of every number in the rows, nested as they are."""
    summary = {}
    for key, value in rows[0].items():
        if isinstance(value, dict):
            nested = summarise([row[key] for row in rows])
            if nested:
                summary[key] = nested
        elif not isinstance(value, str | list):
            # A share is undefined in a case without such error; it has no say in the mean.
            values = [row[key] for row in rows if row[key] is not None]
            if values:
                summary[key] = {
                    "mean": mean(values),
                    "median": median(values),
                    "least": min(values),
                    "greatest": max(values),
                }
    return summary


def write_scores(scores: dict | list, path: Path) -> None:
    """Write scores as JSON, rounded to what they mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = json.loads(json.dumps(scores), parse_float=lambda text: round(float(text), 5))
    path.write_text(json.dumps(rounded, indent=1) + "\n")
