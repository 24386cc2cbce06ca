"""The demo: predict the phantom CT that ships, and compare the result with its truth."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import DEMO_MODEL, find_model
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.results_folder import FOLDER, Written
from MoBUncertaintyLib.pipeline.cases import Job, run_case
from MoBUncertaintyLib.regions.agreement import dice, error_fraction
from MoBUncertaintyLib.regions.prediction import CancelledCallback, PredictionSettings, ProgressCallback

SAMPLE_DATA = RESOURCES / "SampleData"
"""The phantom CT that ships with the extension, and its truth."""


@dataclass(frozen=True)
class DemoScores:
    """The demo's prediction against the phantom's truth; `demo.json`.

    Attributes:
        dice: Dice of the organ.
        error_fraction_in_regions: Fraction of the wrongly labelled volume that lies inside the doubtful regions; None
            if no voxel is wrong.
        thick_error_fraction_in_regions: The same of error that is thicker than one voxel.
        seconds: Computing time, reading and writing included.
    """

    dice: float
    error_fraction_in_regions: float | None
    thick_error_fraction_in_regions: float | None
    seconds: float


def run_demo(
    output: Path,
    *,
    device: str = "auto",
    engine: str = "auto",
    scene: bool = True,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
) -> tuple[Case, Written, DemoScores]:
    """Predict the phantom CT that ships, compare with its truth and add `demo.json` to the results.

    Args:
        output: Results folder; one that is there is replaced.
        device, engine, scene, progress, cancelled: As for `run_case`.

    Raises:
        UserError: Whatever the user can mend.
    """
    source, truth_file = SAMPLE_DATA / "PhantomCT.nii.gz", SAMPLE_DATA / "PhantomCT-pancreas.nii.gz"
    if not source.exists():
        raise ImageError(f"The sample CT {source} is not installed; install MoB Uncertainty again.")
    own = not output.exists() or (output / "demo.json").exists()
    FOLDER.check(output, overwrite=own)
    from MoBUncertaintyLib.inference.predictor import Predictor

    start = time.monotonic()
    predictor = Predictor(load_model(find_model(DEMO_MODEL)), PredictionSettings(device=device, engine=engine))
    scores: list[DemoScores] = []

    def compare(case: Case, folder: Path) -> None:
        truth = sitk.GetArrayFromImage(read_volume(truth_file))
        fractions = error_fraction(case.prediction, case.regions, truth)
        overlap = dice(case.prediction.segmentation, truth)
        seconds = round(time.monotonic() - start, 1)
        scores.append(DemoScores(overlap, fractions["error_fraction"], fractions["thick_error_fraction"], seconds))
        (folder / "demo.json").write_text(json.dumps(asdict(scores[0]), indent=2) + "\n", encoding="utf-8")

    job = Job(predictor, scene=scene, overwrite=own, more=compare)
    case, written = run_case(job, Input(source, "", ""), output, progress, cancelled)
    return case, written, scores[0]
