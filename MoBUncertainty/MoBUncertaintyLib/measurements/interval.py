"""The interval of a volume, and how it is written; without numpy, so that commands start at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from MoBUncertaintyLib.base.wording import percent

AS_PREDICTED = "as predicted"
"""Note on an interval that a review has not changed."""


@dataclass(frozen=True)
class Interval:
    """Holds the true volume of a fraction `level` of cases; ml."""

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

    def text(self, digits: int = 1, note: str = "") -> str:
        """Write it behind a volume: "(90 %: 88.1 to 99.9)", with a note behind a comma if there is one."""
        more = f", {note}" if note else ""
        return f"({percent(self.level)}: {self.low:.{digits}f} to {self.high:.{digits}f}{more})"


def volume_text(ml: float, interval: Interval | None = None, note: str = "") -> str:
    """Write a volume with its interval: "94.0 ml (90 %: 88.1 to 99.9)"."""
    return f"{ml:.1f} ml{f' {interval.text(note=note)}' if interval else ''}"
