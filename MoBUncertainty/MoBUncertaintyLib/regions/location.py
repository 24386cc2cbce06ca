"""Where a region lies in its organ, in the patient's terms: "superior left", "central"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, Grid, nested

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
