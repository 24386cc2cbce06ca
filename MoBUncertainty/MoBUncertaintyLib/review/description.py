"""Describe regions whose voxels are known by the maps of their prediction: stored numbers need not be believed.

Arrays are (z, y, x).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.geometry import Box, whole
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.finder import Region, Regions
from MoBUncertaintyLib.regions.location import LabelFrame, label_frames, location_in
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.region import boxes_of


class RegionDescriber:
    """Describes regions of one prediction, voxel by voxel.

    `RegionFinder` sums the same over blocks of voxels, so that its numbers differ by rounding, and extents by at most a
    block.

    Args:
        prediction: The prediction.
    """

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction

    def __call__(self, box: Box, mask: np.ndarray) -> dict[str, Any]:
        """Describe a region by all fields of a `Region` but its rank and number.

        Args:
            box: Where it lies.
            mask: bool, fills the box; True somewhere.

        Raises:
            ReviewError: The maps hold what is no number there.
        """
        prediction, grid = self._prediction, self._prediction.grid
        probability, variances = (
            [np.asarray(each[box][mask], float) for each in maps]
            for maps in (prediction.probability, prediction.variance)
        )
        variance = np.maximum.reduce(variances)
        if not np.isfinite([*probability, variance]).all():
            raise ReviewError("The maps of the prediction hold values that are no numbers; predict again.")
        foreground = np.clip(sum(probability), 0, 1)
        labels, index = prediction.segmentation[box][mask], np.argwhere(mask)
        centroid = grid.to_ras(index.mean(axis=0) + [s.start for s in box])
        expected_error = 1 - np.maximum.reduce([1 - foreground, *probability])
        return {
            "centroid_ras": tuple(float(c) for c in centroid),
            "volume_mm3": float(len(index) * grid.voxel_mm3),
            "expected_error_mm3": float(expected_error.sum() * grid.voxel_mm3),
            "mean_variance": float(variance.mean()),
            "max_variance": float(variance.max()),
            "mean_probability": float(foreground.mean()),
            "inside_fraction": float((labels > 0).mean()),
            "extent_mm": diameter(index, grid.spacing),
            "location": location_in(centroid, labels, self._frames),
        }

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
        return label_frames(self._prediction.segmentation, self._prediction.grid)
