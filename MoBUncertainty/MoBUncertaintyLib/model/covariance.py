"""Describe a model's covariance as data, as `model.json` states it. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

LENGTH_RANGE = (0.01, 1000.0)
"""Shortest and longest correlation length, mm."""


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
    """Which voxels share the latent z2 of eta = mu + sqrt(d) z1 + L z2.

    It is drawn per voxel, per partition cell or per tile. Between voxel and tile is `local`: z1 and z2 are smooth
    fields of unit variance with a correlation length.
    """

    VOXEL = "voxel"
    LOCAL = "local"
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
        scope: Which voxels share z2; for the low-rank model not `voxel`.
        assignment: How a cell's weights give its basis (Mixture-of-Bases).
        length_mm: Correlation length of the scope `local` along each axis of the network's input, in the order of
            nnU-Net's spacing; its meaning is that of `correlation.correlation`.
        learn_length: The length is only where training starts; the weights hold the learned one, and `length_mm` of a
            trained model states it.
        keep_probability: The mean is stretched, so that noise leaves each voxel the probability that the backbone's own
            logits have: to 0.005 with two classes, less exactly with more.
        deep: The head also sees the feature maps of so many earlier stages of the decoder, interpolated.

    Raises:
        ValueError: A number is out of range, the model cannot have the scope, or a length is missing or without effect.
    """

    kind: Covariance = Covariance.MIXTURE_OF_BASES
    rank: int = 16
    bases: int = 3
    partitions: int = 4
    scope: Scope = Scope.VOXEL
    assignment: Assignment = Assignment.HARD
    length_mm: tuple[float, float, float] | None = None
    learn_length: bool = False
    keep_probability: bool = False
    deep: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "bases", "partitions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
                raise ValueError(f"{name} must be a whole number from 1 to 256, not {value!r}")
        if self.kind is Covariance.LOW_RANK and self.scope is Scope.VOXEL:
            raise ValueError("the scope of the low-rank model must be local, partition or tile, not voxel")
        if not isinstance(self.keep_probability, bool):
            raise ValueError("keep_probability must be true or false")
        if not isinstance(self.deep, int) or isinstance(self.deep, bool) or not 0 <= self.deep <= 9:
            raise ValueError(f"deep must be a whole number from 0 to 9, not {self.deep!r}")
        if self.deep and self.kind is Covariance.DETERMINISTIC:
            raise ValueError("the deterministic model has no head that could see more features")
        self._check_length()

    def _check_length(self) -> None:
        local = self.scope is Scope.LOCAL
        if local and self.kind is Covariance.DETERMINISTIC:
            raise ValueError("the deterministic model has no noise, so its scope cannot be local")
        if local != (self.length_mm is not None):
            raise ValueError("the scope local needs length_mm" if local else "length_mm is for the scope local")
        if not isinstance(self.learn_length, bool) or (self.learn_length and not local):
            raise ValueError("learn_length must be true or false, and true only for the scope local")
        low, high = LENGTH_RANGE
        lengths = self.length_mm or ()
        right = all(isinstance(length, int | float) and low <= length <= high for length in lengths)
        if local and not (len(lengths) == 3 and right and not any(isinstance(length, bool) for length in lengths)):
            raise ValueError(f"length_mm must be three numbers from {low:g} to {high:g}, not {self.length_mm!r}")

    @classmethod
    def of_kind(cls, kind: Covariance, **rest: Any) -> CovarianceSpec:
        """Make the spec of a model with its usual scope; `rest` are the other attributes."""
        return cls(kind, scope=kind.usual_scope, **rest)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CovarianceSpec:
        """Invert `to_dict`.

        Raises:
            ValueError: A name is not one of those there are, or a number is out of range.
        """
        named = {"kind": Covariance(values["kind"]), "scope": Scope(values["scope"])}
        named["assignment"] = Assignment(values.get("assignment", Assignment.HARD))
        length = values.get("length_mm")
        return cls(**{**values, **named, "length_mm": None if length is None else tuple(map(float, length))})

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON; options that a model does not use are left out."""
        stated = {name: value.value if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}
        for name in ("length_mm", "learn_length", "keep_probability", "deep"):
            if not stated[name]:
                del stated[name]
        return stated if self.length_mm is None else stated | {"length_mm": list(self.length_mm)}
