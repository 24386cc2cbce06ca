"""Settings of the training stages. Needs no torch.

They are stored in the plans of an nnU-Net training folder, so that nnU-Net's own commands can run our trainers.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from MoBUncertaintyLib.files.schema import to_json
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec

CHANNEL = "MRI"
"""Name of the images of a data set, unless stated: nnU-Net z-scores all but CT."""


class Preset(StrEnum):
    """Size of the planned network."""

    SMALL = "small"
    """Four stages of 16 to 96 features, patch of at most 48 x 64 x 64 voxels: minutes on two CPU cores."""
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
    CONDITIONAL = "conditional"
    """Some labels are revealed; the likelihood of the others given these. The same Dice."""


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of Eq. 11. All are from the paper, except `weight`, which is from its authors' code."""

    cross_entropy: float = 1.0
    dice: float = 1.0
    kl: float = 5e-4
    orthogonality: float = 1.0
    weight: float = 0.05


@dataclass(frozen=True)
class Schedule:
    """Length of a stage, in epochs and batches per epoch, and its seed."""

    epochs: int
    iterations: int = 250
    validation_iterations: int = 50
    seed: int = 0

    @classmethod
    def of(cls, epochs: int, iterations: int, seed: int) -> Schedule:
        """Make a schedule with a fifth as many validation as training batches, as in nnU-Net, and at least 5."""
        return cls(epochs, iterations, max(5, iterations // 5), seed)


class Recipe(StrEnum):
    """How the deterministic stage is trained."""

    BUDGET = "budget"
    """AdamW and one cycle over the time that there is: minutes on a CPU."""
    NNUNET = "nnunet"
    """nnU-Net's own, without mirroring: a GPU."""


@dataclass(frozen=True)
class Budget:
    """The time of a deterministic stage that learns with little of it, and its seed.

    Attributes:
        minutes: Validation and storing included.
        seed: Of weights, patches and augmentation.
        mirror_axes: Axes of the network's input along which patches may be mirrored; none where labels have sides.
    """

    minutes: float
    seed: int = 0
    mirror_axes: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Budget:
        """Read what JSON made of it."""
        return cls(**values | {"mirror_axes": tuple(values["mirror_axes"])})

    @property
    def seconds(self) -> float:
        return 60 * self.minutes


@dataclass(frozen=True)
class FineTuning:
    """Settings of the fine-tuning stage, except the shape of its head.

    Attributes:
        likelihood: How samples are compared with the target.
        samples: k.
        learning_rate: Of the backbone.
        head_learning_rate: Of the covariance head.
        weight_decay: AdamW's.
        reverse_kl: Reverse the direction of Eq. 8.
        temperature_scaling: At the end, divide the logits by the temperature with the lowest validation NLL.
        heads_only: Train the covariance head alone: the backbone and its mean stay, and with them the segmentation.
        weights: The lambdas of Eq. 11.
        schedule: The paper's 20 epochs, unless stated otherwise.
        start_from: Training folder to start from, relative to nnU-Net's results: of the deterministic stage, or of a
            fine-tuning, from whose best epoch its backbone is taken.
    """

    likelihood: Likelihood = Likelihood.MEAN
    samples: int = 5
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    reverse_kl: bool = False
    temperature_scaling: bool = False
    heads_only: bool = False
    weights: LossWeights = field(default_factory=LossWeights)
    schedule: Schedule = field(default_factory=lambda: Schedule(20))
    start_from: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON, the schedule's entries beside the others."""
        values = json.loads(json.dumps(asdict(self)))
        return values | values.pop("schedule")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FineTuning:
        """Invert `to_dict`."""
        times = {entry.name for entry in fields(Schedule)}
        rest = {name: value for name, value in values.items() if name not in times}
        rest["likelihood"] = Likelihood(rest["likelihood"])
        rest["weights"] = LossWeights(**rest["weights"])
        return cls(**rest, schedule=Schedule(**{name: values[name] for name in times if name in values}))


def parse_length(text: str | None) -> tuple[float, ...] | None:
    """Parse a correlation length, Z,Y,X in mm.

    Raises:
        ValueError: It is no three numbers.
    """
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"--length takes three numbers, Z,Y,X, not {text}") from None


def default_options(covariance: str = Covariance.MIXTURE_OF_BASES) -> dict[str, Any]:
    """List the options of a fine-tuning at their defaults, by their names on the command line and in a config.

    `length` is text, Z,Y,X, or None.
    """
    spec, settings = CovarianceSpec.of_kind(Covariance(covariance)), FineTuning()
    return {
        "covariance": spec.kind,
        "rank": spec.rank,
        "bases": spec.bases,
        "partitions": spec.partitions,
        "scope": spec.scope,
        "length": None,
        "learn_length": spec.learn_length,
        "shared_fraction": spec.shared_fraction,
        "keep_probability": spec.keep_probability,
        "deep": spec.deep,
        "assignment": spec.assignment,
        "likelihood": settings.likelihood,
        "samples": settings.samples,
        "learning_rate": settings.learning_rate,
        "head_learning_rate": settings.head_learning_rate,
        "dice_weight": settings.weights.dice,
        "kl_weight": settings.weights.kl,
        "reverse_kl": settings.reverse_kl,
        "orthogonality_weight": settings.weights.orthogonality,
        "entropy_weight": settings.weights.weight,
        "temperature_scaling": settings.temperature_scaling,
        "heads_only": settings.heads_only,
        "epochs": settings.schedule.epochs,
        "iterations": settings.schedule.iterations,
    }


def deterministic_plans(plans: dict[str, Any], length: Schedule | Budget) -> dict[str, Any]:
    """Add the length of the deterministic stage, a schedule or a budget, to nnU-Net's plans, as plain JSON."""
    return plans | {type(length).__name__.lower(): json.loads(json.dumps(asdict(length)))}


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
    plans["finetuning"] = settings.to_dict()
    return plans
