"""Which click is expected to correct most error. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, common_parts, widened, within
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.regions.measure import error_of
from MoBUncertaintyLib.review.refinement.clicks import Click, Point
from MoBUncertaintyLib.review.refinement.refiner import Refiner
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.state import State

CANDIDATES = 8
"""So many places' gains are computed."""

DOUBTFUL = 0.1
"""Candidates are as likely as this to have another label, if any voxel of the region is."""

POSSIBLE = 0.02
"""An answer that is less probable is not expected."""

AROUND, APART = 0.45, 0.85
"""In lengths of the kernel: sigma of the window in which expected error is summed, and how far apart candidates are."""

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Suggestion:
    """A region, where to click in it (RAS mm), and the error that the click is expected to correct (mm3)."""

    region_id: str
    point_ras: Point
    gain_mm3: float


def suggest(review: Review, among: Container[str] | None = None) -> Suggestion | None:
    """Suggest the place, in a region that is not decided, whose click is expected to correct most error, if any.

    Candidates are doubtful places with much expected error around them, apart from each other. Where most error is
    expected, on the outline itself, a click moves little; so what each may gain is computed.

    `among` holds the ids of the regions to choose from; default: all.
    """
    if overlap(review.prediction.labels):  # which take no clicks
        return None
    state, refiner = review.state, review.refiner
    pending = [each for each in state.regions if not each.decided and (among is None or each.region_id in among)]
    places = [place for region in pending for place in _places(region, state, refiner)]
    places.sort(key=lambda place: -place[0])
    gains = [(_gain(voxel, state, refiner), region_id, voxel) for _, region_id, voxel in places[:CANDIDATES]]
    gain, region_id, voxel = max(gains, default=(0.0, "", (0, 0, 0)))
    return Suggestion(region_id, _point(review.prediction.grid.to_ras(np.array(voxel))), gain) if gain > 0 else None


def _places(region: ReviewRegion, state: State, refiner: Refiner) -> list[tuple[float, str, Voxel]]:
    """Find doubtful voxels of a region that lie apart: the expected error around, the region's id, the voxel."""
    grid, length = refiner.prediction.grid, refiner.kernel.length_mm
    sigma = AROUND * length / grid.spacing
    near = widened(region.box, np.ceil(2 * sigma).tolist(), refiner.prediction.shape)
    error = error_of(state.maps_in(near, refiner), refiner.prediction)
    own = within(region.box, near)
    around = ndimage.gaussian_filter(error, sigma, mode="constant", truncate=2)[own]
    there = np.argwhere(region.mask & (error[own] > DOUBTFUL))
    if not len(there):
        there = np.argwhere(region.mask)
    value = around[tuple(there.T)]
    places: list[tuple[float, str, Voxel]] = []
    while len(there) and len(places) < CANDIDATES:
        best = int(value.argmax())
        z, y, x = (int(index) + part.start for index, part in zip(there[best], region.box, strict=True))
        places.append((float(value[best]), region.region_id, (z, y, x)))
        far = (((there - there[best]) * grid.spacing) ** 2).sum(axis=1) >= (APART * length) ** 2
        there, value = there[far], value[far]
    return places


def _gain(voxel: Voxel, state: State, refiner: Refiner) -> float:
    """Compute how much error the reader's answer at a voxel is expected to correct, mm3.

    Every label that the reader may give counts as much as it is probable now. What it would correct: for each voxel
    that would have another label, how much more probable than the old one the new one would then be.
    """
    prediction = refiner.prediction
    at = tuple(slice(index, index + 1) for index in voxel)
    values = np.array([0, *(label.value for label in prediction.labels)])
    probable = _with_background(state.maps_in(at, refiner).probability).ravel()
    point, total = (_point(prediction.grid.to_ras(np.array(voxel))),), 0.0
    for label, weight in zip(values.tolist(), probable.tolist(), strict=True):
        if weight < POSSIBLE:
            continue
        click = Click("", point, label, datetime.max.replace(tzinfo=UTC))
        boxes = refiner.changed(state.clicks, clicks := (*state.clicks, click))
        total += weight * sum(_corrected(box, state, replace(state, clicks=clicks), refiner, values) for box in boxes)
    return float(total * prediction.grid.voxel_mm3)


def _corrected(box: Box, now: State, then: State, refiner: Refiner, values: np.ndarray) -> float:
    """Sum, over the voxels of a box that change, how much more probable than the old label the new one is then."""
    before, after = (each.maps_in(box, refiner) for each in (now, then))
    changed = before.segmentation != after.segmentation
    for region in now.regions:
        if region.labels is not None and (parts := common_parts(box, region.box)):
            changed[parts[0]] &= ~region.mask[parts[1]]
    probability = _with_background(after.probability[:, changed])
    old, new = (
        np.take_along_axis(probability, np.searchsorted(values, each.segmentation[changed])[None], axis=0)
        for each in (before, after)
    )
    return float((new - old).sum(dtype=float))


def _with_background(probability: np.ndarray) -> np.ndarray:
    """Put the probability of background before those of the labels."""
    return np.concatenate([np.clip(1 - probability.sum(axis=0, keepdims=True), 0, 1), probability])


def _point(ras: np.ndarray) -> Point:
    r, a, s = (float(mm) for mm in ras)
    return r, a, s
