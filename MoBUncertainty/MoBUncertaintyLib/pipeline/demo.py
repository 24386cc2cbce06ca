"""The demo: predict the patient's CT that ships, and compare the result with the clinical contours."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.images.inputs import Input
from MoBUncertaintyLib.images.reader import read_volume
from MoBUncertaintyLib.measurements.interval import Interval
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.output.case import Case
from MoBUncertaintyLib.output.results_folder import FOLDER, Written
from MoBUncertaintyLib.pipeline.cases import Job, run_case
from MoBUncertaintyLib.regions.agreement import dice, error_fraction, surface_distance
from MoBUncertaintyLib.regions.prediction import (
    CancelledCallback,
    Prediction,
    PredictionSettings,
    ProgressCallback,
    predicted_intervals,
)

if TYPE_CHECKING:
    import numpy as np

SAMPLE_DATA = RESOURCES / "SampleData"
"""A patient's CT that ships with the extension, and the clinical contours of it."""

DEMO_MODEL = "HeadNeckOrgans"
CLINICIANS = {"Bone_Mandible": 0.944, "Brainstem": 0.889, "Parotid_R": 0.862, "Parotid_L": 0.862, "SpinalCord": 0.830}
"""Mean Dice of two clinicians' contours in 12 CTs of github.com/google-deepmind/tcia-ct-scan-dataset, unresampled."""


@dataclass(frozen=True)
class OrganScores:
    """One organ against its contour.

    Attributes:
        dice: Their overlap.
        clinicians: That of two clinicians' contours in other CTs; None where it is not available.
        distance_mm: Mean distance of the two surfaces; None where the organ was not segmented.
        volume_ml: As segmented.
        interval: Of the volume, if the model states one.
        drawn_ml: Volume of the contour.
    """

    dice: float
    clinicians: float | None
    distance_mm: float | None
    volume_ml: float
    interval: Interval | None
    drawn_ml: float


@dataclass(frozen=True)
class DemoScores:
    """The demo's prediction against the contours; `demo.json`.

    Attributes:
        organs: By name.
        error_fraction_in_regions: Fraction of the wrongly labelled volume that lies inside the doubtful regions; None
            if no voxel is wrong.
        thick_error_fraction_in_regions: The same of error that is thicker than one voxel.
        seconds: Computing time, reading and writing included.
    """

    organs: dict[str, OrganScores]
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
    """Predict the CT that ships, compare with its contours and add `demo.json` to the results.

    Args:
        output: Results folder; one that is there is replaced.
        device, engine, scene, progress, cancelled: As for `run_case`.

    Raises:
        UserError: Whatever the user can mend.
    """
    source, contours = SAMPLE_DATA / "HeadNeckCT.nii.gz", SAMPLE_DATA / "HeadNeckCT-contours.seg.nrrd"
    if not source.exists():
        raise ImageError(f"The sample CT {source} is not installed; install MoB Uncertainty again.")
    own = not output.exists() or (output / "demo.json").exists()
    FOLDER.check(output, overwrite=own)
    from MoBUncertaintyLib.inference.predictor import Predictor

    start = time.monotonic()
    predictor = Predictor(load_model(find_model(DEMO_MODEL)), PredictionSettings(device=device, engine=engine))
    scores: list[DemoScores] = []

    def compare(case: Case, folder: Path) -> None:
        drawn = sitk.GetArrayFromImage(read_volume(contours))
        fractions = error_fraction(case.prediction, case.regions, drawn)
        organs = organ_scores(case.prediction, drawn)
        seconds = round(time.monotonic() - start, 1)
        scores.append(DemoScores(organs, fractions["error_fraction"], fractions["thick_error_fraction"], seconds))
        (folder / "demo.json").write_text(json.dumps(asdict(scores[0]), indent=2) + "\n", encoding="utf-8")

    job = Job(predictor, scene=scene, overwrite=own, more=compare)
    case, written = run_case(job, Input(source, "", ""), output, progress, cancelled)
    return case, written, scores[0]


def organ_scores(prediction: Prediction, drawn: np.ndarray) -> dict[str, OrganScores]:
    """Compare each label of a prediction with contours of the same values (z, y, x), by its name."""
    volumes, intervals, grid = prediction.volumes_ml(), predicted_intervals(prediction), prediction.grid
    scores = {}
    for label in prediction.labels:
        made, organ = prediction.segmentation == label.value, drawn == label.value
        scores[label.name] = OrganScores(
            dice(prediction.segmentation, drawn, label.value),
            CLINICIANS.get(label.name),
            surface_distance(made, organ, grid.spacing),
            volumes[label.name],
            intervals.get(label.name),
            int(organ.sum()) * grid.voxel_mm3 / 1000,
        )
    return scores
