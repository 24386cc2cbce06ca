"""What clicks have changed, and which click would remove most expected error.

Arrays are (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.refinement.clicks import Click, Point
from MoBUncertaintyLib.review.clicked_maps import ClickedMaps, Clicks
from MoBUncertaintyLib.review.description import expected_error
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.state import ERROR_UNIT, State

CANDIDATES = 6
"""So many places' gains are computed."""


class Effect(NamedTuple):
    """What a click changed.

    Attributes:
        net_mm3: Volume that became part of any label, less what ceased to be.
        changed_mm3: Volume whose label changed.
    """

    net_mm3: float
    changed_mm3: float


@dataclass(frozen=True)
class Suggestion:
    """The next question.

    Attributes:
        region_id: The region.
        point_ras: Where to click in it, RAS mm.
        gain_mm3: Expected error that the click is expected to remove, whatever the answer is.
    """

    region_id: str
    point_ras: Point
    gain_mm3: float


def effect_of(click: Click, clicks: Clicks, maps: ClickedMaps) -> Effect:
    """Compare the segmentation under clicks with that under the same clicks but one."""
    others = tuple(each for each in clicks if each is not click)
    net = changed = 0
    for box in maps.changed(others, clicks):
        without, now = maps.labels(others, box), maps.labels(clicks, box)
        net += int(np.count_nonzero(now)) - int(np.count_nonzero(without))
        changed += int(np.count_nonzero(now != without))
    voxel_mm3 = maps.prediction.grid.voxel_mm3
    return Effect(net * voxel_mm3, changed * voxel_mm3)


def suggest(state: State, maps: ClickedMaps) -> Suggestion | None:
    """Suggest the place, in a region that is not decided, whose click is expected to remove most expected error.

    In each region the place with most expected error around is a candidate. Of the best of these the gain is computed:
    over the two most probable answers, as they are probable.
    """
    places = sorted(_place(region, state, maps) for region in state.regions if not region.decided)
    grid = maps.prediction.grid
    gains = [(_gain(voxel, state, maps), region_id, voxel) for _, region_id, voxel in places[:CANDIDATES]]
    best = max(gains, default=None)
    return best and Suggestion(best[1], _point(grid.to_ras(np.array(best[2]))), best[0])


def _place(region: ReviewRegion, state: State, maps: ClickedMaps) -> tuple[float, str, tuple[int, ...]]:
    """Find the voxel of a region with most expected error around: minus how much, the region's id, the voxel."""
    prediction = maps.prediction
    sigma = prediction.click_settings.length_mm / prediction.grid.spacing
    error = expected_error(state.maps_in(region.box, maps).probability)
    around = ndimage.gaussian_filter(error, sigma, mode="constant", truncate=2)
    at = np.unravel_index(int(np.where(region.mask, around, -1).argmax()), region.mask.shape)
    voxel = tuple(int(index) + part.start for index, part in zip(at, region.box, strict=True))
    return -float(around[at]), region.region_id, voxel


def _gain(voxel: tuple[int, ...], state: State, maps: ClickedMaps) -> float:
    """Compute how much expected error within its reach a click at a voxel is expected to remove, mm3."""
    prediction = maps.prediction
    p = state.maps_in(tuple(slice(index, index + 1) for index in voxel), maps).probability.ravel().astype(float)
    labels = [0, *(label.value for label in prediction.labels)]
    answers = sorted(zip([max(1 - p.sum(), 0.0), *p], labels, strict=True), reverse=True)[:2]
    place, when = (_point(prediction.grid.to_ras(np.array(voxel))),), datetime.max.replace(tzinfo=UTC)
    clicks = [Click("", place, label, when) for _, label in answers]
    reach = (maps.refiner.reach(clicks[:1]),)
    left = [replace(state, clicks=(*state.clicks, click)).error_in(reach, maps) for click in clicks]
    removed = state.error_in(reach, maps) * sum(share for share, _ in answers)
    removed -= sum(share * error for (share, _), error in zip(answers, left, strict=True))
    return float(removed * ERROR_UNIT * prediction.grid.voxel_mm3)


def _point(ras: np.ndarray) -> Point:
    r, a, s = (float(mm) for mm in ras)
    return r, a, s
