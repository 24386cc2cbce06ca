"""nnU-Net's trainer of the deterministic stage, and what both stages share: seeds, checkpoints, precision on a CPU."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from torch import Tensor, nn
from torch import distributed as dist

from mob_training.data.partial_labels import FILE, read_missing
from mob_training.training.predictive import MergedNetwork, missing_labels, pad_depth_first
from mob_training.training.progress import DRAWING, TABLE, add_progress
from mob_training.training.settings import Schedule
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.inference.devices import autocast
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.model.nnunet.training_folder import BEST, FINAL
from MoBUncertaintyLib.model.weights import only_weights_are_loaded

LATEST = "checkpoint_latest.pth"
EARLIER = "earlier"
"""Folder beside the checkpoints; in it a numbered folder for each earlier training."""


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
        self.schedule = self._schedule(plans)
        super().__init__(copy.deepcopy(plans), configuration, fold, dataset_json, device)
        self.probabilistic_oversampling = True
        self.oversample_foreground_percent = self.foreground_rate
        self.enable_deep_supervision = self.deep_supervision
        if self.schedule is not None:
            self.num_epochs = self.schedule.epochs
            self.num_iterations_per_epoch = self.schedule.iterations
            self.num_val_iterations_per_epoch = self.schedule.validation_iterations
        self.save_every = max(1, self.num_epochs // 20)
        names = [name for name in dataset_json["labels"] if name != "background"]
        self.missing = read_missing(self.preprocessed_dataset_folder_base, names)
        self._check()

    def _schedule(self, plans: dict[str, Any]) -> Schedule | None:
        """Read the schedule from the plans; None: nnU-Net's own."""
        return Schedule(**plans["schedule"]) if "schedule" in plans else None

    def _check(self) -> None:
        """Refuse what cannot be trained."""
        if self.missing:
            need_exclusive_labels(self.label_manager, str(Path(self.preprocessed_dataset_folder_base, FILE)))

    @property
    def unwrapped_network(self) -> Any:
        """The network without the wrappers of DDP and `torch.compile`."""
        network = getattr(self.network, "module", self.network)
        return getattr(network, "_orig_mod", network)

    @property
    def backbone(self) -> nn.Module:
        """nnU-Net's network."""
        return self.unwrapped_network

    def start_from(self, model: Path) -> None:
        """Load the backbone's weights, including the segmentation layer, which nnU-Net's own loader would skip.

        Raises:
            ModelError: The model folder, zip or training folder holds no trained model of this fold.
            SettingsError: Its network is another one.
        """
        if not self.was_initialized:
            self.initialize()
        stored = load_model(model, folds=(self.fold,)).state_dict(self.fold)
        name = "backbone."
        weights = {key.removeprefix(name): value for key, value in stored.items() if key.startswith(name)}
        try:
            self.backbone.load_state_dict(weights)
        except RuntimeError:
            raise SettingsError(
                f"The network of {model} does not match the plans; start from a model of these plans."
            ) from None

    def _set_batch_size_and_oversample(self) -> None:
        """Give every DDP process the same foreground rate; nnU-Net would give some processes all of it."""
        super()._set_batch_size_and_oversample()
        self.oversample_foreground_percent = self.foreground_rate

    def initialize(self) -> None:
        self.seed_epoch(0)
        super().initialize()
        if self.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            pad_depth_first(self.unwrapped_network)

    def seed_epoch(self, epoch: int) -> None:
        """Seed all random number generators, differently in each process.

        Every epoch has its own seeds, so that a resumed training gives the same result.
        """
        if self.schedule is None:
            return
        seed = int(np.random.SeedSequence([self.schedule.seed, self.local_rank, epoch]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> Any:
        """Make nnU-Net's transforms repeatable: it times two blurs that differ in the last digits."""
        composed = nnUNetTrainerNoMirroring.get_training_transforms(*args, **kwargs)
        for transform in composed.transforms:
            inner = transform.transform if isinstance(transform, RandomTransform) else transform
            if isinstance(inner, GaussianBlurTransform):
                inner.benchmark = False
        return composed

    def on_train_start(self) -> None:
        """Move an earlier training out of the folder, so that its best weights are not taken for this one's."""
        super().on_train_start()
        if self.current_epoch or self.local_rank:
            return
        folder = Path(self.output_folder)
        paths = [path for name in (FINAL, LATEST, BEST, TABLE, DRAWING) if (path := folder / name).exists()]
        place = next(place for number in count(1) if not (place := folder / EARLIER / str(number)).exists())
        for path in paths:
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
            self.print_to_log_file(f"{path.name} of an earlier training was moved to {EARLIER}/{place.name}/.")

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
        self.seed_epoch(self.current_epoch)
        super().on_train_epoch_start()

    def missing_in(self, batch: dict[str, Any]) -> Tensor | None:
        """Return which labels the cases of a batch lack, (B, C); None if all have all."""
        if not self.missing:
            return None
        lacked = missing_labels(self.missing, map(str, batch["keys"]), self.label_manager.num_segmentation_heads)
        return None if lacked is None else lacked.to(self.device)

    @contextmanager
    def merging(self, batch: dict[str, Any]) -> Iterator[None]:
        """Let the network, while a batch is with it, count labels that its cases lack as background."""
        network, missing = self.network, self.missing_in(batch)
        if missing is not None:
            self.network = MergedNetwork(network, missing)
        try:
            yield
        finally:
            self.network = network

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._cpu_autocast(), self.merging(batch):
            return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._cpu_autocast(), self.merging(batch):
            return super().validation_step(batch)

    def _cpu_autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device) if self.device.type == "cpu" else nullcontext()

    def plot_network_architecture(self) -> None:
        """Skip the plot, which needs extra packages and adds nothing to the result."""


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
