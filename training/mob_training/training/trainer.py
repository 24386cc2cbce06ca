"""nnU-Net trainer of the second stage: the fine-tuning of a covariance head (paper, section 3.1).

All settings are in the plans (`covariance` and `finetuning`), so `nnUNetv2_train` can run the trainer as well as
`mob-training`, also on several GPUs.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from torch import distributed as dist
from torch import nn

from mob_training.training.deterministic import ConstantRate, TermsTrainer, need_exclusive_labels, start_from, unwrapped
from mob_training.training.losses import training_loss
from mob_training.training.predictive import PredictiveNetwork, log_predictive_mean, merge_missing
from mob_training.training.settings import FineTuning, Likelihood, Schedule
from mob_training.training.temperature import TEMPERATURES, fit_temperature, tiles_of_cases
from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.inference.devices import autocast, wide_precision
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.files import read_file
from MoBUncertaintyLib.model.nnunet.training_folder import BEST
from MoBUncertaintyLib.model.weights import WEIGHTS_LIMIT, load_checkpoint
from MoBUncertaintyLib.network.backbone import divide_logits


class FineTuningTrainer(TermsTrainer):
    """Stage two: the deterministic checkpoint with a covariance head, AdamW, batch size 1, no deep supervision.

    DDP, which nnU-Net uses for several GPUs, requires: one patch per process; different noise and patches in each
    process; no parameter without a gradient; logged values averaged over processes. The plans have the keys
    `covariance` (a `CovarianceSpec`) and `finetuning` (a `FineTuning`).

    Raises:
        SettingsError: The plans lack those, or the loss is not defined for the data set's labels.
    """

    def _read(self, plans: dict[str, Any]) -> Schedule:
        if "finetuning" not in plans or "covariance" not in plans:
            raise SettingsError(
                f"The plans {plans.get('plans_name')} describe no fine-tuning; make them with mob-training finetune."
            )
        self.settings = from_json(FineTuning, plans["finetuning"])
        self.start_folder = Path(os.environ.get("nnUNet_results", ".")) / self.settings.start_from
        self.validation_likelihoods: list[float] = []
        need_exclusive_labels(self.label_manager, "A fine-tuning")
        classes = self.label_manager.num_segmentation_heads
        if self.settings.likelihood is Likelihood.ANALYTIC and classes != 2:
            raise SettingsError(
                f"The analytic likelihood is for two classes, this data set has {classes}; choose mean or log-mean-exp."
            )
        if self.settings.heads_only and plans["covariance"]["kind"] == Covariance.DETERMINISTIC:
            raise SettingsError("The deterministic model has no head; leave out heads_only, or choose a covariance.")
        return self.settings

    @staticmethod
    def build_network_architecture(
        plans_manager,
        configuration_manager,
        num_input_channels,
        num_output_channels,
        enable_deep_supervision=False,  # noqa: ARG004 - of nnU-Net's signature
    ) -> nn.Module:
        backbone = nnUNetTrainerNoMirroring.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, False
        )
        spec = from_json(CovarianceSpec, plans_manager.plans["covariance"])
        network = PredictiveNetwork(backbone, spec, num_output_channels, configuration_manager.spacing)
        # DDP waits for the gradient of every parameter that requires one.
        if plans_manager.plans["finetuning"].get("heads_only"):
            network.backbone.requires_grad_(False)
        for unused in network.backbone.decoder.seg_layers[:-1]:
            unused.requires_grad_(False)
        return network

    def on_train_start(self) -> None:
        if not self.was_initialized:  # by nnU-Net's own command
            start_from(self, self.start_folder)
        super().on_train_start()

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Load validation patches in this process, so that `on_validation_epoch_start` can repeat them."""
        train, validation = super().get_dataloaders()
        if isinstance(validation, NonDetMultiThreadedAugmenter):
            validation._finish()
            validation = SingleThreadedAugmenter(validation.generator, None)
        return train, validation

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        network = unwrapped(self.network)
        groups = []
        if not self.settings.heads_only:
            groups.append({"params": list(network.backbone.parameters()), "lr": self.settings.learning_rate})
        if network.head is not None:
            groups.append({"params": list(network.head.parameters()), "lr": self.settings.head_learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)
        return optimizer, ConstantRate()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        data, target = self._batch(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, wide_precision(self.device)):
            gaussian = self.network(data)
        terms = training_loss(gaussian, target, self.settings, missing=self.missing_in(batch))
        self.scaler.scale(terms["total"]).backward()
        self._optimise()
        logged = {name: float(value.detach()) for name, value in terms.items() if name != "total"}
        return {"loss": terms["total"].detach().cpu().numpy()} | logged | _noise(gaussian)

    @torch.no_grad()
    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        data, target = self._batch(batch)
        with autocast(self.device, wide_precision(self.device)):
            gaussian = unwrapped(self.network).distribution(data)
        log_p, missing = log_predictive_mean(gaussian), self.missing_in(batch)
        if missing is not None:
            log_p = merge_missing(log_p, missing)
        nll = nn.functional.nll_loss(log_p, target)
        if self.settings.heads_only:
            generator = torch.Generator(self.device).manual_seed(0)
            terms = training_loss(gaussian, target, self.settings, generator, missing)
            self.validation_likelihoods.append(float(terms["cross_entropy"]))
        predicted = log_p.argmax(dim=1)
        counts: dict[str, list[float]] = {"tp_hard": [], "fp_hard": [], "fn_hard": []}
        for label in range(1, log_p.shape[1]):
            here, there = predicted == label, target == label
            counts["tp_hard"].append(float((here & there).sum()))
            counts["fp_hard"].append(float((here & ~there).sum()))
            counts["fn_hard"].append(float((~here & there).sum()))
        return {"loss": nll.cpu().numpy()} | {name: np.array(values) for name, values in counts.items()}

    def on_epoch_end(self) -> None:
        """Keep the epoch with the best validation Dice; nnU-Net's moving average is too slow for 20 epochs.

        Where the heads alone are trained, the segmentation stays, and the epoch with the best likelihood is kept.
        """
        epoch, log, row = self.current_epoch, self.logger, dict(self.means)
        self.print_to_log_file({name: round(value, 5) for name, value in row.items()})
        log.log("epoch_end_timestamps", time(), epoch)
        nll, dice = self._validated()
        score = dice
        if self.settings.heads_only:
            row |= self._over_processes({"validation_likelihood": self.validation_likelihoods})
            score, self.validation_likelihoods = -row["validation_likelihood"], []
        start, end = (log.get_value(f"epoch_{name}_timestamps", step=-1) for name in ("start", "end"))
        self.print_to_log_file(f"validation NLL {nll:.4f}, validation Dice {dice:.4f}, {end - start:.1f} s")
        row |= {"validation_nll": nll, "validation_dice": dice, "seconds": end - start}
        self._end_epoch(row, score, store=(epoch + 1) % self.save_every == 0 and epoch + 1 < self.num_epochs)

    def on_train_end(self) -> None:
        if self.settings.temperature_scaling and not self.disable_checkpointing:
            if self.local_rank == 0:
                scale_best(self)
            if self.is_ddp:  # the others would predict with the unscaled checkpoint
                dist.barrier()
        super().on_train_end()


def scale_best(trainer: FineTuningTrainer) -> None:
    """Divide the logits of the kept epoch, once, however often the end of the training is reached."""
    best = Path(trainer.output_folder, BEST)
    checkpoint = load_checkpoint(read_file(best, WEIGHTS_LIMIT))
    if "temperature" in checkpoint:
        return
    network = unwrapped(trainer.network)
    last = copy.deepcopy(network.state_dict())
    network.load_state_dict(checkpoint["network_weights"])
    network.eval()
    cases, patch = trainer.get_tr_and_val_datasets()[1], trainer.configuration_manager.patch_size
    tiles = tiles_of_cases(cases, patch, lambda name: trainer.missing_in({"keys": [name]}))
    temperature, before, after = fit_temperature(network, tiles)
    trainer.print_to_log_file(f"temperature {temperature:.3f}: validation NLL {before:.4f} -> {after:.4f}")
    if not 1.001 * TEMPERATURES[0] < temperature < 0.999 * TEMPERATURES[-1]:
        trainer.print_to_log_file("This is the end of the tested range; the lowest NLL may lie beyond.")
    divide_logits(network, temperature)
    checkpoint |= {"network_weights": network.state_dict(), "temperature": temperature}
    write_file(best, lambda partial: torch.save(checkpoint, partial))
    network.load_state_dict(last)


def _noise(gaussian: LogitGaussian) -> dict[str, float]:
    """Compute the mean of d, and the fraction of partition cells in which each basis is the most probable one."""
    if gaussian.log_variance is None:
        return {}
    logged = {"mean_variance": float(gaussian.log_variance.detach().exp().mean())}
    weights = getattr(gaussian.loading, "weights", None)
    if weights is not None:
        choice = weights.detach().argmax(dim=1).flatten()
        fractions = torch.bincount(choice, minlength=weights.shape[1]) / choice.numel()
        logged |= {f"basis_{number}": value for number, value in enumerate(fractions.tolist(), 1)}
    return logged
