"""What ordinary cases of a model look like, and how far another case is from them. Needs no torch.

A case is described by a few measures, each compared with the ordinary cases' median in their standard deviations. One
of them is a density: the probabilistic principal components (Tipping and Bishop 1999) of the features that the network
computes where it sees an organ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import SettingsError, reason_of

USUAL = 0.05
"""What happens in at least this fraction of ordinary cases makes no case unusual."""


class Level(StrEnum):
    """How far a case can be trusted, by what can be seen without its truth."""

    ORDINARY = "ordinary"
    UNUSUAL = "unusual"
    NOT_USABLE = "not usable"


@dataclass(frozen=True)
class Suitability:
    """Whether a model suits a case.

    Attributes:
        level: Ordinary, unusual or not usable.
        reasons: One clause each, the most serious first; none if it is ordinary.
        deviations: Of each measure from the ordinary cases, in their standard deviations; none if the model does not
            state what is ordinary.
        judged: Whether it was compared with ordinary cases; else only what is evident without them was looked at.
    """

    level: Level = Level.ORDINARY
    reasons: tuple[str, ...] = ()
    deviations: Mapping[str, float] = field(default_factory=dict)
    judged: bool = True

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
            return f"This case is unusual: {self.reasons[0]}; look at all of it, not only at the doubtful regions."
        return f"This case is not usable: {self.reasons[0]}; do not use this result."

    def says(self, sentence: str) -> bool:
        """Tell whether a sentence is its main reason, so that it need not be said again."""
        return self.reasons[:1] == (_clause(sentence),)

    def worsened(self, level: Level, reason: str) -> Suitability:
        """Return the same with one more reason, which comes first if it is more serious than those before.

        A reason may be a sentence; it is kept as a clause.
        """
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
        """Invert `to_dict`.

        Raises:
            ValueError: It is of another form.
        """
        try:
            deviations = {str(name): float(value) for name, value in values["deviations"].items()}
            return cls(Level(values["level"]), tuple(map(str, values["reasons"])), deviations, bool(values["judged"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the suitability is not as it should be ({reason_of(error)})") from error


def _clause(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


@dataclass(frozen=True)
class Measures:
    """What a case is compared by.

    Attributes:
        values: Numbers by name (`inference.suitability.MEASURES`), those of one label as `volume:pancreas`.
        features: Mean of the network's features where it sees an organ, (F,).
        edges: The sides of the image that a label reaches, by its name; a label that reaches none may be left out.
    """

    values: Mapping[str, float]
    features: np.ndarray
    edges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Density:
    """A Gaussian over the network's features of an organ, by its principal components.

    Attributes:
        centre: The mean, (F,).
        axes: Orthonormal directions of most variance, (k, F).
        deviations: Standard deviation along each of them, (k,).
        residual: Standard deviation along every other direction.
    """

    centre: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    deviations: tuple[float, ...]
    residual: float

    def __post_init__(self) -> None:
        if not self.centre or len(self.axes) != len(self.deviations):
            raise ValueError("the density needs a centre, and one deviation for each axis")
        if any(len(axis) != len(self.centre) for axis in self.axes):
            raise ValueError("the density's axes must be as long as its centre")
        numbers = [*self.centre, *(value for axis in self.axes for value in axis)]
        if not (all(map(math.isfinite, numbers)) and 0 < self.residual < math.inf and min(self.deviations) > 0):
            raise ValueError("the density must hold finite numbers, its deviations above 0")

    @classmethod
    def fit(cls, features: np.ndarray, rank: int) -> Density:
        """Fit to the features of ordinary cases, (cases, F); needs more cases than `rank`.

        Raises:
            ValueError: There are too few cases.
        """
        cases, size = features.shape
        if cases <= rank + 1 or size <= rank:
            raise ValueError(f"a density of rank {rank} needs more than {rank + 1} cases, these are {cases}")
        centre = features.mean(axis=0)
        _, singular, axes = np.linalg.svd(features - centre, full_matrices=False)
        variances = np.square(singular) / (cases - 1)
        residual = math.sqrt(max(variances[rank:].sum() / (size - rank), 1e-12))
        kept = np.maximum(np.sqrt(variances[:rank]), residual)
        rounded = [tuple(map(_short, values)) for values in (centre, *axes[:rank], kept)]
        return cls(rounded[0], tuple(rounded[1:-1]), rounded[-1], _short(residual))

    def distance(self, features: Sequence[float] | np.ndarray) -> float:
        """Compute the Mahalanobis distance of features (F,), divided by sqrt(F): about 1 for an ordinary case."""
        away = np.asarray(features, float) - self.centre
        along = np.asarray(self.axes) @ away
        rest = max(float(away @ away - along @ along), 0.0)
        squares = float(np.square(along / self.deviations).sum()) + rest / self.residual**2
        return math.sqrt(squares / len(self.centre))


@dataclass(frozen=True)
class Ordinary:
    """The ordinary values of a measure: median and standard deviation, on the scale on which it is judged."""

    median: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and 0 < self.deviation < math.inf):
            raise ValueError("a measure needs a finite median, and a deviation above 0")


@dataclass(frozen=True)
class Fingerprint:
    """What ordinary cases of a model look like.

    Attributes:
        cases: Number of cases that it was measured on.
        data: Which they are, in a few words.
        measures: Of `inference.suitability.MEASURES`, each label's own as `volume:pancreas`.
        density: Of the network's features.
        limits: Deviations from which on a case is unusual, and not usable.
        edges: The fraction of the cases in which a label reaches a side of the image, by its name and the side; older
            cards do not say.
    """

    cases: int
    data: str
    measures: Mapping[str, Ordinary]
    density: Density
    limits: tuple[float, float]
    edges: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.limits[0] < self.limits[1] < math.inf:
            raise ValueError("the limits must be two numbers, the second above the first")
        if not all(0 <= fraction <= 1 for sides in self.edges.values() for fraction in sides.values()):
            raise ValueError("the fractions of cases that reach an edge must be from 0 to 1")

    @property
    def usual_edges(self) -> dict[str, set[str]]:
        """The sides of the image that a label reaches in `USUAL` of the cases, by its name."""
        return {name: {side for side, fraction in sides.items() if fraction >= USUAL}
                for name, sides in self.edges.items()}  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        parts = {"measures": {name: asdict(each) for name, each in self.measures.items()}}
        return asdict(self) | parts | {"edges": {name: dict(sides) for name, sides in self.edges.items()}}

    @classmethod
    def from_dict(cls, values: Any) -> Fingerprint:
        """Invert `to_dict`.

        Raises:
            SettingsError: It is of another form.
        """
        try:
            density = values["density"]
            return cls(
                int(values["cases"]),
                str(values["data"]),
                {str(name): Ordinary(**each) for name, each in values["measures"].items()},
                Density(
                    tuple(map(float, density["centre"])),
                    tuple(tuple(map(float, axis)) for axis in density["axes"]),
                    tuple(map(float, density["deviations"])),
                    float(density["residual"]),
                ),
                (float(values["limits"][0]), float(values["limits"][1])),
                {
                    str(name): {str(side): float(fraction) for side, fraction in sides.items()}
                    for name, sides in values.get("edges", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SettingsError(f"The fingerprint is not as it should be ({reason_of(error)}).") from error


def _short(value: float) -> float:
    """Keep five digits: the card stays a few kB."""
    return float(f"{value:.5g}")
