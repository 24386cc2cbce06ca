"""Where voxels lie: grids and boxes, and what is computed with them.

Arrays are (z, y, x), as SimpleITK and nnU-Net have them. A box is a part of such an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[slice, ...]  # a part of an array: a slice along each axis, with `start` and `stop`
Bounds = tuple[float, float, float, float, float, float]  # R min, R max, A min, A max, S min, S max, RAS mm
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array (z, y, x) lie."""

    spacing: np.ndarray  # mm, (z, y, x)
    rotation: np.ndarray  # (3, 3), from the array's axes to RAS
    origin: np.ndarray  # centre of the first voxel, RAS mm

    @classmethod
    def from_matrix(cls, ijk_to_ras: np.ndarray) -> Grid:
        """Make the grid of a (4, 4) matrix from voxel (i, j, k) to RAS mm, as Slicer's volumes have it."""
        axes = np.asarray(ijk_to_ras, float)[:3, 2::-1]
        spacing = np.linalg.norm(axes, axis=0)
        return cls(spacing, axes / spacing, np.asarray(ijk_to_ras, float)[:3, 3])

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(self.spacing.prod())

    def matrix(self) -> np.ndarray:
        """Return the (4, 4) matrix that `from_matrix` takes."""
        matrix = np.eye(4)
        matrix[:3, 2::-1] = self.rotation * self.spacing
        matrix[:3, 3] = self.origin
        return matrix

    def to_ras(self, index: np.ndarray) -> np.ndarray:
        """Convert voxel indices (..., 3) in the order (z, y, x) to RAS mm."""
        return np.asarray(self.origin + (index * self.spacing) @ self.rotation.T)

    def to_index(self, ras: np.ndarray) -> np.ndarray:
        """Convert RAS mm (..., 3) to voxel indices (z, y, x), not rounded."""
        offset = np.asarray(ras, float) - self.origin
        return np.asarray(np.linalg.solve(self.rotation, offset[..., None])[..., 0] / self.spacing)


def largest_shift(matrix: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Bound how far apart two `ijk_to_ras` matrices put any voxel of an array of that shape, along each axis; mm."""
    with np.errstate(over="ignore"):
        return float((np.abs(matrix - other) @ (*reversed(shape), 1)).max())


def whole(shape: Sequence[int]) -> Box:
    """Return the box of all of an array."""
    return tuple(slice(0, size) for size in shape)


def shape_of(box: Box) -> tuple[int, ...]:
    """Return the shape of what lies in a box."""
    return tuple(part.stop - part.start for part in box)


def hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds all boxes; an empty one without any."""
    axes = list(zip(*boxes, strict=True)) or [(slice(0, 0),)] * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)


def intersection(a: Box, b: Box) -> Box | None:
    """Return where two boxes overlap; None if they do not."""
    box = tuple(slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return box if all(part.start < part.stop for part in box) else None


def within(inner: Box, outer: Box) -> Box:
    """Express `inner` in the coordinates of `outer`, which holds it."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))


def common_parts(a: Box, b: Box) -> tuple[Box, Box] | None:
    """Return where two boxes overlap, in the coordinates of either; None if they do not."""
    common = intersection(a, b)
    return None if common is None else (within(common, a), within(common, b))


def nested(outer: Box, inner: Box) -> Box:
    """Express `inner`, a box within the box `outer`, in the coordinates that `outer` is given in."""
    return tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))


def widened(box: Box, margin: Sequence[float], shape: Sequence[int]) -> Box:
    """Widen a box by so many voxels on each side, as far as an array of that shape goes."""
    axes = zip(box, margin, shape, strict=True)
    return tuple(slice(max(part.start - int(more), 0), min(part.stop + int(more), size)) for part, more, size in axes)


def shadows(mask: np.ndarray) -> list[np.ndarray]:
    """Return, for each axis, where along it the mask has anything."""
    return [np.asarray(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)]


def bounding_box(shadows: Sequence[np.ndarray], margin: Sequence[float] = (0, 0, 0)) -> Box:
    """Return the smallest box of a mask by its `shadows`, widened by a margin; one voxel if the mask is empty."""
    if not shadows[0].any():
        return (slice(0, 1),) * 3
    ends = [np.flatnonzero(shadow)[[0, -1]] for shadow in shadows]
    box = tuple(slice(int(first), int(last) + 1) for first, last in ends)
    return widened(box, margin, [len(shadow) for shadow in shadows])


def occupied(array: np.ndarray, above: float = 0) -> Box:
    """Return the box of what lies above a value, without a copy of the array; one voxel where nothing does."""
    box: list[slice] = []
    for axis in range(3):
        # Narrowed by the axes done before: after the first, little is left to look at.
        used = np.flatnonzero(array[tuple(box)].max(axis=tuple({0, 1, 2} - {axis}), initial=0) > above)
        box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return tuple(box)


def occupied_rows(labels: np.ndarray) -> Box:
    """Return the slices and rows of a label map that hold anything, whole; an empty box where nothing does."""
    used = [np.flatnonzero(labels.max(axis=axes, initial=0)) for axes in ((1, 2), (0, 2))]
    ends = [slice(int(index[0]), int(index[-1]) + 1) if index.size else slice(0, 0) for index in used]
    return (*ends, slice(0, labels.shape[2]))


def apart(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Join boxes that overlap or touch, until none do."""
    joined: list[Box] = []
    for box in boxes:
        while touched := [other for other in joined if _touch(other, box)]:
            joined = [other for other in joined if other not in touched]
            box = hull([box, *touched])
        joined.append(box)
    return tuple(joined)


def _touch(a: Box, b: Box) -> bool:
    return all(p.start <= q.stop and q.start <= p.stop for p, q in zip(a, b, strict=True))
