"""A correlation that is one: positive definite, of compact support, as long as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MoBUncertaintyLib.refinement.kernel import Wendland


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.floats(0.5, 60), length=st.floats(0.5, 12))
def test_it_is_positive_definite(seed: int, count: int, size: float, length: float) -> None:
    points = np.random.default_rng(seed).uniform(0, size, (count, 3))
    matrix = Wendland(length)(np.linalg.norm(points[:, None] - points, axis=-1))
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * count


def test_a_gaussian_cut_off_at_the_same_reach_is_not() -> None:
    points = np.stack(np.meshgrid(*[np.arange(7) * 4.0] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    cut = np.exp(-((distance / 4) ** 2) / 2) * (distance < 8)
    assert np.linalg.eigvalsh(cut).min() < -0.01
    assert np.linalg.eigvalsh(Wendland(4.0)(distance)).min() > 0


@pytest.mark.parametrize("length", [0.7, 4.0, 12.0])
def test_it_is_as_wide_as_a_gaussian_of_its_length_and_ends(length: float) -> None:
    kernel = Wendland(length)
    half = length * np.sqrt(2 * np.log(2))
    assert kernel(np.array([0.0, half])) == pytest.approx([1, 0.5], abs=1e-12)
    assert kernel.reach_mm == pytest.approx(3.752 * length, rel=1e-3)
    assert (kernel(np.array([kernel.reach_mm, kernel.reach_mm * 1.01, 1e9])) == 0).all()
    distances = np.linspace(0, kernel.reach_mm, 1000)
    assert (np.diff(kernel(distances)) < 0).all()
    gaussian = np.exp(-((distances / length) ** 2) / 2)
    assert np.abs(kernel(distances) - gaussian).max() < 0.06
    assert kernel(distances.astype(np.float32)).dtype == np.float32
