"""How thick uncertainty is along a surface, organ by organ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.region import Region
from support.probability_images import prediction

INDEX = np.moveaxis(np.indices((70, 70, 110)), 0, -1) * 2.0  # mm


def ball(middle: tuple[float, ...], radius: float, blur: float) -> np.ndarray:
    """Probability of being inside, with an edge of that width; all in mm."""
    return 1 / (1 + np.exp((np.linalg.norm(INDEX - middle, axis=-1) - radius) / blur))


def regions_of(*organs: np.ndarray) -> tuple[Region, ...]:
    segmentation = np.zeros(INDEX.shape[:3], np.uint8)
    for value, p in enumerate(organs, start=1):
        segmentation[p > 0.5] = value
    p = np.stack(organs)
    grid = Grid.from_matrix(np.diag([2.0, 2.0, 2.0, 1.0]))
    return find_regions(replace(prediction(p, 0.3 * p * (1 - p), segmentation), grid=grid)).ranked


@pytest.mark.parametrize("blur", [1.0, 2.0, 3.0])
def test_a_large_blurred_organ_does_not_hide_what_is_doubtful_in_a_small_one(blur):
    lump = 0.5 * ball((70, 70, 205), 7, 0.7)
    small = np.maximum(ball((70, 70, 190), 12, 0.7), lump)
    (alone,) = regions_of(small)
    beside = regions_of(small, ball((70, 70, 75), 55, blur))
    (found,) = [region for region in beside if region.centroid_ras[0] > 170]
    assert found.expected_error_mm3 == pytest.approx(alone.expected_error_mm3, rel=0.05)
    assert found.centroid_ras == pytest.approx(alone.centroid_ras, abs=1)
