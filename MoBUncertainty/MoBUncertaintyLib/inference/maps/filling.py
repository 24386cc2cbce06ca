"""Put what the network gives on the image's own grid, and round it; or take it as it is, on the network's."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.images.memory import lazy_zeros
from MoBUncertaintyLib.model.card import Label, overlap
from MoBUncertaintyLib.regions.prediction import Maps, Prediction

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.preprocessing import Case

STEP = 2.0**-17
"""Between two probabilities, or variances, that are given; exact in float32 up to 64, so that nothing but the rounding
itself is lost."""
DIGITS = 10
"""Binary digits of those that are so near 0 or 1 that they need finer steps: they change by 0.1 % at most."""
MIN_PROBABILITY, MIN_VARIANCE = 1e-6, 1e-12
"""What is smaller is given as 0. Ranks by the variance need the tails, but noise in air is most of an exact file."""


def fill(
    case: Case,
    results: tuple[np.ndarray, np.ndarray],
    exact: bool,
    values: Sequence[int],
    overlapping: bool = False,
    rival: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Put results on the image's grid: segmentation (z, y, x), probability and variance of the L labels (L, z, y, x).

    The last part is `Prediction.rival`.

    All is 0 outside `case.target`. Unless they are to be exact, the maps are rounded here, once, so that every user has
    the numbers that the files hold.

    The variance is what is interpolated, not the second moment: the second moment of an interpolated probability would
    count the step of p from voxel to voxel as uncertainty, up to 0.25 along every sharp border, in deterministic models
    too.

    Args:
        case: The way back to the image.
        results: Probability and variance (L, *S), on the network's grid; see `SlidingWindow.run`.
        exact: Do not round.
        values: Of the labels.
        overlapping: The labels overlap; a voxel has the last that is more probable than not, as with nnU-Net.
        rival: Whether that of the other classes is wanted.
    """
    probability, variance = results
    shape = case.frame.image.GetSize()[::-1]
    segmentation = lazy_zeros(shape, np.uint8)
    maps = [lazy_zeros((len(values), *shape), np.float32) for _ in range(2)]
    others = lazy_zeros(shape, np.float32) if rival and len(probability) > len(values) else None
    first, *rest = case.target
    middle = (first.start + first.stop) // 2

    def fill_slab(slab: slice) -> None:
        part = (slab, *rest)
        labels, o_view = case.view(segmentation, part), None if others is None else case.view(others, part)
        p_views, v_views = ([case.view(one, part) for one in volume] for volume in maps)
        for i, (p, v) in enumerate(zip(case.planes(probability, part), case.planes(variance, part), strict=True)):
            if not exact:
                p, v = rounded(p, MIN_PROBABILITY), rounded(v, MIN_VARIANCE)
            if o_view is not None:
                o_view[i] = p[-1]
            best = p[-1] if len(p) > len(values) else 1 - reduce(np.add, p)  # the others', or the background's
            for c, value in enumerate(values):
                p_views[c][i] = p[c]
                v_views[c][i] = v[c]
                inside = p[c] > (0.5 if overlapping else best)
                if inside.any():
                    labels[i][inside] = value
                    best = np.maximum(best, p[c])

    with ThreadPoolExecutor(2) as pool:  # numpy's arrays alone, and other planes in each thread
        list(pool.map(fill_slab, (slice(first.start, middle), slice(middle, first.stop))))
    return segmentation, maps[0], maps[1], others


def unresampled(
    case: Case, results: tuple[np.ndarray, np.ndarray], labels: tuple[Label, ...], overlapping: bool
) -> Prediction:
    """Make the prediction of the network's own voxels, where results are wanted: the same whatever the image's are.

    An expected error, for one, grows with interpolation, which puts doubtful voxels between those of a sharp border.

    Args:
        case, results: As for `fill`.
        labels: Those that are wanted.
        overlapping: The model's labels overlap.
    """
    probability, variance = (maps[(slice(None), *case.inner)] for maps in results)
    rival = probability[-1] if len(probability) > len(labels) else None
    probability = probability[: len(labels)]
    segmentation = label_map(probability, labels, rival, overlapping)
    return Prediction(segmentation, probability, variance, case.grid, labels, overlapping=overlap(labels))


def label_map(probability: Maps, labels: Sequence[Label], rival: np.ndarray | None, overlapping: bool) -> np.ndarray:
    """Return where labels are the most probable class or, if labels overlap, more probable than not.

    Args:
        probability: Of the labels, (z, y, x) each.
        labels: Those that are wanted.
        rival: See `Prediction.rival`; None if all labels of the model are wanted.
        overlapping: The model's labels overlap.
    """
    segmentation = lazy_zeros(probability[0].shape, np.uint8)
    for z, (plane, *p) in enumerate(zip(segmentation, *probability, strict=True)):
        half = np.full_like(p[0], 0.5) if overlapping else None
        best = 1 - sum(p[1:], p[0]) if rival is None else rival[z].copy()
        for label, values in zip(labels, p, strict=True):
            plane[values > (best if half is None else half)] = label.value
            np.maximum(best, values, out=best)
    return segmentation


def rounded(array: np.ndarray, minimum: float) -> np.ndarray:
    """Round a copy of probabilities or variances, any shape, to `STEP`, and near 0 and 1 to `DIGITS`.

    What is rounded away cannot be compressed: files of a CT with one organ are a quarter of the size without it.

    Args:
        array: float32, 0 to 1.
        minimum: What is nearer to 0, or to 1, becomes that.
    """
    flat = array.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, 2**14):  # pieces that stay in a CPU's cache: four times as fast
        part = slice(start, start + 2**14)
        largest = flat[part].max()
        if largest <= 0.5:  # as in most of a CT
            _round_low(flat[part], largest, minimum, result[part])
        else:
            upper = (flat[part] > 0.5).astype(np.float32)
            near = np.abs(upper - flat[part])  # exact near 1, too, since both are float32
            _round_low(near, 0.5, minimum, result[part])
            np.abs(upper - result[part], out=result[part])
    return result.reshape(array.shape)


def _round_low(near: np.ndarray, largest: float, minimum: float, result: np.ndarray) -> None:
    """Round numbers of at most `largest`, which is no more than 0.5, into another array."""
    if largest < minimum:
        result[:] = 0
        return
    scaled = near * np.float32(2 ** (24 - DIGITS) + 1)
    np.subtract(scaled, scaled - near, out=result)  # Veltkamp's splitting: the leading digits
    result *= near >= np.float32(minimum)  # where() is slower
    if largest >= STEP * 2**DIGITS:
        fixed = np.rint(near * np.float32(1 / STEP))
        fixed *= np.float32(STEP)
        np.copyto(result, fixed, where=near >= np.float32(STEP * 2**DIGITS))
