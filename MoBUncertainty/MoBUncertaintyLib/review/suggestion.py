"""Which click is expected to correct most error. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from MoBUncertaintyLib.base.geometry import intersection, widened, within
from MoBUncertaintyLib.model.card import overlap
from MoBUncertaintyLib.regions.measure import VoxelMaps, error_of
from MoBUncertaintyLib.review.refinement.clicks import Click, Point
from MoBUncertaintyLib.review.refinement.locks import spared
from MoBUncertaintyLib.review.refinement.refiner import Clicks, Refiner
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.state import State

CANDIDATES = 6
"""So many places' gains are computed."""

LEVELS = (0.1, 0.2, 0.3, 0.4)
"""Candidates are as likely as one of these to have another label."""

POSSIBLE = 0.02
"""An answer that is less probable is not expected."""

HARM = 0.75
"""A place is no good question if by any answer more voxels than this fraction of those corrected become wrong."""

WINDOW, APART, AROUND = 1.0, 0.85, 2.5
"""In lengths of the kernel: sigma of the window in which a layer is measured, how far apart candidates are, and how far
around one its answers are followed."""

EVEN = 1e-3
"""Where two labels are as probable, but for so much, caution keeps the label: what an answer would be is not known."""

FAINT = 0.01
"""So much may a voxel be wrong by at least, to be followed."""

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Suggestion:
    """A region, where to click in it (RAS mm), and the error that the click is expected to correct (mm3)."""

    region_id: str
    point_ras: Point
    gain_mm3: float


class _Place(NamedTuple):
    """A candidate: how much it may promise, its region's id, and its voxel."""

    promise: float
    region_id: str
    voxel: Voxel


class _Answer(NamedTuple):
    """An answer at a place, by the index of that: how probable it is, and what it may change, (N, 3)."""

    place: int
    probability: float
    label: int
    voxels: np.ndarray
    before: VoxelMaps


def suggest(review: Review, among: Container[str] | None = None) -> Suggestion | None:
    """Suggest the place, in a region that is not decided, whose click is expected to correct most error, if any.

    `among` holds the ids of the regions to choose from; default: all. Of a list that is ranked by a measurement, it is
    a place in the first region in which a click is expected to correct any.
    """
    if overlap(review.prediction.labels):  # which take no clicks
        return None
    pending = [each for each in review.regions if not each.decided and (among is None or each.region_id in among)]
    choices = [[each] for each in pending] if review.ranked_by else [pending]
    return next(filter(None, (_best(regions, review) for regions in choices)), None)


def _best(regions: Sequence[ReviewRegion], review: Review) -> Suggestion | None:
    """Choose the best place in some regions."""
    state, refiner = review.state, review.refiner
    places = sorted((place for region in regions for place in _places(region, state, refiner)), reverse=True)
    places = places[:CANDIDATES]
    gains = _gains([place.voxel for place in places], state, refiner)
    gain, place = max(zip(gains, places, strict=True), default=(0.0, _Place(0.0, "", (0, 0, 0))))
    return Suggestion(place.region_id, _point(refiner, place.voxel), gain) if gain > 0 else None


def _places(region: ReviewRegion, state: State, refiner: Refiner) -> list[_Place]:
    """Find voxels of a region that promise most, and lie apart from each other and from all clicks.

    An answer that contradicts the label of a voxel is likely to hold for those around it that have the same label and
    are as doubtful or more; so a voxel promises their volume times the probability of such an answer.
    """
    grid, length = refiner.prediction.grid, refiner.kernel.length_mm
    sigma = WINDOW * length / grid.spacing
    near = widened(region.box, np.ceil(2 * sigma).tolist(), refiner.prediction.shape)
    maps, own = state.maps_in(near, refiner), within(region.box, near)
    error = error_of(maps, refiner.prediction)
    promise = np.zeros(region.mask.shape, np.float32)
    for label in np.unique(maps.segmentation[own][region.mask]):
        for level in LEVELS:
            layer = (maps.segmentation == label) & (error >= level)
            around = level * ndimage.gaussian_filter(layer.astype(np.float32), sigma, mode="constant", truncate=2)[own]
            promise = np.where(layer[own], np.maximum(promise, around), promise)
    second, first = np.sort(_with_background(maps.probability[:, *own]), axis=0)[-2:]
    voxels = np.argwhere(region.mask & (promise > 0) & (first - second > EVEN))
    low, places = np.array([part.start for part in region.box]), list[_Place]()
    asked = np.concatenate([voxels[:0], *(refiner.voxels_of(click) - low for click in state.clicks)])
    while True:
        if len(asked):
            away, _ = cKDTree(asked * grid.spacing).query(voxels * grid.spacing)
            voxels = voxels[away >= APART * length]
        if not len(voxels) or len(places) == CANDIDATES:
            return places
        best = voxels[promise[tuple(voxels.T)].argmax()]
        z, y, x = (best + low).tolist()
        places.append(_Place(float(promise[tuple(best)]), region.region_id, (z, y, x)))
        asked = best[None]


def _gains(places: Sequence[Voxel], state: State, refiner: Refiner) -> list[float]:
    """Compute how much error the reader's answer at each place is expected to correct, mm3.

    Every label that the reader may give counts as much as it is probable now. What it would correct: for each voxel
    that would have another label, how much more probable than the old one the new one would then be.
    """
    values = np.array([0, *(label.value for label in refiner.prediction.labels)])
    answers = [answer for n, place in enumerate(places) for answer in _answers(n, place, state, refiner, values)]
    clicks = [_with_click(places[each.place], each.label, state.clicks, refiner) for each in answers]
    after = refiner.maps_at(list(zip(clicks, [each.voxels for each in answers], strict=True)))
    gains = np.zeros(len(places))
    for answer, then in zip(answers, after, strict=True):
        changed = answer.before.segmentation != then.segmentation
        changed &= ~spared(answer.before.segmentation, then.segmentation, state.clicks)
        probability = _with_background(then.probability[:, changed])
        old, new = (
            np.take_along_axis(probability, np.searchsorted(values, each.segmentation[changed])[None], axis=0).sum()
            for each in (answer.before, then)
        )
        if old > HARM * new:
            gains[answer.place] = -np.inf
        gains[answer.place] += answer.probability * (new - old)
    return [float(gain * refiner.prediction.grid.voxel_mm3) for gain in gains]


def _answers(number: int, place: Voxel, state: State, refiner: Refiner, values: np.ndarray) -> list[_Answer]:
    """List the answers that a reader may give at a place, each with the voxels around that it may change."""
    grid, reach = refiner.prediction.grid, AROUND * refiner.kernel.length_mm
    voxel = tuple(slice(at, at + 1) for at in place)
    box = widened(voxel, (reach / grid.spacing).tolist(), refiner.prediction.shape)
    box = intersection(box, refiner.prediction.processed_box) or box
    low = np.array([part.start for part in box])
    maps = state.maps_in(box, refiner)
    at = tuple(np.array(place) - low)
    probable = _with_background(maps.probability[(slice(None), *at)][:, None])[:, 0]
    free = error_of(maps, refiner.prediction) > FAINT
    for region in state.regions:
        if region.frozen:
            free &= ~region.mask_in(box)
    voxels = np.argwhere(free) + low
    voxels = voxels[np.square((voxels - place) * grid.spacing).sum(axis=1) < reach**2]
    there = tuple((voxels - low).T)
    before = VoxelMaps(maps.probability[:, *there], maps.variance[:, *there], maps.segmentation[there])
    possible = probable > POSSIBLE
    possible &= ~spared(np.full_like(values, maps.segmentation[at]), values, state.clicks) & bool(len(voxels))
    answers = zip(probable[possible].tolist(), values[possible].tolist(), strict=True)
    return [_Answer(number, *answer, voxels, before) for answer in answers]


def _with_click(place: Voxel, label: int, clicks: Clicks, refiner: Refiner) -> Clicks:
    return (*clicks, Click("", (_point(refiner, place),), label, datetime.max.replace(tzinfo=UTC)))


def _with_background(probability: np.ndarray) -> np.ndarray:
    """Put the probability of background before those of the labels."""
    return np.concatenate([np.clip(1 - probability.sum(axis=0, keepdims=True), 0, 1), probability])


def _point(refiner: Refiner, voxel: Voxel) -> Point:
    r, a, s = (float(mm) for mm in refiner.prediction.grid.to_ras(np.array(voxel)))
    return r, a, s
