"""Colours of regions and changes beside those of labels, for all readers."""

from itertools import combinations, product

import numpy as np
import pytest

from MoBUncertaintyLib.output.pictures import style as room
from MoBUncertaintyLib.output.pictures.style import CYAN, ENOUGH, contrast, palette_beside

STEPS = (0, 51, 102, 153, 204, 255)
BLUE_ORGAN = (85, 131, 242)  # of HippocampusAnterior


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), CYAN, BLUE_ORGAN, (12, 200, 3)])
def test_colours_are_those_of_cielab(colour: tuple[int, int, int]) -> None:
    color = pytest.importorskip("skimage.color")
    assert room._seen(colour)[0] == pytest.approx(color.rgb2lab(np.array([[colour]]) / 255)[0, 0], abs=0.1)


def test_a_region_is_told_from_any_label() -> None:
    chosen = {label: palette_beside((label,)).region for label in product(STEPS, repeat=3)}
    assert min(contrast(region, label) for label, region in chosen.items()) >= ENOUGH
    assert min(contrast(CYAN, label) for label in chosen) < 2  # which all regions had


def test_what_is_added_is_told_from_what_is_removed_and_from_the_label() -> None:
    found = []
    for label in product(STEPS, repeat=3):
        palette = palette_beside((label,))
        assert len({palette.region, palette.added, palette.removed, palette.renamed}) == 4
        found.append(
            min(contrast(*pair) for pair in combinations((palette.added, palette.removed, palette.region, label), 2))
        )
    assert min(found) > 12
    assert np.quantile(found, 0.05) > 20
    before = (77, 153, 255), (255, 0, 255)  # blue and magenta, whatever the label
    assert contrast(*before) < 10


def test_two_labels_are_both_heeded() -> None:
    assert palette_beside(room.CHANGE_COLOURS)  # nothing can be told from all of them
    labels = (BLUE_ORGAN, (242, 86, 86))
    region = palette_beside(labels).region
    assert min(contrast(region, label) for label in labels) > 30
