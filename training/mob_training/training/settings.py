"""Settings of the training stages. Needs no torch.

They are stored in the plans of an nnU-Net training folder, so that nnU-Net's own commands can run our trainers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import to_json
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope

Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


class Preset(StrEnum):
    """Size of the planned network."""

    SMALL = "small"
    """Four stages of 16 to 96 features, patch of at most 48 x 64 x 64 voxels: minutes on two CPU cores."""
    FAST = "fast"
    """A plain U-Net of five stages, 16 to 128 features, and the same patch: more steps in little time."""
    LARGE = "large"
    """nnU-Net's residual encoder L, the paper's backbone: a GPU of 24 GB."""


class Likelihood(StrEnum):
    """How samples of the logits are compared with the target."""

    MEAN = "mean"
    """Eq. 12: mean over the samples of CE + Dice."""
    LOG_MEAN_EXP = "log-mean-exp"
    """The likelihood of Stochastic Segmentation Networks, plus the same Dice."""
    ANALYTIC = "analytic"
    """Two classes: CE + Dice of the closed-form predictive mean; nothing is sampled."""
    EVIDENCE = "evidence"
    """The labels of the informative voxels together, by Laplace's approximation; the Dice is the mean's own."""


@dataclass(frozen=True)
class Schedule:
    """Length of a stage, in epochs and batches per epoch, and its seed."""

    epochs: int
    iterations: int = 250
    validation_iterations: int = 50
    seed: int = 0

    @classmethod
    def of(cls, epochs: int, iterations: int, seed: int, **rest: Any) -> Self:
        """Make a schedule with a fifth as many validation as training batches, as in nnU-Net, and at least 5."""
        return cls(
            epochs=epochs, iterations=iterations, validation_iterations=max(5, iterations // 5), seed=seed, **rest
        )


class Recipe(StrEnum):
    """How the deterministic stage is trained."""

    BUDGET = "budget"
    """AdamW and one cycle over the time that there is: minutes on a CPU."""
    NNUNET = "nnunet"
    """nnU-Net's own, without mirroring: a GPU."""


@dataclass(frozen=True)
class Budget:
    """The minutes of a deterministic stage with little time, validation and storing included, and its seed.

    One that goes on from the weights of a model, `started`, sees whole patches all the time.
    """

    minutes: float
    seed: int = 0
    started: bool = False

    @property
    def seconds(self) -> float:
        return 60 * self.minutes


def _count(text: str, most: int = 256) -> Any:
    return typer.Option(min=1, max=most, help=text)


def _number(text: str, most: float = 1e6) -> Any:
    return typer.Option(min=0, max=most, help=text)


@dataclass(frozen=True)
class Loss:
    """Loss and optimiser of a fine-tuning, each an option of `mob-training finetune`."""

    likelihood: Annotated[Likelihood, typer.Option(help="mean is Eq. 12.")] = Likelihood.MEAN
    samples: Annotated[int, _count("k, samples per training step.", 1000)] = 5
    learning_rate: Annotated[float, _number("Of the backbone.", 1)] = 1e-4
    head_learning_rate: Annotated[float, _number("Of the covariance head.", 1)] = 1e-4
    dice_weight: Annotated[float, _number("lambda_Dice of Eq. 11; lower is better calibrated.")] = 1.0
    kl_weight: Annotated[float, _number("lambda_KL of Eq. 11.")] = 5e-4
    orthogonality_weight: Annotated[float, _number("lambda_orth of Eq. 11.")] = 1.0
    entropy_weight: Annotated[float, _number("lambda_w of Eq. 11.")] = 0.05
    temperature_scaling: Annotated[
        bool, typer.Option(help="At the end divide the logits by the temperature with the lowest validation NLL.")
    ] = False
    heads_only: Annotated[
        bool, typer.Option(help="Train the covariance head alone: backbone, mean and segmentation stay.")
    ] = False


@dataclass(frozen=True)
class FineTuning(Loss, Schedule):
    """Settings of the fine-tuning stage, except the shape of its head.

    Attributes:
        epochs: The paper's number.
        weight_decay: AdamW's.
        start_from: Training folder to start from, relative to nnU-Net's results: of the deterministic stage, or of a
            fine-tuning, from whose best epoch its backbone is taken.
    """

    epochs: int = 20
    weight_decay: float = 1e-4
    start_from: str = ""


@dataclass(frozen=True)
class Head:
    """The shape of a covariance head, each number an option of `mob-training finetune`."""

    covariance: Annotated[Covariance, typer.Option(help="Covariance model.")] = Covariance.MIXTURE_OF_BASES
    rank: Annotated[int, _count("R.")] = CovarianceSpec.rank
    bases: Annotated[int, _count("M.")] = CovarianceSpec.bases
    partitions: Annotated[int, _count("P, cells per axis of a tile.")] = CovarianceSpec.partitions
    scope: Annotated[
        Scope | None, typer.Option(help="Which voxels share z2. Default: tile for low-rank, voxel for the others.")
    ] = None
    length: Annotated[
        str | None,
        typer.Option(help="Z,Y,X: correlation length of the scope local along the axes of the network's input, mm."),
    ] = None
    learn_length: Annotated[bool, typer.Option(help="Train the length, too.")] = False
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = False

    def spec(self) -> CovarianceSpec:
        """Make the shape of the head.

        Raises:
            SettingsError: It is impossible.
        """
        names = {entry.name for entry in fields(CovarianceSpec)} & {entry.name for entry in fields(self)} - {"scope"}
        shape = {name: getattr(self, name) for name in names}
        try:
            lengths = self.length and tuple(map(float, self.length.split(",")))
        except ValueError:
            raise SettingsError(f"--length takes three numbers, Z,Y,X, not {self.length}.") from None
        try:
            return CovarianceSpec(
                self.covariance, scope=self.scope or self.covariance.usual_scope, length_mm=lengths, **shape
            )
        except ValueError as error:
            raise SettingsError(f"{str(error).capitalize()}.") from error


@dataclass(frozen=True)
class Options(Loss, Head):
    """Options of `mob-training finetune`, and of a fine-tuning in the workflow's config, by the same names."""

    epochs: Annotated[int, _count("The paper's number is 20.", 100_000)] = 20
    iterations: Annotated[int, _count("Patches per epoch.", 100_000)] = Schedule.iterations

    def settings(self, seed: int) -> FineTuning:
        """Make what else a fine-tuning needs."""
        loss = {entry.name: getattr(self, entry.name) for entry in fields(Loss)}
        return FineTuning.of(self.epochs, self.iterations, seed, **loss)


@dataclass(frozen=True)
class Files:
    """The model of one channel that a head is attached to, the labelled cases, and where to work and to write.

    A label map has the values of the model's labels. nnU-Net's folders are in the workspace (`use_workspace`).
    """

    model: Annotated[
        Path, typer.Argument(help="Model of one channel: folder, zip, training folder or a shipped model's name.")
    ]
    cases: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, of 20 cases or more.")]
    workspace: Annotated[Path, typer.Option(help="New working folder; give it again to continue an interrupted run.")]
    output: Annotated[Path, typer.Option(help="Model folder or .zip file to create.")]


@dataclass(frozen=True)
class Attachment:
    """Options of `mob-training attach-head`."""

    covariance: Annotated[Covariance, typer.Option(help="Covariance model of the head.")] = Covariance.SINGLE_BASIS
    scope: Annotated[
        Scope, typer.Option(help="Which voxels share the noise: those near each other (local), or a whole tile.")
    ] = Scope.LOCAL
    keep_probability: Annotated[
        bool, typer.Option(help="Stretch the mean, so that noise leaves each voxel the probability of the backbone's.")
    ] = True
    epochs: Annotated[int, _count("Epochs of the head.", 100_000)] = 4
    iterations: Annotated[int, _count("Patches per epoch.", 100_000)] = 60
    seed: Seed = 0
    device: Device = "auto"
    processes: Annotated[int, _count("Processes to preprocess with.")] = 1


@dataclass(frozen=True)
class Job:
    """The fold of a training, its device, and whether it is resumed: options of each stage."""

    fold: Annotated[int, typer.Option(min=0, max=999, help="Fold of the data set's split.")] = 0
    device: Device = "auto"
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the latest checkpoint with the same settings.")
    ] = False


def deterministic_plans(plans: dict[str, Any], length: Schedule | Budget) -> dict[str, Any]:
    """Add the length of the deterministic stage, a schedule or a budget, to nnU-Net's plans, as plain JSON."""
    return plans | {type(length).__name__.lower(): to_json(length)}


def finetuning_plans(
    plans: dict[str, Any], name: str, spec: CovarianceSpec, settings: FineTuning, configuration: str
) -> dict[str, Any]:
    """Turn plans of the deterministic stage, or of an earlier fine-tuning, into those of a fine-tuning called `name`.

    It has one patch per step.
    """
    plans = copy.deepcopy(plans)
    if "finetuning" in plans:
        plans["plans_name"] = plans["plans_name"].partition("-")[0]
    for length in ("schedule", "budget"):
        if length in plans:
            plans[f"deterministic_{length}"] = plans.pop(length)
    plans["plans_name"] = f"{plans['plans_name']}-{name}"
    plans["configurations"][configuration]["batch_size"] = 1
    # As plain JSON, so that checkpoints hold nothing but numbers and strings and load with weights_only=True.
    plans["covariance"] = to_json(spec)
    plans["finetuning"] = to_json(settings)
    return plans
