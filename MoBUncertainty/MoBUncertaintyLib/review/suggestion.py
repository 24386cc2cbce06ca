"""Which click is expected to correct most error. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import common_parts, widened, within
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
    """Suggest the place, in a region that is not decided, whose click is expected to correct most error.

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
    best = max(gains, default=None)
    return best and Suggestion(best[1], _point(review.prediction.grid.to_ras(np.array(best[2]))), best[0])


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
    """Compute how much error a click at a voxel is expected to correct, mm3.

    That is how probable the most probable label is that is not shown there, times what that click would correct: for
    each voxel that would have another label, how much more probable than the old one the new one would then be.
    """
    prediction = refiner.prediction
    at = tuple(slice(index, index + 1) for index in voxel)
    now, values = state.maps_in(at, refiner), [0, *(label.value for label in prediction.labels)]
    probable = dict(zip(values, _with_background(now.probability).ravel().tolist(), strict=True))
    probable.pop(int(now.segmentation.item()))
    label = max(probable, key=lambda value: probable[value])
    click = Click("", (_point(prediction.grid.to_ras(np.array(voxel))),), label, datetime.max.replace(tzinfo=UTC))
    reach = refiner.reach((click,))
    before, after = (each.maps_in(reach, refiner) for each in (state, replace(state, clicks=(*state.clicks, click))))
    changed = before.segmentation != after.segmentation
    for region in state.regions:
        if region.labels is not None and (parts := common_parts(reach, region.box)):
            changed[parts[0]] &= ~region.mask[parts[1]]
    probability = _with_background(after.probability[:, changed])
    rank = np.zeros(max(values) + 1, int)
    rank[values] = np.arange(len(values))
    old, new = (
        np.take_along_axis(probability, rank[each.segmentation[changed]][None], axis=0).sum(dtype=float)
        for each in (before, after)
    )
    return float(probable[label] * (new - old) * prediction.grid.voxel_mm3)


def _with_background(probability: np.ndarray) -> np.ndarray:
    """Put the probability of background before those of the labels."""
    return np.concatenate([np.clip(1 - probability.sum(axis=0, keepdims=True), 0, 1), probability])


def _point(ras: np.ndarray) -> Point:
    r, a, s = (float(mm) for mm in ras)
    return r, a, s
