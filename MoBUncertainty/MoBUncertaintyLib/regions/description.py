"""Describe regions whose voxels are known by the maps of their prediction. Arrays are (z, y, x).

Where a region lies is said in the patient's terms: "superior left", "central".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, Grid, nested, occupied_rows, whole
from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.measure import VoxelMaps, error_of, maps_in
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.region import Discrepancy, Region, Regions

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction

LabelFrame = tuple[np.ndarray, np.ndarray]  # centroid and half extent of what a label segments, RAS mm


def label_frames(prediction: Prediction) -> dict[int, LabelFrame]:
    """Compute the frame of each value of a prediction's segmentation."""
    segmented, grid = prediction.segmented_box, prediction.grid
    labels = prediction.segmentation[segmented]
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    return {value: _frame(labels[box] == value, nested(segmented, box), grid) for value, box in boxes if box}


def organ_of(centroid: np.ndarray, labels: np.ndarray, frames: Mapping[int, LabelFrame]) -> int:
    """Find the value of the organ that has most of a region's voxels, else of the nearest one; 0 if there is none."""
    votes = np.bincount(labels[labels > 0])
    if votes.size:
        return int(votes.argmax())
    return min(frames, key=lambda value: np.linalg.norm(frames[value][0] - centroid), default=0)


def location_in(centroid: np.ndarray, labels: np.ndarray, frames: Mapping[int, LabelFrame]) -> str:
    """Say in words where a region, by its centroid (RAS mm) and the labels of its voxels, lies in its organ."""
    if not frames:
        return "no organ segmented"
    middle, half = frames[organ_of(centroid, labels, frames)]
    # More than a third of the way from the centre to the organ's end is called by that end's name.
    right, anterior, superior = np.trunc((centroid - middle) / np.maximum(half, 1.0) * 3).clip(-1, 1).astype(int)
    words = (
        ("", "superior", "inferior")[superior],
        ("", "anterior", "posterior")[anterior],
        ("", "right", "left")[right],
    )
    return " ".join(word for word in words if word) or "central"


def _frame(mask: np.ndarray, box: Box, grid: Grid) -> LabelFrame:
    """Compute the frame of a label, quickly: the first and last voxel of each row span it."""
    counts = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    centroid = [count @ np.arange(len(count)) / count.sum() for count in counts]
    rows = np.argwhere(mask.any(axis=2))
    lines = mask[tuple(rows.T)]
    ends = (lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    start = [s.start for s in box]
    outer = grid.to_ras(np.concatenate([np.column_stack([rows, end]) for end in ends]) + start)
    return grid.to_ras(np.add(centroid, start)), np.ptp(outer, axis=0) / 2


def masks(found: Regions) -> list[tuple[Region, Box, np.ndarray]]:
    """List each region with its box in the image and the mask that fills it; raises `ReviewError` if one is missing."""
    boxes = boxes_of(found.map)
    masks = []
    for region in found.ranked:
        box = boxes[region.number - 1] if 0 < region.number <= len(boxes) else None
        if box is None:
            raise ReviewError(f"The map of the regions lacks region {region.rank}; find the regions again.")
        masks.append((region, nested(found.box, box), found.map[box] == region.number))
    return masks


def organ_names(prediction: Prediction, found: Regions) -> dict[int, str]:
    """Name the label that each region lies in, or is nearest to, by the region's number; raises as `masks` does."""
    describer = RegionDescriber(prediction)
    organs = ((region.number, describer.organ(region, box, mask)) for region, box, mask in masks(found))
    return {number: label.name for number, label in organs if label}


def place_text(region: Region, organs: Mapping[int, str]) -> str:
    """Say where a region lies: "Parotid R, superior"."""
    organ = organs.get(region.number)
    return f"{readable(organ)}, {region.location}" if organ else region.location


def boxes_of(region_map: np.ndarray) -> list[Box | None]:
    """Find the box of each region 1, 2, ... in a map of them; None for one that is nowhere."""
    near = occupied_rows(region_map)
    boxes = ndimage.find_objects(region_map[near]) if region_map[near].size else []  # it fails where nothing is
    return [box and nested(near, box) for box in boxes]


def describe(maps: VoxelMaps, box: Box, mask: np.ndarray, prediction: Prediction) -> dict[str, Any]:
    """Describe the region that a mask, True somewhere, is in a box; all fields but rank, number and location.

    Raises `ReviewError` if the maps hold what is no number there.
    """
    grid, probability = prediction.grid, maps.probability[:, mask].astype(float)
    variance = maps.variance[:, mask].max(axis=0).astype(float)
    if not (np.isfinite(probability).all() and np.isfinite(variance).all()):
        raise ReviewError("The maps of the prediction contain values that are not numbers; predict again.")
    own = VoxelMaps(probability, maps.variance[:, mask], maps.segmentation[mask])
    return measure(box, mask, maps.segmentation, grid) | {
        "expected_error_mm3": float(error_of(own, prediction).sum() * grid.voxel_mm3),
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
        described = describe(maps, box, mask, self._prediction)
        centroid = np.array(described["centroid_ras"])
        return described | {"location": location_in(centroid, maps.segmentation[mask], self._frames)}

    def organ(self, region: Region, box: Box, mask: np.ndarray) -> Label | None:
        """Find the label that a region lies in, or is nearest to; of a check, the one that is held to be wrong."""
        labels = self._prediction.labels
        if isinstance(region, Discrepancy):
            return next((label for label in labels if label.name == region.label), None)
        values = self._prediction.segmentation[box][mask]
        value = organ_of(np.array(region.centroid_ras), values, {} if values.any() else self._frames)
        return next((label for label in labels if label.value == value), None)

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
