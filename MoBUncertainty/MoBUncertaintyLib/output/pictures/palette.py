"""Colours of doubtful regions and of changes that can be told from those of the labels.

Readers who lack the cones for red or green tell them apart, too: a contrast is the smallest one of the three visions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue; 0 to 255."""

CYAN, GREEN, BLUE, MAGENTA, VIOLET = (0, 220, 255), (60, 255, 60), (77, 153, 255), (255, 0, 255), (120, 0, 255)
REGION_COLOURS = (CYAN, GREEN, MAGENTA)
"""Of outlines, in order of preference; neither a CT nor the edge of a region in the heat map has them."""
CHANGE_COLOURS = (BLUE, CYAN, MAGENTA, VIOLET)
"""Of areas; neither the heat map, purple to yellow, nor a CT has them, whatever the reader's sight of colours."""
ENOUGH = 45.0
"""A contrast with which thin lines beside each other are told apart."""

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
