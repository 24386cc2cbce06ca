"""From a prediction to a short, ranked list of doubtful regions.

With u the measure of doubt, t its threshold and T the thickness of the doubt (`doubt.py`), a voxel is doubtful where

    u > t   and   T > max(excess * typical, typical + depth * t)

so the thin shell of doubt that every boundary carries is no region: the factor copes with blurred boundaries, whose
typical T varies with their curvature, and the depth with sharp ones, whose typical T is next to nothing. The doubtful
places are grown, because a confident model is sure of itself close by the place where it errs, cut into compact pieces
that fit one view (`pieces.py`), and ranked by the expected error volume, the integral of 1 - max_c p. Voxels finer than
1 mm are looked at in blocks of at most 2 mm (`blocks.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from MoBUncertaintyLib.errors import SettingsError
from MoBUncertaintyLib.geometry import Box, Grid, bounding_box, hull, nested, shadows, shape_of, within
from MoBUncertaintyLib.images.grid import grid_of, image_on
from MoBUncertaintyLib.regions.location import OrganFrame, location_in, organ_frames
from MoBUncertaintyLib.regions.pieces import CONNECTIVITY, compact_pieces, diameter, grow
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.regions.uncertainty import DoubtMap


@dataclass(frozen=True)
class Region:
    """One doubtful region.

    Attributes:
        rank: From 1, by falling expected error.
        label: Its value in the label map, equal to the rank.
        centroid_ras: Centroid in mm, RAS.
        volume_mm3: Volume.
        expected_error_mm3: Integral of 1 - max_c p, the volume expected to be labelled wrongly.
        mean_variance: Mean predictive variance (the largest over the foreground classes).
        peak_variance: Its maximum.
        mean_probability: Mean probability of foreground.
        inside_share: Share of the volume that already belongs to the segmentation.
        extent_mm: Largest diameter, from outer voxel corner to outer voxel corner.
        location: Where it lies in the organ, in the patient's terms: "superior left", "central".
    """

    rank: int
    label: int
    centroid_ras: tuple[float, float, float]
    volume_mm3: float
    expected_error_mm3: float
    mean_variance: float
    peak_variance: float
    mean_probability: float
    inside_share: float
    extent_mm: float
    location: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Region:
        """From what JSON makes of `dataclasses.asdict`."""
        return cls(**{**values, "centroid_ras": tuple(float(c) for c in values["centroid_ras"])})


@dataclass(frozen=True)
class FoundRegions:
    """Doubtful regions as arrays, cut to where they lie: quick enough to follow a slider.

    Attributes:
        regions: In order of rank.
        labels: Label map (uint16 (z, y, x), value = rank, 0 elsewhere) of `box`.
        settings: How they were found; None: not known.
        box: Where `labels` lies in the CT's array; None: it is all of the CT.
    """

    regions: tuple[Region, ...]
    labels: np.ndarray
    settings: RegionSettings | None
    box: Box | None = None


@dataclass
class Regions:
    """The doubtful regions of one prediction.

    Attributes:
        regions: In order of rank.
        labels: Label map (uint16, value = rank, 0 elsewhere) in the input's geometry.
        settings: How they were found.
    """

    regions: tuple[Region, ...]
    labels: sitk.Image
    settings: RegionSettings


def find_regions(
    probability: sitk.Image,
    variance: sitk.Image,
    segmentation: sitk.Image,
    settings: RegionSettings | None = None,
) -> Regions:
    """Find the places of a prediction that deserve a reader's look.

    Args:
        probability: Foreground probability; a vector image with one component per foreground class for C > 2.
        variance: Predictive variance, with as many components.
        segmentation: Label map of the prediction, 0 is background. Where it is empty any doubt counts as thick: an
            organ may have been missed.
        settings: What counts as a region.

    Returns:
        The regions, ranked by expected error volume; none where no doubt is thicker than the boundary's own.

    Raises:
        ImageError: The three images do not have the same geometry or number of components.
    """
    settings = settings or RegionSettings()
    return RegionFinder.of(probability, variance, segmentation, settings.measure, settings.window_mm).find(settings)


class RegionFinder:
    """Finds regions again and again as the threshold or the minimum size change; what these leave as it is, is kept.

    Args:
        doubt: What is known about the doubt; keep to `of` and `from_arrays`.
        organs: Where the organs lie.
    """

    def __init__(self, doubt: DoubtMap, organs: Mapping[int, OrganFrame]) -> None:
        self._map = doubt
        self._organs = organs

    @classmethod
    def of(
        cls,
        probability: sitk.Image,
        variance: sitk.Image,
        segmentation: sitk.Image,
        measure: Measure = RegionSettings.measure,
        window_mm: float = RegionSettings.window_mm,
    ) -> RegionFinder:
        """A finder for images, which are as for `find_regions`.

        Raises:
            ImageError: The three images do not have the same geometry or number of components.
        """
        doubt = DoubtMap.of(probability, variance, segmentation, measure, window_mm)
        return cls(doubt, organ_frames(sitk.GetArrayViewFromImage(segmentation), grid_of(segmentation)))

    @classmethod
    def from_arrays(
        cls,
        probability: Mapping[int, np.ndarray],
        variance: Mapping[int, np.ndarray],
        labels: np.ndarray,
        ijk_to_ras: np.ndarray,
        measure: Measure = RegionSettings.measure,
        window_mm: float = RegionSettings.window_mm,
    ) -> RegionFinder:
        """A finder for arrays (z, y, x), which are looked at and neither copied nor kept.

        Args:
            probability: Foreground probability, by label value.
            variance: Predictive variance, likewise.
            labels: Label map of the prediction, 0 is background.
            ijk_to_ras: (4, 4) matrix from voxel (i, j, k) to RAS mm.
            measure: The measure of doubt.
            window_mm: Sigma of the window in which the thickness of the doubt is taken.

        Raises:
            ImageError: The arrays do not have the same shape or classes.
        """
        grid = Grid.from_matrix(ijk_to_ras)
        doubt = DoubtMap(probability, variance, labels, grid, measure, window_mm)
        return cls(doubt, organ_frames(labels, grid))

    @classmethod
    def in_steps(
        cls,
        probability: Mapping[int, np.ndarray],
        variance: Mapping[int, np.ndarray],
        labels: np.ndarray,
        ijk_to_ras: np.ndarray,
        settings: RegionSettings,
    ) -> Generator[None, None, RegionFinder]:
        """Make a finder in steps, between which a user interface can answer: a generator that returns it."""
        grid, looked_at = Grid.from_matrix(ijk_to_ras), (settings.measure, settings.window_mm)
        doubt = yield from DoubtMap.in_steps(probability, variance, labels, grid, *looked_at)
        return cls(doubt, organ_frames(labels, grid))

    def fits(self, settings: RegionSettings) -> bool:
        """Whether this finder can find regions under `settings`: it knows one measure of doubt in one window."""
        return (settings.measure, settings.window_mm) == (self._map.measure, self._map.window_mm)

    def find(self, settings: RegionSettings) -> Regions:
        """Find the regions under `settings`, whose measure and window must be those of this finder.

        Raises:
            SettingsError: The settings have another measure or window.
        """
        found = self.find_arrays(settings)
        labels = np.zeros(self._map.shape, np.uint16)
        labels[found.box] = found.labels
        return Regions(found.regions, image_on(self._map.grid, labels), settings)

    def find_arrays(self, settings: RegionSettings) -> FoundRegions:
        """As `find`, without a label map of the whole CT."""
        if not self.fits(settings):
            raise SettingsError("Another measure or window of doubt needs a new RegionFinder.")
        doubt = self._map
        usual = np.maximum(settings.excess * doubt.typical, doubt.typical + settings.depth_mm * settings.level)
        doubtful = (doubt.doubt > settings.level) & (doubt.thickness > usual)
        near = bounding_box(shadows(doubtful), np.ceil(settings.grow_mm / doubt.spacing))
        pieces = self._pieces(doubtful[near], near, settings)
        found = []
        for piece, box in enumerate(ndimage.find_objects(pieces), start=1):
            if box:
                mask, where = pieces[box] == piece, nested(near, box)
                found.append((self._describe(mask, where), mask, where))
        found.sort(key=lambda f: (-f[0]["expected_error_mm3"], f[0]["centroid_ras"]))
        found = found[: settings.max_regions]
        places = [doubt.blocks.expand(where, mask) for _, mask, where in found]
        box = hull(where for where, _ in places)
        labels = np.zeros(shape_of(box), np.uint16)
        for rank, (where, mask) in enumerate(places, start=1):
            labels[within(where, box)][mask] = rank
        regions = tuple(Region(rank=n, label=n, **what) for n, (what, _, _) in enumerate(found, start=1))
        return FoundRegions(regions, labels, settings, box)

    def _pieces(self, doubtful: np.ndarray, near: Box, settings: RegionSettings) -> np.ndarray:
        """Labels of the pieces from 1 (some may be missing), in no particular order, inside the box `near`."""
        doubt = self._map
        smallest = settings.minimum_mm3 / doubt.spacing.prod()
        doubtful = _drop_small(ndimage.label(doubtful, CONNECTIVITY)[0], doubtful, smallest) > 0
        grown = grow(doubtful, doubt.spacing, settings.grow_mm)
        # A little weight everywhere: where no error is expected, the voxels still have a middle.
        weight = doubt.expected_error[near] + 0.01
        pieces = compact_pieces(grown, weight, doubt.spacing, settings.length_mm)
        return _drop_small(pieces, doubtful, smallest)

    def _describe(self, mask: np.ndarray, box: Box) -> dict:
        """All of a `Region` but its rank; `mask` fills `box`, a box of blocks."""
        doubt = self._map
        index = np.argwhere(mask)
        voxels = doubt.voxels[box][mask].astype(float)
        voxel, total = doubt.grid.spacing.prod(), voxels.sum()
        centroid = voxels @ doubt.to_ras(index + [s.start for s in box]) / total

        def integral(values: np.ndarray) -> float:
            return float(voxels @ values[box][mask])

        return {
            "centroid_ras": tuple(float(c) for c in centroid),
            "volume_mm3": float(voxel * total),
            "expected_error_mm3": float(voxel * integral(doubt.expected_error)),
            "mean_variance": integral(doubt.variance) / total,
            "peak_variance": float(doubt.peak[box][mask].max()),
            "mean_probability": integral(doubt.foreground) / total,
            "inside_share": integral(doubt.inside) / total,
            "extent_mm": diameter(index, doubt.spacing),
            "location": location_in(centroid, doubt.labels[box][mask], self._organs),
        }


COLUMNS = (
    "rank", "label", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "location", "volume_mm3", "expected_error_mm3",
    "mean_variance", "peak_variance", "mean_probability", "inside_share", "extent_mm",
)  # fmt: skip


def regions_table(regions: Regions) -> list[dict[str, int | float | str]]:
    """One row per region in order of rank, with the keys `COLUMNS`: plain numbers and text, centroid in RAS mm."""
    rows = []
    for region in regions.regions:
        values = vars(region) | dict(zip(COLUMNS[2:5], region.centroid_ras, strict=True))
        rows.append({name: values[name] for name in COLUMNS})
    return rows


def write_csv(regions: Regions, path: str | Path) -> None:
    """Write `regions_table` with four significant digits, 0.1 mm or mm3 at least; without regions only the header."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in regions_table(regions):
            writer.writerow({name: _rounded(v) if isinstance(v, float) else v for name, v in row.items()})


def _rounded(value: float) -> float:
    return round(value, 1) if abs(value) >= 1000 else float(f"{value:.4g}")


def _drop_small(labels: np.ndarray, counted: np.ndarray, smallest: float) -> np.ndarray:
    """Set to 0 each label that has fewer than `smallest` voxels of the mask `counted`, or none."""
    size = np.bincount(labels[counted], minlength=labels.max() + 1)
    keep = (size > 0) & (size >= smallest - 1e-6)
    keep[0] = False
    return np.where(keep[labels], labels, 0)
