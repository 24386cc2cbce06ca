"""What counts as a doubtful region: measure of uncertainty, threshold, and the sizes that suit organ and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json

MAX_VARIANCE = 0.25
"""That a probability can have; p (1 - p) is no larger, either."""

MAX_MM = 1000.0
"""Of lengths: the window of one that is much longer than a body takes all memory."""

MAX_NUMBER = 1e9
"""Of the other numbers."""


class Measure(StrEnum):
    """What is called uncertainty at a voxel."""

    VARIANCE = "variance"
    """Predictive variance, the maximum over the labels; at most 0.25."""
    BERNOULLI = "bernoulli"
    """p (1 - p), the maximum over the labels; at most 0.25."""
    ENTROPY = "entropy"
    """Entropy of the mean probabilities, background included, in nats; at most ln C."""


MEASURE_NAMES = {
    Measure.VARIANCE: "predictive variance",
    Measure.BERNOULLI: "p (1 − p)",
    Measure.ENTROPY: "entropy (nats)",
}
"""As pictures and reports call them."""

# The variance of a model trained for it is about 0.3 p (1 - p), so its threshold is that fraction of p (1 - p)'s.
DEFAULT_THRESHOLD = {Measure.VARIANCE: 0.015, Measure.BERNOULLI: 0.05, Measure.ENTROPY: 0.2}

STATED_BY_MODELS = ("depth_mm", "window_mm", "grow_mm", "length_mm", "minimum_mm3", "variance_threshold")
"""The settings that depend on how large an organ is and on how a model was trained; a model may state its own."""


@dataclass(frozen=True)
class RegionSettings:
    """What counts as a doubtful region. The sizes are those of abdominal organs.

    Attributes:
        measure: The measure of uncertainty.
        threshold: The uncertainty of a voxel must exceed this (in units of the measure). Default: `variance_threshold`
            or, with another measure, `DEFAULT_THRESHOLD`.
        excess: The thickness of the uncertainty must exceed this many times the typical thickness along the surface.
        depth_mm: The thickness must also exceed that of a layer this deep with uncertainty at the threshold.
        window_mm: Sigma of the Gaussian window in which the thickness is taken.
        grow_mm: Regions are grown by this distance, where the expected error allows it.
        minimum_error: Regions grow into voxels around which at least this fraction is expected to be wrong
            (`UncertaintyMap.error_around`).
        length_mm: Regions longer than this are cut into pieces about the clumps of expected error.
        minimum_mm3: Regions with less doubtful volume (before they are grown) are dropped.
        variance_threshold: The threshold of the model's variance. Two models that are right equally often can differ in
            it: temperature scaling, for one, makes all variances smaller.
        max_regions: How many regions with the most expected error are kept. Default: all.

    Raises:
        SettingsError: A number is not finite, or outside its range.
    """

    measure: Measure = Measure.VARIANCE
    threshold: float | None = None
    excess: float = 1.2
    depth_mm: float = 2.0
    window_mm: float = 4.0
    grow_mm: float = 12.0
    minimum_error: float = 0.1
    length_mm: float = 60.0
    minimum_mm3: float = 20.0
    variance_threshold: float = DEFAULT_THRESHOLD[Measure.VARIANCE]
    max_regions: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            number, limit = getattr(self, field.name), MAX_MM if field.name.endswith("_mm") else MAX_NUMBER
            if isinstance(number, int | float) and not abs(number) <= limit:  # neither is NaN
                raise SettingsError(
                    f"Doubtful regions: {field.name} must be a number and at most {limit:g}, not {number}."
                )
        if not 0 < self.variance_threshold < MAX_VARIANCE:
            raise SettingsError(
                f"Doubtful regions: variance_threshold must be between 0 and {MAX_VARIANCE}, the maximum that the "
                f"variance of a probability can be, not {self.variance_threshold}."
            )
        if not 0 <= self.minimum_error < 1:
            raise SettingsError(
                f"Doubtful regions: minimum_error must be at least 0 and below 1, not {self.minimum_error}."
            )
        positive = {"threshold": self.level} | {
            name: getattr(self, name) for name in ("excess", "window_mm", "length_mm")
        }
        for name, number in positive.items():
            if not number > 0:
                raise SettingsError(f"Doubtful regions: {name} must be above 0, not {number}.")
        for name in ("depth_mm", "grow_mm", "minimum_mm3"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"Doubtful regions: {name} must not be negative, but is {getattr(self, name)}.")
        if self.max_regions is not None and self.max_regions < 1:
            raise SettingsError("Doubtful regions: max_regions must be at least 1, or None for all.")

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
        """Read what JSON made of `dataclasses.asdict`.

        Raises:
            SettingsError, ValueError: These are no such settings.
        """
        return from_json(cls, values)

    def changed(self, values: Mapping[str, Any]) -> RegionSettings:
        """Copy these settings with some of them, as JSON states them, in place of what they were.

        Raises:
            SettingsError, TypeError, ValueError: These are no such settings.
        """
        measure = {"measure": Measure(values["measure"])} if "measure" in values else {}
        return replace(self, **{**values, **measure})


def read_stated(entries: Iterable[str]) -> dict[str, float]:
    """Read the settings that a model may have from NAME=NUMBER.

    Raises:
        SettingsError: One is not of that form, given twice, none of `STATED_BY_MODELS`, or outside its range.
    """
    stated: dict[str, float] = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if name in stated:
            raise SettingsError(f"The setting {name} of the regions is given twice; give it once.")
        try:
            stated[name] = float(number)
        except ValueError:
            raise SettingsError(f"A setting of the regions must be NAME=NUMBER, not {entry!r}.") from None
    check_stated(stated)
    return stated


def check_stated(stated: Mapping[str, float]) -> None:
    """Check that a model may state this.

    Raises:
        SettingsError: One is none of `STATED_BY_MODELS`, or outside its range.
    """
    for name in stated:
        if name not in STATED_BY_MODELS:
            names = ", ".join(STATED_BY_MODELS)
            raise SettingsError(f"Doubtful regions have no setting {name!r} of that kind; there are {names}.")
    fields: dict[str, Any] = {**stated}
    RegionSettings(**fields)
