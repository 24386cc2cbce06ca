"""Regions described by the maps alone: as the finder describes them, whatever else was said of them."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.finder import find_regions
from support.fake_worker import fake_maps
from support.probability_images import prediction

OBLIQUE = np.array([[0.8, -0.6, 0, -20], [0.6, 0.8, 0, 30], [0, 0, 1.0, -100], [0, 0, 0, 1]])


@pytest.mark.parametrize("millimetres", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("values", [1, 2])
def test_as_the_finder_describes_them(millimetres, values):
    p, v, _ = fake_maps((56, 72, 70))
    right = np.arange(70) > 34
    maps = [each[None] if values == 1 else np.stack([each * ~right, each * right]) for each in (p, v)]
    labels = (p > 0.5).astype(np.uint8) * np.where(right, values, 1).astype(np.uint8)
    grid = Grid.from_matrix(OBLIQUE @ np.diag([millimetres] * 3 + [1]))
    predicted = replace(prediction(*maps, labels), grid=grid)
    settings = RegionSettings(minimum_mm3=5.0)
    found = find_regions(predicted, settings)
    assert found.ranked
    again = RegionDescriber(predicted).describe_all(found.whole_map(), settings).ranked
    for before, after in zip(found.ranked, again, strict=True):
        before, after = asdict(before), asdict(after)
        assert after["location"] == before.pop("location") and before.pop("effect") is None
        assert after["extent_mm"] == pytest.approx(before.pop("extent_mm"), abs=2.0)
        assert np.allclose(after.pop("centroid_ras"), before.pop("centroid_ras"), atol=1e-3)
        assert {name: after[name] for name in before} == pytest.approx(before, rel=1e-4)


def test_maps_with_values_that_are_no_numbers():
    p, v, regions = fake_maps((20, 24, 28))
    p[regions == 2] = np.nan
    describe = RegionDescriber(prediction(p, v[None]))
    with pytest.raises(ReviewError):
        describe.describe_all(regions, RegionSettings())
