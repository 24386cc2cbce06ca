"""A preprocessed nnU-Net data set of a few small cases, made at once, and both trainers on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from mob_training.training import progress
from mob_training.training.deterministic import start_from
from mob_training.training.settings import FineTuning, Job, Schedule
from mob_training.training.stages import finetune, prepare_finetuning, train_deterministic
from mob_training.training.trainer import FineTuningTrainer
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from support.tiny import CONFIGURATION, SPACING, make_dataset, make_plans

DATASET_ID = 1
NAME = "Dataset001_Tiny"  # as in the plans
PLANS = "tinyPlans"
PATCH = (16, 16, 16)
SHORT = Schedule(epochs=2, iterations=2, validation_iterations=2)


def make_workspace(folder: Path, patch: pytest.MonkeyPatch, classes: int = 2, cases: int = 4) -> Path:
    """Write a preprocessed data set, one nested ball per class, and point nnU-Net at it; augmentation in-process.

    Nothing is drawn: the drawings take longer than the epochs.
    """
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True)
        patch.setenv(f"nnUNet_{name}", str(folder / name))
    patch.setenv("nnUNet_n_proc_DA", "0")
    patch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    patch.setattr(progress, "draw_progress", lambda *_: None)
    target = folder / "preprocessed" / NAME
    plans = make_plans(patch=PATCH)
    data = target / plans["configurations"][CONFIGURATION]["data_identifier"]
    data.mkdir(parents=True)
    truth = target / "gt_segmentations"
    truth.mkdir()
    names = [f"case{i}" for i in range(cases)]
    for number, name in enumerate(names):
        array, segmentation, properties = _case(number, classes)
        whole = {"chunks": array.shape, "blocks": array.shape}
        nnUNetDatasetBlosc2.save_case(array, segmentation, properties, str(data / name), **whole)
        label = sitk.GetImageFromArray(segmentation[0].astype(np.uint8))
        label.SetSpacing(properties["sitk_stuff"]["spacing"])
        sitk.WriteImage(label, str(truth / f"{name}.nii.gz"))
    dataset = make_dataset([f"organ {i}" for i in range(1, classes)])
    splits = [{"train": names[1:], "val": names[:1]}]
    contents = {PLANS: plans, "dataset": dataset, "splits_final": splits, "dataset_fingerprint": {}}
    for name, content in contents.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    return folder


def _case(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Image and label map (1, 20, 20, 20) as nnU-Net's preprocessing leaves them, and what it notes of them."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt((np.indices((20, 20, 20)) - rng.uniform(8, 12, (3, 1, 1, 1))) ** 2).sum(axis=0)
    segmentation = sum(((distance < 14 - 4 * i).astype(np.int8) for i in range(classes - 1)), start=np.int8(0))
    data = (segmentation + rng.normal(0, 0.3, segmentation.shape)).astype(np.float32)
    shape = segmentation.shape
    properties = {
        "class_locations": {label: np.argwhere(segmentation[None] == label) for label in range(1, classes)},
        "spacing": SPACING,
        "sitk_stuff": {"spacing": SPACING, "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).ravel())},
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, size] for size in shape],
        "shape_after_cropping_and_before_resampling": shape,
    }
    return data[None], segmentation[None], properties


def train(schedule: Schedule = SHORT, resume: bool = False) -> Path:
    """The deterministic stage; returns its results folder."""
    return train_deterministic(DATASET_ID, PLANS, schedule, Job(device="cpu", resume=resume))


def tune(
    results: Path, spec: CovarianceSpec, name: str = "run", schedule: Schedule = SHORT, **settings: object
) -> Path:
    """The fine-tuning stage; returns its results folder."""
    resume = bool(settings.pop("resume", False))
    settings = FineTuning(**vars(schedule) | {"samples": 2} | settings)
    return finetune(results, name, spec, settings, Job(device="cpu", resume=resume))


def trainer_of(spec: CovarianceSpec, results: Path, **settings: object) -> FineTuningTrainer:
    """A trainer of the fine-tuning stage that has started from some results."""
    path = prepare_finetuning(results, "one", spec, FineTuning(**vars(SHORT), samples=2, **settings))
    plans = json.loads(path.read_text()) | {"continue_training": False}
    dataset = json.loads((results / "dataset.json").read_text())
    trainer = FineTuningTrainer(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.initialize()
    start_from(trainer, results)
    return trainer


def weights(results: Path, checkpoint: str = "final") -> dict[str, torch.Tensor]:
    """State dict of a checkpoint."""
    path = results / "fold_0" / f"checkpoint_{checkpoint}.pth"
    return torch.load(path, weights_only=False)["network_weights"]


def same_weights(first: Path, second: Path, checkpoint: str = "final") -> bool:
    """Whether two trainings have the same weights in a checkpoint, to the last bit."""
    a, b = weights(first, checkpoint), weights(second, checkpoint)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
