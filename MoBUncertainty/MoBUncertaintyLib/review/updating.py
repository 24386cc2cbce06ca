"""Regions that are found anew while others stay.

Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.region import Region, Regions
from MoBUncertaintyLib.review.clicked_maps import Clicks
from MoBUncertaintyLib.review.region import Found, ReviewRegion, covered, masks
from MoBUncertaintyLib.review.state import State, ranked


def first_regions(regions: Regions, ids: Iterator[int]) -> list[ReviewRegion]:
    """List the regions with which a review begins; they keep their numbers.

    Args:
        regions: The regions.
        ids: Ids that no region of the review has had.
    """
    return [_made(region, box, mask, regions, ids, ()) for region, box, mask in masks(regions)]


def update(state: State, regions: Regions, prediction: Prediction, ids: Iterator[int]) -> State:
    """Replace the regions that nothing was said of by others, less the voxels of those that stay.

    Args:
        state: The state before.
        regions: The other regions.
        prediction: What is reviewed, as it is now.
        ids: Ids that no region of the review has had.
    """
    clicked = {click.region_id for click in state.clicks}
    kept = [region for region in state.regions if region.touched or region.region_id in clicked]
    used = {region.number for region in kept}
    new = []
    for region, box, mask in masks(regions):
        free = mask & ~covered(box, kept)
        left = int(free.sum())
        if not left or (left < mask.sum() and left * prediction.grid.voxel_mm3 < regions.settings.minimum_mm3):
            continue
        if left < mask.sum():
            region = _rest(region, box, mask, free, prediction)
        number = next(number for number in range(1, 2**16) if number not in used)
        used.add(number)
        new.append(_made(replace(region, number=number), box, free, regions, ids, state.clicks))
    return replace(state, regions=ranked(kept + new), settings=regions.settings, found=True)


def _made(
    region: Region, box: Box, mask: np.ndarray, regions: Regions, ids: Iterator[int], clicks: Clicks
) -> ReviewRegion:
    return ReviewRegion(str(next(ids)), Found(region, mask, regions.settings, clicks), region, box, mask)


def _rest(region: Region, box: Box, mask: np.ndarray, free: np.ndarray, prediction: Prediction) -> Region:
    """Describe a region once only `free` is left of it."""
    index, grid = np.argwhere(free), prediction.grid
    centroid = grid.to_ras(index.mean(axis=0) + [s.start for s in box])
    return replace(
        region,
        volume_mm3=float(len(index) * grid.voxel_mm3),
        expected_error_mm3=region.expected_error_mm3 * float(len(index) / mask.sum()),
        inside_fraction=float((prediction.segmentation[box][free] > 0).mean()),
        centroid_ras=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        extent_mm=diameter(index, grid.spacing),
    )
