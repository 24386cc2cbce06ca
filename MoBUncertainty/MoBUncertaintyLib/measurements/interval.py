"""The interval of a volume, and how volumes are written; without numpy, so that commands start at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from MoBUncertaintyLib.base.wording import percent

AS_PREDICTED = "predicted"
"""Note on an interval that a review has not changed."""


@dataclass(frozen=True)
class Interval:
    """Holds the truth of a fraction `level` of cases; of a volume in ml, of a measurement in its unit."""

    low: float
    high: float
    level: float

    def to_dict(self) -> dict[str, float]:
        """Convert to plain JSON."""
        return {"low": round(self.low, 3), "high": round(self.high, 3), "level": self.level}

    @classmethod
    def from_dict(cls, values: Mapping[str, float] | None) -> Interval | None:
        """Invert `to_dict`; None stays None."""
        return None if values is None else cls(values["low"], values["high"], values["level"])

    def text(self, ml: float, note: str = "") -> str:
        """Write it behind its volume: "(90 %: 88.1 to 99.9)", with a note behind a comma if there is one."""
        digits, more = _digits(ml, self), f", {note}" if note else ""
        return f"({percent(self.level)}: {self.low:,.{digits}f} to {self.high:,.{digits}f}{more})"


def volume_number(ml: float, interval: Interval | None = None) -> str:
    """Write a volume without its unit, with the decimals that it shares with its interval."""
    return f"{ml:,.{_digits(ml, interval)}f}"


def volume_text(ml: float, interval: Interval | None = None, note: str = "") -> str:
    """Write a volume with its interval: "94.0 ml (90 %: 88.1 to 99.9)"."""
    return f"{volume_number(ml, interval)} ml{f' {interval.text(ml, note)}' if interval else ''}"


class LabelVolume(NamedTuple):
    """The volume of a label in ml, and the interval that holds the true one; None where none is stated."""

    ml: float
    interval: Interval | None

    def __str__(self) -> str:
        return volume_text(self.ml, self.interval)


def change_text(ml: float) -> str:
    """Write a change of a volume with its sign: "+0.83 ml", "−12.5 ml"."""
    sign = "" if abs(ml) < 0.005 else "+" if ml > 0 else "\u2212"
    return sign + volume_text(abs(ml))


def _digits(ml: float, interval: Interval | None) -> int:
    """Count the decimals that show three digits of the volume, but no more than its interval's end has, and two."""
    largest = max(abs(ml), interval.high if interval else 0.0)
    return 2 if largest < 9.995 else 1 if abs(ml) < 99.95 else 0  # 0.01 ml is a few voxels
