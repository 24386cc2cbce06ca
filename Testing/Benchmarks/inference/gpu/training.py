"""A few steps of both trainers on one random batch: they run, the loss falls, and it begins as on the CPU."""

from __future__ import annotations

import copy
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inference.gpu.paths import forget_peak, peak_of
from inference.gpu.rows import ResultError, Rows
from inference.measure import settle
from MoBUncertaintyLib.model.folder import Model

STEPS = 6
TOLERANCE = 0.03
"""Of the first loss, relative: half precision on both sides, and its own kind on each."""


def check_training(
    rows: Rows, model: Model, device: torch.device, patch: tuple[int, ...] | None, compare: bool
) -> None:
    """One row for each trainer; on a GPU one more with torch.compile, as nnU-Net does by itself.

    Args:
        rows: Where they go.
        model: Its plans are trained, from random weights.
        device: Where.
        patch: Smaller than the plans' own; None: theirs.
        compare: The first loss with the CPU's.
    """
    # Their modules read nnU-Net's folders from the environment when they are imported.
    from mob_training.training.trainer import DeterministicTrainer, FineTuningTrainer

    kinds = [(DeterministicTrainer, False), (FineTuningTrainer, False)]
    if device.type == "cuda":
        kinds.append((FineTuningTrainer, True))
    for kind, compiled in kinds:
        rows.add(
            f"{kind.__name__}{', compiled' * compiled}",
            lambda k=kind, c=compiled: _train(k, model, device, patch, c, compare),
        )


def _train(
    kind: type, model: Model, device: torch.device, patch: tuple[int, ...] | None, compiled: bool, compare: bool
) -> dict[str, Any]:
    os.environ["nnUNet_compile"] = str(compiled).lower()
    torch.backends.cudnn.benchmark = True  # as mob-training does
    trainer = _trainer(kind, model, device, patch)
    batch = _batch(trainer)
    wait = settle(device)
    forget_peak(device)
    losses, seconds = [], []
    for _ in range(STEPS):
        wait()
        start = time.perf_counter()
        losses.append(float(trainer.train_step(batch)["loss"]))
        wait()
        seconds.append(time.perf_counter() - start)
    values = {
        "patch": " x ".join(map(str, trainer.configuration_manager.patch_size)),
        "batch": trainer.batch_size,
        "first_s": seconds[0],
        "step_s": sorted(seconds[1:])[len(seconds[1:]) // 2],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    } | peak_of(device)
    if not all(map(math.isfinite, losses)):
        raise ResultError("The loss is not finite.", values)
    if not min(losses[1:]) < losses[0]:
        raise ResultError("The loss does not fall.", values)
    if compare and device.type != "cpu":
        os.environ["nnUNet_compile"] = "false"
        values["cpu_loss"] = float(_trainer(kind, model, torch.device("cpu"), patch).train_step(batch)["loss"])
        if abs(values["cpu_loss"] - losses[0]) > TOLERANCE * max(abs(values["cpu_loss"]), 1.0):
            raise ResultError(f"The first loss is {losses[0]:.4g}, and {values['cpu_loss']:.4g} on the CPU.", values)
    return values


def _trainer(kind: type, model: Model, device: torch.device, patch: tuple[int, ...] | None) -> Any:
    """A trainer ready for its first step: the same random weights on every device."""
    from mob_training.training.settings import FineTuning, Likelihood, Schedule, deterministic_plans, finetuning_plans

    configuration = model.card.configuration
    plans = {
        name: value for name, value in copy.deepcopy(model.plans).items() if name not in ("covariance", "finetuning")
    }
    if patch:
        plans["configurations"][configuration]["patch_size"] = list(patch)
    schedule = Schedule(1)
    if kind.__name__ == "FineTuningTrainer":
        # The analytic likelihood draws nothing, so that devices can be compared.
        settings = FineTuning(likelihood=Likelihood.ANALYTIC, schedule=schedule)
        plans = finetuning_plans(plans, "check", model.card.covariance, settings, configuration)
    else:
        plans = deterministic_plans(plans, schedule)
    data = Path(os.environ["nnUNet_preprocessed"]) / plans["dataset_name"]
    data /= plans["configurations"][configuration]["data_identifier"]
    data.mkdir(parents=True, exist_ok=True)
    (data / "none.b2nd").touch()  # the trainer wants to know the kind of its files
    trainer = kind(plans | {"continue_training": False}, configuration, 0, copy.deepcopy(model.dataset), device)
    trainer.initialize()
    trainer.network.train()
    return trainer


def _batch(trainer: Any) -> dict[str, Tensor | list[Tensor]]:
    """Noise, brighter in a ball, and the ball at all scales that the loss looks at."""
    size = tuple(trainer.configuration_manager.patch_size)
    noise = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    ball = (sum(axis.square() for axis in axes) < 0.4).float().expand(trainer.batch_size, 1, *size)
    data = torch.randn(ball.shape, generator=noise) + 2 * ball
    scales = trainer._get_deep_supervision_scales() if trainer.enable_deep_supervision else None
    if scales is None:
        return {"data": data, "target": ball.to(torch.int16)}
    return {"data": data, "target": [nn.functional.interpolate(ball, scale_factor=tuple(s)) for s in scales]}
