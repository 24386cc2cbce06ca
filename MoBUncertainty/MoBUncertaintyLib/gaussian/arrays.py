"""What NumPy arrays and torch tensors share, so that one formula serves both; imports no torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from scipy import special

Array = Any
"""A NumPy array or a torch tensor."""


def namespace(array: Array) -> Any:
    """Return the library that an array is of, numpy or torch."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def like(values: Array, other: Array) -> Array:
    """Convert to the library, the number format and the device of another array."""
    if isinstance(other, np.ndarray):
        return np.asarray(values, other.dtype)
    tensor = namespace(other).from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(other)


def placed(array: Array, device: str) -> Array:
    """Move to a device: on `cpu` all is NumPy's, elsewhere torch's."""
    if device == "cpu":
        return array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return sys.modules["torch"].as_tensor(array, device=device)


def zeros(shape: tuple[int, ...], other: Array) -> Array:
    """Make zeros of the library, the number format and the device of another array."""
    return np.zeros(shape, other.dtype) if isinstance(other, np.ndarray) else other.new_zeros(shape)


def as_index(array: Array) -> Array:
    """Convert to whole numbers that can index another array."""
    return array.astype(np.intp) if isinstance(array, np.ndarray) else array.long()


def softmax(values: Array, axis: int) -> Array:
    """Compute the softmax along an axis."""
    return special.softmax(values, axis) if isinstance(values, np.ndarray) else values.softmax(axis)


def logsumexp(values: Array, axis: int) -> Array:
    """Compute ln sum exp along an axis."""
    if not isinstance(values, np.ndarray):
        return values.logsumexp(axis)
    largest = values.max(axis, keepdims=True)  # SciPy takes five times as long
    return np.log(np.exp(values - largest).sum(axis)) + largest.squeeze(axis)


def sigmoid(values: Array) -> Array:
    """Compute 1 / (1 + e^-x)."""
    return special.expit(values) if isinstance(values, np.ndarray) else values.sigmoid()
