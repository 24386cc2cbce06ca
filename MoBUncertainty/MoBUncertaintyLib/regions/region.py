"""Doubtful regions, ranked, with their map and table. Needs no scipy, whose import takes longer than making a scene."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.base.wording import percent
from MoBUncertaintyLib.model.region_settings import RegionSettings

ENOUGH = 0.5  # a list that holds less than this fraction of the expected error says so

LITTLE = 0.01  # a smaller fraction is not said as a number

ROUNDING = 1e-6


@dataclass(frozen=True)
class Effect:
    """What resolving a region does to a measurement.

    Attributes:
        measurement: Which one, as users type it.
        fraction: Of its variance over samples, what goes away; below 0 where regions cancel each other.
    """

    measurement: str
    fraction: float

    @property
    def text(self) -> str:
        """Write it for people."""
        return f"{percent(max(self.fraction, 0.0))} of the variance of {self.measurement}"


@dataclass(frozen=True)
class Region:
    """One doubtful region."""

    rank: int  # from 1, by falling expected error or, if it has one, by falling effect
    number: int  # in the map of all regions: its rank when it was found, and its own as long as it is reviewed
    centroid_ras: tuple[float, float, float]  # mm
    volume_mm3: float
    expected_error_mm3: float  # integral of 1 - max_c p, the volume expected to be labelled wrongly
    mean_variance: float  # of the maximum over the labels
    max_variance: float
    mean_probability: float  # of foreground
    inside_fraction: float  # of the volume, what already belongs to the segmentation
    extent_mm: float  # largest diameter, from outer voxel corner to outer voxel corner
    location: str  # in the organ, in the patient's terms: "superior left", "central"
    effect: Effect | None = field(default=None, kw_only=True)  # on what the list is ranked by, if that is a measurement

    @property
    def order(self) -> tuple[float, float]:
        """Rank regions by this, the smallest first."""
        return -self.effect.fraction if self.effect else 0.0, -self.expected_error_mm3


@dataclass(frozen=True)
class Discrepancy(Region):
    """A region where a drawn segmentation is improbable; its error and fraction are those of that segmentation."""

    label: str
    missing: bool  # the model has the label there, the drawn segmentation has not; else the other way round
    discrepancy: float  # nats
    # regions at least so discrepant on an ordinary contour, on average; default: not calibrated
    false_alarms: float | None
    # with a second segmentation: that one has the label where it is missing, and the discrepancy is by how much the log
    # likelihood grows if the region is as there, negative where the model finds the first more probable
    compared: bool = False


@dataclass(frozen=True)
class Coverage:
    """The expected error of a prediction, by where it lies."""

    held_mm3: float  # in the regions
    thin_mm3: float  # elsewhere, where the uncertainty exceeds the threshold: along the border, no thicker than usual
    faint_mm3: float  # elsewhere, where it does not
    dropped_mm3: float  # in places that would be regions if they were larger, or if more regions were listed
    # the fraction of the segmented volume that is expected to be wrong, if the region is the whole organ
    throughout: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.held_mm3, self.thin_mm3, self.faint_mm3, self.dropped_mm3, self.throughout or 0.0)
        if not all(isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("an expected error is a number from 0 on")

    @property
    def total_mm3(self) -> float:
        """All of the expected error."""
        return self.held_mm3 + self.thin_mm3 + self.faint_mm3 + self.dropped_mm3

    @property
    def fraction(self) -> float:
        """The fraction of the expected error that the regions hold; 1 if no error is expected."""
        return self.held_mm3 / self.total_mm3 if self.total_mm3 else 1.0

    def extended(self, held_mm3: float) -> Coverage:
        """Return that of a list which holds more, since others have stayed on it; what is left shrinks evenly."""
        more = min(held_mm3, self.total_mm3) - self.held_mm3
        rest = self.total_mm3 - self.held_mm3
        if more <= ROUNDING * self.total_mm3:
            return self
        left = {name: getattr(self, name) * (1 - more / rest) for name in ("thin_mm3", "faint_mm3", "dropped_mm3")}
        return replace(self, held_mm3=self.held_mm3 + more, **left)

    @property
    def warning(self) -> str | None:
        """Say in a sentence that regions hold under half of the expected error, none of it, or are the whole organ."""
        if self.throughout is not None:
            return (
                f"The segmentation is doubtful throughout: {percent(self.throughout)} of its volume is expected to be "
                "wrong, so all of it is one region; review the entire segmentation."
            )
        if self.fraction >= ENOUGH:
            return None
        rest = {
            "in a layer along the border that is nowhere thicker than usual; check the entire border": self.thin_mm3,
            "where the uncertainty is below the threshold; lower it to list more": self.faint_mm3,
            "in places that are too small to be listed; list smaller or more regions": self.dropped_mm3,
        }
        place = max(rest, key=lambda where: rest[where])
        if not self.held_mm3:
            return f"There is no doubtful region, because most of the expected error lies {place}."
        fraction = f"only {percent(self.fraction)}" if self.fraction >= LITTLE else f"less than {percent(LITTLE)}"
        return f"The doubtful regions contain {fraction} of the expected error: most of the rest lies {place}."


@dataclass(frozen=True, eq=False)
class Regions:
    """The doubtful regions of one prediction in order of rank."""

    ranked: tuple[Region, ...]
    map: np.ndarray  # the number of each voxel's region, 0 elsewhere; uint16, fills `box`, so that it follows a slider
    box: Box  # where the map lies in the prediction's arrays
    shape: tuple[int, ...]  # of these arrays
    settings: RegionSettings  # how the regions were found
    coverage: Coverage | None = None  # how much of the expected error they hold, if it was computed

    @property
    def ranked_by(self) -> str | None:
        """The measurement that the list is ranked by; default: the expected error."""
        return ranked_by(self.ranked)

    def by_effect(self, effects: Mapping[int, Effect]) -> Regions:
        """Rank them by effects, by their numbers, which become the new ranks."""
        regions = [replace(region, effect=effects[region.number]) for region in self.ranked]
        regions.sort(key=lambda region: region.order)
        numbers = np.zeros(2**16, np.uint16)
        numbers[[region.number for region in regions]] = np.arange(1, len(regions) + 1)
        ranked = tuple(replace(region, rank=n, number=n) for n, region in enumerate(regions, start=1))
        return replace(self, ranked=ranked, map=numbers[self.map])

    def whole_map(self) -> np.ndarray:
        """Make the map of all of the prediction."""
        whole = np.zeros(self.shape, np.uint16)
        whole[self.box] = self.map
        return whole


def ranked_by(regions: Iterable[Region]) -> str | None:
    """Return the measurement that regions are ranked by; default: the expected error."""
    return next((region.effect.measurement for region in regions if region.effect), None)


def own_of(region: Region) -> dict[str, Any]:
    """Return, as JSON, what the voxels of a region do not tell: its effect, and what a discrepancy says."""
    own = {name: value for name, value in to_json(region).items() if name in OWN}
    return own if region.effect else {name: value for name, value in own.items() if name != "effect"}


def discrepancy_text(region: Region) -> str:
    """Say what is improbable or, of two segmentations, which has the label and which is more probable; else nothing."""
    if not isinstance(region, Discrepancy):
        return ""
    nats = f"{abs(region.discrepancy):,.0f} nats"
    if region.compared:
        has, better = ("second" if of_second else "first" for of_second in (region.missing, region.discrepancy > 0))
        return f"only in the {has}; the {better} is more probable, by {nats}"
    text = f"{'missing' if region.missing else 'too much'}, {nats}"
    return text if region.false_alarms is None else f"{text}; {region.false_alarms:.2g} on an ordinary contour"


def as_stored(region: Region, stored: Mapping[str, Any]) -> Region:
    """Return a region that is described anew with what `own_of` has stored of it, if it has; `ValueError`."""
    own = {name: stored[name] for name in OWN if name in stored and (name, stored[name]) != ("effect", None)}
    kind = Discrepancy if "discrepancy" in own else Region
    return from_json(kind, to_json(region) | own, "a region") if own else region


OWN = ("label", "missing", "discrepancy", "false_alarms", "compared", "effect")
COLUMNS = (
    "rank", "number", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "organ", "location", "volume_mm3",
    "expected_error_mm3", "mean_variance", "max_variance", "mean_probability", "inside_fraction", "extent_mm",
)  # fmt: skip


def table_row(region: Region, organ: str = "") -> dict[str, int | float | str | None]:
    """Make a region's row of a table: plain numbers and text, centroid in RAS mm, and the organ that it lies in.

    Its keys are `COLUMNS`, and those of `own_of`, where the effect has two.
    """
    values, own = asdict(region) | dict(zip(COLUMNS[2:5], region.centroid_ras, strict=True)), own_of(region)
    values["organ"] = organ
    if effect := own.pop("effect", None):
        own |= {"effect": effect["fraction"], "effect_on": effect["measurement"]}
    return {name: values[name] for name in COLUMNS} | own


def write_csv(regions: Regions, path: str | Path, organs: Mapping[int, str]) -> None:
    """Write a `table_row` per region in order of rank, with four significant digits, 0.1 mm or mm3 at least.

    `organs` names the organ of each region, by its number, as `description.organ_names` does.
    """

    def short(value: int | float | str | None) -> int | float | str | None:
        if not isinstance(value, float):
            return value
        return round(value, 1) if abs(value) >= 1000 else float(f"{value:.4g}")

    table = (table_row(region, organs.get(region.number, "")) for region in regions.ranked)
    rows = [{name: short(value) for name, value in row.items()} for row in table]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
