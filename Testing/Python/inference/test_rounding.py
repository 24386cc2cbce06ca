"""What the rounding of probabilities and variances changes."""

from __future__ import annotations

import numpy as np

from MoBUncertaintyLib.inference.predictor import rounded


def test_rounding_is_finer_than_the_closed_form_and_leaves_the_original() -> None:
    array = np.random.default_rng(0).random((5, 6, 7), np.float32)
    array[0, 0] = 0, 1, 1e-7, 0.25, 0.5, 1 - 1e-7, 2**-17
    before = array.copy()
    found = rounded(array)
    assert np.array_equal(array, before)
    assert found.dtype == np.float32
    assert np.abs(found - array).max() <= 2**-18 < 5e-6
    assert found[0, 0].tolist() == [0, 1, 0, 0.25, 0.5, 1, 2**-17]
