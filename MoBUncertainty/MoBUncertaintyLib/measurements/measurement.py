"""Measurements: numbers of a label map, or of an image or a dose within it.

Each is a function of a `Part` that `measurement` registers under a name, in which `{}` stands for a number. Lengths are
between the centres of voxels, but for the distance of two labels, which is between the voxels themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.distance import cdist, pdist

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.geometry import Box, Grid, common_parts, nested, occupied, whole
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.schema import Range

MAXIMUM_ML = 0.1
"""The maximum dose is what so much gets at least: below it a single voxel, and its noise, would decide."""
_MANY_POINTS = 50  # of which the convex hull is worth its cost
_ROUNDING = 1e-9  # 2 % of 50 voxels is a little more than 1


class Values(StrEnum):
    """What a measurement needs beside the label map."""

    IMAGE = "image"
    DOSE = "dose"


@dataclass(frozen=True, eq=False)
class Part:
    """What is measured: a mask (z, y, x) for each label, their grid, and values there, if any are needed.

    Outside of the boxes `bounds`, one for each label, masks are empty; default: not known. A function that measures
    gets it without empty masks.
    """

    masks: Sequence[np.ndarray]
    grid: Grid
    values: np.ndarray | None = None
    bounds: Sequence[Box] = ()

    @property
    def mask(self) -> np.ndarray:
        """The mask of the first label."""
        return self.masks[0]

    @cached_property
    def lacks_a_label(self) -> bool:
        """Whether a mask is empty."""
        return not all(mask.any() for mask in self.masks)

    @cached_property
    def boxes(self) -> list[Box]:
        """The smallest box around each mask."""
        bounds = self.bounds or [whole(mask.shape) for mask in self.masks]
        return [nested(bound, occupied(mask[bound])) for mask, bound in zip(self.masks, bounds, strict=True)]

    @cached_property
    def pieces(self) -> tuple[np.ndarray, list[Box]]:
        """The first mask's pieces in its box, numbered from 1, and their boxes; faces, edges and corners connect."""
        numbers, _ = ndimage.label(self.mask[self.boxes[0]], np.ones((3, 3, 3), bool))
        return numbers, ndimage.find_objects(numbers)

    @cached_property
    def centre(self) -> np.ndarray:
        """The centre of mass of the first mask, RAS in mm."""
        (box, *_) = self.boxes
        return self.grid.to_ras(np.array(ndimage.center_of_mass(self.mask[box])) + [side.start for side in box])

    def cut_out(self, margin: int) -> list[tuple[np.ndarray, Box]]:
        """Cut each mask out, with so many empty voxels around; the boxes, too, may reach beyond the masks."""
        return [
            (np.pad(mask[box], margin), tuple(slice(axis.start - margin, axis.stop + margin) for axis in box))
            for mask, box in zip(self.masks, self.boxes, strict=True)
        ]

    @property
    def inside(self) -> np.ndarray:
        """The values in the first label, (N,); raises `ValueError` without values."""
        if self.values is None:
            raise ValueError("there are no values to measure")
        inside: np.ndarray = self.values[self.mask]
        return inside


@dataclass(frozen=True)
class Measurement:
    """A number of a label map.

    Attributes:
        name: What users type; `{}` stands for a number.
        unit: Of the result; of an intensity it is the image's own.
        function: Takes a `Part`, and the number if there is one.
        labels: How many it is of.
        of: The values that it needs; default: none.
        number: What the number in the name may be; default: there is none.
        least, most: The smallest and the largest possible result.
        empty: The result where a label has no voxel.
    """

    name: str
    unit: str
    function: Callable[..., float]
    labels: int = 1
    of: Values | None = None
    number: Range | None = None
    least: float = 0.0
    most: float = math.inf
    empty: float = math.nan

    @property
    def form(self) -> str:
        """How it is typed: `D{X}%:LABEL`, say."""
        return ":".join([self.name.replace("{}", "{X}"), *["LABEL"] * self.labels])


MEASUREMENTS: dict[str, Measurement] = {}
"""All that are registered, by name."""

Function = Callable[..., float]


def measurement(name: str, unit: str, **more: Any) -> Callable[[Function], Function]:
    """Register the function below as a measurement; `more` are the other attributes of `Measurement`.

    Example:
        >>> from MoBUncertaintyLib.measurements.measurement import MEASUREMENTS, measurement
        >>> @measurement("height", "mm")
        ... def height(part):
        ...     return part.mask.any(axis=(1, 2)).sum() * part.grid.spacing[0]
        >>> MEASUREMENTS.pop("height").form
        'height:LABEL'
    """

    def register(function: Function) -> Function:
        MEASUREMENTS[name] = Measurement(name, unit, function, **more)
        return function

    return register


@dataclass(frozen=True)
class Wanted:
    """A measurement of some labels as a user types it, such as `D2%:Parotid_L`, and what that means."""

    text: str
    measurement: Measurement
    labels: tuple[str, ...]
    number: float | None = None

    @classmethod
    def read(cls, text: str, labels: Sequence[str]) -> Wanted:
        """Read a text; raises `SettingsError` unless it is a measurement of some of these labels."""
        name, *own = text.split(":")
        kind, number = _find(name)
        if len(own) != kind.labels or len(set(own)) < len(own):
            raise SettingsError(f"The measurement {printable(text)} must be of the form {kind.form}; correct it.")
        if unknown := [label for label in own if label not in labels]:
            raise SettingsError(
                f"There is no label {printable(unknown[0])} to measure; choose from {', '.join(labels)}."
            )
        return cls(":".join([kind.name.replace("{}", f"{number or 0:g}"), *own]), kind, tuple(own), number)

    def compute(self, masks: Sequence[np.ndarray], grid: Grid, values: Mapping[str, np.ndarray]) -> float:
        """Measure masks (z, y, x), one for each label, with values on their grid; NaN where it is not defined."""
        return self.measure(Part(masks, grid, values[self.measurement.of] if self.measurement.of else None))

    def measure(self, part: Part) -> float:
        """Measure a part that has the values that it needs; NaN where it is not defined."""
        if part.lacks_a_label:
            return self.measurement.empty
        return float(self.measurement.function(part, *([] if self.number is None else [self.number])))


def _find(name: str) -> tuple[Measurement, float | None]:
    """Find a measurement by the name that a user types, and read the number in it."""
    for kind in MEASUREMENTS.values():
        pattern = re.escape(kind.name).replace(r"\{\}", r"(\d{1,6}(?:\.\d{1,6})?)")
        match = re.fullmatch(pattern, name)
        if match and kind.number:
            number = float(match[1])
            if number not in kind.number:
                raise SettingsError(f"The number X of {kind.form} must be {kind.number}, not {number:g}.")
            return kind, number
        if match:
            return kind, None
    forms = ", ".join(kind.form for kind in MEASUREMENTS.values())
    raise SettingsError(f"There is no measurement {printable(name)}; choose from {forms}.")


def read_wanted(texts: Iterable[str], labels: Sequence[str], values: Container[str] = ()) -> list[Wanted]:
    """Read measurements, each once; raises `SettingsError` as `Wanted.read` does, or if one needs other values."""
    wanted = {one.text: one for one in (Wanted.read(text, labels) for text in texts)}
    for one in wanted.values():
        if one.measurement.of and one.measurement.of not in values:
            needed = one.measurement.of
            raise SettingsError(f"The measurement {printable(one.text)} needs the {needed}; give it, too.")
    return list(wanted.values())


@measurement("volume", "ml", empty=0.0)
def _volume(part: Part) -> float:
    return np.count_nonzero(part.mask) * part.grid.voxel_mm3 / 1000


@measurement("mean_intensity", "", of=Values.IMAGE, least=-math.inf)
@measurement("mean_dose", "Gy", of=Values.DOSE)
def _mean(part: Part) -> float:
    return float(part.inside.mean(dtype=float))


@measurement("P{}_intensity", "", of=Values.IMAGE, number=Range(0, 100), least=-math.inf)
def _percentile(part: Part, percent: float) -> float:
    return float(np.percentile(part.inside.astype(float), percent))


@measurement("diameter", "mm")
def _diameter(part: Part) -> float:
    spacing = part.grid.spacing
    return _largest(part, spacing, lambda piece: _farthest(_ends_of_rows(piece) * spacing))


@measurement("diameter_in_slice", "mm")
def _diameter_in_slice(part: Part) -> float:
    spacing = part.grid.spacing
    return _largest(part, spacing * (0, 1, 1), lambda piece: _farthest_in_slice(_ends_of_rows(piece), spacing[1:]))


def _farthest_in_slice(points: np.ndarray, spacing: np.ndarray) -> float:
    slices = [own[:, 1:] * spacing for own in np.split(points, np.flatnonzero(np.diff(points[:, 0])) + 1)]
    bounds = [float(np.linalg.norm(np.ptp(own, axis=0))) for own in slices]
    return _first_of(bounds, lambda place: _farthest(slices[place]))


def _largest(part: Part, spacing: np.ndarray, diameter: Callable[[np.ndarray], float]) -> float:
    """Return the largest diameter of the pieces of a mask."""
    numbers, boxes = part.pieces
    sides = np.array([[axis.stop - axis.start - 1 for axis in box] for box in boxes])
    bounds = np.linalg.norm(sides * spacing, axis=1)
    return _first_of(bounds, lambda place: diameter(numbers[boxes[place]] == place + 1))


def _first_of(bounds: Sequence[float] | np.ndarray, measure: Callable[[int], float]) -> float:
    """Return the largest of some lengths, none of which is above its bound: none is measured that cannot be it."""
    largest = 0.0
    for place in np.argsort(np.negative(bounds)).tolist():
        if bounds[place] <= largest:
            break
        largest = max(largest, measure(place))
    return largest


def _ends_of_rows(mask: np.ndarray) -> np.ndarray:
    """List the first and the last voxel of each row, (N, 3), slice by slice: two of these are farthest apart."""
    rows = np.argwhere(mask.any(axis=2))
    lines = mask[tuple(rows.T)]
    ends = lines.argmax(axis=1), mask.shape[2] - 1 - lines[:, ::-1].argmax(axis=1)
    return np.stack([np.column_stack([rows, end]) for end in ends], axis=1).reshape(-1, 3)


def _farthest(points: np.ndarray) -> float:
    """Measure the largest distance between points (N, 2 or 3)."""
    if len(points) > _MANY_POINTS:
        points = points[ConvexHull(points, qhull_options="QJ").vertices]  # joggled, since all may lie in a plane
    return float(pdist(points).max(initial=0))


@measurement("surface_area", "mm²")
def _surface_area(part: Part) -> float:
    """Estimate it by Crofton's formula, with lines in 13 directions (Lehmann and Legland 2012, Insight Journal)."""
    image = sitk.GetImageFromArray(part.cut_out(margin=1)[0][0].astype(np.uint8))
    image.SetSpacing(part.grid.spacing[::-1].tolist())
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputePerimeterOn()
    shape.Execute(image)
    return float(shape.GetPerimeter(1))


def _centre(axis: int, part: Part) -> float:
    return float(part.centre[axis])


for _axis, _letter in enumerate("RAS"):
    measurement(f"centre_{_letter}", "mm", least=-math.inf)(partial(_centre, _axis))


@measurement("distance", "mm", labels=2)
def _distance(part: Part) -> float:
    """Measure the smallest distance of two labels' voxels, which are boxes: 0 where two touch.

    Boxes are nearer than their centres by a voxel's diagonal at most: so few pairs of centres are candidates.
    """
    cuts, spacing = part.cut_out(margin=2), part.grid.spacing
    common = common_parts(*(box for _, box in cuts))
    if common:
        one, other = (mask[box] for (mask, _), box in zip(cuts, common, strict=True))
        if (one & ndimage.binary_dilation(other, np.ones((3, 3, 3), bool))).any():
            return 0.0
    (places, others), diagonal = (_border(mask, box) * spacing for mask, box in cuts), float(np.linalg.norm(spacing))
    places, others = _facing(places, others, diagonal)
    tree = KDTree(others)
    least = tree.query(places[:: max(len(places) // _MANY_POINTS, 1)])[0].min()
    away, _ = tree.query(places, distance_upper_bound=least + diagonal)
    reach = min(away.min(), least) + diagonal
    near = places[away <= reach]
    pairs = tree.query_ball_point(near, reach)
    between = np.abs(np.repeat(near, [len(own) for own in pairs], axis=0) - others[np.concatenate(pairs).astype(int)])
    return float(np.linalg.norm(np.maximum(between - spacing, 0), axis=1).min())


def _facing(places: np.ndarray, others: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Keep points (N, 3) that can be so much farther, at most, from the other ones than the nearest."""
    some = (points[:: max(len(points) // _MANY_POINTS, 1)] for points in (places, others))
    reach = cdist(*some).min() + margin
    for _ in range(2):
        low, high = others.min(axis=0), others.max(axis=0)
        away = np.linalg.norm(np.maximum(np.maximum(low - places, places - high), 0), axis=1)
        places, others = others, places[away <= reach]
    return places, others


def _border(mask: np.ndarray, box: Box) -> np.ndarray:
    """List the voxels (N, 3) of a mask, which fills a box and is empty at its edges, that have a neighbour outside."""
    flat, voxels = mask.reshape(-1), np.flatnonzero(mask)
    steps = [math.prod(mask.shape[axis + 1 :]) for axis in range(3)]
    inner = np.logical_and.reduce([flat[voxels + step] & flat[voxels - step] for step in steps])
    places = np.transpose(np.unravel_index(voxels[~inner], mask.shape))
    return np.asarray(places + [axis.start for axis in box])


@measurement("contact_area", "mm²", labels=2, empty=0.0)
def _contact_area(part: Part) -> float:
    """Sum the faces that voxels of the one label share with those of the other."""
    (one, box), (other, other_box) = part.cut_out(margin=1)
    common = common_parts(box, other_box)
    if not common:
        return 0.0
    near = one[common[0]], other[common[1]]
    area = 0.0
    for axis, step in enumerate(part.grid.spacing):
        one, other = (np.moveaxis(mask, axis, 0) for mask in near)
        faces = np.count_nonzero(one[1:] & other[:-1]) + np.count_nonzero(one[:-1] & other[1:])
        area += faces * part.grid.voxel_mm3 / step
    return area


@measurement("D{}%", "Gy", of=Values.DOSE, number=Range(above=0, most=100))
def _dose_of_percent(part: Part, percent: float) -> float:
    return _dose_of_hottest(part.inside, percent / 100 * np.count_nonzero(part.mask))


@measurement("D{}ml", "Gy", of=Values.DOSE, number=Range(above=0))
def _dose_of_volume(part: Part, ml: float) -> float:
    return _dose_of_hottest(part.inside, 1000 * ml / part.grid.voxel_mm3)


@measurement("max_dose", "Gy", of=Values.DOSE)
def _max_dose(part: Part) -> float:
    return _dose_of_volume(part, MAXIMUM_ML)


@measurement("V{}Gy", "%", of=Values.DOSE, number=Range(0), most=100.0)
def _volume_of_dose(part: Part, gray: float) -> float:
    return 100 * float(np.mean(part.inside >= gray))


def _dose_of_hottest(dose: np.ndarray, voxels: float) -> float:
    """Return the highest dose that so many voxels get at least; NaN if there are fewer."""
    rank = max(math.ceil(voxels - _ROUNDING), 1)
    return float(np.partition(dose, -rank)[-rank]) if rank <= len(dose) else math.nan
