"""From a prediction to a short, ranked list of doubtful regions.

With u the measure of uncertainty, t its threshold and T the thickness of the uncertainty (`uncertainty.py`), a voxel is
doubtful where

    u > t   and   T > max(excess * typical, depth * t)

so the thin shell of uncertainty that every boundary carries is no region: the factor copes with blurred boundaries,
whose typical T varies with their curvature, and the depth with sharp ones, whose typical T is next to nothing. From the
doubtful places regions grow along what may well be wrong, because an error goes on beyond the place where it is seen.
They are cut into compact pieces that fit one view (`pieces.py`), and ranked by the expected error volume, the integral
of 1 - max_c p. A segmentation that is doubtful throughout has no border to stand out from: there the whole of it is the
region (`Coverage`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import (
    Box,
    bounding_box,
    hull,
    nested,
    shadows,
    shape_of,
    widened,
    within,
)
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import LabelFrame, label_frames, location_in
from MoBUncertaintyLib.regions.pieces import CONNECTIVITY, compact_pieces, diameter, grow
from MoBUncertaintyLib.regions.region import ENOUGH, Coverage, Region, Regions
from MoBUncertaintyLib.regions.uncertainty import UncertaintyMap, map_uncertainty

if TYPE_CHECKING:
    from MoBUncertaintyLib.regions.prediction import Prediction

_Listed = tuple[dict[str, Any], np.ndarray, Box]  # description, mask, and the box of blocks that this fills

THROUGHOUT = 1 / 3
"""A segmentation of which more than this fraction is expected to be wrong is doubtful throughout."""


def find_regions(prediction: Prediction, settings: RegionSettings | None = None) -> Regions:
    """Find the places of a prediction that deserve a reader's look, ranked by expected error volume.

    Where its segmentation is empty any uncertainty counts as thick: an organ may have been missed. Settings default to
    those that the prediction's model states.

    Example:
        >>> from MoBUncertaintyLib import PredictionSettings, find_model, find_regions, load_model, predict, read_image
        >>> from MoBUncertaintyLib.base.resources import RESOURCES
        >>> image = read_image(RESOURCES / "SampleData" / "HeadNeckCT.nii.gz").image[32:96, 16:64, 20:84]
        >>> model = load_model(find_model("HeadNeckOrgans"))
        >>> prediction = predict(image, model, PredictionSettings(device="cpu", precision="float32"))
        >>> regions = find_regions(prediction)
        >>> [region.rank for region in regions.ranked[:3]]
        [1, 2, 3]
    """
    settings = settings or prediction.region_settings
    return RegionFinder(prediction, settings).find(settings)


class RegionFinder:
    """Finds regions again and again as the threshold or the minimum size change, by one measure in one window."""

    def __init__(self, prediction: Prediction, settings: RegionSettings) -> None:
        self._prediction, self._settings = prediction.exclusive(), settings
        self._map: UncertaintyMap | None = None
        self._frames: dict[int, LabelFrame] = {}

    def fits(self, settings: RegionSettings) -> bool:
        """Tell whether it can find regions under these settings."""
        own = self._settings
        return (settings.measure, settings.window_mm) == (own.measure, own.window_mm)

    def prepare(self) -> Iterator[None]:
        """Map the uncertainty, once, in steps between which a user interface can answer."""
        if self._map is None:
            import_module("scipy.cluster.vq")  # in a step of its own; `compact_pieces` needs it
            yield
            self._frames = label_frames(self._prediction)
            self._map = yield from map_uncertainty(self._prediction, self._settings.measure, self._settings.window_mm)

    def find(self, settings: RegionSettings) -> Regions:
        """Find the regions under `settings`; raises `SettingsError` for another measure or window than its own."""
        if not self.fits(settings):
            raise SettingsError("Another measure or window of uncertainty needs a new RegionFinder.")
        for _step in self.prepare():
            pass
        maps = self._map
        assert maps is not None
        doubtful, near = _doubtful(maps, settings)
        listed = self._listed(maps, *_pieces(maps, doubtful, near, settings), settings)
        coverage, organ = _coverage(maps, listed, doubtful, near, settings), _mean_error(maps)
        if coverage.fraction < ENOUGH and organ > THROUGHOUT:
            listed = self._listed(maps, *_whole_organ(maps, settings), settings)
            coverage = replace(_coverage(maps, listed, doubtful, near, settings), throughout=organ)
        places = [maps.blocks.expand(where, mask) for _, mask, where in listed]
        box = hull(where for where, _ in places)
        numbers = np.zeros(shape_of(box), np.uint16)
        for number, (where, mask) in enumerate(places, start=1):
            numbers[within(where, box)][mask] = number
        regions = tuple(Region(rank=n, number=n, **what) for n, (what, _, _) in enumerate(listed, start=1))
        return Regions(regions, numbers, box, self._prediction.shape, settings, coverage)

    def _listed(self, maps: UncertaintyMap, pieces: np.ndarray, near: Box, settings: RegionSettings) -> list[_Listed]:
        """Describe pieces in order of rank, each with its mask and the box of blocks that this fills."""
        described = []
        for piece, box in enumerate(ndimage.find_objects(pieces), start=1):
            if box:
                mask, where = pieces[box] == piece, nested(near, box)
                described.append((self._describe(maps, mask, where), mask, where))
        described.sort(key=lambda piece: (-piece[0]["expected_error_mm3"], piece[0]["centroid_ras"]))
        return described[: settings.max_regions]

    def _describe(self, maps: UncertaintyMap, mask: np.ndarray, box: Box) -> dict[str, Any]:
        """Describe a region by all fields of `Region` but rank and number; `mask` fills `box`, a box of blocks."""
        index = np.argwhere(mask)
        voxels = maps.blocks.voxels(box)[mask].astype(float)
        voxel, total = maps.prediction.grid.voxel_mm3, voxels.sum()
        centroid = voxels @ maps.to_ras(index + [s.start for s in box]) / total

        def integral(values: np.ndarray) -> float:
            return float(voxels @ values[mask])

        return {
            "centroid_ras": tuple(float(c) for c in centroid),
            "volume_mm3": float(voxel * total),
            "expected_error_mm3": float(voxel * integral(maps.expected_error[box])),
            "mean_variance": integral(maps.variance(box)) / total,
            "max_variance": float(maps.max_variance(box)[mask].max()),
            "mean_probability": integral(maps.foreground(box)) / total,
            "inside_fraction": integral(maps.inside[box]) / total,
            "extent_mm": diameter(index, maps.blocks.spacing),
            "location": location_in(centroid, maps.segmentation[box][mask], self._frames),
        }


def _doubtful(maps: UncertaintyMap, settings: RegionSettings) -> tuple[np.ndarray, Box]:
    """Mark the blocks that are more doubtful than the ordinary border; return the box that the mask fills, too."""
    above = maps.uncertainty > settings.level
    near = bounding_box(shadows(above))
    typical = np.broadcast_to(maps.typical, above.shape)[near]
    usual = np.maximum(settings.excess * typical, settings.depth_mm * settings.level)
    return above[near] & (maps.thickness(near) > usual), near


def _grown(
    maps: UncertaintyMap, seeds: np.ndarray, box: Box, settings: RegionSettings
) -> tuple[np.ndarray, np.ndarray, Box]:
    """Grow seeds, which fill a box; return what was reached, what of it may well be wrong, and the box both fill."""
    spacing = maps.blocks.spacing
    seeded = nested(box, bounding_box(shadows(seeds)))
    near = widened(seeded, np.ceil(settings.grow_mm / spacing).tolist(), maps.blocks.shape)
    start = np.zeros(shape_of(near), bool)
    start[within(seeded, near)] = seeds[within(seeded, box)]
    reached = grow(start, spacing, settings.grow_mm)
    return reached, reached & (start | (maps.error_around(near) >= settings.minimum_error)), near


def _pieces(maps: UncertaintyMap, doubtful: np.ndarray, box: Box, settings: RegionSettings) -> tuple[np.ndarray, Box]:
    """Separate the pieces, numbered from 1 in no particular order (some may be missing); return their box, too."""
    spacing = maps.blocks.spacing
    smallest = settings.minimum_mm3 / spacing.prod()
    seeds = _drop_small(ndimage.label(doubtful, CONNECTIVITY)[0], doubtful, smallest) > 0
    reached, likely, near = _grown(maps, seeds, box, settings)
    # A little weight everywhere: where no error is expected, the voxels still have a middle.
    weight = maps.expected_error[near] + 0.01
    pieces = compact_pieces(likely, weight, spacing, settings.length_mm, within=reached)
    return _drop_small(pieces, likely, smallest), near


def _whole_organ(maps: UncertaintyMap, settings: RegionSettings) -> tuple[np.ndarray, Box]:
    """Take all that is segmented, and what may well be wrong beside it, as one piece; returned as by `_pieces`."""
    _, likely, near = _grown(maps, maps.segmentation[maps.organs] > 0, maps.organs, settings)
    return likely.astype(np.int32), near


def _coverage(
    maps: UncertaintyMap, listed: Sequence[_Listed], doubtful: np.ndarray, near: Box, settings: RegionSettings
) -> Coverage:
    """Sum up the expected error by where it lies; `doubtful` fills `near`, which holds all above the threshold."""
    grown = _grown(maps, doubtful, near, settings)[1:]
    box = hull([near, grown[1], *(where for _, _, where in listed)])
    rest = maps.expected_error[box] * maps.blocks.voxels(box)
    sums = [rest.sum(dtype=float)]

    def take(*places: tuple[np.ndarray, Box]) -> None:
        for mask, where in places:
            rest[within(where, box)][mask] = 0
        sums.append(rest.sum(dtype=float))

    take(*((mask, where) for _, mask, where in listed))
    take(grown)
    take((maps.uncertainty[near] > settings.level, near))
    elsewhere = max(maps.total_error - sums[0], 0.0)
    voxel = maps.prediction.grid.voxel_mm3
    in_regions, dropped, thin = (float(voxel * error) for error in np.abs(np.diff(sums)))
    return Coverage(in_regions, thin, float(voxel * (sums[-1] + elsewhere)), dropped)


def _mean_error(maps: UncertaintyMap) -> float:
    """Compute the fraction of the segmented volume that is expected to be wrong; 0 if nothing is segmented."""
    segmented = maps.inside[maps.organs] * maps.blocks.voxels(maps.organs)
    total = float(segmented.sum(dtype=float))
    return float((segmented * maps.expected_error[maps.organs]).sum(dtype=float)) / total if total else 0.0


def _drop_small(labels: np.ndarray, counted: np.ndarray, smallest: float) -> np.ndarray:
    """Set to 0 each label that has fewer than `smallest` voxels of the mask `counted`, or none."""
    size = np.bincount(labels[counted], minlength=labels.max() + 1)
    keep = (size > 0) & (size >= smallest - 1e-6)
    keep[0] = False
    return np.where(keep[labels], labels, 0)
