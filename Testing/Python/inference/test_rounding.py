"""What the rounding of probabilities and variances changes."""

import numpy as np
import pytest

from MoBUncertaintyLib.inference.maps.filling import MIN_PROBABILITY, MIN_VARIANCE, rounded


def test_rounding_is_finer_than_the_closed_form_and_leaves_the_original() -> None:
    array = np.random.default_rng(0).random((5, 6, 7), np.float32)
    array[0, 0] = 0, 1, 1e-7, 0.25, 0.5, 1 - 1e-7, 2**-17
    before = array.copy()
    found = rounded(array, MIN_PROBABILITY)
    assert np.array_equal(array, before)
    assert found.dtype == np.float32
    assert np.abs(found - array).max() <= 2**-18 < 5e-6
    assert found[0, 0].tolist() == [0, 1, 0, 0.25, 0.5, 1, 2**-17]


@pytest.mark.parametrize("least", [MIN_PROBABILITY, MIN_VARIANCE])
def test_three_digits_are_kept_in_the_tails_down_to_the_least(least: float) -> None:
    array = np.geomspace(least * 1.01, 0.5, 200_000).astype(np.float32)
    found = rounded(array, least)
    assert np.abs(found / array - 1).max() <= 1e-3
    assert (np.diff(found) >= 0).all()
    tail = array < 2**-7  # 2^9 numbers an octave are what a file can hold in 10 bits
    assert len(np.unique(found[tail])) <= 2**9 * (np.log2(2**-7 / least) + 1)
    assert not rounded(np.array([least * 0.99], np.float32), least).any()


def test_near_one_as_many_digits_are_kept_as_near_zero() -> None:
    array = np.geomspace(1e-6, 0.5, 5000).astype(np.float32)
    high = 1 - array
    assert np.array_equal(1 - rounded(high, MIN_PROBABILITY), rounded(1 - high, MIN_PROBABILITY))


def test_what_is_rounded_stays_so() -> None:
    array = np.random.default_rng(0).random(1000, np.float32) ** 12
    once = rounded(array, MIN_VARIANCE)
    assert np.array_equal(rounded(once, MIN_VARIANCE), once)


@pytest.mark.parametrize("largest", [1e-7, 1e-3, 0.3, 0.5, 1])
def test_what_a_piece_does_not_need_changes_nothing(largest: float) -> None:
    """Numbers are rounded alike, whatever else is rounded with them."""
    array = largest * np.random.default_rng(1).random(2**15, np.float32) ** 6
    beside = np.stack([array, np.ones_like(array)], axis=1)
    assert np.array_equal(rounded(array, MIN_PROBABILITY), rounded(beside, MIN_PROBABILITY)[:, 0])
