"""Describe a model's covariance as data, as `model.json` states it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Covariance(StrEnum):
    """The paper's five models (Fig. 2); each produces the loading of a `LogitGaussian` in its own way."""

    DETERMINISTIC = "deterministic"
    DIAGONAL = "diagonal"
    LOW_RANK = "low-rank"
    SINGLE_BASIS = "single-basis"
    MIXTURE_OF_BASES = "mixture-of-bases"

    @property
    def usual_scope(self) -> Scope:
        """`tile` for the low-rank model, as in Stochastic Segmentation Networks, else `voxel`, as in Eq. 14."""
        return Scope.TILE if self is Covariance.LOW_RANK else Scope.VOXEL


class Scope(StrEnum):
    """How often the latent z2 of eta = mu + sqrt(d) z1 + L z2 is drawn: per voxel, per partition cell or per tile."""

    VOXEL = "voxel"
    PARTITION = "partition"
    TILE = "tile"


class Assignment(StrEnum):
    """How the weights W(x) of a partition cell give its basis."""

    HARD = "hard"
    """The most probable basis (paper, section 3)."""
    SOFT = "soft"
    """The mean of the bases under W."""


@dataclass(frozen=True)
class CovarianceSpec:
    """The shape of a covariance head.

    Attributes:
        kind: One of the paper's models.
        rank: R, columns of the loading (low-rank and basis models).
        bases: M, number of learned bases (Mixture-of-Bases).
        partitions: P, cells per axis, so that a tile has P x P x P of them (Mixture-of-Bases, or scope `partition`).
        scope: How often z2 is drawn; for the low-rank model not `voxel`.
        assignment: How a cell's weights give its basis (Mixture-of-Bases).

    Raises:
        ValueError: A number is not from 1 to 256, or the low-rank model has the scope `voxel`.
    """

    kind: Covariance = Covariance.MIXTURE_OF_BASES
    rank: int = 16
    bases: int = 3
    partitions: int = 4
    scope: Scope = Scope.VOXEL
    assignment: Assignment = Assignment.HARD

    def __post_init__(self) -> None:
        for name in ("rank", "bases", "partitions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
                raise ValueError(f"{name} must be a whole number from 1 to 256, not {value!r}")
        if self.kind is Covariance.LOW_RANK and self.scope is Scope.VOXEL:
            raise ValueError("the scope of the low-rank model must be partition or tile, not voxel")

    @classmethod
    def of_kind(cls, kind: Covariance, **rest: Any) -> CovarianceSpec:
        """Make the spec of a model with its usual scope; `rest` are the other attributes."""
        return cls(kind, scope=kind.usual_scope, **rest)
