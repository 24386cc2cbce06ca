"""The two stages of a training as functions: nnU-Net's own, then the fine-tuning of a covariance head."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from mob_training.planning import CONFIGURATION
from mob_training.trainer import (
    DeterministicTrainer,
    FineTuning,
    FineTuningTrainer,
    Schedule,
    finetuning_plans,
)
from mob_training.workspace import dataset_folder
from MoBUncertaintyLib.covariance import CovarianceSpec
from MoBUncertaintyLib.devices import select_device
from MoBUncertaintyLib.errors import SettingsError

# One process prepares patches while another trains; zero would be repeatable to the last bit, but slower.
AUGMENTATION_PROCESSES = "nnUNet_n_proc_DA"


def train_deterministic(
    dataset_id: int, plans_name: str, schedule: Schedule, fold: int = 0, device: str = "auto"
) -> Path:
    """nnU-Net's training from random weights.

    Returns:
        The results folder, which holds `plans.json`, `dataset.json` and `fold_K/checkpoint_*.pth`.
    """
    plans, dataset = _planned(dataset_id, plans_name)
    trainer = DeterministicTrainer(plans, CONFIGURATION, fold, dataset, select_device(device))
    return _run(trainer, schedule)


def finetune(
    results: Path,
    name: str,
    spec: CovarianceSpec,
    settings: FineTuning,
    schedule: Schedule,
    fold: int = 0,
    device: str = "auto",
) -> Path:
    """Fine-tune a covariance head, and the backbone with it, from a deterministic results folder.

    Args:
        results: Results folder of `train_deterministic`, or of stock nnU-Net.
        name: Tells this fine-tuning from others of the same data set.
        spec: The head.
        settings: Loss and optimiser.
        schedule: Length and seed.
        fold: Which fold's checkpoint to start from.
        device: `auto`, `cuda`, `mps` or `cpu`.

    Returns:
        The new results folder.

    Raises:
        SettingsError: The deterministic stage left no checkpoint.
    """
    checkpoint = results / f"fold_{fold}" / "checkpoint_final.pth"
    if not checkpoint.exists():
        raise SettingsError(f"{checkpoint} is missing; run the deterministic stage to its end first.")
    plans = finetuning_plans(_read(results / "plans.json"), name, spec, settings)
    plans["continue_training"] = False
    dataset = _read(results / "dataset.json")
    trainer = FineTuningTrainer(plans, CONFIGURATION, fold, dataset, select_device(device))
    trainer.apply_schedule(schedule)
    trainer.initialize()
    trainer.start_from(checkpoint)
    return _run(trainer, schedule)


def _run(trainer: DeterministicTrainer, schedule: Schedule) -> Path:
    os.environ.setdefault(AUGMENTATION_PROCESSES, "1")
    trainer.apply_schedule(schedule)
    torch.backends.cudnn.benchmark = True
    trainer.run_training()
    return Path(trainer.output_folder_base)


def _planned(dataset_id: int, plans_name: str) -> tuple[dict, dict]:
    folder = dataset_folder("preprocessed", dataset_id)
    plans = _read(folder / f"{plans_name}.json")
    plans["continue_training"] = False
    return plans, _read(folder / "dataset.json")


def _read(path: Path) -> dict:
    return json.loads(path.read_text())
