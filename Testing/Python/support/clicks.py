"""Clicks as a reader gives them, second by second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.refinement.clicks import Click

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


def click_at(prediction: Prediction, number: int, label: int, *voxels: tuple[int, int, int]) -> Click:
    """Click number 1, 2, ... on a voxel (z, y, x), or a stroke through several."""
    points = tuple(tuple(prediction.grid.to_ras(voxel).tolist()) for voxel in voxels)
    return Click(f"c{number}", points, label, START + timedelta(seconds=number))
