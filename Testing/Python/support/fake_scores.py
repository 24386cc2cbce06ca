"""Scores of fake models on fake data sets: a fake predicts, the real evaluation scores and writes."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, special

from mob_training.evaluation import held_out
from mob_training.evaluation.score_files import Run, write_runs
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.model.card import ModelCard
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.terminology import describe_labels
from MoBUncertaintyLib.regions.prediction import Prediction
from support.tiny import write_raw

SHAPE = (16, 18, 18)
SPACING = (2.0, 2.0, 2.5)  # x, y, z
SHARES = {
    Covariance.DETERMINISTIC: 0.0,
    Covariance.DIAGONAL: 0.25,
    Covariance.LOW_RANK: 0.5,
    Covariance.SINGLE_BASIS: 0.3,
    Covariance.MIXTURE_OF_BASES: 0.35,
}
"""Variance in p (1 - p)."""


@dataclass(frozen=True)
class FakeModel:
    """A model that knows what the image shows, but for a smooth error; takes the place of a `Model` in an evaluation.

    Attributes:
        kind: Its covariance.
        tuning: Name of its fine-tuning, as in its plans; empty for a stock model.
        seed: Of its errors.
        bases: M of a Mixture-of-Bases.
        classes: Foreground classes, 1 or 2.
        steepness: Of the probability across a border, 1 / mm; the larger, the surer.
        blunder: Standard deviation of the error of its borders, mm.
    """

    kind: Covariance
    tuning: str = ""
    seed: int = 0
    bases: int = 3
    classes: int = 1
    steepness: float = 1.0
    blunder: float = 1.0

    @cached_property
    def card(self) -> ModelCard:
        labels = describe_labels({value: f"part_{value}" for value in range(1, self.classes + 1)})
        training = {"finetuning": {"seed": self.seed}} if self.tuning else {}
        spec = CovarianceSpec.of_kind(self.kind, bases=self.bases)
        return ModelCard("Fake", "Nothing.", labels, spec, "3d_fullres", None, SPACING, training=training)

    @cached_property
    def plans(self) -> dict:
        name = f"tinyPlans-{self.tuning}" if self.tuning else "tinyPlans"
        return {"plans_name": name} | ({} if self.tuning else {"schedule": {"seed": self.seed}})

    @property
    def digest(self) -> str:
        return "0" * 64


class FakePredictor:
    """Takes the place of `Predictor`."""

    def __init__(self, model: FakeModel, settings: object = None) -> None:
        self.model = model

    def predict(self, image: sitk.Image, exact: bool = False) -> Prediction:
        """Probability and variance from what the image shows, with errors that depend on model, seed and image."""
        assert exact  # scores are of what the model says, not of what files hold
        model, depth = self.model, sitk.GetArrayFromImage(image)
        rng = np.random.default_rng([model.seed, zlib.crc32(model.tuning.encode()), zlib.crc32(depth.tobytes())])
        depth = depth + model.blunder * smooth_noise(rng, depth.shape)
        foreground = special.expit(model.steepness * depth)
        probability = foreground[None]
        if model.classes == 2:
            probability = probability * np.stack([parted := special.expit(_side(depth.shape)), 1 - parted])
        doubtful = special.expit(smooth_noise(rng, depth.shape))
        variance = SHARES[model.kind] * probability * (1 - probability) * doubtful
        segmentation = np.where(probability.max(axis=0) > 1 - foreground, probability.argmax(axis=0) + 1, 0)
        return Prediction(
            segmentation.astype(np.uint8),
            probability.astype(np.float32),
            variance.astype(np.float32),
            grid_of(image),
            model.card.labels,
        )


def write_dataset(folder: Path, name: str, cases: int = 5, classes: int = 1, number: int = 1) -> Path:
    """A raw data set of held-out cases; its images show, in mm, how deep inside the organ a voxel lies."""
    labels = {"background": 0} | {f"part_{value}": value for value in range(1, classes + 1)}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    made = {}
    rng = np.random.default_rng([number, classes])
    middle, steps = (np.array(SHAPE) - 1) / 2, np.array(SPACING[::-1])
    for case in range(cases):
        offset = (np.moveaxis(np.indices(SHAPE), 0, -1) - middle) * steps
        radius = np.linalg.norm(offset / (0.9, 1, rng.uniform(1, 1.3)), axis=-1)
        depth = 11 + 1.5 * smooth_noise(rng, SHAPE) - radius
        drawn = depth + smooth_noise(rng, SHAPE) > 0  # no reader sees all that there is
        truth = drawn * (np.where(_side(SHAPE) + smooth_noise(rng, SHAPE) > 0, 1, 2) if classes == 2 else 1)
        made[f"case{case}"] = _image(depth.astype(np.float32)), _image(truth.astype(np.uint8))
    return write_raw(folder / f"Dataset{number:03d}_{name}", description, made)


def evaluate(model: FakeModel, dataset: Path, name: str | None = None, **settings: Any) -> Run:
    """What `evaluation.evaluate` returns for a fake model; further `settings` are its own."""
    with (
        patch.object(held_out, "loaded", lambda found: found),
        patch.object(held_out, "Predictor", FakePredictor),
    ):
        return held_out.evaluate(model, dataset, held_out.Evaluation(name, **settings))


def write_scores(folder: Path, dataset: Path, models: Sequence[FakeModel]) -> list[Path]:
    """Scores folders of `mob-training evaluate` for some models on a data set."""
    paths = []
    for model in models:
        path = folder / dataset.name / (model.tuning or model.kind.value) / f"seed_{model.seed}"
        write_runs([evaluate(model, dataset)], path)
        paths.append(path)
    return paths


def smooth_noise(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Standard normal at each voxel, smooth over some 5 mm."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 5 / np.array(SPACING[::-1]) / 2, mode="wrap")
    return noise / noise.std()


def _side(shape: Sequence[int]) -> np.ndarray:
    """Signed distance in mm to the plane between the two classes."""
    return (np.indices(shape)[2] - (shape[2] - 1) / 2) * SPACING[0] + 0.5


def _image(array: np.ndarray) -> sitk.Image:
    """On the fake images' grid; the last axis of a four-dimensional array holds the classes."""
    scalar = array.ndim == 3 or array.shape[-1] == 1
    image = sitk.GetImageFromArray(array.reshape(array.shape[:3]) if scalar else array, isVector=not scalar)
    image.SetSpacing(SPACING)
    return image


def fake_run(
    model: str, seed: int | None = 0, dataset: str = "D", sweep: bool = False, **scores: list[float | None]
) -> Run:
    """A run whose cases a, b, c, ... have the scores given; `__` in a name stands for a dot."""
    cases: dict[str, dict] = {}
    for key, values in scores.items():
        for name, value in zip("abcdefghijkl", values, strict=False):
            cases.setdefault(name, {})[key.replace("__", ".")] = value
    return run_of(cases, model=model, seed=seed, dataset=dataset, sweep=sweep)


def run_of(cases: dict[str, dict], pooled: dict[str, Any] | None = None, **description: Any) -> Run:
    """A run with these scores; what is not described has a default."""
    usual = {"dataset": "D", "model": "A", "covariance": "diagonal", "seed": 0, "bases": None, "sweep": False}
    usual |= {"name": description.get("model", "A"), "labels": ["part"]}
    return Run(usual | description, pooled or {}, cases)
