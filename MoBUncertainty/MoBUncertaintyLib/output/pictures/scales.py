"""What values look like in pictures: the grey of the image, the colours of the uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.images.modality import HOUNSFIELD_BELOW
from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE, MEASURE_NAMES, Measure, RegionSettings
from MoBUncertaintyLib.output.pictures.style import BRIGHTEST_ENTROPY, CT_RANGE, brightest_variance


@dataclass(frozen=True)
class Scale:
    """What values look like, the same in all pictures of a case.

    Attributes:
        black, white: Values of the image.
        measure: The measure of uncertainty that the heat map shows.
        threshold, top: Uncertainty from which the heat map shows, and of its brightest colour.
    """

    black: float
    white: float
    measure: Measure
    threshold: float
    top: float

    @classmethod
    def of(cls, image: sitk.Image, settings: RegionSettings) -> Scale:
        """Make one scale for a case, and for every other case of the model unless its threshold is high."""
        brightest = {
            Measure.VARIANCE: brightest_variance(settings.variance_threshold),
            Measure.BERNOULLI: MAX_VARIANCE,
            Measure.ENTROPY: BRIGHTEST_ENTROPY,
        }[settings.measure]
        top = max(brightest, 1.5 * settings.level)  # well above the first colour
        return cls(*display_range(image), settings.measure, settings.level, top)

    @property
    def measure_name(self) -> str:
        """What people call the measure."""
        return MEASURE_NAMES[self.measure]

    @property
    def window(self) -> str:
        """The values of black and white, with their unit if they are Hounsfield units."""
        unit = " HU" if (self.black, self.white) == CT_RANGE else ""
        return f"{self.black:,.0f} to {self.white:,.0f}{unit}".replace("-", "−")

    @property
    def heat_ends(self) -> tuple[str, str]:
        """The uncertainty at either end of the heat map's colours."""
        return f"{self.threshold:.3f}", f"{self.top:.{2 if self.top >= 0.04 else 3}f}+"


def display_range(image: sitk.Image) -> tuple[float, float]:
    """Choose the values of black and white: the abdominal window for a CT, the central 99 % for other images."""
    values = sitk.GetArrayViewFromImage(image)
    if values.min() < HOUNSFIELD_BELOW:  # air, fat
        return CT_RANGE
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1.0)


def heat_colours(count: int) -> np.ndarray:
    """Make Inferno without its black end, which would be lost on a dark CT; uint8 (count, 3)."""
    return (matplotlib.colormaps["inferno"](np.linspace(0.2, 1, count))[:, :3] * 255).round().astype(np.uint8)
