"""How much of the expected error a list of regions holds, and where the rest lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from MoBUncertaintyLib.base.wording import percent

ENOUGH = 0.5
"""A list that holds less than this fraction of the expected error says so."""

LITTLE = 0.01
"""A smaller fraction is not said as a number."""

ROUNDING = 1e-6


@dataclass(frozen=True)
class Coverage:
    """The expected error of a prediction, by where it lies.

    Attributes:
        held_mm3: In the regions.
        thin_mm3: Elsewhere, where the uncertainty exceeds the threshold: along the border, no thicker than usual.
        faint_mm3: Elsewhere, where it does not.
        dropped_mm3: In places that would be regions if they were larger, or if more regions were listed.
        throughout: The fraction of the segmented volume that is expected to be wrong, if the region is the whole organ.
    """

    held_mm3: float
    thin_mm3: float
    faint_mm3: float
    dropped_mm3: float
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
