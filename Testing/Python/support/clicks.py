"""Clicks as a reader gives them, second by second."""

from datetime import UTC, datetime, timedelta

import numpy as np

from MoBUncertaintyLib.model.click_trees import FEATURES, ClickTrees
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


def click_at(prediction: Prediction, number: int, label: int, *voxels: tuple[int, int, int]) -> Click:
    """Click number 1, 2, ... on a voxel (z, y, x), or a stroke through several."""
    points = tuple(tuple(prediction.grid.to_ras(voxel).tolist()) for voxel in voxels)
    return Click(f"c{number}", points, label, START + timedelta(seconds=number))


def random_trees(count: int = 60, levels: int = 4) -> ClickTrees:
    """Make trees that ask for all features and say something large."""
    random = np.random.default_rng(0)
    features = random.permutation(np.resize(np.arange(len(FEATURES)), count * levels)).reshape(count, levels)
    return ClickTrees.of(features, random.normal(0, 2, features.shape), random.normal(0, 0.8, (count, 2**levels)))
