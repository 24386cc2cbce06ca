"""Describe a model's covariance as data, as `model.json` states it, and its correlation between voxels. Needs no torch.

There is but one correlation, for NumPy's arrays and torch's tensors. Along an axis it is the cubic B-spline, 1 at
distance 0; in space, the product over the axes. It has *compact support*, so that far voxels do not meet, and is
positive definite on every grid, since its Fourier transform is a product of sinc^4. It makes smooth fields.

A fraction of the variance may be *shared* by the whole volume: k = (1 - a) spline + a. Then z = sqrt(1 - a) z_local +
sqrt(a) z_volume with one draw of z_volume for all voxels, which moves the whole outline in or out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from MoBUncertaintyLib.base.schema import Range, out_of_range

LENGTH_RANGE = (0.01, 1000.0)  # shortest and longest correlation length, mm

Array = TypeVar("Array")  # numpy array or torch tensor

HALF_OF_GAUSSIAN = 1.1774100225154747  # exp(-t^2 / 2) is 1/2 at t = sqrt(2 ln 2)
HALF_OF_SPLINE = 0.7223517244643761  # the spline, 1 - 3/2 t^2 + 3/4 t^3 for t < 1, is 1/2 here
REACH = 2 * HALF_OF_GAUSSIAN / HALF_OF_SPLINE
"""Distance, in lengths, from which on the correlation is 0 along an axis."""


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
    """Which voxels share the latent z2 of eta = mu + sqrt(d) z1 + L z2."""

    VOXEL = "voxel"
    LOCAL = "local"  # between voxel and tile: z1 and z2 are smooth fields of unit variance with a correlation length
    TILE = "tile"


@dataclass(frozen=True)
class CovarianceSpec:
    """The shape of a covariance head.

    Attributes:
        kind: One of the paper's models.
        rank: R, columns of the loading (low-rank and basis models).
        bases: M, number of learned bases (Mixture-of-Bases).
        partitions: P, cells per axis, so that a tile has P x P x P of them (Mixture-of-Bases).
        scope: Which voxels share z2; for the low-rank model not `voxel`.
        length_mm: Correlation length of the scope `local` along each axis of the network's input, in the order of
            nnU-Net's spacing; its meaning is that of `correlation`.
        learn_length: The length is where training starts; that of a trained model is the learned one.
        shared_fraction: a, the fraction of the variance of z that all voxels of a volume share, for the scope `local`.
        keep_probability: The mean is stretched, so that noise leaves each voxel the probability that the backbone's own
            logits have: with two classes to 0.005 up to a variance of 9 of their contrast, to 0.017 up to 100; with
            more the stated probability is that itself, and that of samples near it.

    Raises:
        ValueError: A number is out of range, the model cannot have the scope, or a length is missing or without effect.
    """

    kind: Covariance = Covariance.MIXTURE_OF_BASES
    rank: Annotated[int, Range(1, 256)] = 16
    bases: Annotated[int, Range(1, 256)] = 3
    partitions: Annotated[int, Range(1, 256)] = 4
    scope: Scope = Scope.VOXEL
    length_mm: tuple[float, float, float] | None = None
    learn_length: bool = False
    shared_fraction: Annotated[float, Range(0, below=1)] = 0.0
    keep_probability: bool = False

    def __post_init__(self) -> None:
        if problem := out_of_range(self):
            raise ValueError(problem)
        if self.kind is Covariance.LOW_RANK and self.scope is Scope.VOXEL:
            raise ValueError("the scope of the low-rank model must be local or tile, not voxel")
        local = self.scope is Scope.LOCAL
        if local and self.kind is Covariance.DETERMINISTIC:
            raise ValueError("the deterministic model has no noise, so its scope cannot be local")
        if local != (self.length_mm is not None):
            raise ValueError("the scope local needs length_mm" if local else "length_mm is for the scope local")
        if self.learn_length and not local:
            raise ValueError("learn_length is for the scope local")
        if self.shared_fraction and not local:
            raise ValueError("shared_fraction is for the scope local")
        low, high = LENGTH_RANGE
        lengths = self.length_mm or ()
        if local and not (len(lengths) == 3 and all(low <= length <= high for length in lengths)):
            raise ValueError(f"length_mm must be three numbers from {low:g} to {high:g}, not {self.length_mm!r}")

    @classmethod
    def of_kind(cls, kind: Covariance, **rest: Any) -> CovarianceSpec:
        """Make the spec of a model with its usual scope; `rest` are the other attributes."""
        return cls(kind, scope=kind.usual_scope, **rest)

    def predicted_shapes(self, classes: int, tile: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes of what a head predicts for the loading of a tile, as `predicted_loading` takes it."""
        scales, cells = (1, self.rank, *tile), tuple(min(self.partitions, size) for size in tile)
        shapes: dict[Covariance, list[tuple[int, ...]]] = {
            Covariance.DETERMINISTIC: [],
            Covariance.DIAGONAL: [],
            Covariance.LOW_RANK: [(1, classes * self.rank, *tile)],
            Covariance.SINGLE_BASIS: [scales, (1, classes, self.rank)],
            Covariance.MIXTURE_OF_BASES: [scales, (1, self.bases, *cells), (self.bases, classes, self.rank)],
        }
        return shapes[self.kind]


def axis_correlation(distance: Array, length: Any) -> Array:
    """Compute the correlation along one axis at a distance of either sign, in the unit of the length.

    It is 1/2 where exp(-d^2 / 2 length^2) is, at 1.18 lengths.
    """
    t: Any = abs(distance / (length * (REACH / 2)))
    outer, inner = (2 - t).clip(0), (1 - t).clip(0)
    result: Array = (outer * outer * outer - 4 * inner * inner * inner) / 4  # a power of 3 is slow in numpy
    return result


def correlation(offsets: Array, lengths: Sequence[Any] | Array, shared: float = 0.0) -> Array:
    """Compute the correlation of pairs of voxels, (...).

    Args:
        offsets: Difference of their places along each axis, (..., 3).
        lengths: Correlation length along each axis, in the same unit.
        shared: Fraction of the variance that all voxels share; it is the correlation of far voxels.

    Example:
        >>> import numpy as np
        >>> from MoBUncertaintyLib.model.covariance import correlation
        >>> correlation(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.71], [0.0, 20.0, 0.0]]), (2.0, 4.0, 4.0)).round(3)
        array([1. , 0.5, 0. ])
    """
    steps: Any = offsets
    parts = [axis_correlation(steps[..., axis], lengths[axis]) for axis in range(3)]  # type: ignore[index]
    local: Any = parts[0] * parts[1] * parts[2]
    mixed: Array = (1 - shared) * local + shared if shared else local
    return mixed
