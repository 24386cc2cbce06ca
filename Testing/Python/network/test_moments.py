"""Closed-form moments against quadrature, Monte Carlo against both, and the bounds that every variance must keep."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit

from MoBUncertaintyLib.logistic_normal import logistic_normal_moments
from MoBUncertaintyLib.model.covariance import Covariance, Scope
from MoBUncertaintyLib.network.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.network.moments import Moments, moments, monte_carlo_moments
from support.gaussians import STOCHASTIC, gaussian_of


def quadrature(mean: float, deviation: float) -> tuple[float, float]:
    """E and Var of sigma(mean + deviation z), z standard normal, by adaptive quadrature."""
    if deviation == 0:
        return float(expit(mean)), 0.0

    def expectation(power: int) -> float:
        def integrand(z: float) -> float:
            return expit(mean + deviation * z) ** power * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        # The logistic turns within about 1 / s of its middle: tell the integrator where.
        middle = np.clip(-mean / deviation, -11.9, 11.9)
        return quad(integrand, -12, 12, points=[middle, max(-12, middle - 0.5), min(12, middle + 0.5)], limit=400)[0]

    first = expectation(1)
    return first, expectation(2) - first**2


def test_closed_form_agrees_with_quadrature():
    means = np.linspace(-15, 15, 41)
    deviations = np.concatenate(([0.0, 0.01, 0.1, 0.3], np.linspace(0.5, 20, 27)))
    grid = np.array([(m, s) for m in means for s in deviations])
    oracle = np.array([quadrature(m, s) for m, s in grid])
    m, s = torch.tensor(grid, dtype=torch.float32).T
    expectation, variance = logistic_normal_moments(m, s.square())
    assert np.abs(expectation.numpy() - oracle[:, 0]).max() <= 1e-5
    assert np.abs(variance.numpy() - oracle[:, 1]).max() <= 3e-5


@given(m=st.floats(-200, 200, width=32), s2=st.floats(0, 1e6, width=32))
def test_variance_stays_in_its_possible_range(m, s2):
    p, variance = logistic_normal_moments(torch.tensor([m]), torch.tensor([s2]))
    assert 0 <= p <= 1
    assert 0 <= variance <= p * (1 - p)


@given(m=st.floats(-20, 20, width=32), s2=st.floats(0, 400, width=32))
def test_swapping_the_classes_mirrors_the_mean_and_keeps_the_variance(m, s2):
    (p, q), variance = logistic_normal_moments(torch.tensor([m, -m]), torch.tensor([s2, s2]))
    assert abs(p + q - 1) < 1e-6
    assert abs(variance[0] - variance[1]) < 1e-6


def test_closed_form_has_finite_gradients_everywhere():
    m = torch.linspace(-80, 80, 33, requires_grad=True)
    v = torch.logspace(-6, 4, 33).requires_grad_()
    expectation, variance = logistic_normal_moments(m, v)
    (expectation.sum() + variance.sum()).backward()
    assert torch.isfinite(m.grad).all()
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_monte_carlo_agrees_with_the_closed_form_within_its_standard_error(kind):
    gaussian = gaussian_of(kind, classes=2)
    k = 2000
    exact = moments(gaussian)
    sampled = monte_carlo_moments(gaussian, k, torch.Generator().manual_seed(0))
    first_error = (exact.variance() / k).sqrt() + 3e-5
    assert ((sampled.first - exact.first).abs() < 5 * first_error).all()
    # Var[p^2] <= E[p^2] (1 - E[p^2]) since 0 <= p^2 <= 1.
    second_error = (exact.second * (1 - exact.second) / k).sqrt() + 3e-5
    assert ((sampled.second - exact.second).abs() < 5 * second_error).all()


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("scope", [Scope.PARTITION, Scope.TILE])
def test_coherent_noise_has_the_same_marginals_as_noise_per_voxel(kind, scope):
    gaussian = gaussian_of(kind, classes=3, scope=scope)
    independent = LogitGaussian(gaussian.mean, gaussian.log_variance, gaussian.loading, Scope.VOXEL)
    k = 1000
    together = monte_carlo_moments(gaussian, k, torch.Generator().manual_seed(0))
    apart = monte_carlo_moments(independent, k, torch.Generator().manual_seed(1))
    error = (2 * apart.variance() / k).sqrt()
    assert ((together.first - apart.first).abs() < 5 * error + 1e-5).all()


def test_deterministic_model_has_no_variance():
    gaussian = LogitGaussian(torch.randn(1, 3, 4, 4, 4))
    result = moments(gaussian)
    torch.testing.assert_close(result.first, gaussian.mean.softmax(dim=1)[:, 1:])
    assert (result.variance() == 0).all()


def test_many_classes_take_monte_carlo_and_sum_to_one_with_the_background():
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES, classes=4)
    result = moments(gaussian, generator=torch.Generator().manual_seed(0))
    assert result.first.shape == (1, 3, *gaussian.mean.shape[2:])
    assert (result.first.sum(dim=1) <= 1 + 1e-6).all()
    assert (result.variance() > 0).all()


def test_one_seed_gives_one_result():
    gaussian = gaussian_of(Covariance.LOW_RANK, classes=2)
    a, b, c = (moments(gaussian, 5, torch.Generator().manual_seed(seed)).first for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_monte_carlo_memory_does_not_grow_with_the_number_of_samples(monkeypatch):
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES, classes=3)
    drawn: list[weakref.ref] = []
    alive: list[int] = []
    original = torch.randn

    def watched(shape, **options):
        z = original(shape, **options)
        assert z.numel() == gaussian.mean.numel(), "C normals per voxel, one sample at a time"
        drawn.append(weakref.ref(z))
        alive.append(sum(reference() is not None for reference in drawn))
        return z

    monkeypatch.setattr(torch, "randn", watched)
    moments(gaussian, 60)
    assert len(drawn) == 60
    assert max(alive) <= 2


def test_moments_of_two_tiles_blend_to_the_variance_of_their_mixture():
    """Law of total variance: tiles that disagree without noise still have variance."""
    a = Moments(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    b = Moments(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    mixture = Moments((a.first + b.first) / 2, (a.second + b.second) / 2)
    assert mixture.variance() == pytest.approx(0.25)


def test_a_small_diagonal_beside_a_large_loading_still_samples():
    """fp32 cannot tell such a covariance from a singular one."""
    loading = DenseLoading(torch.full((1, 3, 1, 2, 2, 2), 30.0))
    gaussian = LogitGaussian(torch.zeros(1, 3, 2, 2, 2), torch.full((1, 3, 2, 2, 2), -10.0), loading)
    result = monte_carlo_moments(gaussian, 500, torch.Generator().manual_seed(0))
    assert (result.first - 1 / 3).abs().max() < 0.01
