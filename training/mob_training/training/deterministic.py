"""nnU-Net's trainer of the deterministic stage, and what both stages share: seeds, checkpoints, precision on a CPU."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from torch import Tensor
from torch import distributed as dist

from mob_training.data.partial_labels import FILE, read_missing
from mob_training.training.predictive import MergedNetwork, missing_labels, pad_depth_first
from mob_training.training.progress import add_progress
from mob_training.training.settings import Schedule
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.inference.devices import autocast
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.nnunet.training_folder import BEST
from MoBUncertaintyLib.model.weights import only_weights_are_loaded

LATEST = "checkpoint_latest.pth"


class DeterministicTrainer(nnUNetTrainerNoMirroring):
    """nnU-Net's training without mirroring, which would swap left and right organs, and repeatable on a CPU.

    On a CPU with bfloat16 units the network runs under autocast there too; nnU-Net does so on CUDA only. The plans may
    have the key `schedule` (a `Schedule`).

    Raises:
        SettingsError: Cases lack labels (`partial_labels`), and labels overlap or one is ignored.
    """

    foreground_rate = 0.5
    """Fraction of patches centred on the organ. nnU-Net's own rate is rounded to zero at batch size 1."""

    deep_supervision = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net inspects this signature
    ) -> None:
        super().__init__(copy.deepcopy(plans), configuration, fold, dataset_json, device)
        if device.type == "cpu":  # as on CUDA, no step is taken where bfloat16 kernels have left a gradient NaN
            self.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        self.probabilistic_oversampling = True
        self.oversample_foreground_percent = self.foreground_rate
        self.enable_deep_supervision = self.deep_supervision
        self.schedule = self._read(plans)
        if self.schedule is not None:
            self.num_epochs = self.schedule.epochs
            self.num_iterations_per_epoch = self.schedule.iterations
            self.num_val_iterations_per_epoch = self.schedule.validation_iterations
        self.save_every = max(1, self.num_epochs // 20)
        names = [name for name in dataset_json["labels"] if name != "background"]
        self.missing = read_missing(self.preprocessed_dataset_folder_base, names)
        if self.missing:
            need_exclusive_labels(self.label_manager, str(Path(self.preprocessed_dataset_folder_base, FILE)))

    def _read(self, plans: dict[str, Any]) -> Schedule | None:
        """Read the schedule from the plans, and refuse what cannot be trained. Default: nnU-Net's own."""
        return Schedule(**plans["schedule"]) if "schedule" in plans else None

    def _set_batch_size_and_oversample(self) -> None:
        """Give every DDP process the same foreground rate, and a batch of one to each: nnU-Net would divide both."""
        self.batch_size = 1
        if self.configuration_manager.batch_size > 1:
            super()._set_batch_size_and_oversample()
        self.oversample_foreground_percent = self.foreground_rate

    def initialize(self) -> None:
        seed(self, 0)
        super().initialize()
        if self.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            pad_depth_first(unwrapped(self.network))

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """Make nnU-Net's transforms repeatable: it times two blurs that differ in the last digits."""
        composed = nnUNetTrainerNoMirroring.get_training_transforms(*args, **kwargs)
        for transform in composed.transforms:
            inner = transform.transform if isinstance(transform, RandomTransform) else transform
            if isinstance(inner, GaussianBlurTransform):
                inner.benchmark = False
        return composed

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does, but without executing anything in the file."""
        with only_weights_are_loaded():
            super().load_checkpoint(filename_or_checkpoint)

    def save_checkpoint(self, filename: str) -> None:
        """Save a checkpoint as nnU-Net does, but atomically: a killed run leaves the earlier file complete."""
        save = super().save_checkpoint
        if self.local_rank == 0 and not self.disable_checkpointing:
            write_file(Path(filename), lambda partial: save(str(partial)))

    def on_train_epoch_start(self) -> None:
        seed(self, self.current_epoch)
        super().on_train_epoch_start()

    def missing_in(self, batch: dict[str, Any]) -> Tensor | None:
        """Return which labels the cases of a batch lack, (B, C); None if all have all."""
        if not self.missing:
            return None
        lacked = missing_labels(self.missing, map(str, batch["keys"]), self.label_manager.num_segmentation_heads)
        return None if lacked is None else lacked.to(self.device)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with _cpu_autocast(self.device), merging(self, batch):
            return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with _cpu_autocast(self.device), merging(self, batch):
            return super().validation_step(batch)

    def plot_network_architecture(self) -> None:
        """Skip the plot, which needs extra packages and adds nothing to the result."""


def unwrapped(network: Any) -> Any:
    """Return a network without the wrappers of DDP and `torch.compile`."""
    network = getattr(network, "module", network)
    return getattr(network, "_orig_mod", network)


def seed(trainer: DeterministicTrainer, epoch: int) -> None:
    """Seed all random number generators, differently in each process.

    Every epoch has its own seeds, so that a resumed training gives the same result.
    """
    if trainer.schedule is None:
        return
    value = int(np.random.SeedSequence([trainer.schedule.seed, trainer.local_rank, epoch]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def start_from(trainer: DeterministicTrainer, model: Path) -> None:
    """Load the backbone's weights, including the segmentation layer, which nnU-Net's own loader would skip.

    Raises:
        ModelError: The model folder, zip or training folder holds no trained model of this fold.
        SettingsError: Its network is another one.
    """
    if not trainer.was_initialized:
        trainer.initialize()
    stored = load_model(model, folds=(trainer.fold,)).state_dict(trainer.fold)
    name, network = "backbone.", unwrapped(trainer.network)
    weights = {key.removeprefix(name): value for key, value in stored.items() if key.startswith(name)}
    try:
        getattr(network, "backbone", network).load_state_dict(weights)
    except RuntimeError:
        raise SettingsError(
            f"The network of {model} does not match the plans; start from a model of these plans."
        ) from None


@contextmanager
def merging(trainer: DeterministicTrainer, batch: dict[str, Any]) -> Iterator[None]:
    """Let the network, while a batch is with it, count labels that its cases lack as background."""
    network, missing = trainer.network, trainer.missing_in(batch)
    if missing is not None:
        trainer.network = MergedNetwork(network, missing)
    try:
        yield
    finally:
        trainer.network = network


def _cpu_autocast(device: torch.device) -> AbstractContextManager[Any]:
    return autocast(device) if device.type == "cpu" else nullcontext()


def need_exclusive_labels(labels: Any, what: str) -> None:
    """Refuse labels of nnU-Net's label manager that overlap, and an ignore label.

    Raises:
        SettingsError: There are such; `what` needs others.
    """
    if labels.has_regions or labels.has_ignore_label:
        raise SettingsError(f"{what} needs labels that exclude each other, and no ignore label.")


class TermsTrainer(DeterministicTrainer):
    """What trainers share that compute the terms of the loss themselves, and add a row to `progress.csv` each epoch."""

    deep_supervision = False
    largest_gradient = 1.0
    means: dict[str, float]
    """Of what the steps of the epoch have logged."""

    @property
    def scaler(self) -> torch.amp.GradScaler:
        return self.grad_scaler or torch.amp.GradScaler(enabled=False)

    def _batch(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return images and label maps on the network's device."""
        data, target = (batch[name].to(self.device, non_blocking=True) for name in ("data", "target"))
        return data, target[:, 0].long()

    def _optimise(self) -> None:
        """Take a step along the gradients."""
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.largest_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end([{"loss": output["loss"]} for output in train_outputs])
        names = train_outputs[0]
        self.means = self._over_processes({name: [output[name] for output in train_outputs] for name in names})

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        # The same validation patches every epoch, so that epochs can be compared.
        np.random.seed(int(np.random.SeedSequence([self.schedule.seed, self.local_rank]).generate_state(1)[0]))

    def _over_processes(self, values: dict[str, list[float]]) -> dict[str, float]:
        """Average over the steps, and over the processes of DDP."""
        means = {name: float(np.mean(own)) for name, own in values.items()}
        if not self.is_ddp:
            return means
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, means)
        return {name: float(np.mean([process[name] for process in everyone])) for name in means}

    def _validated(self) -> tuple[float, float]:
        """Return loss and Dice of the validation patches; 0 without any foreground in truth and prediction."""
        loss, dice = (float(self.logger.get_value(name, step=-1)) for name in ("val_losses", "mean_fg_dice"))
        return loss, 0.0 if np.isnan(dice) else dice

    def _end_epoch(self, row: dict[str, float], score: float, store: bool) -> None:
        """Add the row to the progress; store the best weights, and the latest ones if asked to."""
        if self.local_rank == 0:
            add_progress(Path(self.output_folder), {"epoch": self.current_epoch} | row)
        if self._best_ema is None or score > self._best_ema:
            self._best_ema = score
            self.save_checkpoint(f"{self.output_folder}/{BEST}")
        if store:
            self.save_checkpoint(f"{self.output_folder}/{LATEST}")
        self.current_epoch += 1


class ConstantRate:
    """A learning rate that does not change with the epochs."""

    def step(self, epoch: int) -> None:
        pass
