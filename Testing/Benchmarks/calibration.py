"""Check what a site's own calibration does to cases that are not among its reviews.

    python Testing/Benchmarks/calibration.py OUTPUT [--model MODEL] [--reviews 10] [--others 20] [--work FOLDER]

Phantoms are predicted and reviewed by simulated readers, and the model is calibrated on the signed reviews of each: one
draws what is true in each region, one only in those where a fifth or more is wrong and accepts the others, one clicks
twice in each and accepts what that gives, one gives the best verdict. Others are predicted with the old model and with
that of the first reader who could calibrate it. One cohort is scanned as the model's training phantoms were, two are
not. Of the former's reviewed cases, other truths are drawn, too, as probable as the model says at each voxel: a model
that is right is to stay as it is. Phantoms in FOLDER are used again.
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
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from scipy.stats import wilcoxon

from mob_training.data.phantom import Scan, case_seed, make_phantom
from mob_training.evaluation.metrics import Calibration, dice, negative_log_likelihood
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.readers import decide_regions, give_verdicts
from mob_training.evaluation.scoreboard import BOX_MARGIN_MM
from MoBUncertaintyLib.base.errors import CalibrationError
from MoBUncertaintyLib.base.geometry import bounding_box, shadows
from MoBUncertaintyLib.images.reader import digest
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.results_folder import describe
from MoBUncertaintyLib.output.review_export import write_export
from MoBUncertaintyLib.pipeline.calibration.calibration import calibrate_model
from MoBUncertaintyLib.pipeline.cases import analyse
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review

COHORTS = {
    "as in training": Scan(),
    "another phase, twice the noise": Scan(phase="native", noise=2.0),
    "another phase, four times the noise": Scan(phase="native", noise=4.0),
}
DRAWN, SMOOTH_MM = 5, 5.0
"""Truths that are drawn from the model, and how smooth."""
BADLY = 0.2
"""A reader in a hurry accepts a region of which less is wrong."""


def draw_some(case: ReadCase) -> Iterator[Review]:
    """Review a case: draw what is true in regions that are badly wrong, and accept the others."""
    review, wrong = Review(case.prediction, case.regions), case.wrong(case.prediction.segmentation)
    for region in review.regions:
        if np.mean(wrong[region.box][region.found.mask]) >= BADLY:
            review.edit(region.region_id, case.truth)
        else:
            review.decide(region.region_id, Verdict.ACCEPT)
        yield review


def draw_edits(case: ReadCase) -> Iterator[Review]:
    """Go through the list of regions and give every voxel its true label."""
    review = Review(case.prediction, case.regions)
    for region in review.regions:
        review.edit(region.region_id, case.truth)
        yield review


READERS: dict[str, Callable[[ReadCase], Iterator[Review]]] = {
    "edits": draw_edits, "edits of what is badly wrong": draw_some, "clicks": decide_regions, "verdicts": give_verdicts,
}  # fmt: skip
SEED = 78
"""Of the phantoms; neither that of the model's training nor that on which the method was tried."""

Labelled = tuple[Path, np.ndarray]
"""A CT and its truth, bool (z, y, x)."""


def make_cases(folder: Path, scan: Scan, count: int) -> list[Labelled]:
    """Write the phantoms that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(count):
        path, truth = folder / f"{number}.nii.gz", folder / f"{number}_truth.nii.gz"
        if not path.exists():
            phantom = make_phantom(case_seed(SEED, number), scan=scan)
            sitk.WriteImage(phantom.labels["pancreas"], str(truth))
            sitk.WriteImage(phantom.ct, str(path))
        cases.append((path, sitk.GetArrayFromImage(sitk.ReadImage(str(truth))) > 0))
    return cases


def review(labelled: Labelled, found: Case, reader: str, folder: Path) -> None:
    """Let a reader review and sign a case, and export it."""
    path, truth = labelled
    image = sitk.ReadImage(str(path))
    source = Source(path, sha256=digest(path))
    prediction = describe(found.prediction, found.regions, source)
    (reviewed,) = deque(READERS[reader](ReadCase(prediction, truth.astype(np.uint8), found.regions, 0.0)), 1)
    reviewed.sign("Simulated reader")
    write_export(Case.of(image, reviewed, source), folder / path.name.partition(".")[0], ["nifti"])


def score(labelled: Labelled, found: Case) -> dict[str, float]:
    """Score a case in the box of prediction and truth, as `mob-training evaluate` does."""
    prediction, truth = found.prediction, labelled[1]
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


def drawn_truths(found: Case, seed: int) -> Iterator[np.ndarray]:
    """Draw truths with the probability that the model states at each voxel, of one piece over some mm."""
    p, rng = np.asarray(found.prediction.probability[0]), np.random.default_rng(seed)
    for _ in range(DRAWN):
        field = gaussian_filter(rng.normal(size=p.shape), SMOOTH_MM / found.prediction.grid.spacing, mode="wrap")
        yield ndtr(field / field.std()) < p


def outcome(model: Path | str, reviews: Path, output: Path) -> dict[str, Any]:
    """Calibrate, and return what came of it."""
    try:
        made = calibrate_model(model, [reviews], output)
    except CalibrationError as error:
        return {"refused": str(error)}
    fit = {name: rounded(value) for name, value in asdict(made.calibration.fit).items()}
    return fit | {"variance_threshold": made.calibration.regions.get("variance_threshold")}


def predict(model: Path | str, cases: Sequence[Labelled]) -> Iterator[tuple[Labelled, Case]]:
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


def run(model: str, cases: Sequence[Labelled], reviews: int, folder: Path, ideal: bool) -> dict[str, Any]:
    """Measure one cohort: the first of the cases are reviewed, the others predicted before and after.

    Args:
        model: Its path or name.
        cases: All.
        reviews: How many are reviewed.
        folder: To work in.
        ideal: Also review the truths that are drawn from the model.
    """
    before = []
    for number, (case, found) in enumerate(predict(model, cases)):
        if number >= reviews:
            before.append(score(case, found))
        else:
            for reader in READERS:
                review(case, found, reader, folder / reader)
            for drawn, truth in enumerate(drawn_truths(found, number) if ideal else ()):
                review((case[0], truth), found, "edits", folder / f"drawn {drawn}")
    made = {reader: outcome(model, folder / reader, folder / f"{reader}.zip") for reader in READERS}
    results: dict[str, Any] = {"calibration": made}
    if ideal:
        results["drawn from the model"] = [
            outcome(model, folder / f"drawn {drawn}", folder / f"drawn {drawn}.zip") for drawn in range(DRAWN)
        ]
    for reader in READERS:
        calibrated = folder / f"{reader}.zip"
        if calibrated.exists():
            after = [score(case, found) for case, found in predict(calibrated, cases[reviews:])]
            results |= {"calibrated by": reader, "others": compare(before, after)}
            break
    print(json.dumps(results, indent=1), flush=True)
    return results


def main() -> None:
    """Measure, and write `calibration.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path), parser.add_argument("--model", default="PhantomPancreas")
    parser.add_argument("--reviews", type=int, default=10), parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--work", type=Path, help="folder that keeps the phantoms")
    asked = parser.parse_args()
    results = {"model": asked.model, "reviews": asked.reviews, "others": asked.others}
    for number, (name, scan) in enumerate(COHORTS.items()):
        with tempfile.TemporaryDirectory() as folder:
            cases = make_cases((asked.work or Path(folder)) / f"{number}" / "cases", scan, asked.reviews + asked.others)
            results[name] = run(asked.model, cases, asked.reviews, Path(folder), ideal=number == 0)
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "calibration.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
