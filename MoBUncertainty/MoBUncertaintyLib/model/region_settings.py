"""What counts as a doubtful region: measure of uncertainty, threshold, and the sizes that suit organ and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import Range, from_json, out_of_range

MAX_VARIANCE = 0.25  # that a probability can have; p (1 - p) is no larger, either

MAX_MM = 1000.0  # of lengths: the window of one that is much longer than a body takes all memory


class Measure(StrEnum):
    """What is called uncertainty at a voxel."""

    VARIANCE = "variance"  # predictive variance, the maximum over the labels; at most 0.25
    BERNOULLI = "bernoulli"  # p (1 - p), the maximum over the labels; at most 0.25
    ENTROPY = "entropy"  # entropy of the mean probabilities, background included, in nats; at most ln C
    ERROR = "error"  # probability that the label of the voxel is wrong: of a segmentation that others have drawn


UNCERTAINTIES = (Measure.VARIANCE, Measure.BERNOULLI, Measure.ENTROPY)
"""By which doubtful regions of a prediction are found; by its error, one that was drawn is held against a model."""

MEASURE_NAMES = {
    Measure.VARIANCE: "predictive variance",
    Measure.BERNOULLI: "p (1 − p)",
    Measure.ENTROPY: "entropy (nats)",
    Measure.ERROR: "probability that the label is wrong",
}
"""As pictures and reports call them."""

# The variance of a model trained for it is about 0.3 p (1 - p), so its threshold is that fraction of p (1 - p)'s.
# An error above 1/2 means that another label, or several together, are more probable.
DEFAULT_THRESHOLD = {Measure.VARIANCE: 0.015, Measure.BERNOULLI: 0.05, Measure.ENTROPY: 0.2, Measure.ERROR: 0.5}

STATED_BY_MODELS = ("depth_mm", "window_mm", "grow_mm", "length_mm", "minimum_mm3", "variance_threshold")
"""The settings that depend on how large an organ is and on how a model was trained; a model may state its own."""


@dataclass(frozen=True)
class RegionSettings:
    """What counts as a doubtful region; `SettingsError` for a number outside its range. Sizes suit abdominal organs.

    Attributes:
        threshold: The uncertainty of a voxel must exceed this (in units of the measure). Default: `variance_threshold`
            or, with another measure, `DEFAULT_THRESHOLD`.
        excess: The thickness of the uncertainty must exceed this many times the typical thickness along the surface.
        depth_mm: The thickness must also exceed that of a layer this deep with uncertainty at the threshold.
        window_mm: Sigma of the Gaussian window in which the thickness is taken.
        grow_mm: Regions are grown by this distance, where the expected error allows it.
        minimum_error: Regions grow into voxels around which at least this fraction is expected to be wrong.
        length_mm: Regions longer than this are cut into pieces about the clumps of expected error.
        minimum_mm3: Regions with less doubtful volume (before they are grown) are dropped.
        variance_threshold: The threshold of the model's variance, which temperature scaling, for one, makes smaller.
        max_regions: How many regions with the most expected error are kept. Default: all.
    """

    measure: Measure = Measure.VARIANCE
    threshold: Annotated[float | None, Range(above=0, most=1e9)] = None
    excess: Annotated[float, Range(above=0, most=1e9)] = 1.2
    depth_mm: Annotated[float, Range(0, MAX_MM)] = 2.0
    window_mm: Annotated[float, Range(above=0, most=MAX_MM)] = 4.0
    grow_mm: Annotated[float, Range(0, MAX_MM)] = 12.0
    minimum_error: Annotated[float, Range(0, below=1)] = 0.1
    length_mm: Annotated[float, Range(above=0, most=MAX_MM)] = 60.0
    minimum_mm3: Annotated[float, Range(0, 1e9)] = 20.0
    variance_threshold: Annotated[float, Range(above=0, below=MAX_VARIANCE)] = DEFAULT_THRESHOLD[Measure.VARIANCE]
    max_regions: Annotated[int | None, Range(1, 1e9)] = None

    def __post_init__(self) -> None:
        if problem := out_of_range(self):
            raise SettingsError(f"Doubtful regions: {problem}.")

    @property
    def level(self) -> float:
        """The threshold in force."""
        return self.level_of(self.measure)

    def level_of(self, measure: Measure) -> float:
        """Return the threshold in force, or that which a measure would have."""
        if measure is self.measure and self.threshold is not None:
            return self.threshold
        return self.variance_threshold if measure is Measure.VARIANCE else DEFAULT_THRESHOLD[measure]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegionSettings:
        """Read what JSON made of `dataclasses.asdict`; raises `SettingsError` or `ValueError`."""
        return from_json(cls, values)

    def changed(self, values: Mapping[str, Any]) -> RegionSettings:
        """Copy these settings with others as JSON states them; raises `SettingsError`, `TypeError` or `ValueError`."""
        measure = {"measure": Measure(values["measure"])} if "measure" in values else {}
        return replace(self, **{**values, **measure})


def read_stated(entries: Iterable[str]) -> dict[str, float]:
    """Read the settings that a model may have from NAME=NUMBER; raises `SettingsError`."""
    settings: dict[str, float] = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if name in settings:
            raise SettingsError(f"The setting {name} of the regions is given twice; give it once.")
        try:
            settings[name] = float(number)
        except ValueError:
            raise SettingsError(f"A setting of the regions must be NAME=NUMBER, not {entry!r}.") from None
    check_stated(settings)
    return settings


def check_stated(settings: Mapping[str, float]) -> None:
    """Raise `SettingsError` unless each is one of `STATED_BY_MODELS`, and in its range."""
    for name in settings:
        if name not in STATED_BY_MODELS:
            names = ", ".join(STATED_BY_MODELS)
            raise SettingsError(f"Doubtful regions have no setting {name!r} of that kind; there are {names}.")
    fields: dict[str, Any] = {**settings}
    RegionSettings(**fields)
