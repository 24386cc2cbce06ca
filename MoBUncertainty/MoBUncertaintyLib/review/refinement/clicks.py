"""Clicks: points, short strokes and closed outlines to which a reader gives a label, and locks of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, Grid, hull, intersection, whole

Point = tuple[float, float, float]
"""RAS mm."""

MAX_CORNERS = 1000  # of an outline
CONDITIONED = 16
"""Voxels of an outline that are conditioned on: so that it costs what a few clicks cost, however large it is."""


class Extent(StrEnum):
    """Which voxels a click gives its label to."""

    STROKE = "stroke"
    """Those on the way through its points; with one point, its voxel."""
    OUTLINE = "outline"
    """Those inside the closed line through its points, which lie in one plane: a lasso, or a box."""
    LOCK = "lock"
    """Those that have the label now, and no others from now on; it has no points."""


MARKED = {Extent.STROKE: 40, Extent.OUTLINE: 20}
"""Points of a click that are marked in a picture: the others would lie on these."""
_POINTS = {Extent.STROKE: range(1, 2**31), Extent.OUTLINE: range(3, MAX_CORNERS + 1), Extent.LOCK: range(1)}


@dataclass(frozen=True)
class Click:
    """What a reader says of one place; of two clicks on one voxel the later counts there.

    Raises `ReviewError` for a number of points that its extent cannot have, one that is not finite, no possible label,
    or a time without a zone.
    """

    click_id: str  # in its review; never given again
    points_ras: tuple[Point, ...]  # in order
    label: int  # value of the label that is there; 0 is background
    time: datetime  # with time zone
    region_id: str | None = None  # the listed region in which it was given
    extent: Extent = Extent.STROKE

    def __post_init__(self) -> None:
        if len(self.points_ras) not in _POINTS[self.extent]:
            raise ReviewError(
                f"A click needs one or more points, an outline 3 to {MAX_CORNERS}, and a lock none; correct the points."
            )
        if any(len(each) != 3 for each in self.points_ras) or not np.isfinite(np.array(self.points_ras, float)).all():
            raise ReviewError("Each point of a click must be three numbers in mm (R, A, S).")
        low = 1 if self.extent is Extent.LOCK else 0
        if isinstance(self.label, bool) or not isinstance(self.label, int) or not low <= self.label <= 255:
            raise ReviewError(f"The label of a click must be a whole number from {low} to 255, not {self.label!r}.")
        if self.time.tzinfo is None:
            raise ReviewError("The time of a click must have a time zone.")

    @property
    def order(self) -> tuple[datetime, int, str]:
        """What clicks are sorted by: later ones last, whatever order they come in."""
        return self.time, len(self.click_id), self.click_id


def voxels_of(click: Click, grid: Grid, shape: tuple[int, ...], processed: Box | None = None) -> np.ndarray:
    """Find the voxels of a click: (K, 3) distinct indices (z, y, x), of a stroke along its way, none of a lock.

    Of an outline they are those whose centres lie inside it, in the one layer of voxels that its plane goes through,
    and the first are the farthest from the line. Raises `ReviewError` if it leaves the image, or the part of it that
    was predicted (`processed`, default: all); an outline may, if some voxels are left.
    """
    if click.extent is Extent.LOCK:
        return np.empty((0, 3), np.intp)
    corners = grid.to_index(np.array(click.points_ras))
    if click.extent is Extent.OUTLINE:
        around = tuple(slice(-size, 2 * size) for size in shape)
        _check_inside(click, corners, around, "the surroundings of the image; draw the outline inside it")
        voxels = _enclosed(corners, grid.spacing, processed or whole(shape))
        if not len(voxels):
            raise ReviewError("The outline encloses no voxel that was predicted; draw it larger, or inside the image.")
        return voxels
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


def marked_points(click: Click) -> list[Point]:
    """Choose the points of a click to mark: of a stroke, its ends among them; of an outline, all along it."""
    points, most = np.array(click.points_ras, float), MARKED[click.extent]
    if click.extent is Extent.OUTLINE:
        points = np.vstack([points, points[:1]])
        way = np.append(0, np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum())
        at = np.linspace(0, way[-1], most, endpoint=False)
        points = np.column_stack([np.interp(at, way, axis) for axis in points.T])
    elif len(points) > most:
        points = points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]
    return [(r, a, s) for r, a, s in points.tolist()]


def _enclosed(corners: np.ndarray, spacing: np.ndarray, box: Box) -> np.ndarray:
    """Find the voxels of a box that lie inside a closed line through corners, (P, 3) not rounded, by the even-odd rule.

    No library that Slicer's own Python has, too, fills polygons so: Pillow paints the rim as well.
    """
    middle = corners.mean(0)
    normal = np.linalg.svd(corners - middle, full_matrices=False)[2][-1]
    across = int(np.abs(normal).argmax())
    if (np.abs((corners - middle) @ normal) > np.abs(normal[across]) / 2).any():
        raise ReviewError("The points of an outline must lie in one plane; draw it in one slice.")
    ends = zip(np.floor(corners.min(0)), np.ceil(corners.max(0)), strict=True)
    box = intersection(box, tuple(slice(int(low), int(high) + 1) for low, high in ends)) or hull(())
    axes = [axis for axis in range(3) if axis != across]
    rows, columns = (np.arange(box[axis].start, box[axis].stop) for axis in axes)
    inside, line = np.zeros((len(rows), len(columns)), bool), corners[:, axes]
    for (row, column), (next_row, next_column) in zip(line, np.roll(line, -1, axis=0), strict=True):
        crossed = (row > rows) != (next_row > rows)
        along = (rows[crossed] - row) / ((next_row - row) or 1)
        inside[crossed] ^= columns > (column + along * (next_column - column))[:, None]
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing[axes])[1:-1, 1:-1][inside]
    centres = np.zeros((len(depth), 3))
    centres[:, axes] = np.argwhere(inside) + [box[axis].start for axis in axes]
    height = middle[across] - (centres - middle)[:, axes] @ normal[axes] / normal[across]
    centres[:, across] = np.rint(height.round(6))  # a plane midway between two layers is in one of them
    voxels = centres[np.argsort(-depth, kind="stable")].astype(np.intp)
    layers = voxels[:, across]
    return np.asarray(voxels[(layers >= box[across].start) & (layers < box[across].stop)])


def thinned(voxels: np.ndarray, spacing: np.ndarray, apart_mm: float) -> np.ndarray:
    """Keep the first voxel of a click, and each that is at least `apart_mm` from all kept before it.

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


def _conditioned(click: Click, voxels: np.ndarray, spacing: np.ndarray, apart_mm: float) -> np.ndarray:
    """Choose the voxels of a click to condition on: of an outline a few that cover it evenly, the deepest first."""
    if click.extent is not Extent.OUTLINE or not len(voxels):
        return thinned(voxels, spacing, apart_mm)
    sides = np.sort(np.ptp(voxels * spacing, axis=0))[1:]
    return thinned(voxels, spacing, max(apart_mm, float(sides.prod() / CONDITIONED) ** 0.5))[:CONDITIONED]


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
    points: np.ndarray  # (P, 3) the voxels to condition on, in the order of the array
    point_labels: np.ndarray  # (P,) theirs
    owners: np.ndarray  # (P,) index of the click that gave it


def gather(
    clicks: Sequence[Click], places: Sequence[np.ndarray], grid: Grid, shape: tuple[int, ...], apart_mm: float
) -> Clicked:
    """Gather the voxels of clicks, the latest last: on one voxel the latest counts, and few are conditioned on."""
    voxels = np.concatenate([np.empty((0, 3), np.intp), *places])
    owners = np.repeat(np.arange(len(places)), [len(place) for place in places])
    flat = np.ravel_multi_index(tuple(voxels.T), shape)
    _, last = np.unique(flat[::-1], return_index=True)
    owned = np.sort(len(flat) - 1 - last)
    voxels, owners = voxels[owned], owners[owned]
    own = [_conditioned(click, voxels[owners == n], grid.spacing, apart_mm) for n, click in enumerate(clicks)]
    points, of_label = np.concatenate([voxels[:0], *own]), np.array([click.label for click in clicks], np.int64)
    of_points = np.repeat(np.arange(len(own)), [len(each) for each in own])
    order = np.lexsort(points.T[::-1])
    return Clicked(voxels, of_label[owners], points[order], of_label[of_points[order]], of_points[order])
