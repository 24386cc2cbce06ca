"""Score a model on a data set's held-out cases, whole and in the image's own geometry.

One case is in memory at a time. Pooled scores are kept as sums and tables of counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from mob_training.data.datasets import CASES_FILE, FOLDERS, SUFFIX
from mob_training.data.partial_labels import read_missing
from mob_training.data.split import read_subjects
from mob_training.evaluation.bases import OrganTile, case_bases, used_bases
from mob_training.evaluation.case_scores import PLACES, PlaceSums, ScoredCase, only, pooled_scores, score
from mob_training.evaluation.directions import SHARED, shared_by_neighbours
from mob_training.evaluation.intervals import KEY, MEASUREMENTS, interval_measures, measurement_scores
from mob_training.evaluation.joint_scores import joint_scores, pooled_correlations
from mob_training.evaluation.raters import rater_scores, read_raters
from mob_training.evaluation.readers.cases import ReadCase
from mob_training.evaluation.readers.simulation import dice_after_clicks
from mob_training.evaluation.score_files import Run, describe_run, flatten
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.images.dose import read_dose
from MoBUncertaintyLib.images.reader import read_image, read_volume
from MoBUncertaintyLib.inference.draws import draw_volumes
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.measurements.measurement import read_wanted
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.listing import loaded
from MoBUncertaintyLib.regions.prediction import Prediction, PredictionSettings

DRAWN = 8
"""Number of segmentations drawn from a model for the energy distance to several raters; a deterministic one has one."""

Files = tuple[str, Path, Path]
"""Name, image and label map of a case."""


def held_out_cases(dataset: Path, part: str = "test") -> list[Files]:
    """List every held-out case of a raw data set, or every case of another part of its split (`split_cases`).

    Raises:
        SettingsError: It has none.
    """
    if cases := split_cases(dataset, part):
        return cases
    images, labels, _ = FOLDERS[part]
    raise SettingsError(f"{dataset} has no cases of the part {part} ({images}, {labels}).")


def split_cases(dataset: Path, *parts: str) -> list[Files]:
    """List the cases of a raw data set in some parts of its split: `train`, `val`, `calibrate` or `test`.

    Fold 0 of `splits_final.json` tells `train` from `val`; without it neither has cases.

    Raises:
        SettingsError: The file is no list of splits.
    """
    path, ending = dataset / "splits_final.json", _description(dataset).get("file_ending", SUFFIX)
    try:
        split = json.loads(path.read_text(encoding="utf-8"))[0] if path.exists() else {}
        names = {name for part in parts for name in split.get(part, ())}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise SettingsError(f"{path} is not a list of nnU-Net's splits; convert the data set again.") from None
    cases = []
    for images, labels, channel in dict.fromkeys(FOLDERS[part] for part in parts):
        for label in sorted((dataset / labels).glob(f"*{ending}")):
            name = label.name.removesuffix(ending)
            if labels != FOLDERS["train"][1] or name in names:
                cases.append((name, dataset / images / f"{name}{channel}{ending}", label))
    return cases


@dataclass(frozen=True)
class Evaluation:
    """What is scored.

    Attributes:
        name: Of the model in tables. Default: after its covariance and the name of its fine-tuning.
        regions: What counts as a doubtful region (`STATED_BY_MODELS`); the rest is as the model states.
        raters: Folder with the masks of several raters per case (`raters.read_raters`).
        joint: Also score what is joint (`joint_scores`): the whole segmentation's likelihood, its volume, correlations;
            and Dice after some clicks (`readers.simulation`).
        part: `test`, the held-out cases; `calibrate`, those that calibrate; or `val`, the validation cases.
        measurements: What else is measured of the labels and of samples of them (`regions.measurements.measure`).
        doses: Folder with CASE.nii.gz, in Gy, where a measurement is of a dose.
    """

    name: str | None = None
    regions: Mapping[str, float] = field(default_factory=dict)
    raters: Path | None = None
    joint: bool = False
    part: str = "test"
    measurements: tuple[str, ...] = ()
    doses: Path | None = None


PLAIN = Evaluation()


class Examination:
    """A model (folder, zip, or training folder of nnU-Net, stock or ours) and a data set whose cases it predicts.

    Raises:
        SettingsError: The model segments other labels.
    """

    def __init__(
        self, model_path: Path, dataset: Path, evaluation: Evaluation, settings: PredictionSettings | None
    ) -> None:
        model = loaded(model_path)
        self.labels = model.card.labels
        check_labels(dataset, self.labels)
        self.predictor = Predictor(model, settings)
        self.regions = model.card.region_settings.changed(evaluation.regions)
        self.description = describe_run(model, dataset, evaluation.name)
        self._subjects = read_subjects(dataset / CASES_FILE) if (dataset / CASES_FILE).exists() else {}
        self._missing = read_missing(dataset, [label.name for label in self.labels])

    def predict(self, files: Files) -> tuple[sitk.Image, sitk.Image, Prediction]:
        """Return image, truth and prediction of a case; the latter of the labels that the case has."""
        case, image, truth = files[0], read_image(files[1]).image, read_volume(files[2])
        return image, truth, only(self.predictor.predict(image, exact=True), self._missing.get(case, frozenset()))

    def read(self, files: Files) -> ReadCase:
        """Predict a case, and return it as a simulated reader sees it."""
        image, truth, prediction = self.predict(files)
        return ReadCase.of(prediction, truth, self.regions, sitk.GetArrayFromImage(image))

    def subject(self, case: str) -> str:
        """Return the subject of a case."""
        return self._subjects.get(case, case)

    def row(self, case: str, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Return the subject and the scores of a case, flat."""
        return {"subject": self.subject(case), **dict(flatten(scores))}


def evaluate(
    model_path: Path,
    dataset: Path,
    evaluation: Evaluation = PLAIN,
    settings: PredictionSettings | None = None,
) -> Run:
    """Score a model on whole cases; a label that a case lacks (`partial_labels`) is not scored there.

    Raises:
        SettingsError: The data set has no such cases, or other labels than the model.
    """
    cases = held_out_cases(dataset, evaluation.part)
    model = Examination(model_path, dataset, evaluation, settings)
    values = ("image", "dose") if evaluation.doses else ("image",)
    read_wanted(evaluation.measurements, [label.name for label in model.labels], values)
    sampled = model.description["covariance"] != Covariance.DETERMINISTIC
    pooled, together, scored = {place: PlaceSums() for place in PLACES}, [], {}
    tiles = _Tiles()
    for files in cases:
        image, truth, prediction = model.predict(files)
        case = ScoredCase.of(prediction, truth)
        scores, sums = score(case, model.regions, by_label=len(model.labels) > 1)
        if evaluation.raters is not None:
            maps, probability = read_raters(evaluation.raters, files[0], prediction)
            samples = draw_volumes(model.predictor, image, DRAWN) if sampled else [prediction.segmentation]
            scores["raters"] = rater_scores(case, maps, probability, samples)
        read_case = ReadCase.of(prediction, truth, model.regions)
        scores[KEY] = interval_measures(case, read_case)
        if evaluation.measurements:
            values = {"image": sitk.GetArrayViewFromImage(image)}
            if evaluation.doses:
                values["dose"] = np.nan_to_num(read_dose(evaluation.doses / f"{files[0]}{SUFFIX}", image))
            scores[MEASUREMENTS] = measurement_scores(prediction, case.truth, evaluation.measurements, values)
        if evaluation.joint:
            scores["clicks"] = dice_after_clicks(read_case)
            scores["joint"], covariances = joint_scores(model.predictor, image, case.truth, prediction.labels)
            together.append(covariances)
            if sampled:
                complete = len(prediction.labels) == len(model.labels)
                scores |= tiles.add(OrganTile.of(model.predictor, image, case.truth), complete)
        for place, own in sums.items():
            pooled[place].add(own)
        scored[files[0]] = model.row(files[0], scores)
        print(f"{files[0]}: Dice {scores['dice']:.4f}, NLL {scores['volume']['nll']:.4f}")
    joint: dict[str, Any] = {"joint": pooled_correlations(np.sum(together, axis=0))} if together else {}
    joint |= tiles.pooled()
    return Run(model.description, dict(flatten(pooled_scores(pooled) | joint)), scored)


class _Tiles:
    """What the tiles about the organs of all cases say of bases, and of what neighbours share."""

    def __init__(self) -> None:
        self._cells: list[np.ndarray] = []
        self._shared: list[dict[str, list[Any]]] = []

    def add(self, tile: OrganTile, complete: bool) -> dict[str, Any]:
        """Add the tile of a case, and return the case's own scores; complete is one that lacks no label."""
        if complete and tile.gaussian.num_classes > 2:  # two classes have one direction
            self._shared.append(shared_by_neighbours(tile))
        bases = case_bases(tile)
        if bases is None:
            return {}
        self._cells.append(bases.cells)
        return {"bases": {"share": bases.share_at_outline()}}

    def pooled(self) -> dict[str, Any]:
        """Return the number of bases that are used, and sums over the cases of what neighbours share."""
        sums = {part: np.sum([one[part] for one in self._shared], axis=0).tolist() for part in SHARED}
        bases = {"used": used_bases(np.sum(self._cells, axis=0))} if self._cells else {}
        return {"bases": bases, "shared": sums if self._shared else {}}


def _description(dataset: Path) -> dict[str, Any]:
    path = dataset / "dataset.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check_labels(dataset: Path, labels: tuple[Label, ...]) -> None:
    """Check that a model segments the labels of a raw data set.

    Raises:
        SettingsError: It segments something else.
    """
    expected = _description(dataset).get("labels")
    segmented = {label.name: label.value for label in labels}
    if expected is not None and {name: value for name, value in expected.items() if value != 0} != segmented:
        raise SettingsError(
            f"{dataset.name} has the labels {', '.join(expected)}, the model segments {', '.join(segmented)}; "
            "use the model on its own task."
        )
