"""nnU-Net trainer for little time: its network and its files, and a recipe that learns in minutes on a CPU.

AdamW with one cycle of the learning rate over the time that there is, patches near organs, cross entropy and Dice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from time import time
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mob_training.data.partial_labels import Missing
from mob_training.training.augmentation import Frame, Mirroring, training_transforms
from mob_training.training.deterministic import ConstantRate, TermsTrainer, merging, need_exclusive_labels
from mob_training.training.losses import batch_dice_loss
from mob_training.training.settings import Budget, Schedule
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.inference.devices import autocast, wide_precision

NEAR = 8
"""A patch is centred within so many voxels, along each axis, of a random voxel of a random label."""
EPOCHS = 20
"""Parts of the time after which the model is validated and stored."""
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
RISING = 0.1
"""Fraction of the time in which the learning rate rises."""
SMALLER = 2 / 3
"""Fraction of the time in which patches are smaller, and steps four times as many."""
WINDOW = 20
"""The stored weights are a mean over about the last twentieth of the steps."""


class BudgetTrainer(TermsTrainer):
    """Train as long as there is time; the stored weights are a moving average, good to use at any moment.

    A resumed training goes on with the time that is left. The plans have the key `budget` (a `Budget`).

    Raises:
        SettingsError: The plans lack it, the labels overlap, or there are several processes.
    """

    foreground_rate = 0.8

    largest_gradient = 5.0
    averaged: AveragedModel | None = None
    spent = 0.0
    """Seconds of the epochs that are over."""
    started = 0.0
    """When the current epoch began; 0 between two epochs."""

    def _read(self, plans: dict[str, Any]) -> Schedule:
        if "budget" not in plans:
            raise SettingsError(f"The plans {plans.get('plans_name')} state no budget; use mob-training train.")
        need_exclusive_labels(self.label_manager, "The recipe budget")
        if self.is_ddp:
            raise SettingsError("The recipe budget takes one process; choose --recipe nnunet for several GPUs.")
        self.budget = from_json(Budget, plans["budget"])
        self.mirroring = Mirroring.of(plans, self.dataset_json)
        return Schedule(EPOCHS, validation_iterations=10, seed=self.budget.seed)

    def _do_i_compile(self) -> bool:
        return False

    @property
    def fraction(self) -> float:
        """Fraction of the time that is over."""
        now = self.spent + (time() - self.started if self.started else 0)
        return min(1.0, now / self.budget.seconds)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        return optimizer, ConstantRate()  # it changes with each step

    def _build_loss(self) -> Any:
        return lambda logits, target: sum(loss_terms(logits, target[:, 0].long()).values())

    def get_dataloaders(self) -> tuple[Any, Any]:
        self.dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
        patch, labels = self.configuration_manager.patch_size, self.label_manager
        frame = Frame.of(self.plans_manager.plans, self.configuration_name, self.dataset_json.get("orientation"))
        transforms = (
            training_transforms(patch, frame),
            self.get_validation_transforms(None, foreground_labels=labels.foreground_labels),
        )
        loaders = [
            NearbyLoader(
                cases,
                self.batch_size,
                patch,
                patch,
                labels,
                self.foreground_rate,
                transforms=transform,
                missing=self.missing,
            )
            for cases, transform in zip(self.get_tr_and_val_datasets(), transforms, strict=True)
        ]
        training, validation = (SingleThreadedAugmenter(loader, None) for loader in loaders)
        if processes := get_allowed_n_proc_DA():
            several = {"num_cached": max(6, processes // 2), "pin_memory": self.device.type == "cuda"}
            training = NonDetMultiThreadedAugmenter(loaders[0], None, processes, seeds=None, wait_time=0.002, **several)
        return training, validation

    def run_training(self) -> None:
        """Train until the time is over; at least one step."""
        self.on_train_start()
        if self.mirroring:
            self.print_to_log_file("Half of the patches are mirrored from side to side; labels follow the position.")
        # A moving average begins at the network's weights.
        self.averaged = AveragedModel(
            self.network, avg_fn=lambda mean, weight, steps: mean + (weight - mean) * WINDOW / (steps + WINDOW)
        )
        while self.fraction < 1:
            self.on_epoch_start()
            self.on_train_epoch_start()
            end = self.fraction + 1 / EPOCHS
            outputs = [self.train_step(next(self.dataloader_train))]
            while self.fraction < min(end, 1):
                outputs.append(self.train_step(next(self.dataloader_train)))
            self.on_train_epoch_end(outputs)
            self.means["steps"] = len(outputs)
            self.network, self.averaged.module = self.averaged.module, self.network
            with torch.no_grad():
                self.on_validation_epoch_start()
                batches = (next(self.dataloader_val) for _ in range(self.num_val_iterations_per_epoch))
                self.on_validation_epoch_end([self.validation_step(batch) for batch in batches])
            self.on_epoch_end()
            self.network, self.averaged.module = self.averaged.module, self.network
        self.network = self.averaged.module
        self.on_train_end()

    def on_epoch_start(self) -> None:
        self.started = time()
        self.logger.log("epoch_start_timestamps", self.started, self.current_epoch)

    def missing_in(self, batch: dict[str, Any]) -> Tensor | None:
        missing = super().missing_in(batch)
        if missing is None or "mirrored" not in batch:
            return missing
        return self.mirroring.missing(missing, batch["mirrored"].to(missing.device))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.mirroring:
            batch = self.mirroring.mirrored(batch, torch.rand(len(batch["keys"])) < 0.5)
        if self.fraction < SMALLER and not self.budget.started:
            batch = smaller(batch, self.configuration_manager)
        data, target = self._batch(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * one_cycle(self.fraction)
        self.optimizer.zero_grad(set_to_none=True)
        with merging(self, batch):
            with autocast(self.device, wide_precision(self.device)):
                logits = self.network(data)
            terms = loss_terms(logits, target)
            loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()
        self._optimise()
        self.averaged.update_parameters(self.network)
        logged = {name: float(term.detach()) for name, term in terms.items()}
        return {"loss": loss.detach().cpu().numpy()} | logged

    def on_epoch_end(self) -> None:
        """Store the averaged weights, and as the best those with the highest validation Dice; say what is left."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)
        self.spent, self.started = self.spent + time() - self.started, 0.0
        loss, dice = self._validated()
        names = [name for name in self.dataset_json["labels"] if name != "background"]
        overlaps = dict(zip(names, self.logger.get_value("dice_per_class_or_region", step=-1), strict=True))
        shown = ", ".join(f"{name} {value:.2f}" for name, value in overlaps.items())
        left = max(0.0, self.budget.seconds - self.spent) / 60
        self.print_to_log_file(
            f"{self.means['steps']} steps, validation Dice {dice:.3f} ({shown}), {left:.0f} of "
            f"{self.budget.minutes:g} minutes left"
        )
        logged = {name: value for name, value in self.means.items() if name != "loss"}
        row = {"minutes": self.spent / 60, **logged, "validation_loss": loss, "validation_dice": dice}
        row |= {f"dice_{name}": float(value) for name, value in overlaps.items()}
        self._end_epoch(row, dice, store=True)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint, and with it how much time was spent."""
        super().load_checkpoint(filename_or_checkpoint)
        starts, ends = (self.logger.get_value(f"epoch_{name}_timestamps", step=None) for name in ("start", "end"))
        self.spent = float(sum(end - start for start, end in zip(starts, ends, strict=False)))


def loss_terms(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute cross entropy and Dice of the batch, fp32."""
    logits = logits.float()
    return {
        "cross_entropy": torch.nn.functional.cross_entropy(logits, target),
        "dice": batch_dice_loss(logits.softmax(dim=1), target),
    }


class NearbyLoader(nnUNetDataLoader):
    """Draw patches near a random voxel of a random label of the case, or, in the other draws, anywhere in it.

    Labels that few cases have are drawn as often as the others: such cases are drawn more often, and their rare labels.
    """

    def __init__(self, data: Any, *args: Any, missing: Missing, **kwargs: Any) -> None:
        super().__init__(data, *args, probabilistic_oversampling=True, **kwargs)
        labels = [label for label in self.annotated_classes_key if label > 0]
        labelled = np.array([[label not in missing.get(case, ()) for label in labels] for case in data.identifiers])
        rarity = 1 / np.maximum(labelled.sum(axis=0), 1)
        self.rarity = dict(zip(labels, rarity, strict=True))
        self.sampling_probabilities = (labelled * rarity).sum(axis=1) / (labelled * rarity).sum()

    def get_bbox(
        self,
        data_shape: Sequence[int],
        force_fg: bool,
        class_locations: Mapping[Any, np.ndarray],
        *_: Any,
        **__: Any,
    ) -> tuple[list[int], list[int]]:
        """Return first and last voxel of a patch; within the case, or around it where it is smaller than a patch."""
        shape, patch = np.asarray(data_shape), np.asarray(self.patch_size)
        shown = [label for label in self.rarity if len(class_locations.get(label, ()))]
        if force_fg and shown:
            weights = np.array([self.rarity[label] for label in shown])
            voxels = class_locations[np.random.choice(shown, p=weights / weights.sum())]
            centre = voxels[np.random.randint(len(voxels))][1:] + np.random.randint(-NEAR, NEAR + 1, len(patch))
            start = centre - patch // 2
        else:
            start = np.random.randint(0, np.maximum(shape - patch, 0) + 1)
        start = np.where(shape < patch, (shape - patch) // 2, np.clip(start, 0, np.maximum(shape - patch, 0)))
        return start.tolist(), (start + patch).tolist()


def one_cycle(fraction: float) -> float:
    """Return the learning rate as a fraction of the largest: it rises from a 25th, then falls to 0, as cosines do."""
    if fraction < RISING:
        return 1 - 0.96 * (1 + math.cos(math.pi * fraction / RISING)) / 2
    return (1 + math.cos(math.pi * (fraction - RISING) / (1 - RISING))) / 2


def smaller(batch: dict[str, Any], plan: Any) -> dict[str, Any]:
    """Cut the middle out of the patches of a batch, for a configuration of nnU-Net's plans."""
    patch = smaller_patch(plan.patch_size, plan.pool_op_kernel_sizes)
    return batch | {name: centre(batch[name], patch) for name in ("data", "target")}


def smaller_patch(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Return two thirds of a patch along each axis, as the network can halve it, with two voxels at its bottom."""
    steps = np.prod(strides, axis=0)
    return [
        int(min(size, max(2 * step, size * 2 // 3 // step * step))) for size, step in zip(patch, steps, strict=True)
    ]


def centre(batch: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut the middle out of each patch of a batch (B, C, *S)."""
    starts = [(size - new) // 2 for size, new in zip(batch.shape[2:], patch, strict=True)]
    return batch[(..., *(slice(start, start + new) for start, new in zip(starts, patch, strict=True)))]
