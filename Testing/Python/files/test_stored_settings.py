"""Settings of an earlier version mean what that version did."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from MoBUncertaintyLib.prediction import PredictionSettings
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings


@pytest.mark.parametrize(
    "settings",
    [
        RegionSettings(Measure.ENTROPY, threshold=0.3, minimum_error=0.2),
        PredictionSettings(folds=(0, "all"), region_of_interest=(0, 1, 2, 3, 4, 5), labels=("spleen",)),
    ],
)
def test_what_was_stored_is_read_as_it_was(settings):
    assert type(settings).from_dict(json.loads(json.dumps(asdict(settings)))) == settings


def test_a_setting_that_an_earlier_version_had_not_means_what_it_did():
    # Of a results folder of 2026-11-25: all tiles of a grid, all labels, and regions grown whatever lies there.
    earlier = {"samples": None, "seed": 0, "overlap": 0.5, "mirror": False, "device": "auto", "precision": "auto"}
    assert PredictionSettings.from_dict(earlier) == PredictionSettings(tiling="full")
    earlier = {"measure": "variance", "threshold": None, "excess": 1.2, "depth_mm": 6.0, "window_mm": 4.0}
    earlier |= {"grow_mm": 5.0, "length_mm": 38.0, "minimum_mm3": 20.0, "variance_threshold": 0.015}
    found = RegionSettings.from_dict(earlier)
    assert found == RegionSettings(depth_mm=6.0, grow_mm=5.0, length_mm=38.0, minimum_error=0.0)
    assert RegionSettings.from_dict({}) == RegionSettings(), "nothing is known of a version"


def test_a_setting_of_a_later_version_is_no_setting():
    for kind in (RegionSettings, PredictionSettings):
        with pytest.raises(TypeError):
            kind.from_dict({"of_later": 1})
