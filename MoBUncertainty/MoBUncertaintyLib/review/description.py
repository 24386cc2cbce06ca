"""Describe regions whose voxels are known by the maps of their prediction. Arrays are (z, y, x)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, Grid, whole
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.location import LabelFrame, label_frames, location_in
from MoBUncertaintyLib.regions.measure import VoxelMaps, expected_error, maps_in
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, Regions
from MoBUncertaintyLib.review.region import boxes_of


def describe(maps: VoxelMaps, box: Box, mask: np.ndarray, grid: Grid) -> dict[str, Any]:
    """Describe the region that a mask, True somewhere, is in a box; all fields but rank, number and location.

    Raises `ReviewError` if the maps hold what is no number there.
    """
    probability = maps.probability[:, mask].astype(float)
    variance = maps.variance[:, mask].max(axis=0).astype(float)
    if not (np.isfinite(probability).all() and np.isfinite(variance).all()):
        raise ReviewError("The maps of the prediction contain values that are not numbers; predict again.")
    return measure(box, mask, maps.segmentation, grid) | {
        "expected_error_mm3": float(expected_error(list(probability)).sum() * grid.voxel_mm3),
        "mean_variance": float(variance.mean()),
        "max_variance": float(variance.max()),
        "mean_probability": float(np.clip(probability.sum(axis=0), 0, 1).mean()),
    }


def measure(box: Box, mask: np.ndarray, labels: np.ndarray, grid: Grid) -> dict[str, Any]:
    """Measure where a region lies, how large it is, and how much of it the segmentation in the box has."""
    index = np.argwhere(mask)
    centroid = grid.to_ras(index.mean(axis=0) + [side.start for side in box])
    return {
        "centroid_ras": tuple(float(c) for c in centroid),
        "volume_mm3": float(len(index) * grid.voxel_mm3),
        "inside_fraction": float((labels[mask] > 0).mean()),
        "extent_mm": diameter(index, grid.spacing),
    }


class RegionDescriber:
    """Describes regions of one prediction, voxel by voxel.

    `RegionFinder` sums the same over blocks of voxels: its numbers differ by rounding, and extents by at most a block.
    """

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction.exclusive()

    def __call__(self, box: Box, mask: np.ndarray) -> dict[str, Any]:
        """Describe a region by all fields but rank and number; arguments and errors as for `describe`."""
        maps = maps_in(self._prediction, box)
        described = describe(maps, box, mask, self._prediction.grid)
        centroid = np.array(described["centroid_ras"])
        return described | {"location": location_in(centroid, maps.segmentation[mask], self._frames)}

    def describe_all(self, region_map: np.ndarray, settings: RegionSettings) -> Regions:
        """Describe the regions of a map of all of the prediction, whose values are their ranks."""
        regions = tuple(
            Region(rank=rank, number=rank, **self(box, region_map[box] == rank))
            for rank, box in enumerate(boxes_of(region_map), start=1)
            if box
        )
        return Regions(regions, region_map, whole(region_map.shape), region_map.shape, settings)

    @cached_property
    def _frames(self) -> dict[int, LabelFrame]:
        return label_frames(self._prediction)
