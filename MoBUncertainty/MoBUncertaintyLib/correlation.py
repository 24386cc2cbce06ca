"""The one correlation between voxels, of numpy arrays and of torch tensors alike.

Sampling, likelihoods, metrics and clicks of the scope `local` all take it from here. Along an axis it is the cubic
B-spline, 1 at distance 0; in space, the product over the axes. It has *compact support*, so that far voxels do not
meet, and is positive definite on every grid, since its Fourier transform is a product of sinc^4. Twice differentiable
at 0, it makes smooth fields. Nothing here imports torch: tensors bring their functions with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

Array = TypeVar("Array")
"""numpy array or torch tensor."""

HALF_OF_GAUSSIAN = 1.1774100225154747
"""exp(-t^2 / 2) is 1/2 at t = sqrt(2 ln 2)."""

HALF_OF_SPLINE = 0.7223517244643761
"""The spline, 1 - 3/2 t^2 + 3/4 t^3 for t < 1, is 1/2 here."""

REACH = 2 * HALF_OF_GAUSSIAN / HALF_OF_SPLINE
"""Distance, in lengths, from which on the correlation is 0 along an axis."""


def axis_correlation(distance: Array, length: Any) -> Array:
    """Compute the correlation along one axis.

    Args:
        distance: Of two voxels, of either sign, any shape.
        length: Correlation length in the same unit: the correlation is 1/2 where exp(-d^2 / 2 length^2) is, at 1.18
            lengths.
    """
    t: Any = abs(distance / (length * (REACH / 2)))
    outer, inner = (2 - t).clip(0), (1 - t).clip(0)
    result: Array = (outer * outer * outer - 4 * inner * inner * inner) / 4  # a power of 3 is slow in numpy
    return result


def correlation(offsets: Array, lengths: Sequence[Any] | Array) -> Array:
    """Compute the correlation of pairs of voxels.

    Args:
        offsets: Difference of their places along each axis, (..., 3).
        lengths: Correlation length along each axis, in the same unit.

    Returns:
        (...)

    Example:
        >>> import numpy as np
        >>> from MoBUncertaintyLib.correlation import correlation
        >>> correlation(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.71], [0.0, 20.0, 0.0]]), (2.0, 4.0, 4.0)).round(3)
        array([1. , 0.5, 0. ])
    """
    given: Any = offsets
    parts = [axis_correlation(given[..., axis], lengths[axis]) for axis in range(3)]  # type: ignore[index]
    product: Array = parts[0] * parts[1] * parts[2]
    return product
