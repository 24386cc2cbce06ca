"""Monte Carlo against the closed forms, and seeds."""

import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from MoBUncertaintyLib.gaussian import probability
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
@pytest.mark.parametrize("scope", [Scope.LOCAL, Scope.TILE])
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


def kept_gaussian(kind: Covariance, classes: int, scale: float = 1.0, **options) -> LogitGaussian:
    gaussian = gaussian_of(kind, classes, keep_probability=True, **options)
    return replace(gaussian, logits=gaussian.logits * scale)


@pytest.mark.parametrize("classes", [3, 8])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_a_kept_probability_has_the_variance_of_many_samples(kind, classes):
    gaussian = kept_gaussian(kind, classes, scale=2)
    exact = moments(gaussian)
    torch.testing.assert_close(exact.mean, gaussian.logits.softmax(dim=1)[:, 1:])
    many, few = (monte_carlo_moments(gaussian, k, torch.Generator().manual_seed(k)).variance for k in (4000, 30))
    error, error_of_few = ((found - many).square().mean().sqrt() for found in (exact.variance, few))
    assert error < 0.01
    assert error < error_of_few
    assert (exact.variance <= exact.mean * (1 - exact.mean)).all()


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_the_contrast_of_two_classes_is_that_of_a_label_with_the_rest(kind):
    gaussian = kept_gaussian(kind, classes=2)
    torch.testing.assert_close(gaussian.contrast_with_rest(1), gaussian.contrast())


@pytest.mark.parametrize(("scale", "counted"), [(0, 1.0), (8, None), (1e6, 0.0)])
def test_only_negligible_variances_are_left_out(scale, counted, monkeypatch):
    """Of a tile with nothing but doubt, with some, with none."""
    gaussian = kept_gaussian(Covariance.MIXTURE_OF_BASES, 5, scale)
    some = moments(gaussian).variance
    monkeypatch.setattr(probability, "NEGLIGIBLE", 1e-20)
    everywhere = moments(gaussian).variance
    left_out = some == 0
    assert (1 - left_out.double().mean()).item() == counted or (counted is None and left_out.any())
    torch.testing.assert_close(some[~left_out], everywhere[~left_out])
    assert (everywhere[left_out] <= 1e-4).all()


def as_numpy(value):
    """The same Gaussian, loading or tensor in NumPy's arrays."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{field.name: as_numpy(getattr(value, field.name)) for field in fields(value)})
    return value


@pytest.mark.parametrize("classes", [None, (3, 1)])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_arrays_and_tensors_have_the_same_moments(kind, classes):
    gaussian = kept_gaussian(kind, 5, scale=3)
    found, expected = moments(as_numpy(gaussian), classes=classes), moments(gaussian, classes=classes)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-3, atol=1e-7)
    if classes is not None:
        every = moments(gaussian)
        torch.testing.assert_close(expected.variance, torch.stack([every.variance[:, c - 1] for c in classes], 1))
        torch.testing.assert_close(expected.mean.sum(1) + expected.others.sum(1), torch.ones_like(every.mean[:, 0]))


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_voxels_that_are_taken_keep_their_marginals(kind):
    one = kept_gaussian(kind, 3)
    mask = torch.rand(one.logits[:, 0].shape, generator=torch.Generator().manual_seed(0)) < 0.3
    some = one.at(mask)
    for found, expected in ((some.mean, one.mean), (some.marginal_covariance(), one.marginal_covariance())):
        torch.testing.assert_close(found[0, ..., 0, 0, :], expected[0][..., mask[0]])
