"""Where a region lies in its organ, in the patient's terms: "superior left", "central"."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.geometry import Box, Grid

OrganFrame = tuple[np.ndarray, np.ndarray]
"""Centroid and half extent of an organ, RAS mm."""


def organ_frames(labels: np.ndarray, grid: Grid) -> dict[int, OrganFrame]:
    """Compute the frame of each label of a segmentation.

    Args:
        labels: Label map (z, y, x), 0 is background.
        grid: Where its voxels lie.
    """
    boxes = ndimage.find_objects(labels)
    return {value: _frame(labels[box] == value, box, grid) for value, box in enumerate(boxes, start=1) if box}


def location_in(centroid: np.ndarray, labels: np.ndarray, organs: Mapping[int, OrganFrame]) -> str:
    """Say where a region lies in the organ that has most of its voxels (else: in the nearest one), in words.

    Args:
        centroid: The region's, RAS mm.
        labels: Of its voxels.
        organs: The frame of each organ that is segmented.
    """
    if not organs:
        return "no organ segmented"
    votes = np.bincount(labels[labels > 0])
    organ = int(votes.argmax()) if votes.size else min(organs, key=lambda o: np.linalg.norm(organs[o][0] - centroid))
    middle, half = organs[organ]
    # More than a third of the way from the centre to the organ's end is called by that end's name.
    right, anterior, superior = np.trunc((centroid - middle) / np.maximum(half, 1.0) * 3).clip(-1, 1).astype(int)
    words = (
        ("", "superior", "inferior")[superior],
        ("", "anterior", "posterior")[anterior],
        ("", "right", "left")[right],
    )
    return " ".join(word for word in words if word) or "central"


def _frame(mask: np.ndarray, box: Box, grid: Grid) -> OrganFrame:
    """Compute the frame of an organ, quickly: the first and last voxel of each row span it."""
    counts = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    centroid = [count @ np.arange(len(count)) / count.sum() for count in counts]
    rows = np.argwhere(mask.any(axis=2))
    lines = mask[tuple(rows.T)]
    ends = (lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    start = [s.start for s in box]
    outer = grid.to_ras(np.concatenate([np.column_stack([rows, end]) for end in ends]) + start)
    return grid.to_ras(np.add(centroid, start)), np.ptp(outer, axis=0) / 2
