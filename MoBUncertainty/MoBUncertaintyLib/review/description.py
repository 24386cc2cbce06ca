"""Describe regions whose voxels are known by the maps of their prediction: stored numbers need not be believed.

Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.geometry import Box, Grid
from MoBUncertaintyLib.regions.finder import FoundRegions, Region
from MoBUncertaintyLib.regions.location import OrganFrame, location_in, organ_frames
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.region import boxes_of


class RegionDescriber:
    """Describes regions of one prediction, voxel by voxel.

    `RegionFinder` sums the same over blocks of voxels, so that its numbers differ by rounding, and extents by at most a
    block.

    Args:
        probability: Foreground probability, by label value.
        variance: Predictive variance, likewise.
        predicted: Label map of the prediction.
        grid: Where the voxels lie.
    """

    def __init__(
        self,
        probability: Mapping[int, np.ndarray],
        variance: Mapping[int, np.ndarray],
        predicted: np.ndarray,
        grid: Grid,
    ) -> None:
        self._probability, self._variance = list(probability.values()), list(variance.values())
        self._predicted, self._grid = predicted, grid

    def __call__(self, box: Box, mask: np.ndarray) -> dict[str, Any]:
        """All fields of a `Region` but its rank and label.

        Args:
            box: Where it lies.
            mask: bool, fills the box; True somewhere.

        Raises:
            ReviewError: The maps hold what is no number there.
        """
        probability = [np.asarray(each[box][mask], float) for each in self._probability]
        variance = np.maximum.reduce([np.asarray(each[box][mask], float) for each in self._variance])
        if not np.isfinite([*probability, variance]).all():
            raise ReviewError("The maps of the prediction hold values that are no numbers; predict again.")
        foreground = np.clip(sum(probability), 0, 1)
        labels, index = self._predicted[box][mask], np.argwhere(mask)
        centroid = self._grid.to_ras(index.mean(axis=0) + [s.start for s in box])
        return {
            "centroid_ras": tuple(float(c) for c in centroid),
            "volume_mm3": float(len(index) * self._grid.voxel_mm3),
            "expected_error_mm3": float(
                (1 - np.maximum.reduce([1 - foreground, *probability])).sum() * self._grid.voxel_mm3
            ),
            "mean_variance": float(variance.mean()),
            "peak_variance": float(variance.max()),
            "mean_probability": float(foreground.mean()),
            "inside_share": float((labels > 0).mean()),
            "extent_mm": diameter(index, self._grid.spacing),
            "location": location_in(centroid, labels, self._organs),
        }

    def describe_all(self, labels: np.ndarray, settings: RegionSettings | None) -> FoundRegions:
        """The regions of a label map whose values are their ranks."""
        regions = tuple(
            Region(rank=rank, label=rank, **self(box, labels[box] == rank))
            for rank, box in enumerate(boxes_of(labels), start=1)
            if box
        )
        return FoundRegions(regions, labels, settings)

    @cached_property
    def _organs(self) -> dict[int, OrganFrame]:
        return organ_frames(self._predicted, self._grid)
