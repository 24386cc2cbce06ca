"""How long a click takes, from the places to boxes, regions, ranking and maps; without drawing."""

import time

import numpy as np
import pytest
from scipy import ndimage

from MoBUncertaintyLib.base.geometry import Grid
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.review.review import Review
from support.clicks import random_trees
from support.fake_case import fake_case


def enlarged(shape: tuple[int, ...], finer: tuple[int, ...], settings: ClickSettings) -> Review:
    """The review of the fake prediction with finer voxels, inside a CT of a shape."""
    case = fake_case()
    small = case.prediction
    corner = [(size - n * inner) // 2 for size, n, inner in zip(shape, finer, small.shape, strict=True)]

    def put(part: np.ndarray, order: int) -> np.ndarray:
        array = np.zeros(shape, part.dtype)
        part = ndimage.zoom(part, finer, order=order, grid_mode=True, mode="nearest")
        array[tuple(slice(at, at + size) for at, size in zip(corner, part.shape, strict=True))] = part
        return array

    grid = Grid(small.grid.spacing / finer, small.grid.rotation, small.grid.origin)
    maps = ([put(each, 1) for each in given] for given in (small.probability, small.variance))
    prediction = Prediction(put(small.segmentation, 0), *maps, grid, small.labels, click_settings=settings)
    describer = RegionDescriber(prediction)
    return Review(prediction, describer.describe_all(put(case.regions.whole_map(), 0), RegionSettings()))


@pytest.mark.parametrize(
    ("shape", "finer", "settings", "limit_s"),
    [
        ((80, 112, 128), (1, 1, 1), ClickSettings(), 0.06),
        ((80, 112, 128), (1, 1, 1), ClickSettings(learned=random_trees(100, 5)), 0.1),
        ((300, 512, 512), (3, 3, 3), ClickSettings(), 0.15),
    ],
    ids=["demo", "demo, learned", "large"],
)
def test_a_click_takes_a_fraction_of_a_second(shape, finer, settings, limit_s):
    review, seconds = enlarged(shape, finer, settings), []
    for number in range(8):
        region = review.region("12"[number % 2])
        index = np.argwhere(region.found.mask)[7 * number] + [part.start for part in region.box]
        point = tuple(review.prediction.grid.to_ras(index))
        start = time.process_time()
        for box in review.click([point], number % 2):
            review.labels_in(box)
            review.maps_in(box)
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < limit_s, seconds
