"""How exactly probabilities and variances are given."""

from __future__ import annotations

import numpy as np

STEP = 2.0**-17
"""Between two values that can be given; exact in float32 up to 64, so that nothing but the rounding itself is lost."""


def rounded(array: np.ndarray) -> np.ndarray:
    """A float32 copy of probabilities or variances, any shape, rounded to `STEP`: changed by 4e-6 at most.

    That is less than the closed form's error. What is rounded away cannot be compressed: files of a CT with one organ
    are a tenth of the size without it, and written in a fraction of the time.
    """
    copy = array * np.float32(1 / STEP)
    np.rint(copy, out=copy)
    copy *= np.float32(STEP)
    return copy
