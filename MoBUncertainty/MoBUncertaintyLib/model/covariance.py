"""What kind of covariance a model has, as data: the part of a head that a `model.json` can state. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Covariance(StrEnum):
    """The paper's five models (Fig. 2); a model is a way to produce the loading of a `LogitGaussian`."""

    DETERMINISTIC = "deterministic"
    DIAGONAL = "diagonal"
    LOW_RANK = "low-rank"
    SINGLE_BASIS = "single-basis"
    MIXTURE_OF_BASES = "mixture-of-bases"


class Scope(StrEnum):
    """How often the latent z2 of eta = mu + sqrt(d) z1 + L z2 is drawn: per voxel, per partition cell or per tile."""

    VOXEL = "voxel"
    PARTITION = "partition"
    TILE = "tile"


class Assignment(StrEnum):
    """How the weights W(x) of a partition cell make its basis."""

    HARD = "hard"
    """The most probable basis (paper, section 3)."""
    SOFT = "soft"
    """The mean of the bases under W."""


@dataclass(frozen=True)
class CovarianceSpec:
    """The shape of a covariance head.

    Attributes:
        kind: Which of the paper's models.
        rank: R, columns of the loading (low-rank and basis models).
        bases: M, number of learned bases (Mixture-of-Bases).
        partitions: P, cells per axis, so that a tile has P x P x P of them (Mixture-of-Bases, or scope `partition`).
        scope: How often z2 is drawn. The low-rank model's z2 is drawn per tile, as in Stochastic Segmentation
            Networks; the basis models' per voxel, as in Eq. 14, unless stated otherwise.
        assignment: How a cell's weights make its basis (Mixture-of-Bases).

    Raises:
        ValueError: A number is below 1 or a name is unknown.
    """

    kind: Covariance = Covariance.MIXTURE_OF_BASES
    rank: int = 16
    bases: int = 3
    partitions: int = 4
    scope: Scope = Scope.VOXEL
    assignment: Assignment = Assignment.HARD

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Covariance(self.kind))
        object.__setattr__(self, "scope", Scope(self.scope))
        object.__setattr__(self, "assignment", Assignment(self.assignment))
        for name in ("rank", "bases", "partitions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
                raise ValueError(f"{name} must be a whole number from 1 to 256, not {value!r}")
        if self.kind is Covariance.LOW_RANK and self.scope is Scope.VOXEL:
            object.__setattr__(self, "scope", Scope.TILE)
