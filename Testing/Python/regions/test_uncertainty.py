"""How thick doubt is along a surface, organ by organ."""

from __future__ import annotations

import numpy as np
import pytest

from MoBUncertaintyLib.regions.finder import RegionFinder
from MoBUncertaintyLib.regions.settings import RegionSettings

INDEX = np.moveaxis(np.indices((70, 70, 110)), 0, -1) * 2.0  # mm


def ball(middle: tuple[float, ...], radius: float, blur: float) -> np.ndarray:
    """Probability of being inside, with an edge of that width; all in mm."""
    return 1 / (1 + np.exp((np.linalg.norm(INDEX - middle, axis=-1) - radius) / blur))


def regions_of(probability: dict[int, np.ndarray]) -> list:
    labels = np.zeros(INDEX.shape[:3], np.uint8)
    for value, p in probability.items():
        labels[p > 0.5] = value
    variance = {value: (0.3 * p * (1 - p)).astype(np.float32) for value, p in probability.items()}
    single = {value: p.astype(np.float32) for value, p in probability.items()}
    finder = RegionFinder.from_arrays(single, variance, labels, np.diag([2.0, 2.0, 2.0, 1.0]))
    return finder.find_arrays(RegionSettings()).regions


@pytest.mark.parametrize("blur", [1.0, 2.0, 3.0])
def test_a_large_blurred_organ_does_not_hide_what_is_doubtful_in_a_small_one(blur):
    lump = 0.5 * ball((70, 70, 205), 7, 0.7)
    small = np.maximum(ball((70, 70, 190), 12, 0.7), lump)
    (alone,) = regions_of({1: small})
    beside = regions_of({1: small, 2: ball((70, 70, 75), 55, blur)})
    (found,) = [region for region in beside if region.centroid_ras[0] > 170]
    assert found.expected_error_mm3 == pytest.approx(alone.expected_error_mm3, rel=0.05)
    assert found.centroid_ras == pytest.approx(alone.centroid_ras, abs=1)
