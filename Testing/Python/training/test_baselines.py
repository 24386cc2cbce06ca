"""Other corrections by clicks, which the product is compared with."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from mob_training.evaluation.readers.baselines import Bump, Walker
from mob_training.evaluation.readers.cases import ReadCase
from MoBUncertaintyLib.images.grid import image_on
from MoBUncertaintyLib.model.region_settings import RegionSettings
from support.probability_images import prediction

SHAPE = (12, 14, 16)
PLACE = (6, 7, 5)
WALL = 8
"""From here on, along x, the image is bright."""


@pytest.fixture
def case() -> ReadCase:
    """Nothing is segmented, though in the middle all of it may be; the image has two halves."""
    p = np.full((1, *SHAPE), 0.3, np.float32)
    p[:, :2] = p[:, -2:] = p[:, :, :2] = p[:, :, -2:] = 0.001
    predicted = prediction(p, p * (1 - p) / 4, np.zeros(SHAPE, np.uint8), (1.0, 1.5, 2.0))
    truth = np.zeros(SHAPE, np.uint8)
    truth[3:9, 3:11, :WALL] = 1
    image = np.zeros(SHAPE, np.float32)
    image[..., WALL:] = 100
    return replace(ReadCase.of(predicted, image_on(predicted.grid, truth), RegionSettings()), image=image)


def raised(case: ReadCase, bump: Bump) -> np.ndarray:
    after = bump.of(case)([(PLACE, 1)]).probability[0]
    with np.errstate(divide="ignore"):
        return logit(after) - logit(case.prediction.probability[0])


def test_a_bump_is_a_gaussian_in_mm(case: ReadCase) -> None:
    assert case.truth.shape == SHAPE
    change = raised(case, Bump(3.0, 2.5))
    assert change[PLACE] == np.inf
    for step, mm in (((1, 0, 0), 2.0), ((0, 2, 0), 3.0), ((0, 0, -3), 3.0)):
        assert change[tuple(np.add(PLACE, step))] == pytest.approx(3 * np.exp(-(mm**2) / 2 / 2.5**2), rel=1e-3)


def test_a_geodesic_bump_is_lower_behind_an_edge(case: ReadCase) -> None:
    plain, slow = raised(case, Bump(3.0, 4.0, 1e-6)), raised(case, Bump(3.0, 4.0, 2.0))
    assert np.allclose(plain[6, 7, 6:12], raised(case, Bump(3.0, 4.0))[6, 7, 6:12], rtol=1e-2)
    assert slow[6, 7, 3] == pytest.approx(plain[6, 7, 3], rel=1e-2)
    assert slow[6, 7, WALL + 2] < 0.5 * plain[6, 7, WALL + 2]


def test_a_walker_stops_at_an_edge_and_at_its_reach(case: ReadCase) -> None:
    after = Walker(1000.0, 6.0, 0.98).of(case)([(PLACE, 1)]).probability[0, 6, 7]
    before = case.prediction.probability[0, 6, 7]
    assert after[WALL - 1] > 20 * after[WALL]
    assert np.all(after[WALL : WALL + 3] < before[WALL : WALL + 3])
    assert np.array_equal(after[-4:], before[-4:])


@pytest.mark.parametrize("correction", [Bump(1.0, 2.0), Bump(1.0, 2.0, 1.0), Walker(100.0, 5.0, 0.9)])
def test_clicked_voxels_have_their_labels_and_the_case_stays(case: ReadCase, correction: Bump | Walker) -> None:
    before = case.prediction.probability.copy()
    after = correction.of(case)([(PLACE, 1), ((6, 8, 5), 0)])
    assert after.segmentation[PLACE] == after.probability[0][PLACE] == 1
    assert after.segmentation[6, 8, 5] == after.probability[0, 6, 8, 5] == 0
    assert np.array_equal(case.prediction.probability, before)


@pytest.mark.parametrize("correction", [Bump(2.0, 2.0), Bump(2.0, 2.0, 1.0), Walker(100.0, 5.0, 0.9)])
def test_clicks_one_after_another_do_what_they_do_at_once(case: ReadCase, correction: Bump | Walker) -> None:
    clicks = [(PLACE, 1), ((6, 8, 5), 0), ((6, 9, 6), 1), (PLACE, 0)]
    correct = correction.of(case)
    steps = [correct(clicks[:count]) for count in range(1, len(clicks) + 1)]
    for count, step in enumerate(steps, start=1):
        assert np.array_equal(step.probability, correction.of(case)(clicks[:count]).probability)
        assert np.array_equal(step.segmentation, correction.of(case)(clicks[:count]).segmentation)
    assert np.array_equal(correct(clicks[:2]).probability, steps[1].probability)
