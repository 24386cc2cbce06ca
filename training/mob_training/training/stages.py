"""The two stages of a training: nnU-Net's own, then the fine-tuning of a covariance head."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from mob_training.training.budget import BudgetTrainer
from mob_training.training.deterministic import LATEST, DeterministicTrainer, start_from
from mob_training.training.planning import CONFIGURATION
from mob_training.training.progress import DRAWING, TABLE
from mob_training.training.settings import Budget, FineTuning, Job, Schedule, deterministic_plans, finetuning_plans
from mob_training.training.trainer import FineTuningTrainer
from mob_training.training.workspace import dataset_folder
from MoBUncertaintyLib.base.errors import Cancelled, ModelError, SettingsError
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.inference.devices import select_device
from MoBUncertaintyLib.model.covariance import CovarianceSpec
from MoBUncertaintyLib.model.files import read_file
from MoBUncertaintyLib.model.nnunet.dataset import has_regions
from MoBUncertaintyLib.model.nnunet.training_folder import BEST, FINAL
from MoBUncertaintyLib.model.weights import WEIGHTS_LIMIT, load_checkpoint

# Number of processes that prepare patches; zero is repeatable to the last bit, but slower.
AUGMENTATION_PROCESSES = "nnUNet_n_proc_DA"
NOW = Job()
EARLIER = "earlier"
"""Folder beside the checkpoints; in it a numbered folder for each earlier training."""


def train_deterministic(
    dataset_id: int, plans_name: str, length: Schedule | Budget, job: Job = NOW, start: Path | None = None
) -> Path:
    """Train nnU-Net from random weights, or from those of a model; return the training folder.

    The length is a schedule, for nnU-Net's recipe, or a budget, for that of little time. A resumed training does not
    start from the model again.

    Raises:
        SettingsError: The data set is not planned, or not with these plans, or its split has no such fold, or the model
            to start from has another network.
    """
    folder = dataset_folder("preprocessed", dataset_id)
    plans = deterministic_plans(_read(folder / f"{plans_name}.json"), length)
    dataset = _read(folder / "dataset.json")
    splits = folder / "splits_final.json"
    if splits.exists() and job.fold >= (count := len(_read(splits))):
        raise SettingsError(f"The split of {folder.name} has no fold {job.fold}; its last is fold {count - 1}.")
    trainer = BudgetTrainer if isinstance(length, Budget) else DeterministicTrainer
    return _run(trainer, plans, dataset, job, start)


def prepare_finetuning(results: Path, name: str, spec: CovarianceSpec, settings: FineTuning, fold: int = 0) -> Path:
    """Write the plans of a fine-tuning where nnU-Net's own commands look for them; return the file.

    It is for `nnUNetv2_train DATASET 3d_fullres FOLD -tr FineTuningTrainer -p NAME`. `results` is what to start from,
    in the workspace's results: the training folder of `train_deterministic`, of stock nnU-Net or of a fine-tuning, or a
    model folder. The name tells this fine-tuning from others of the same data set.

    Raises:
        SettingsError: The earlier stage left no checkpoint, or is not in the workspace.
    """
    results = Path(results).parent.resolve() / Path(results).name  # a link counts where it lies
    start = results / f"fold_{fold}"
    if not any((start / name).exists() for name in (FINAL, "weights.safetensors")):
        raise SettingsError(f"{start / FINAL} is missing; run the deterministic stage to its end first.")
    base = Path(os.environ["nnUNet_results"]).resolve()
    if not results.is_relative_to(base):
        raise SettingsError(f"{results} is not in the workspace's results, {base}; give the --workspace it belongs to.")
    plans = _read(results / "plans.json")
    if has_regions(_read(results / "dataset.json")):
        raise SettingsError(f"The labels of {results} overlap, and a covariance needs labels that exclude each other.")
    if not (start / FINAL).exists():  # a model folder has the name of its fine-tuning in its plans, too
        plans["plans_name"] = plans["plans_name"].partition("-")[0]
    settings = replace(settings, start_from=results.relative_to(base).as_posix())
    plans = finetuning_plans(plans, name, spec, settings, CONFIGURATION)
    folder = Path(os.environ["nnUNet_preprocessed"]) / plans["dataset_name"]
    if not folder.is_dir():
        raise SettingsError(f"{folder} is missing; plan and preprocess the data set first.")
    path = folder / f"{plans['plans_name']}.json"
    write_file(path, lambda partial: partial.write_text(json.dumps(plans, indent=1) + "\n", encoding="utf-8"))
    return path


def finetune(results: Path, name: str, spec: CovarianceSpec, settings: FineTuning, job: Job = NOW) -> Path:
    """Fine-tune a covariance head, and the backbone with it, from a training folder; return the new training folder.

    Raises:
        SettingsError: As `prepare_finetuning`, or the loss is not defined for the data set's labels.
    """
    plans = _read(prepare_finetuning(results, name, spec, settings, job.fold))
    return _run(FineTuningTrainer, plans, _read(Path(results) / "dataset.json"), job, Path(results))


def _run(
    kind: type[DeterministicTrainer],
    plans: dict[str, Any],
    dataset: dict[str, Any],
    job: Job,
    start: Path | None = None,
) -> Path:
    device = select_device(job.device)
    if device.index:  # nnU-Net's trainer can use the first GPU only
        raise SettingsError(f"A training takes the first GPU: set CUDA_VISIBLE_DEVICES={device.index}, and give cuda.")
    trainer = kind(plans | {"continue_training": job.resume}, CONFIGURATION, job.fold, dataset, device)
    if device.type != "cuda":  # a GPU would wait for one process: there nnU-Net chooses, up to 12
        os.environ.setdefault(AUGMENTATION_PROCESSES, "1")
    torch.backends.cudnn.benchmark = True
    checkpoint = _to_resume(trainer) if job.resume else None
    if checkpoint is not None:
        trainer.load_checkpoint(str(checkpoint))
    elif start is not None:
        start_from(trainer, start)
    if checkpoint is None:
        _set_aside(trainer)
    # As Ctrl-C: a process that is ended at once would leave those that prepare patches behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        trainer.run_training()
    except KeyboardInterrupt:
        again = "run the same command again" if job.resume else "add --resume"
        stored = Path(trainer.output_folder, LATEST).exists()
        then = (
            f"{again} to continue from its last checkpoint" if stored else "it had no checkpoint to continue from yet"
        )
        raise Cancelled(f"The training was stopped; {then}.") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return Path(trainer.output_folder_base)


def _set_aside(trainer: DeterministicTrainer) -> None:
    """Move an earlier training out of the folder, so that its best weights are not taken for this one's."""
    folder = Path(trainer.output_folder)
    paths = [path for name in (FINAL, LATEST, BEST, TABLE, DRAWING) if (path := folder / name).exists()]
    place = next(place for number in count(1) if not (place := folder / EARLIER / str(number)).exists())
    for path in paths:
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
        trainer.print_to_log_file(f"{path.name} of an earlier training was moved to {EARLIER}/{place.name}/.")


def _to_resume(trainer: DeterministicTrainer) -> Path | None:
    """Find the checkpoint to resume: the last one of the same training, if there is one; the log says if not."""
    for name in (FINAL, LATEST):
        path = Path(trainer.output_folder, name)
        if not path.exists():
            continue
        try:
            stored = load_checkpoint(read_file(path, WEIGHTS_LIMIT))["init_args"]
            same = _settings(trainer.my_init_kwargs) == _settings(stored)
        except (ModelError, LookupError, TypeError, AttributeError) as error:
            trainer.print_to_log_file(f"{name} is not used: {error}")
            continue
        if same:
            return path
        trainer.print_to_log_file(f"{name} belongs to a training with other settings: it is not used.")
    trainer.print_to_log_file("There is no checkpoint to resume from, so this training starts from the beginning.")
    return None


def _settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's arguments that identify a training: plans, data set and fold, not the device."""
    plans = {name: value for name, value in arguments["plans"].items() if name != "continue_training"}
    return {name: value for name, value in arguments.items() if name != "device"} | {"plans": plans}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path} is missing; run mob-training plan, and name its plans if they are not the small ones."
        ) from None
