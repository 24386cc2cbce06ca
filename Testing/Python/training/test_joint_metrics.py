"""The likelihoods and metrics of what is joint: against integration, importance sampling, other people's numbers."""

from dataclasses import replace
from itertools import permutations
from math import lcm

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage
from scipy.special import expit, log_expit
from scipy.stats import norm

from mob_training.contrasts import Contrast
from mob_training.evaluation.metrics.joint import CERTAIN, WIDE, _site, decompose, joint_log_likelihood, laplace
from mob_training.evaluation.metrics.volumes import (
    LAGS,
    LEVELS,
    autocovariance,
    correlation_length,
    crps,
    interval,
    volume_scores,
)
from mob_training.evaluation.raters import matched_iou
from mob_training.training.joint_likelihood import log_evidence


def gaussian(length: float):
    """Correlation that falls like a Gaussian."""
    return lambda a, b: torch.exp(-(a[:, None] - b[None]).square().sum(-1) / (2 * length**2))


TILE = 1e6
"""The length of a correlation that is 1 everywhere."""


def contrast_of(mean, white, factors, places, truth, length: float = TILE) -> Contrast:
    arrays = (np.asarray(part, float) for part in (mean, factors, white, np.where(truth, 1, -1), places))
    return Contrast(*map(torch.from_numpy, arrays), gaussian(length))


def border(length: float = TILE, white: float = 0.0, size: int = 9, seed: int = 0) -> Contrast:
    """Make the voxels at the border of a ball as a network sees them, and a truth that differs smoothly from it."""
    generator = np.random.default_rng(seed)
    places = np.indices((size,) * 3).reshape(3, -1).T.astype(float)
    distance = 0.32 * size - np.linalg.norm(places - (size - 1) / 2, axis=1)
    bent = ndimage.gaussian_filter(generator.standard_normal((size,) * 3), 2).ravel()
    truth = distance + 0.9 * bent / bent.std() > 0
    factors = 0.5 + 0.3 * generator.standard_normal((3, len(places)))
    whole = contrast_of(1.6 * distance, np.full(len(places), white), factors, places, truth, length)
    return whole.at(torch.from_numpy(np.flatnonzero(np.abs(distance) < 2.1)))


def dense(law: Contrast) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of y t."""
    signs = law.signs.numpy()
    return signs * law.mean.numpy(), signs[:, None] * law.covariance().numpy() * signs


def likelihoods(law: Contrast) -> tuple[float, float]:
    """By the evaluation, of many voxels, and by the training, which needs the whole covariance."""
    return joint_log_likelihood(law), float(log_evidence(law.mean, law.covariance(), law.signs))


def importance_sampled(mean: np.ndarray, covariance: np.ndarray, count: int = 4000) -> tuple[float, float, float]:
    """Estimate ln E[prod sigma(t)] from samples around the posterior's mode, in all directions of the covariance.

    Returns:
        The estimate, its standard error, and the effective sample size.
    """
    values, vectors = np.linalg.eigh(covariance)
    factor = (vectors * np.sqrt(np.maximum(values, 0)))[:, values > 1e-9 * values[-1]]
    z = np.zeros(factor.shape[1])
    for _ in range(100):
        p = expit(mean + factor @ z)
        precision = np.eye(len(z)) + (factor.T * (p * (1 - p))) @ factor
        step = np.linalg.solve(precision, factor.T @ (1 - p) - z)
        z += step / max(1, np.abs(step).max())
    root = np.linalg.cholesky(precision)
    noise = np.random.default_rng(1).standard_normal((len(z), count))
    drawn = z[:, None] + np.linalg.solve(root.T, noise)
    log_weight = log_expit(mean[:, None] + factor @ drawn).sum(0) - 0.5 * (drawn**2 - noise**2).sum(0)
    weight = np.exp(log_weight - log_weight.max())
    value = np.log(weight.mean()) + log_weight.max() - np.log(root.diagonal()).sum()
    return value, weight.std() / weight.mean() / np.sqrt(count), weight.sum() ** 2 / (weight**2).sum()


@pytest.mark.parametrize(
    ("mean", "white", "factor"), [(0.7, 0.0, 1.5), (-3.0, 2.0, 0.5), (-9.0, 0.0, 4.0), (2.0, 1.0, 0.0)]
)
def test_one_voxel_has_its_marginal_probability(mean, white, factor):
    """Wrong or right, sure or not: what Simpson's rule gives."""
    deviation = np.hypot(np.sqrt(white), factor)
    for sign in (1, -1):
        law = contrast_of([mean], [white], [[factor]], np.zeros((1, 3)), [sign > 0])
        x = np.linspace(-12, 12, 4001)
        density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        expected = integrate.simpson(expit(sign * (mean + deviation * x)) * density, x=x)
        assert likelihoods(law) == pytest.approx((np.log(expected),) * 2, abs=2e-4)


@pytest.mark.parametrize("length", [0.01, 1.0, 2.0, TILE])
@pytest.mark.parametrize("truth", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("size", "close"), [(1, 0.01), (3, 0.1)])
def test_two_voxels_against_numerical_integration(length, truth, size, close):
    """Two voxels 1 apart with variances of 1.0 and 2.6, or 9 times that, also where both labels are improbable."""
    factors = size * np.array([[0.8, 1.6], [0.4, -0.2]])
    law = contrast_of([1.0, 1.4], [0.2, 0.0], factors, [[0, 0, 0], [0, 0, 1]], truth, length)
    mean, covariance = dense(law)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(2))
    x = np.linspace(-9, 9, 801)
    weights = np.exp(-0.5 * (x[:, None] ** 2 + x**2))
    first, second = mean[0] + root[0, 0] * x[:, None], mean[1] + root[1, 0] * x[:, None] + root[1, 1] * x
    expected = np.log((weights * expit(first) * expit(second)).sum() / weights.sum())
    assert likelihoods(law) == pytest.approx((expected, expected), abs=close)


@pytest.mark.parametrize(
    ("length", "white"),
    [(TILE, 0.5), (TILE, 0.0), (0.8, 0.0), (2.0, 0.0), (2.0, 0.5), (5.0, 0.0)],
)
def test_a_crop_against_importance_sampling(length, white):
    """At most 500 voxels, over 500 of 4000 samples effective: right to 3 or 6 in a thousand."""
    law = border(length, white)
    assert 200 < len(law.mean) <= 500
    expected, error, effective = importance_sampled(*dense(law))
    assert effective > 500
    for found, part in zip(likelihoods(law), (3e-3, 6e-3), strict=True):
        assert found == pytest.approx(expected, abs=part * abs(expected) + 3 * error)


def test_integrals_over_white_noise_do_not_jump_where_they_are_computed_more_finely():
    """Value, slope and curvature just below the border, by Simpson's rule."""
    mean, x = np.linspace(-12, 12, 25), np.linspace(-12, 12, 4001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    p = expit(mean[:, None] + np.sqrt(WIDE) * x)
    total, first, second = (
        integrate.simpson(each * density, x=x) for each in (p, p * (1 - p), p * (1 - p) * (1 - 2 * p))
    )
    slope = first / total
    for found, expected in zip(
        _site(mean, np.full(25, WIDE)), (np.log(total), slope, slope**2 - second / total), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-5)


def test_white_noise_is_a_product_of_marginals_and_no_noise_one_of_bernoullis():
    law = border()
    certain = replace(law, white=0 * law.white, factors=law.factors[:0])
    assert joint_log_likelihood(certain) == pytest.approx(log_expit((law.signs * law.mean).numpy()).sum(), rel=1e-4)
    white = replace(law, white=law.variance(), factors=law.factors[:0])
    alone = [joint_log_likelihood(white.at(torch.tensor([n]))) for n in range(len(law.mean))]
    assert likelihoods(white) == pytest.approx((sum(alone),) * 2, rel=1e-4)


def test_a_local_law_becomes_white_for_no_length_and_that_of_a_tile_for_an_infinite_one():
    law = border(2.0, 0.3)
    white = joint_log_likelihood(replace(law, white=law.variance(), factors=law.factors[:0]))
    tile = joint_log_likelihood(replace(law, correlation=lambda a, b: a.new_ones(len(a), len(b))))
    local = joint_log_likelihood(law)
    short, long = (joint_log_likelihood(replace(law, correlation=gaussian(length))) for length in (1e-3, TILE))
    assert short == pytest.approx(white, abs=1e-4)
    assert long == pytest.approx(tile, abs=1e-4)
    assert min(abs(local - white), abs(local - tile)) > 1


def test_the_smooth_truth_is_most_probable_for_the_law_that_it_comes_from():
    """Truths drawn from a local law: it beats both of its limits in nearly all."""
    law = border(3.0, size=7)
    values, vectors = np.linalg.eigh(law.covariance().numpy())
    generator = np.random.default_rng(3)
    wins = []
    for _ in range(12):
        logits = law.mean.numpy() + vectors @ (np.sqrt(np.maximum(values, 0)) * generator.standard_normal(len(values)))
        signs = torch.from_numpy(np.where(generator.random(len(logits)) < expit(logits), 1.0, -1.0))
        found = [
            joint_log_likelihood(replace(law, signs=signs, correlation=k))
            for k in (law.correlation, gaussian(TILE), gaussian(1e-3))
        ]
        wins.append(found[0] == max(found))
    assert sum(wins) >= 10


def test_the_decomposition_keeps_all_variances_and_what_it_is_told_of_the_covariances():
    law = border(2.0, 0.3)
    expected, total = law.columns(torch.arange(len(law.mean))).numpy(), float(law.shared().sum())
    for left in (0.1, 0.01, 1e-5):
        factor, white = decompose(law, left=left)
        assert (factor**2).sum(0) + white == pytest.approx(law.variance().numpy())
        assert (white - law.white.numpy()).sum() <= left * total
        missed = expected - factor.T @ factor
        np.fill_diagonal(missed, 0)
        # The rest is positive definite, so that no covariance exceeds the root of the product of its variances.
        assert np.square(missed).sum() <= (left * total) ** 2
    assert len(decompose(replace(law, correlation=gaussian(TILE)))[0]) == len(law.factors)
    assert len(decompose(law, max_rank=7)[0]) == 7


def test_the_decomposition_ends_where_single_precision_does():
    law = border(6.0)
    factor, white = decompose(law, left=0)
    assert 0 < len(factor) < len(law.mean) and np.isfinite(factor).all()
    assert (white - law.white.numpy()).max() < 1e-3 * law.shared().max()


def test_truncating_the_decomposition_changes_little():
    law = border(2.0)
    factor, white = decompose(law, left=1e-9)
    exact = laplace(dense(law)[0], law.signs.numpy() * factor, white)
    assert joint_log_likelihood(law) == pytest.approx(exact, abs=0.2)


def test_a_certain_voxel_stands_alone():
    law = border(2.0)
    added = contrast_of(
        np.append(law.mean, 9.0),
        np.append(law.white, 0.5),
        np.column_stack((law.factors, [0.5, 0.2, 0.1])),
        np.vstack((law.places, law.places[:1])),
        np.append(law.signs > 0, True),
        2.0,
    )
    alone = joint_log_likelihood(added.at(torch.tensor([len(law.mean)])))
    assert alone > np.log(CERTAIN)
    assert joint_log_likelihood(added) == pytest.approx(joint_log_likelihood(law) + alone, abs=1e-9)


def test_crps_is_that_of_scoringrules_and_of_its_integral():
    """Scoringrules 0.10.0, crps_ensemble, estimator "fair"."""
    samples = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3]
    assert [crps(samples, truth) for truth in (0.0, 2.7, 12.0)] == pytest.approx(
        [2.2, 0.3571428571428572, 6.657142857142858]
    )
    generator = np.random.default_rng(0)
    drawn = generator.normal(5, 2, 4000)
    # Of the normal distribution itself, by the integral of (F - 1[x > v])^2.
    x = np.linspace(-10, 20, 30001)
    expected = np.trapezoid(np.square(norm.cdf(x, 5, 2) - (x > 6.5)), x)
    assert crps(drawn, 6.5) == pytest.approx(expected, abs=0.03)
    assert crps([4.0], 6.5) == 2.5


def test_intervals_hold_a_further_sample_at_their_nominal_rate():
    generator = np.random.default_rng(0)
    drawn = generator.gamma(2.0, size=(20000, 20))
    for level in LEVELS:
        held = [low <= row[-1] <= high for row in drawn for low, high in [interval(row[:-1], level)]]
        assert np.mean(held) == pytest.approx(level, abs=0.015)
    with pytest.raises(ValueError, match="5 samples have no interval of 90 %"):
        interval([1.0] * 5, 0.9)


def test_volume_scores():
    scores = volume_scores(np.arange(1.0, 20.0), 2.5)
    assert (scores["covered_50"], scores["covered_80"], scores["covered_90"]) == (0, 1, 1)
    assert (scores["width_50"], scores["width_80"], scores["width_90"]) == (10, 16, 18)


@pytest.mark.parametrize("counts", [(3, 3), (4, 2), (3, 2)])
def test_matched_iou_is_the_best_of_all_matchings(counts):
    generator = np.random.default_rng(0)
    drawn, rated = ([generator.random((2, 3, 4)) < 0.5 for _ in range(count)] for count in counts)

    def iou(a, b):
        return (a & b).sum() / (a | b).sum()

    pairs = lcm(*counts)
    ours, theirs = (
        [m for m in drawn for _ in range(pairs // counts[0])],
        [m for m in rated for _ in range(pairs // counts[1])],
    )
    best = max(
        np.mean([iou(a, theirs[i]) for a, i in zip(ours, order, strict=True)]) for order in permutations(range(pairs))
    )
    assert matched_iou(drawn, rated) == pytest.approx(best)
    assert matched_iou(drawn, drawn) == 1
    assert np.isnan(matched_iou([], rated))


def test_autocovariance_is_the_sum_over_all_pairs():
    generator = np.random.default_rng(0)
    residual, spacing = generator.standard_normal((4, 5, 6)), np.array([3.0, 1.2, 1.0])
    places = np.argwhere(np.ones(residual.shape, bool))
    offsets = places[:, None] - places[None]
    products = np.outer(residual.ravel(), residual.ravel())
    keys, inverse = np.unique(offsets.reshape(-1, 3), axis=0, return_inverse=True)
    sums = np.bincount(inverse.ravel(), products.ravel())
    bins = np.rint(np.linalg.norm(keys * spacing, axis=1)).astype(int)
    expected = [sums[bins == lag].mean() if (bins == lag).any() else np.nan for lag in range(LAGS)]
    assert autocovariance(residual, spacing.tolist()) == pytest.approx(np.array(expected), nan_ok=True)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_the_correlation_length_of_a_smooth_field(spacing):
    """Noise smoothed by a Gaussian of s mm has the correlation exp(-d^2 / 4 s^2); the integral is s sqrt(pi)."""
    noise = np.random.default_rng(0).standard_normal((64, 96, 96))
    smooth = ndimage.gaussian_filter(noise, [2 / mm for mm in spacing], mode="wrap")
    smooth /= smooth.std()
    length = 2 * np.sqrt(np.pi)
    assert correlation_length(autocovariance(smooth, spacing)) == pytest.approx(length, rel=0.1)
    assert correlation_length(autocovariance(noise, (1, 1, 1))) == pytest.approx(0.5, abs=0.02)
    both = correlation_length(autocovariance(smooth + noise, (1, 1, 1)))
    alone = correlation_length(autocovariance(smooth, (1, 1, 1)))
    assert both == pytest.approx((alone + 0.5) / 2, abs=0.05)
    assert np.isnan(correlation_length(autocovariance(np.zeros((3, 3, 3)), (1, 1, 1))))
