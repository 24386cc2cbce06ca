"""Monte Carlo against the closed form, blending, and seeds."""

from __future__ import annotations

import weakref

import pytest
import torch

from MoBUncertaintyLib.gaussian.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.gaussian.probability import moments, monte_carlo_moments
from MoBUncertaintyLib.model.covariance import Covariance, Scope
from support.gaussians import STOCHASTIC, gaussian_of


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_monte_carlo_agrees_with_the_closed_form_within_its_standard_error(kind):
    gaussian = gaussian_of(kind, classes=2)
    k = 2000
    exact = moments(gaussian)
    sampled = monte_carlo_moments(gaussian, k, torch.Generator().manual_seed(0))
    assert ((sampled.mean - exact.mean).abs() < 5 * (exact.variance / k).sqrt() + 3e-5).all()
    # Var[(p - E)^2] <= Var max (p - E)^2 <= Var, since 0 <= p <= 1.
    assert ((sampled.variance - exact.variance).abs() < 5 * (exact.variance / k).sqrt() + 3e-5).all()


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("scope", [Scope.LOCAL, Scope.PARTITION, Scope.TILE])
def test_coherent_noise_has_the_same_marginals_as_noise_per_voxel(kind, scope):
    length_mm = (2.0, 1.0, 1.5) if scope is Scope.LOCAL else None
    gaussian = gaussian_of(kind, classes=3, scope=scope, length_mm=length_mm)
    independent = LogitGaussian(gaussian.mean, gaussian.log_variance, gaussian.loading, Scope.VOXEL)
    k = 1000
    together = monte_carlo_moments(gaussian, k, torch.Generator().manual_seed(0))
    apart = monte_carlo_moments(independent, k, torch.Generator().manual_seed(1))
    literal = gaussian.rsample(k, torch.Generator().manual_seed(2)).softmax(dim=2)[:, :, 1:]
    error = (2 * apart.variance / k).sqrt()
    assert ((literal.mean(dim=0) - apart.mean).abs() < 5 * error + 1e-5).all()
    assert ((together.mean - apart.mean).abs() < 5 * error + 1e-5).all()


def test_deterministic_model_has_no_variance():
    gaussian = LogitGaussian(torch.randn(1, 3, 4, 4, 4))
    result = moments(gaussian)
    torch.testing.assert_close(result.mean, gaussian.mean.softmax(dim=1)[:, 1:])
    assert (result.variance == 0).all()


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


def test_monte_carlo_keeps_small_variances_near_one():
    """There E[p^2] - E[p]^2 has no digits in fp32."""
    gaussian = LogitGaussian(torch.tensor([0.0, 9.0]).view(1, 2, 1, 1, 1), torch.full((1, 2, 1, 1, 1), -3.0))
    exact, sampled = moments(gaussian), moments(gaussian, 4000, torch.Generator().manual_seed(0))
    assert exact.variance.item() == pytest.approx(2e-9, rel=0.5)
    assert sampled.variance.item() == pytest.approx(exact.variance.item(), rel=0.1)


def test_a_small_diagonal_beside_a_large_loading_still_samples():
    """fp32 cannot tell such a covariance from a singular one."""
    loading = DenseLoading(torch.full((1, 3, 1, 2, 2, 2), 30.0))
    gaussian = LogitGaussian(torch.zeros(1, 3, 2, 2, 2), torch.full((1, 3, 2, 2, 2), -10.0), loading)
    result = monte_carlo_moments(gaussian, 500, torch.Generator().manual_seed(0))
    assert (result.mean - 1 / 3).abs().max() < 0.01
