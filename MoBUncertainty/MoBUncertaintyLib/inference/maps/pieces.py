"""Take back what a network sees of an organ apart from it, of labels that are of one piece (`ModelCard.one_piece`).

In a stray piece, and in the blur around it, the logit of the label is lowered by the least amount with which the label
wins nowhere in it; its deviation stays, and what the label loses the class gains that was next. So label map,
probability and variance agree, the place stays doubtful, and a click there acts as it does elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Box, bounding_box, nested, shadows, widened
from MoBUncertaintyLib.gaussian.logits import logits_of
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.maps.filling import label_map
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.regions.pieces import CONNECTIVITY

STAYS = 0.5
"""A piece of at least this fraction of the largest is no stray: the organ may be cut in two."""
REACH = 2  # voxels around a stray piece in which the logit is lowered, too
MARGIN = 1e-5  # by which the label loses, so that rounding does not make it win
LARGEST_SHIFT = 128.0
"""Of a logit; the mean of one whose label is as probable as float32 can tell is less (`MAX_DEVIATION`)."""


def strays(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pieces of a mask (faces, edges and corners connect): their map, and the numbers of the strays in it."""
    pieces, _ = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces, np.flatnonzero((sizes > 0) & (sizes < STAYS * sizes.max()))


def take_back_strays(
    results: tuple[np.ndarray, np.ndarray], labels: tuple[Label, ...], one_piece: Collection[str]
) -> None:
    """Lower the probability of labels of one piece where they lie apart, in place.

    Args:
        results: Probability and variance (L, *S), on the network's grid; see `SlidingWindow.run`.
        labels: Those that are wanted, in the order of the maps; they do not overlap.
        one_piece: Names of those that are of one piece.
    """
    probability = results[0]
    rival = probability[-1] if len(probability) > len(labels) else None
    segmentation = label_map(probability[: len(labels)], labels, rival, overlapping=False)
    for channel, label in enumerate(labels):
        mask = segmentation == label.value
        if label.name not in one_piece or not mask.any():
            continue
        near = bounding_box(shadows(mask), (2 * REACH,) * 3)
        pieces, numbers = strays(mask[near])
        boxes = ndimage.find_objects(pieces)
        for number in numbers:
            box = widened(boxes[number - 1], (2 * REACH,) * 3, pieces.shape)
            _lower(results, channel, len(labels), nested(near, box), pieces[box], int(number))


def _lower(
    results: tuple[np.ndarray, np.ndarray], channel: int, count: int, box: Box, pieces: np.ndarray, number: int
) -> None:
    """Lower one of `count` labels in a box, in and around the piece of a number."""
    distance, nearest = ndimage.distance_transform_edt(pieces == 0, return_indices=True)
    around = (distance <= REACH) & (pieces[tuple(nearest)] == number)
    inside = pieces[around] == number
    probability, variance = (maps[:, *box] for maps in results)
    p, others = probability[channel][around], np.delete(probability[:count, around], channel, axis=0)
    second = probability[count][around] if len(probability) > count else 1 - p - others.sum(axis=0)
    limit = np.maximum((second + p) / 2, others.max(axis=0, initial=0)) - MARGIN
    mean, spread = logits_of(p, variance[channel][around])
    low, high = 0.0, LARGEST_SHIFT
    for _ in range(20):
        middle = (low + high) / 2
        wins = logistic_normal_moments(mean - np.float32(middle), spread)[0] > limit
        low, high = (middle, high) if wins[inside].any() else (low, middle)
    lowered, variance[channel][around] = logistic_normal_moments(mean - np.float32(high), spread)
    probability[channel][around] = lowered
    if len(probability) > count:
        probability[count][around] += p - lowered
