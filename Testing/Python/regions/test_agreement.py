"""A segmentation against a truth: Dice, thin and thick error, and the fraction of it inside the regions."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.regions.agreement import dice, error_fraction, error_split, surface_distance
from MoBUncertaintyLib.regions.finder import find_regions
from support.probability_images import BERNOULLI, ball


def test_a_layer_of_one_voxel_is_thin_and_two_are_thick():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[5:15, 5:15, 5:15] = 1
    thin, thick = truth.copy(), truth.copy()
    thin[:, :, 5] = 0
    thick[:, :, 5:7] = 0
    error, thicker = error_split(thin, truth)
    assert error.sum() == 100 and not thicker.any()
    error, thicker = error_split(thick, truth)
    assert error.sum() == thicker.sum() == 200


def test_the_error_of_a_ball_half_a_voxel_too_large_is_thin():
    distance = np.linalg.norm(np.mgrid[-20:21, -20:21, -20:21], axis=0)
    error, thick = error_split((distance < 15.5).astype(np.uint8), (distance < 15).astype(np.uint8))
    assert error.sum() > 1000 and not thick.any()


def test_error_fraction_counts_what_lies_inside_the_regions():
    prediction = ball()
    found = find_regions(prediction, BERNOULLI)
    labels, s = found.whole_map() > 0, prediction.segmentation
    inside = np.where(labels, 1 - s, s)
    half = inside.copy()
    half[:2, :2, :2] = 1 - half[:2, :2, :2]
    fractions = error_fraction(prediction, found, half)
    assert fractions["error_mm3"] == 8 * (labels.sum() + 8)
    assert fractions["error_fraction"] == pytest.approx(labels.sum() / (labels.sum() + 8))
    assert fractions["regions_mm3"] == pytest.approx(sum(r.volume_mm3 for r in found.ranked))
    assert 0.9 < fractions["thick_error_fraction"] < 1


def test_error_fraction_is_none_without_error():
    prediction = ball()
    fractions = error_fraction(prediction, find_regions(prediction), prediction.segmentation)
    assert fractions["error_mm3"] == 0
    assert fractions["error_fraction"] is None and fractions["thick_error_fraction"] is None


def test_dice_agrees_with_simpleitk():
    a, b = ((np.random.default_rng(s).random((6, 7, 8)) > 0.5).astype(np.uint8) * 3 for s in (1, 2))
    oracle = sitk.LabelOverlapMeasuresImageFilter()
    oracle.Execute(*map(sitk.GetImageFromArray, (a, b)))
    assert dice(a, b, label=3) == pytest.approx(oracle.GetDiceCoefficient(3))
    assert dice(a * 0, b * 0) == 1


def test_the_distance_of_surfaces_is_that_of_all_pairs_of_border_voxels():
    a, b, spacing = np.zeros((9, 10, 11), bool), np.zeros((9, 10, 11), bool), (3.0, 1.0, 2.0)
    a[2:6, 3:8, 3:8], b[4:9, 2:6, 4:9] = True, True
    inner = [np.zeros_like(a), np.zeros_like(b)]
    inner[0][3:5, 4:7, 4:7], inner[1][5:8, 3:5, 5:8] = True, True
    pairs = cdist(*(np.argwhere(mask & ~inside) * spacing for mask, inside in zip((a, b), inner, strict=True)))
    expected = np.concatenate([pairs.min(axis=1), pairs.min(axis=0)]).mean()
    assert surface_distance(a, b, spacing) == pytest.approx(expected)
    assert surface_distance(a, a, spacing) == 0
    assert surface_distance(a, np.zeros_like(a), spacing) is None


def test_images_of_different_size_cannot_be_compared():
    with pytest.raises(ImageError):
        dice(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 4), np.uint8))
