"""How far a reader's click reaches and how strongly it counts; a model's card states what was fitted for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, Any

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.base.schema import Range, from_json, out_of_range
from MoBUncertaintyLib.model.click_trees import ClickTrees

DEFAULT_PRIOR_DEVIATION = 1.0
"""Of the logit, where the card states none and there is no variance: 0.6 suits small organs, 1.5 large ones."""
DEFAULT_LENGTH_MM = 4.0  # where nothing states a length: no label was found
LENGTH_FRACTION = 0.3  # of an organ's size: the length of a click where neither card nor model have one
MOST_CAUTION = 5.0
LENGTH_BOUNDS_MM = 2.0, 20.0  # of such a length: with its cube grows what a click reaches, and its time


@dataclass(frozen=True)
class ClickSettings:
    """How a click changes its surroundings; `SettingsError` for a value out of range. The defaults fit no model.

    Attributes:
        length_mm: Length of a stationary correlation between voxels, as that of a Gaussian (`refinement.conditioning`).
            Default: the model's own (scope `local`), and where it has none, a length by the organ's size (`sized`).
        strength: Power of a click's likelihood, for the mean: one click counts as so many equal ones.
        variance_strength: The same for the variance that is reported.
        prior_deviation: Standard deviation of the logit that a click can move. Default: the model's own, and
            `DEFAULT_PRIOR_DEVIATION` where the predicted variance is 0 or the model has no covariance.
        sharpening: By which fraction of itself the logit grows where clicks have explained all of the deviation. It
            makes the expected error that is left honest, and moves no outline between two labels.
        resolved_fraction: A region is resolved when its expected error is below this fraction of what it was at first.
        learned: What says how far the error reaches that a click corrects; default: conditioning alone. A model folder
            has it in a file of its own (`click_trees`).
        caution: No voxel gets or loses the label of the nearest click where the logit that was learned is not larger,
            or where that click agrees with the network.
    """

    length_mm: Annotated[float | None, Range(above=0, most=100)] = None
    strength: Annotated[float, Range(above=0, most=1e4)] = 32.0
    variance_strength: Annotated[float, Range(above=0, most=1e4)] = 32.0
    prior_deviation: Annotated[float | None, Range(above=0, most=20)] = None
    sharpening: Annotated[float, Range(0, 20)] = 1.0
    resolved_fraction: Annotated[float, Range(above=0, most=1)] = 0.25
    learned: ClickTrees | None = None
    caution: Annotated[float, Range(0, MOST_CAUTION)] = 0.0

    def __post_init__(self) -> None:
        if problem := out_of_range(self):
            raise SettingsError(f"Clicks: {problem}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClickSettings:
        """Read what JSON makes of `dataclasses.asdict`; what is missing is as usual. Raises `SettingsError`."""
        try:
            return from_json(cls, values, "the object")
        except ValueError as error:
            raise SettingsError(f"Clicks: {error}.") from error

    def divided(self, temperature: float) -> ClickSettings:
        """Return those that do the same to logits which a temperature has divided."""
        return replace(
            self,
            prior_deviation=self.prior_deviation and self.prior_deviation / temperature,
            learned=self.learned and self.learned.divided(temperature),
            caution=min(self.caution / temperature, MOST_CAUTION),
        )

    def sized(self, volumes_ml: Iterable[float]) -> ClickSettings:
        """State a length that suits labels of these volumes, all alike, unless one is stated or no label was found."""
        size = size_mm(volumes_ml)
        if self.length_mm is not None or size is None:
            return self
        least, most = LENGTH_BOUNDS_MM
        return replace(self, length_mm=round(min(max(LENGTH_FRACTION * size, least), most), 1))


def size_mm(volumes_ml: Iterable[float]) -> float | None:
    """Compute the cube root of the median volume of the labels found: neither a speck nor the largest organ decides."""
    volumes = [volume for volume in volumes_ml if volume > 0]
    return 10 * median(volumes) ** (1 / 3) if volumes else None
