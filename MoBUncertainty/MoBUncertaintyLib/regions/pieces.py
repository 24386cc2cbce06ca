"""Shapes of voxels in mm: growing a mask, its largest diameter, cutting it into pieces of a given length.

Arrays and spacing are (z, y, x). Coordinates are mm along the array's own axes, whose direction is orthonormal.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import shape_of

CONNECTIVITY = np.ones((3, 3, 3), bool)
# Lattice directions, at most 10 degrees apart and closed under flips and permutations of the axes.
_DIRECTIONS = np.array([v for v in itertools.product(range(-3, 4), repeat=3) if v > (0, 0, 0)], float)


def grow(mask: np.ndarray, spacing: np.ndarray, radius_mm: float) -> np.ndarray:
    """Dilate a mask by a ball of `radius_mm`; voxels beyond the array's edge are lost."""
    reach = np.floor(radius_mm / spacing + 1e-6).astype(int)
    depth, height, width = mask.shape
    # The ball is a stack of rows: widen along x once per half length, then shift that by whole rows, packed as bits.
    widened = [np.pad(mask, [(reach[0], reach[0]), (reach[1], reach[1]), (0, 0)])]
    for n in range(1, reach[2] + 1):
        wider = widened[0].copy() if n == 1 else widened[-1].copy()
        wider[..., n:] |= widened[0][..., :-n]
        wider[..., :-n] |= widened[0][..., n:]
        widened.append(wider)
    packed = [np.packbits(rows, axis=-1) for rows in widened]
    grown = np.zeros_like(packed[0][:depth, :height])
    for z, y in itertools.product(range(-reach[0], reach[0] + 1), range(-reach[1], reach[1] + 1)):
        left = radius_mm**2 - (z * spacing[0]) ** 2 - (y * spacing[1]) ** 2 + 1e-6
        if left >= 0:
            rows = packed[int(np.sqrt(left) / spacing[2])]
            grown |= rows[reach[0] + z : reach[0] + z + depth, reach[1] + y : reach[1] + y + height]
    return np.unpackbits(grown, axis=-1, count=width).view(bool)


def diameter(index: np.ndarray, spacing: np.ndarray) -> float:
    """Measure the largest distance between two corners of the voxels `index` (N, 3), in mm.

    Looked for among the voxels outermost in 171 directions, which misses at most 0.5 % of it.
    """
    mask = np.zeros(np.ptp(index, axis=0) + 3, bool)  # one voxel wider on each side
    mask[tuple((index - index.min(axis=0) + 1).T)] = True
    corners = mask.copy()
    for axis in range(3):  # a voxel between two others is not outermost in any direction
        along, inner = np.moveaxis(mask, axis, 0), np.moveaxis(corners, axis, 0)[1:-1]
        inner &= ~(along[2:] & along[:-2])
    points = np.argwhere(corners) * spacing
    projections = _DIRECTIONS @ points.T
    outermost = points[np.unique([projections.argmin(axis=1), projections.argmax(axis=1)])]
    sides = np.abs(outermost[:, None] - outermost[None]) + spacing
    return float(np.sqrt((sides**2).sum(axis=-1).max()))


def compact_pieces(
    mask: np.ndarray, weight: np.ndarray, spacing: np.ndarray, length_mm: float, within: np.ndarray | None = None
) -> np.ndarray:
    """Label the parts of a mask that hang together, those longer than `length_mm` cut into compact pieces.

    A part is shared out among centres, each voxel to the nearest, and each centre is the weighted mean of its voxels
    (k-means): pieces gather about the clumps of weight and meet between them. Centres are added until
    no piece is too long.

    Args:
        mask, weight: (Z, Y, X); the weight is positive inside the mask.
        length_mm: No piece is longer, save single voxels.
        within: A wider mask: what is connected in it hangs together. Default: the mask itself.

    Returns:
        (Z, Y, X) int32 labels from 1, each one connected piece of `within`, less what is not in the mask; 0 outside.
    """
    within = mask if within is None else within
    parts, _ = ndimage.label(within, CONNECTIVITY)
    pieces = np.zeros(mask.shape, np.int32)
    count = 0
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        index = np.argwhere(parts[box] == part)
        inner = index[mask[box][tuple(index.T)]]
        if not len(inner):
            continue
        if _length(inner, spacing, length_mm) <= length_mm:
            count += 1
            pieces[box][tuple(inner.T)] = count
            continue
        centres = _centres(inner, weight[box][tuple(inner.T)].astype(float), spacing, length_mm)
        owner = _nearest(index * spacing, centres)
        owners = np.zeros(shape_of(box), np.int32)
        owners[tuple(index.T)] = owner + 1
        for piece, own in enumerate(ndimage.find_objects(owners), start=1):
            if own is None:  # no voxel is nearest to the centre
                continue
            # Voxels that are near in space can still be apart within a bent part.
            fragment = owners[own] == piece
            labels, n = ndimage.label(fragment, CONNECTIVITY)
            fragment &= mask[box][own]
            pieces[box][own][fragment] = labels[fragment] + count
            count += n
    return pieces


def _centres(index: np.ndarray, weight: np.ndarray, spacing: np.ndarray, length_mm: float) -> np.ndarray:
    """Find the middles of the pieces of some voxels (N, 3), in mm (see `compact_pieces`)."""
    points = index * spacing
    centres = np.average(points, axis=0, weights=weight)[None]
    while True:
        owner, centres = _settle(points, weight, centres)
        away = np.linalg.norm(points - centres[owner], axis=1)
        lengths = [_length(index[owner == piece], spacing, length_mm) for piece in range(len(centres))]
        too_long = np.flatnonzero((np.array(lengths) > length_mm) & (np.bincount(owner) > 1))
        if not too_long.size:
            return centres
        # A new centre at the far end of the longest pieces; one in four at a time, since their neighbours give way too.
        longest = sorted(too_long, key=lambda piece: -lengths[piece])[: -(-len(too_long) // 4)]
        centres = np.vstack([centres, *(points[[np.where(owner == piece, away, -1).argmax()]] for piece in longest)])


def _length(index: np.ndarray, spacing: np.ndarray, limit_mm: float) -> float:
    """Measure the `diameter`; 0 if even that of the bounding box is within the limit."""
    box = np.linalg.norm((np.ptp(index, axis=0) + 1) * spacing) if len(index) else 0.0
    return diameter(index, spacing) if box > limit_mm else 0.0


def _settle(points: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run Lloyd's iterations until no centre moves by 0.1 mm, 20 at most; centres without points are dropped."""
    weighted = [weight * along for along in points.T]
    moved = centres
    for _ in range(20):
        owner = _nearest(points, moved)
        total = np.bincount(owner, weight, len(moved))
        used = total > 0
        owner = (np.cumsum(used) - 1)[owner]
        centres = moved[used]
        moved = np.stack([np.bincount(owner, along) / total[used] for along in weighted], axis=1)
        if np.abs(moved - centres).max() < 0.1:
            break
    return owner, centres


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Find the number of the centre that is nearest to each of some points (N, 3)."""
    from scipy.cluster.vq import vq  # takes longer to import than all else that a scene needs

    owner: np.ndarray = vq(points, centres)[0]
    return owner
