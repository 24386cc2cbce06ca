"""Smooth white noise over a few voxels, so that it has the correlation of `MoBUncertaintyLib.model.covariance`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from MoBUncertaintyLib.model.covariance import axis_correlation

Lengths = Sequence[float] | Tensor
"""Correlation length along each of the three axes, in voxels; a tensor where it is learned."""

RIDGE = 1e-6
"""White noise that is mixed in, as a fraction of the variance: very smooth fields have singular covariances."""


def smooth(white: Tensor, lengths: Lengths) -> Tensor:
    """Turn white noise (..., *S) into fields with the covariance k; differentiable in the lengths.

    k is a product over the axes, so its Cholesky factor is one, too: each axis is multiplied by the factor of its own
    small covariance. So the fields are exactly stationary, at borders and corners as elsewhere, without any padding.
    """
    depth, height, width = (
        axis_factor(size, length).to(white) for size, length in zip(white.shape[-3:], lengths, strict=True)
    )
    rows = height @ (white @ width.T)
    smoothed: Tensor = (depth @ rows.flatten(-2)).view(white.shape)
    return smoothed


def axis_factor(size: int, length: float | Tensor) -> Tensor:
    """Compute the Cholesky factor F of the covariance along an axis, F F^T = k; (size, size), float64 on the CPU."""
    return _factor(size, length) if isinstance(length, Tensor) else _known_factor(size, float(length))


@lru_cache(maxsize=64)
def _known_factor(size: int, length: float) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve training, too
        return _factor(size, torch.tensor(length, dtype=torch.float64))


def _factor(size: int, length: Tensor) -> Tensor:
    place = torch.arange(size, dtype=torch.float64)
    covariance = axis_correlation(
        place[:, None] - place, length.cpu().double()
    )  # in this order: Apple's GPUs know no float64
    ridge = RIDGE * torch.eye(size, dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky((covariance + ridge) / (1 + RIDGE))
    return factor
