"""How far clicks reach: stated by a card, read strictly."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.errors import ModelError, SettingsError
from MoBUncertaintyLib.model.click_settings import LENGTH_BOUNDS_MM, LENGTH_FRACTION, ClickSettings
from MoBUncertaintyLib.model.click_trees import FEATURES, ClickTrees
from support.clicks import random_trees
from support.json_edits import json_values


def test_settings_come_back_as_they_were_written() -> None:
    own = ClickSettings(length_mm=6, prior_deviation=1.5)
    assert ClickSettings.from_dict(asdict(own)) == own
    learned = replace(own, learned=random_trees(), caution=0.7)
    assert ClickSettings.from_dict(json.loads(json.dumps(asdict(learned)))) == learned != own
    assert ClickSettings.from_dict({}) == ClickSettings() == ClickSettings.from_dict({"length_mm": None})


@pytest.mark.parametrize(
    "wrong",
    [
        {"length_mm": 0},
        {"strength": float("nan")},
        {"variance_strength": -1.0},
        {"prior_deviation": 21},
        {"sharpening": -0.5},
        {"resolved_fraction": 1.5},
        {"length_mm": 10**400},
        {"length_mm": "4"},
        {"strength": True},
        {"strength": "32"},
        {"lenght_mm": 4},
        {"learned": {}},
        {"learned": {"packed": "no base64"}},
        {"learned": {"packed": random_trees().packed[:-400]}},
        [],
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        ClickSettings.from_dict(wrong)


@pytest.mark.parametrize(
    ("features", "thresholds", "values"),
    [
        (np.full((2, 1), len(FEATURES)), np.zeros((2, 1)), np.zeros((2, 2))),
        (np.full((2, 1), -1), np.zeros((2, 1)), np.zeros((2, 2))),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 4))),
        (np.zeros((2, 1)), np.zeros((1, 2)), np.zeros((2, 2))),
        (np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 2))),
        (np.zeros((2, 9)), np.zeros((2, 9)), np.zeros((2, 512))),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.full((2, 2), np.nan)),
    ],
)
def test_trees_that_ask_for_what_is_not_there_are_refused(features, thresholds, values) -> None:
    with pytest.raises(ModelError):
        ClickTrees.of(features, thresholds, values)


def test_a_tree_gives_each_voxel_the_value_of_its_leaf() -> None:
    trees = ClickTrees.of(np.array([[1, 0]]), np.array([[0.5, -1.0]]), np.array([[1.0, 2.0, 3.0, 4.0]]))
    features = np.zeros((len(FEATURES), 4), np.float32)
    features[0], features[1] = [-2, 0, -2, 0], [0, 0, 1, 1]
    assert trees.score(features).tolist() == [1, 2, 3, 4]


def length_mm(*volumes_ml: float) -> float | None:
    return ClickSettings(strength=8).sized(volumes_ml).length_mm


@given(volumes=st.lists(st.floats(0, 1e5), min_size=2, max_size=2).map(sorted))
def test_the_length_grows_with_the_organ_within_bounds(volumes: list[float]) -> None:
    small, large = (length_mm(1e-9 + each) for each in volumes)
    assert small is not None and large is not None
    assert LENGTH_BOUNDS_MM[0] <= small <= large <= LENGTH_BOUNDS_MM[1]
    assert (length_mm(1e-3), length_mm(1e5)) == LENGTH_BOUNDS_MM


def test_the_length_is_a_fraction_of_the_size_of_the_median_label_that_was_found() -> None:
    assert length_mm(27) == pytest.approx(LENGTH_FRACTION * 30, abs=0.05)
    assert length_mm(0, 1500, 27, 0, 0.001) == length_mm(27), "neither the liver nor a speck decides"
    assert length_mm() is length_mm(0, 0) is None
    assert ClickSettings(strength=8).sized([27]) == ClickSettings(length_mm(27), strength=8)


def test_a_stated_length_is_kept() -> None:
    assert ClickSettings(length_mm=3.5).sized([1000]) == ClickSettings(length_mm=3.5)


@given(name=st.sampled_from(sorted(asdict(ClickSettings()))), value=json_values)
def test_any_content_is_read_or_refused(name: str, value: object) -> None:
    try:
        assert asdict(ClickSettings.from_dict({name: value}))[name] == value
    except SettingsError as error:
        assert str(error).endswith(".")
