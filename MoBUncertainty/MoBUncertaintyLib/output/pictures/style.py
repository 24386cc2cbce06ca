"""What all displays agree on (the scene in Slicer, pictures, reports, DICOM): ranges, greys, heat colours, a palette.

Needs neither SimpleITK nor matplotlib until a picture is drawn. Colours of doubtful regions and of changes can be told
from those of the labels, by readers who lack the cones for red or green, too: a contrast is the smallest of the three
visions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.images.modality import HOUNSFIELD_BELOW
from MoBUncertaintyLib.model.region_settings import MAX_VARIANCE, MEASURE_NAMES, Measure, RegionSettings

if TYPE_CHECKING:
    import SimpleITK as sitk

CT_RANGE = (-160.0, 240.0)  # HU of black and white: the window of the abdomen, 400 wide around 40

NEGLIGIBLE = 0.001  # below this probability no map reaches a value worth drawing, and derived ones are 0

BRIGHTEST_ENTROPY = 0.8
"""Of the heat map's last colour, nats: a little beyond ln 2, where one organ is as likely as not."""

LISTED_REGIONS, DRAWN_REGIONS = 50, 30
"""How many doubtful regions, with the most expected error, pages and pictures show; tables hold all."""


def brightest_variance(threshold: float) -> float:
    """Variance of the heat map's last colour, the same for every case of a model, so that colours can be compared.

    It is 0.08 at the usual threshold, 0.015, where the variance is about 0.3 p (1 - p): a scale up to `MAX_VARIANCE`
    would leave it dark.
    """
    return min(MAX_VARIANCE, threshold * 16 / 3)


Colour = tuple[int, int, int]  # red, green, blue; 0 to 255

CYAN, GREEN, BLUE, MAGENTA, VIOLET = (0, 220, 255), (60, 255, 60), (77, 153, 255), (255, 0, 255), (120, 0, 255)
REGION_COLOURS = (CYAN, GREEN, MAGENTA)
"""Of outlines, in order of preference; neither a CT nor the edge of a region in the heat map has them."""
CHANGE_COLOURS = (BLUE, CYAN, MAGENTA, VIOLET)
"""Of areas; neither the heat map, purple to yellow, nor a CT has them, whatever the reader's sight of colours."""
ENOUGH = 45.0  # a contrast with which thin lines beside each other are told apart

_VISIONS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
"""What readers see, in linear RGB: with all cones, without those for red, without those for green (Machado 2009)."""
_TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
_WHITE = np.array([0.9505, 1.0, 1.0890])  # D65


@dataclass(frozen=True)
class Palette:
    """The colours beside those of some labels: of regions, and of what becomes organ, no organ, another organ."""

    region: Colour
    added: Colour
    removed: Colour
    renamed: Colour


def palette_beside(labels: Iterable[Colour]) -> Palette:
    """Choose the first colours that are told well enough from those of labels and from each other, else the best."""
    return _palette_beside(tuple(labels))


@cache
def _palette_beside(labels: tuple[Colour, ...]) -> Palette:

    def score(region: Colour, change: tuple[Colour, ...]) -> float:
        return min(ENOUGH, _least((region,), labels), 2 * _least(change, (*labels, region)))

    choices = product(REGION_COLOURS, combinations(CHANGE_COLOURS, 2))
    region, (added, removed) = max(choices, key=lambda choice: score(*choice))
    taken = (region, added, removed)
    left = [colour for colour in CHANGE_COLOURS if colour not in taken]
    return Palette(*taken, max(left, key=lambda colour: _least((colour,), (*labels, *taken))))


def contrast(one: Colour, other: Colour) -> float:
    """Compute the distance of two colours in CIELAB, as it is for those readers for whom it is smallest."""
    return float(np.linalg.norm(_seen(one) - _seen(other), axis=1).min())


def _least(colours: Iterable[Colour], others: Iterable[Colour]) -> float:
    """Compute the smallest contrast of some colours with others and with each other."""
    colours, others = tuple(colours), tuple(others)
    pairs = [(one, other) for place, one in enumerate(colours) for other in (*others, *colours[:place])]
    return min((contrast(one, other) for one, other in pairs), default=np.inf)


@cache
def _seen(colour: Colour) -> np.ndarray:
    """Compute what each reader sees of a colour, in CIELAB, (3, 3)."""
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(_VISIONS @ linear, 0, 1) @ _TO_XYZ.T / _WHITE
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@dataclass(frozen=True)
class Scale:
    """What values look like, the same in all pictures of a case."""

    black: float  # value of the image
    white: float
    measure: Measure  # of uncertainty, that the heat map shows
    threshold: float  # uncertainty from which the heat map shows
    top: float  # that of its brightest colour

    @classmethod
    def of(cls, image: sitk.Image, settings: RegionSettings) -> Scale:
        """Make one scale for a case, and for every other case of the model unless its threshold is high."""
        brightest = {
            Measure.VARIANCE: brightest_variance(settings.variance_threshold),
            Measure.BERNOULLI: MAX_VARIANCE,
            Measure.ENTROPY: BRIGHTEST_ENTROPY,
            Measure.ERROR: 1.0,
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
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(image)
    if values.min() < HOUNSFIELD_BELOW:  # air, fat
        return CT_RANGE
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1.0)


def heat_colours(count: int) -> np.ndarray:
    """Make Inferno without its black end, which would be lost on a dark CT; uint8 (count, 3)."""
    import matplotlib

    return (matplotlib.colormaps["inferno"](np.linspace(0.2, 1, count))[:, :3] * 255).round().astype(np.uint8)
