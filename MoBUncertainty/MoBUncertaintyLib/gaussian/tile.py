"""Make the Gaussian over the logits of a tile from what a network predicts; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from MoBUncertaintyLib.gaussian.arrays import Array, like, namespace
from MoBUncertaintyLib.gaussian.correlation import Lengths
from MoBUncertaintyLib.gaussian.distribution import BasisLoading, DenseLoading, Loading, LogitGaussian
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec


def tile_gaussian(
    spec: CovarianceSpec, logits: Array, log_variance: Array, loading: Loading | None, lengths: Lengths | None
) -> LogitGaussian:
    """Make the distribution of a tile as a model's covariance says.

    Args:
        spec: The covariance.
        logits, log_variance: (B, C, *S).
        loading: L, as `predicted_loading` makes it.
        lengths: Correlation length along each axis in voxels, for the scope `local`.
    """
    return LogitGaussian(
        logits, log_variance, loading, spec.scope, lengths, spec.shared_fraction, spec.keep_probability
    )


def predicted_loading(
    spec: CovarianceSpec, classes: int, predicted: Sequence[Array], training: bool = False
) -> Loading | None:
    """Make L of a tile from what a head predicts beside the variances.

    Args:
        spec: The covariance.
        classes: C.
        predicted: For the low-rank model the factors (B, C R, *S), class by class; for Single-Basis the scales
            (B, R, *S) and the bases (1, C, R) with columns of unit norm; for Mixture-of-Bases the scales, W(x)
            (B, M, P, P, P) and the bases (M, C, R).
        training: The choice of a basis has the gradient of W(x) (straight-through), since an argmax has none.
    """
    if spec.kind is Covariance.LOW_RANK:
        (factors,) = predicted
        return DenseLoading(factors.reshape(len(factors), classes, spec.rank, *factors.shape[2:]))
    if spec.kind is Covariance.SINGLE_BASIS:
        scales, bases = predicted
        return BasisLoading(bases, scales)
    if spec.kind is Covariance.MIXTURE_OF_BASES:
        scales, weights, bases = predicted
        choice = largest(weights) + weights - weights.detach() if training else largest(weights)
        return BasisLoading(bases, scales, choice, weights)
    return None


def largest(weights: Array) -> Array:
    """Mark the largest along the second axis by 1, the others by 0."""
    which = weights.argmax(1)
    return namespace(weights).stack([like(which == m, weights) for m in range(weights.shape[1])], 1)
