"""The smooth noise that explains a label map best, beside the dense covariance."""

import itertools

import numpy as np
import pytest
from scipy.special import expit

from MoBUncertaintyLib.gaussian.explanation import HABIT, explain
from MoBUncertaintyLib.model.covariance import correlation


def test_noise_is_the_mode_of_the_posterior() -> None:
    rng = np.random.default_rng(0)
    shape, lengths = (6, 5, 7), (1.5, 2.0, 1.0)
    mean, deviation = rng.normal(0, 2, shape), rng.uniform(0.5, 1.5, shape)
    index = np.indices(shape).T - np.array(shape) / 2
    labelled = np.asarray((np.linalg.norm(index, axis=-1) < 2.5).T)
    noise = explain(mean, deviation, labelled, lengths)
    places = np.array(list(itertools.product(*map(range, shape))), float)
    dense = correlation(places[:, None] - places, lengths)
    sign = np.where(labelled, 1.0, -1.0)
    # Where the gradient of the log posterior is 0, noise is the covariance times the slope of the likelihood.
    slope = (deviation * sign * expit(-sign * (mean + noise))).ravel()
    field = (noise / deviation).ravel() - dense @ slope
    assert np.ptp(field) < 0.02  # what is left is the habit
    assert abs(field.mean() / HABIT**2 - slope.sum()) < 0.01


def test_infinite_lengths_leave_one_number() -> None:
    mean = np.random.default_rng(1).normal(0, 2, (4, 5, 6))
    noise = explain(mean, np.full(mean.shape, 0.5), mean > 1, (np.inf,) * 3)
    assert np.ptp(noise) < 1e-6 < -noise.mean()


def test_one_voxel_in_two_tells_as_much_with_its_weight() -> None:
    shape, every = (24, 26, 28), (2, 2, 2)
    index = np.moveaxis(np.indices(shape), 0, -1) - np.array(shape) / 2
    mean = (6 - np.linalg.norm(index, axis=-1)) / 2
    labelled = np.linalg.norm(index - (0, 2, 1), axis=-1) < 7
    lengths = (9.0, 9.0, 9.0)
    all_of_them, some = (
        explain(mean, np.ones(shape), labelled, lengths, None, *of) for of in (((1, 1, 1), 0.125), (every, 1))
    )
    assert np.corrcoef(some.ravel(), all_of_them.ravel())[0, 1] > 0.99
    assert some.std() == pytest.approx(all_of_them.std(), rel=0.1)
