"""nnU-Net trainers: the deterministic stage, and the fine-tuning of a covariance head on it (paper, section 3.1).

Everything that a trainer needs to know is in its plans (key `covariance` and `finetuning`), so a results folder can be
read without the command that made it.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import asdict, dataclass, field
from os.path import join
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from torch import Tensor, nn

from mob_training.losses import Likelihood, LossWeights, training_loss
from MoBUncertaintyLib.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.devices import autocast
from MoBUncertaintyLib.distribution import LogitGaussian
from MoBUncertaintyLib.moments import moments
from MoBUncertaintyLib.network import StochasticNetwork
from MoBUncertaintyLib.weights import read_checkpoint

FOREGROUND_RATE = 0.5
"""Share of patches centred on the organ. nnU-Net's own rate is rounded to zero at batch size 1."""


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains."""

    epochs: int
    iterations: int = 250
    validation_iterations: int = 50
    seed: int = 0


@dataclass(frozen=True)
class FineTuning:
    """What the fine-tuning stage does beside the shape of its head; kept in the plans of the results folder."""

    likelihood: Likelihood = Likelihood.MEAN
    samples: int = 5
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    reverse_kl: bool = False
    weights: LossWeights = field(default_factory=LossWeights)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FineTuning:
        return cls(
            **{**values, "likelihood": Likelihood(values["likelihood"]), "weights": LossWeights(**values["weights"])}
        )


class DeterministicTrainer(nnUNetTrainerNoMirroring):
    """nnU-Net's training without mirroring, which would swap left and right organs.

    On a CPU with bfloat16 units the network runs under autocast there too; nnU-Net does so on CUDA only.
    """

    def apply_schedule(self, schedule: Schedule) -> None:
        """Set the length of the training and seed every source of random numbers."""
        self.num_epochs = schedule.epochs
        self.num_iterations_per_epoch = schedule.iterations
        self.num_val_iterations_per_epoch = schedule.validation_iterations
        self.probabilistic_oversampling = True
        self.oversample_foreground_percent = FOREGROUND_RATE
        self.validation_seed = schedule.seed
        random.seed(schedule.seed)
        np.random.seed(schedule.seed)
        torch.manual_seed(schedule.seed)

    def train_step(self, batch: dict) -> dict:
        if self.device.type != "cpu":
            return super().train_step(batch)
        with autocast(self.device):
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        if self.device.type != "cpu":
            return super().validation_step(batch)
        with autocast(self.device):
            return super().validation_step(batch)

    def plot_network_architecture(self) -> None:
        """Nothing: the drawing needs packages that add nothing to a result."""


class FineTuningTrainer(DeterministicTrainer):
    """Stage two: the deterministic checkpoint with a covariance head, AdamW, batch size 1, no deep supervision.

    Args:
        plans: nnU-Net's plans with the keys `covariance` (a `CovarianceSpec`) and `finetuning` (a `FineTuning`).
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net inspects this signature
    ) -> None:
        plans = copy.deepcopy(plans)
        plans["configurations"][configuration]["batch_size"] = 1
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = FineTuning.from_dict(plans["finetuning"])
        self.enable_deep_supervision = False
        self.best_dice = -1.0

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=False
    ) -> nn.Module:
        backbone = nnUNetTrainerNoMirroring.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, False
        )
        return StochasticNetwork(backbone, CovarianceSpec(**plans_manager.plans["covariance"]), num_output_channels)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing: a stochastic network has one output."""

    def start_from(self, checkpoint: Path) -> None:
        """Load the deterministic stage's weights, the mean's segmentation layer included.

        nnU-Net's own loader of pretrained weights would skip that layer.
        """
        if not self.was_initialized:
            self.initialize()
        stored = read_checkpoint(checkpoint, str(checkpoint.parent)).weights
        self.network.backbone.load_state_dict({key.removeprefix("backbone."): value for key, value in stored.items()})

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Validation patches come from this process, so that `on_validation_epoch_start` can repeat them."""
        train, validation = super().get_dataloaders()
        if isinstance(validation, NonDetMultiThreadedAugmenter):
            validation._finish()
            validation = SingleThreadedAugmenter(validation.generator, None)
        return train, validation

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        network: StochasticNetwork = self.network
        groups = [{"params": list(network.backbone.parameters()), "lr": self.settings.learning_rate}]
        if network.head is not None:
            groups.append({"params": list(network.head.parameters()), "lr": self.settings.head_learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)
        return optimizer, _ConstantRate()

    def _build_loss(self) -> None:
        """None: the loss needs the whole distribution and is taken in `train_step`."""

    def train_step(self, batch: dict) -> dict:
        data, target = self._to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            gaussian = self.network(data)
        terms = training_loss(
            gaussian,
            target,
            _bases(self.network),
            likelihood=self.settings.likelihood,
            samples=self.settings.samples,
            weights=self.settings.weights,
            reverse_kl=self.settings.reverse_kl,
        )
        loss = terms["total"]
        if self.grad_scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        return {name: value.detach().cpu().numpy() for name, value in terms.items()} | {
            "loss": loss.detach().cpu().numpy(),
            "mean_variance": _mean_variance(gaussian),
            "chosen": _chosen(gaussian),
        }

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end([{"loss": output["loss"]} for output in train_outputs])
        names = [name for name in train_outputs[0] if name not in ("loss", "chosen")]
        summary = {name: float(np.mean([output[name] for output in train_outputs])) for name in names}
        self.print_to_log_file("terms", {name: round(value, 5) for name, value in summary.items()})
        if train_outputs[0]["chosen"] is not None:
            share = np.mean([output["chosen"] for output in train_outputs], axis=0)
            self.print_to_log_file("bases chosen", np.round(share, 3).tolist())

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        # The same validation patches every epoch, so that epochs can be compared.
        self._random_state = np.random.get_state()
        np.random.seed(self.validation_seed)

    @torch.no_grad()
    def validation_step(self, batch: dict) -> dict:
        data, target = self._to_device(batch)
        with autocast(self.device):
            gaussian = self.network(data)
        p = moments(gaussian).first
        p = torch.cat((1 - p.sum(dim=1, keepdim=True), p), dim=1)
        nll = -p.gather(1, target[:, None]).clamp_min(1e-7).log().mean()
        predicted = p.argmax(dim=1)
        counts: dict[str, list[float]] = {"tp_hard": [], "fp_hard": [], "fn_hard": []}
        for label in range(1, p.shape[1]):
            here, there = predicted == label, target == label
            counts["tp_hard"].append(float((here & there).sum()))
            counts["fp_hard"].append(float((here & ~there).sum()))
            counts["fn_hard"].append(float((~here & there).sum()))
        return {"loss": nll.cpu().numpy()} | {name: np.array(values) for name, values in counts.items()}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        super().on_validation_epoch_end(val_outputs)
        np.random.set_state(self._random_state)

    def on_epoch_end(self) -> None:
        """Keep the epoch with the best validation Dice itself; nnU-Net's moving average is too slow for 20 epochs."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)
        dice = float(self.logger.get_value("mean_fg_dice", step=-1))
        loss, nll = (float(self.logger.get_value(name, step=-1)) for name in ("train_losses", "val_losses"))
        self.print_to_log_file(f"train loss {loss:.4f}, validation NLL {nll:.4f}, validation Dice {dice:.4f}")
        if dice > self.best_dice:
            self.best_dice = self._best_ema = dice
            self.save_checkpoint(join(self.output_folder, "checkpoint_best.pth"))
        self.current_epoch += 1

    def _to_device(self, batch: dict) -> tuple[Tensor, Tensor]:
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"].to(self.device, non_blocking=True)
        return data, target[:, 0].long()


class _ConstantRate:
    """The paper's learning rate does not change."""

    def step(self, epoch: int) -> None:
        pass


def finetuning_plans(plans: dict, name: str, spec: CovarianceSpec, settings: FineTuning) -> dict:
    """Plans of the deterministic stage, made into those of a fine-tuning stage called `name`."""
    plans = copy.deepcopy(plans)
    plans["plans_name"] = f"{plans['plans_name']}-{name}"
    # As plain JSON, so that checkpoints hold nothing but numbers and strings and load with weights_only=True.
    plans["covariance"], plans["finetuning"] = json.loads(json.dumps([asdict(spec), asdict(settings)]))
    return plans


def _bases(network: StochasticNetwork) -> Tensor | None:
    if network.spec.kind not in (Covariance.SINGLE_BASIS, Covariance.MIXTURE_OF_BASES):
        return None
    return network.head.unit_basis()


def _mean_variance(gaussian: LogitGaussian) -> float:
    return 0.0 if gaussian.log_variance is None else float(gaussian.log_variance.detach().exp().mean())


def _chosen(gaussian: LogitGaussian) -> np.ndarray | None:
    """Share of the partition cells that chose each basis."""
    weights = getattr(gaussian.loading, "weights", None)
    if weights is None:
        return None
    choice = weights.detach().argmax(dim=1).flatten()
    return (torch.bincount(choice, minlength=weights.shape[1]) / choice.numel()).cpu().numpy()
