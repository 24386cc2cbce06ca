"""Shapes of voxels in mm: growing a mask, its largest diameter, cutting it into pieces of a given length.

Arrays are (z, y, x), spacing likewise, and coordinates are mm along the array's own axes: distances there equal
physical distances, because the direction of an image is orthonormal.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import vq

CONNECTIVITY = np.ones((3, 3, 3), bool)
# Lattice directions, at most 10 degrees apart and closed under flips and permutations of the axes.
_DIRECTIONS = np.array([v for v in itertools.product(range(-3, 4), repeat=3) if v > (0, 0, 0)], float)


def grow(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    """Dilate a mask by a ball of `radius_mm`; voxels beyond the array's edge are lost."""
    reach = np.floor(radius_mm / spacing + 1e-6).astype(int)
    padded = np.pad(mask, [(n, n) for n in reach])
    grown = np.zeros_like(mask)
    for offset in itertools.product(*(range(-n, n + 1) for n in reach)):
        if np.linalg.norm(offset * spacing) <= radius_mm + 1e-6:
            window = [slice(n + o, n + o + size) for n, o, size in zip(reach, offset, mask.shape, strict=True)]
            grown |= padded[tuple(window)]
    return grown


def diameter(points_mm: np.ndarray, spacing: np.ndarray) -> float:
    """Largest distance between two corners of the voxels centred at `points_mm` (N, 3), in mm.

    Looked for among the voxels outermost in 171 directions, which misses at most 0.5 % of it.
    """
    projections = points_mm @ _DIRECTIONS.T
    outermost = points_mm[np.unique([projections.argmin(axis=0), projections.argmax(axis=0)])]
    sides = np.abs(outermost[:, None] - outermost[None]) + spacing
    return float(np.sqrt((sides**2).sum(axis=-1).max()))


def compact_pieces(mask: np.ndarray, weight: np.ndarray, spacing: np.ndarray, length_mm: float) -> np.ndarray:
    """Label the connected parts of a mask, those longer than `length_mm` cut into compact pieces.

    A part is shared out among centres, each voxel to the nearest, and each centre is the weighted mean of its voxels
    (k-means): pieces gather about the clumps of weight and meet between them. Centres are added until
    no piece is too long.

    Args:
        mask: (Z, Y, X) bool.
        weight: (Z, Y, X), positive inside the mask.
        spacing: mm, (z, y, x).
        length_mm: No piece is longer, save single voxels.

    Returns:
        (Z, Y, X) int32 labels from 1, each one connected piece; 0 outside the mask.
    """
    parts, _ = ndimage.label(mask, CONNECTIVITY)
    pieces = np.zeros(mask.shape, np.int32)
    count = 0
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        index = np.argwhere(parts[box] == part)
        owner = _share_out(index * spacing, weight[box][tuple(index.T)].astype(float), spacing, length_mm)
        for piece in range(owner.max() + 1):
            fragment = np.zeros([s.stop - s.start for s in box], bool)
            fragment[tuple(index[owner == piece].T)] = True
            # Voxels that are near in space can still be apart within a bent part.
            labels, n = ndimage.label(fragment, CONNECTIVITY)
            pieces[box][fragment] = labels[fragment] + count
            count += n
    return pieces


def _share_out(points: np.ndarray, weight: np.ndarray, spacing: np.ndarray, length_mm: float) -> np.ndarray:
    """The piece (N,), from 0, of each point (N, 3) in mm (see `compact_pieces`)."""
    centres = np.average(points, axis=0, weights=weight)[None]
    while True:
        owner, centres = _settle(points, weight, centres)
        away = np.linalg.norm(points - centres[owner], axis=1)
        lengths = [diameter(points[owner == piece], spacing) for piece in range(len(centres))]
        single = np.bincount(owner) == 1
        too_long = np.flatnonzero((np.array(lengths) > length_mm) & ~single)
        if not too_long.size:
            return owner
        # A new centre at the far end of the longest pieces; one in four at a time, since their neighbours give way too.
        longest = sorted(too_long, key=lambda piece: -lengths[piece])[: -(-len(too_long) // 4)]
        centres = np.vstack([centres, *(points[[np.where(owner == piece, away, -1).argmax()]] for piece in longest)])


def _settle(points: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's iterations until no centre moves by 0.1 mm, 20 at most; centres without points are dropped."""
    for _ in range(20):
        owner, _ = vq(points, centres)
        used, owner = np.unique(owner, return_inverse=True)
        total = np.bincount(owner, weight)
        moved = np.stack([np.bincount(owner, weight * along) / total for along in points.T], axis=1)
        still = np.abs(moved - centres[used]).max() < 0.1
        centres = moved
        if still:
            break
    return owner, centres
