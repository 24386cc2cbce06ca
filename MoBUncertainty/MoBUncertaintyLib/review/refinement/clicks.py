"""Clicks: points and short strokes to which a reader gives a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, Grid, whole

Point = tuple[float, float, float]
"""RAS mm."""


@dataclass(frozen=True)
class Click:
    """What a reader says of one place; of two clicks on one voxel the later counts there.

    Raises `ReviewError` if it has no point, one that is not finite, no possible label, or a time without a zone.
    """

    click_id: str  # in its review; never given again
    points_ras: tuple[Point, ...]  # one point: a click; several, in order: a stroke through them
    label: int  # value of the label that is there; 0 is background
    time: datetime  # with time zone
    region_id: str | None = None  # the listed region in which it was given

    def __post_init__(self) -> None:
        points = np.asarray(self.points_ras, float)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise ReviewError("A click needs one or more points, each three numbers in mm (R, A, S).")
        if isinstance(self.label, bool) or not isinstance(self.label, int) or not 0 <= self.label <= 255:
            raise ReviewError(f"The label of a click must be a whole number from 0 to 255, not {self.label!r}.")
        if self.time.tzinfo is None:
            raise ReviewError("The time of a click must have a time zone.")

    @property
    def order(self) -> tuple[datetime, int, str]:
        """What clicks are sorted by: later ones last, whatever order they come in."""
        return self.time, len(self.click_id), self.click_id


def voxels_of(click: Click, grid: Grid, shape: tuple[int, ...], processed: Box | None = None) -> np.ndarray:
    """Find the voxels of a click, or of a stroke along its way: (K, 3) distinct indices (z, y, x) in order.

    Raises `ReviewError` if it leaves the image, or the part of it that was predicted (`processed`, default: all).
    """
    corners = grid.to_index(np.array(click.points_ras))
    _check_inside(click, np.rint(corners), whole(shape), "the image; click inside it")
    if processed is not None:
        part = "the part of the image that was predicted; click inside it, or predict again for more of the image"
        _check_inside(click, np.rint(corners), processed, part)
    way = [corners[:1]]
    for start, end in pairwise(corners):
        steps = 2 * int(np.ceil(np.abs(end - start).max())) + 1  # half a voxel at most, so that none is left out
        way.append(start + np.linspace(0, 1, steps + 1)[1:, None] * (end - start))
    voxels = np.rint(np.concatenate(way)).astype(np.intp)
    _, first = np.unique(np.ravel_multi_index(tuple(voxels.T), shape), return_index=True)
    return np.asarray(voxels[np.sort(first)])


def thinned(voxels: np.ndarray, spacing: np.ndarray, apart_mm: float) -> np.ndarray:
    """Keep the first voxel of a stroke, and each that is at least `apart_mm` from all kept before it.

    Neighbours on a stroke are one decision: to count each would make a stroke stronger the finer the image is. The
    voxels are (K, 3) indices in order, the spacing is in mm.
    """
    if len(voxels) < 2:
        return voxels
    chosen: list[int] = []
    places = voxels * spacing
    free = np.ones(len(places), bool)
    while free.any():
        chosen.append(int(free.argmax()))
        free &= ((places - places[chosen[-1]]) ** 2).sum(1) >= apart_mm**2
        free[chosen[-1]] = False
    return voxels[chosen]


def _check_inside(click: Click, index: np.ndarray, box: Box, place: str) -> None:
    low, high = np.transpose([(part.start, part.stop) for part in box])
    outside = ~((index >= low) & (index < high)).all(axis=1)  # also what is no number
    if outside.any():
        r, a, s = click.points_ras[int(outside.argmax())]
        raise ReviewError(f"The click at R {r:.6g}, A {a:.6g}, S {s:.6g} mm lies outside {place}.")


@dataclass(frozen=True, eq=False)
class Clicked:
    """The voxels of a set of clicks, whatever order they came in."""

    voxels: np.ndarray  # (K, 3) all clicked voxels
    labels: np.ndarray  # (K,) theirs
    owners: np.ndarray  # (K,) index of the click that gave it
    points: np.ndarray  # (P, 3) the voxels to condition on, in the order of the array
    point_labels: np.ndarray  # (P,) theirs


def gather(
    labels: Sequence[int], places: Sequence[np.ndarray], grid: Grid, shape: tuple[int, ...], apart_mm: float
) -> Clicked:
    """Gather the voxels of clicks, the latest last: on one voxel the latest counts, and strokes are `thinned`."""
    voxels = np.concatenate([np.empty((0, 3), np.intp), *places])
    owners = np.repeat(np.arange(len(places)), [len(place) for place in places])
    flat = np.ravel_multi_index(tuple(voxels.T), shape)
    _, last = np.unique(flat[::-1], return_index=True)
    owned = np.sort(len(flat) - 1 - last)
    voxels, owners = voxels[owned], owners[owned]
    owner, first = np.unique(owners, return_index=True)
    strokes = [thinned(stroke, grid.spacing, apart_mm) for stroke in np.split(voxels, first[1:])]
    points, of_label = np.concatenate(strokes), np.asarray(labels, np.int64)
    point_labels = np.repeat(of_label[owner], [len(stroke) for stroke in strokes[: len(owner)]])
    order = np.lexsort(points.T[::-1])
    return Clicked(voxels, of_label[owners], owners, points[order], point_labels[order])
