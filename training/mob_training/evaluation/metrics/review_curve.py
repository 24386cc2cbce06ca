"""The value of review: Dice after a perfect reader has corrected the first doubtful regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def review_curve(
    segmentation: np.ndarray, truth: np.ndarray, regions: np.ndarray, count: int, labels: Sequence[int] = (1,)
) -> list[float]:
    """Compute the Dice after regions of rank 1, 2, ... are replaced by the truth, mean over the labels.

    Args:
        segmentation: Label map, any shape.
        truth: Likewise.
        regions: Rank of the region that each voxel lies in, 0 outside.
        count: Number of regions.
        labels: Foreground classes; one that is nowhere has a Dice of 1.

    Returns:
        count + 1 values, non-decreasing; the first is the Dice of the segmentation itself.
    """
    curves = []
    for label in labels:
        predicted, true = segmentation == label, truth == label
        both, of_prediction, of_truth = (
            np.bincount(regions[mask], minlength=count + 1) for mask in (predicted & true, predicted, true)
        )
        # In a resolved region the prediction is the truth.
        intersection = both.sum() + np.cumsum([0, *(of_truth - both)[1:]])
        size = of_prediction.sum() + np.cumsum([0, *(of_truth - of_prediction)[1:]])
        total = size + of_truth.sum()
        curves.append(np.where(total, 2 * intersection / np.maximum(total, 1), 1.0))
    return np.mean(curves, axis=0).tolist()
