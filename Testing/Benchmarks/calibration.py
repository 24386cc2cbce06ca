"""Check what a site's own calibration does to cases that are not among its reviews.

    python Testing/Benchmarks/calibration.py OUTPUT [--model MODEL] [--reviews 10] [--others 20]

Phantoms are predicted and reviewed by simulated readers, one who draws what is true in each region and one who gives
the best verdict, and the model is calibrated on the signed reviews of each. Others are predicted with the old model
and with that of the first reader. One cohort is scanned as the model's training phantoms were, one is not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.stats import wilcoxon

from mob_training.data.phantom import Scan, case_seed, make_phantom
from mob_training.evaluation.metrics import Calibration, dice, negative_log_likelihood
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import draw_edits, give_verdicts
from mob_training.evaluation.scoreboard import BOX_MARGIN_MM
from MoBUncertaintyLib.calibration.models import calibrate_model
from MoBUncertaintyLib.errors import CalibrationError
from MoBUncertaintyLib.geometry import bounding_box, shadows
from MoBUncertaintyLib.images.reader import digest
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import find_model, load_model
from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.output.results_folder import describe
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.pipeline import Analysis, analyse
from MoBUncertaintyLib.prediction import PredictionSettings
from MoBUncertaintyLib.review.review import Review

COHORTS = {"as in training": Scan(), "another phase, twice the noise": Scan(phase="native", noise=2.0)}
READERS: dict[str, Callable[[ReadCase], Iterator[Review]]] = {"edits": draw_edits, "verdicts": give_verdicts}
SEED = 78
"""Of the phantoms; neither that of the model's training nor that on which the method was tried."""

Case = tuple[Path, np.ndarray]
"""A CT and its truth, bool (z, y, x)."""


def make_cases(folder: Path, scan: Scan, count: int) -> list[Case]:
    """Write phantoms."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(count):
        phantom = make_phantom(case_seed(SEED, number), scan=scan)
        path = folder / f"{number}.nii.gz"
        sitk.WriteImage(phantom.ct, str(path))
        cases.append((path, sitk.GetArrayFromImage(phantom.labels["pancreas"]) > 0))
    return cases


def review(case: Case, found: Analysis, reader: str, folder: Path) -> None:
    """Let a reader review and sign a case, and export it."""
    path, truth = case
    image = sitk.ReadImage(str(path))
    found.prediction.provenance.update(describe(found.prediction, found.regions, path, path.name, digest(path)))
    (reviewed,) = deque(READERS[reader](ReadCase(found.prediction, truth.astype(np.uint8), found.regions, 0.0)), 1)
    reviewed.sign("Simulated reader")
    write_export(ReviewedCase(image, reviewed), folder / path.name.partition(".")[0], ["nifti"])


def score(case: Case, found: Analysis) -> dict[str, float]:
    """Score a case in the box of prediction and truth, as `mob-training evaluate` does."""
    prediction, truth = found.prediction, case[1]
    organ = prediction.segmentation > 0
    box = bounding_box(shadows(organ | truth), np.ceil(BOX_MARGIN_MM / prediction.grid.spacing).tolist())
    p, true = prediction.probability[0][box], truth[box]
    return {
        "nll": negative_log_likelihood(np.where(true, p, 1 - p)) / p.size,
        "ece": Calibration.of(p, true).ece,
        "dice": dice(organ, truth),
        "expected_error_ml": prediction.expected_error_mm3 / 1000,
        "error_ml": np.count_nonzero(organ != truth) * prediction.grid.voxel_mm3 / 1000,
        "regions": len(found.regions.ranked),
        "regions_ml": sum(region.volume_mm3 for region in found.regions.ranked) / 1000,
        "ordinary": float(not found.prediction.suitability or not found.prediction.suitability.reasons),
    }


def outcome(model: Path | str, reviews: Path, output: Path) -> dict[str, Any]:
    """Calibrate, and return what came of it."""
    try:
        made = calibrate_model(model, [reviews], output)
    except CalibrationError as error:
        return {"refused": str(error)}
    fit = {name: rounded(value) for name, value in asdict(made.calibration.fit).items()}
    return fit | {"variance_threshold": made.calibration.regions.get("variance_threshold")}


def predict(model: Path | str, cases: Sequence[Case]) -> Iterator[tuple[Case, Analysis]]:
    """Predict cases one by one."""
    predictor = Predictor(load_model(find_model(model)), PredictionSettings(device="cpu"))
    for number, case in enumerate(cases, 1):
        yield case, analyse(sitk.ReadImage(str(case[0])), predictor)
        print(f"{Path(model).name}: {number} of {len(cases)} predicted", flush=True)


def compare(before: Sequence[dict[str, float]], after: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Compare the scores of the same cases."""
    pairs = {name: [[row[name] for row in rows] for rows in (before, after)] for name in before[0]}
    nll = np.subtract(*pairs["nll"])
    means = {name: rounded([float(np.mean(values)) for values in pair]) for name, pair in pairs.items()}
    return {"means": means, "nll_improved": int((nll > 0).sum()), "p_value": float(f"{wilcoxon(nll).pvalue:.2g}")}


def rounded(value: Any) -> Any:
    """Keep five digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else float(f"{value:.5g}")


def run(model: str, scan: Scan, reviews: int, others: int, folder: Path) -> dict[str, Any]:
    """Measure one cohort."""
    cases = make_cases(folder / "cases", scan, reviews + others)
    before = []
    for number, (case, found) in enumerate(predict(model, cases)):
        if number >= reviews:
            before.append(score(case, found))
        else:
            for reader in READERS:
                review(case, found, reader, folder / reader)
    made = {reader: outcome(model, folder / reader, folder / f"{reader}.zip") for reader in READERS}
    results: dict[str, Any] = {"calibration": made}
    calibrated = folder / "edits.zip"
    if calibrated.exists():
        after = [score(case, found) for case, found in predict(calibrated, cases[reviews:])]
        results |= {"others": compare(before, after)}
    print(json.dumps(results, indent=1), flush=True)
    return results


def main() -> None:
    """Measure, and write `calibration.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path), parser.add_argument("--model", default="PhantomPancreas")
    parser.add_argument("--reviews", type=int, default=10), parser.add_argument("--others", type=int, default=20)
    asked = parser.parse_args()
    results = {"model": asked.model, "reviews": asked.reviews, "others": asked.others}
    for name, scan in COHORTS.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(asked.model, scan, asked.reviews, asked.others, Path(folder))
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "calibration.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
