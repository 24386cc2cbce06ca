"""Principal directions of what neighbouring voxels share (`evaluation.directions`), and how much lies along each."""

from __future__ import annotations

import numpy as np
from scipy.linalg import null_space


def principal_directions(errors: np.ndarray) -> np.ndarray:
    """Find the directions of shared errors, that with most of them first: unit vectors of sum 0, (C - 1, C).

    The largest entry of a label is positive.
    """
    contrasts = null_space(np.ones((1, len(errors))))
    vectors = (contrasts @ np.linalg.eigh(contrasts.T @ errors @ contrasts)[1]).T[::-1]
    return np.array([vector * np.sign(vector[1 + np.abs(vector[1:]).argmax()]) for vector in vectors])


def fractions_along(directions: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Compute what fraction of all that is shared each part, (P, C, C), has along each direction, (C - 1, P)."""
    shared = np.einsum("dc,pce,de->dp", directions, parts, directions)
    return np.asarray(shared / np.trace(parts, axis1=1, axis2=2).sum())
