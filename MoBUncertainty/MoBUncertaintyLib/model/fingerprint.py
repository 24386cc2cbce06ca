"""What ordinary cases of a model look like, and how far another case is from them. Needs no torch.

Each measure is compared with the ordinary cases' median in their standard deviations. All are of the image and the
maps, none of the network's features: these differ between engines and precisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.base.wording import percent

USUAL = 0.05  # what happens in more than this fraction of ordinary cases makes no case unusual


class Level(StrEnum):
    """How far a case can be trusted, by what can be seen without its truth."""

    ORDINARY = "ordinary"
    UNUSUAL = "unusual"
    NOT_USABLE = "not usable"


@dataclass(frozen=True)
class Suitability:
    """Whether a model suits a case."""

    level: Level = Level.ORDINARY
    reasons: tuple[str, ...] = ()  # one clause each, the most serious first; none if it is ordinary
    deviations: Mapping[str, float] = field(default_factory=dict)  # of each measure, in the ordinary cases' deviations
    judged: bool = True  # whether it was compared with ordinary cases, not only with what is evident without them

    def __post_init__(self) -> None:
        if self.level is not Level.ORDINARY and not self.reasons:
            raise ValueError(f"a case that is {self.level} has a reason")

    @property
    def text(self) -> str:
        """The level in a phrase, with its main reason."""
        if self.reasons:
            return f"{self.level}: {self.reasons[0]}"
        return self.level.value if self.judged else "not compared with ordinary cases"

    @property
    def sentence(self) -> str | None:
        """The level with its main reason, for the user; None for an ordinary case."""
        if self.level is Level.ORDINARY:
            return None
        if self.level is Level.UNUSUAL:
            return f"This case is unusual: {self.reasons[0]}; review all of it, not only the doubtful regions."
        return f"This case is not usable: {self.reasons[0]}; do not use this result."

    def says(self, sentence: str) -> bool:
        """Tell whether a sentence is its main reason, so that it need not be said again."""
        return self.reasons[:1] == (_clause(sentence),)

    def worsened(self, level: Level, reason: str) -> Suitability:
        """Return the same with one more reason, a clause or sentence, which comes first if it is the most serious."""
        reason = _clause(reason)
        first = list(Level).index(level) > list(Level).index(self.level)
        reasons = (reason, *self.reasons) if first else (*self.reasons, reason)
        return Suitability(level if first else self.level, reasons, self.deviations, self.judged)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return {
            "level": self.level.value,
            "reasons": list(self.reasons),
            "deviations": {name: round(value, 2) for name, value in self.deviations.items()},
            "judged": self.judged,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Suitability:
        """Invert `to_dict`; raises `ValueError`."""
        suitability = from_json(cls, values, "the suitability")
        if "level" not in values:  # what is not stated is not ordinary
            raise ValueError("the suitability lacks 'level'")
        return suitability


def _clause(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


@dataclass(frozen=True)
class Measures:
    """What a case is compared by: numbers by name (`inference.suitability.MEASURES`), a label's as `volume:pancreas`.

    `edges` are the sides of the image that a label reaches, by its name.
    """

    values: Mapping[str, float]
    edges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ordinary:
    """The ordinary values of a measure: median and standard deviation, on the scale on which it is judged."""

    median: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and 0 < self.deviation < math.inf):
            raise ValueError("a measure needs a finite median, and a deviation above 0")


@dataclass(frozen=True)
class FalseAlarms:
    """How many other ordinary cases (`data`), which no range or limit comes from, were not called ordinary."""

    count: int
    cases: int
    data: str

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.cases > 0:
            raise ValueError("the false alarms must be a number of cases")

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of their rate (Clopper and Pearson 1934)."""
        from scipy import special

        k, n = self.count, self.cases
        low = float(special.betaincinv(k, n - k + 1, 0.025)) if k else 0.0
        return low, float(special.betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0

    @property
    def text(self) -> str:
        """The count and the interval, in words."""
        low, high = self.interval
        return (
            f"{self.count} of {self.cases} other ordinary cases ({self.data}) were not called ordinary: "
            f"{percent(self.count / self.cases)}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        )


@dataclass(frozen=True)
class Fingerprint:
    """What ordinary cases of a model look like.

    Attributes:
        cases, data: Number of cases that it was measured on, and which they are, in a few words.
        measures: Of `inference.suitability.MEASURES`, each label's own as `volume:pancreas`.
        limits: Deviations from which on a case is unusual, and not usable.
        edges: The fraction of the cases in which a label reaches a side of the image, by its name and the side.
        missing: The fraction of the cases in which a label is not found, by its name.
        engine, precision: What the network ran with as they were measured.
        false_alarms: Of the whole judgement, where they were measured.
    """

    cases: int
    data: str
    measures: Mapping[str, Ordinary]
    limits: tuple[float, float]
    edges: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    precision: str = ""
    false_alarms: FalseAlarms | None = None

    def __post_init__(self) -> None:
        if not 0 < self.limits[0] < self.limits[1] < math.inf:
            raise ValueError("the limits must be two numbers, the second above the first")
        fractions = [fraction for part in (*self.edges.values(), self.missing) for fraction in part.values()]
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError("the fractions of cases that reach an edge, or lack a label, must be from 0 to 1")

    @property
    def lines(self) -> list[str]:
        """What a card says of it, in a few sentences."""
        made = f", measured with {self.engine} in {self.precision}" if self.precision else ""
        return [f"{self.cases}: {self.data}{made}", *([self.false_alarms.text] if self.false_alarms else [])]

    @property
    def usual_edges(self) -> dict[str, set[str]]:
        """The sides of the image that a label reaches in more than `USUAL` of the cases, by its name."""
        return {name: {side for side, fraction in sides.items() if fraction > USUAL}
                for name, sides in self.edges.items()}  # fmt: skip

    @classmethod
    def from_dict(cls, values: Any) -> Fingerprint:
        """Read what `base.schema.to_json` makes of it; raises `SettingsError`."""
        try:
            return from_json(cls, values)
        except ValueError as error:
            raise SettingsError(f"The fingerprint is invalid ({error}).") from error
