"""The correlation of the scope `local`, and the smooth noise that has it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from MoBUncertaintyLib.gaussian.correlation import axis_factor, smooth
from MoBUncertaintyLib.gaussian.distribution import DenseLoading, LogitGaussian
from MoBUncertaintyLib.model.covariance import REACH, Covariance, Scope, axis_correlation, correlation
from support.gaussians import SHAPE, STOCHASTIC, contrast_of, gaussian_of

LENGTHS = (0.8, 1.5, 2.5)
K = 8_000


def places(shape) -> np.ndarray:
    """(N, 3)"""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


def dense(shape, lengths=LENGTHS, shared=0.0) -> torch.Tensor:
    """Correlation of every pair of voxels of a grid, (N, N)."""
    points = places(shape)
    return torch.from_numpy(correlation(points[:, None] - points, lengths, shared)).float()


def assert_covariance(samples: torch.Tensor, expected: torch.Tensor) -> None:
    """Samples (k, N) of mean 0 have the expected covariance, within 5.5 standard errors of each entry."""
    k, d = len(samples), expected.diagonal()
    error = ((d[:, None] * d[None] + expected.square()) / k).sqrt()
    assert ((samples.T @ samples / k - expected).abs() < 5.5 * error).all()
    others = (expected - torch.diag(d)).abs().max()
    assert others > 20 * error.max(), "the test would not see a missing correlation"


def test_an_axis_is_the_cubic_b_spline_and_half_where_a_gaussian_is():
    spline = BSpline.basis_element(np.arange(-2, 3.0), extrapolate=False)
    t = np.linspace(-1.2, 1.2, 301) * REACH
    expected = np.nan_to_num(spline(t / (REACH / 2))) / spline(0)
    np.testing.assert_allclose(axis_correlation(t * 3.0, 3.0), expected, atol=1e-14)
    at = np.sqrt(2 * np.log(2)) * 3.0
    assert axis_correlation(np.array(at), 3.0) == pytest.approx(0.5, abs=1e-14)


def test_arrays_and_tensors_give_the_same_and_the_length_has_a_gradient():
    offsets = np.random.default_rng(0).normal(scale=2.0, size=(50, 3))
    lengths = torch.tensor(LENGTHS, dtype=torch.float64, requires_grad=True)
    of_tensors = correlation(torch.from_numpy(offsets), lengths)
    np.testing.assert_allclose(of_tensors.detach().numpy(), correlation(offsets, LENGTHS), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: correlation(torch.from_numpy(offsets), x), lengths)


@given(
    st.lists(st.tuples(*[st.floats(-30, 30)] * 3), min_size=1, max_size=12),
    st.tuples(*[st.floats(0.1, 50)] * 3),
    st.floats(0, 1, exclude_max=True),
)
def test_correlations_of_any_voxels_are_positive_definite(points, lengths, shared):
    points = np.array(points)
    matrix = correlation(points[:, None] - points, lengths, shared)
    np.testing.assert_allclose(np.diag(matrix), 1, rtol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


@pytest.mark.parametrize("length", [0.05, 0.8, 4.0, 400.0])
@pytest.mark.parametrize("size", [1, 2, 37])
def test_the_factor_gives_unit_variance_everywhere_and_the_correlation_exactly(size, length):
    factor = torch.from_numpy(axis_factor(size, length))
    place = torch.arange(size, dtype=torch.float64)
    expected = axis_correlation(place[:, None] - place, length)
    torch.testing.assert_close((factor @ factor.T).diagonal(), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(factor @ factor.T, expected, atol=2e-6, rtol=0)


def test_noise_has_unit_variance_at_borders_and_corners_too_and_the_correlation():
    shape = (9, 4, 5)
    noise = smooth(torch.randn((50_000, *shape), generator=torch.Generator().manual_seed(0)), LENGTHS)
    assert (noise.var(dim=0) - 1).abs().max() < 0.038  # 6 standard errors of 0.0063
    assert noise.var(dim=0).mean().item() == pytest.approx(1, abs=0.01)
    assert (noise[:, ::8, ::3, ::4].var(dim=0).mean() - 1).abs() < 0.01, "corners"
    assert_covariance(noise[:K].flatten(1), dense(shape))


def test_smoothing_is_the_product_of_the_axes_factors():
    white = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    factors = [torch.from_numpy(axis_factor(size, length)) for size, length in zip(SHAPE, LENGTHS, strict=True)]
    expected = torch.einsum("ai,bj,ck,xyijk->xyabc", *factors, white)
    torch.testing.assert_close(smooth(white, LENGTHS), expected)


def test_a_learned_length_has_the_gradient_of_the_samples():
    white = torch.randn(2, *SHAPE, dtype=torch.float64)
    lengths = torch.tensor(LENGTHS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: smooth(white, x).square().mean(dim=0), lengths, atol=1e-4, rtol=1e-3)
    with torch.inference_mode():
        smooth(white.float(), LENGTHS)
    smooth(torch.randn(SHAPE, requires_grad=True), LENGTHS).sum().backward()


@pytest.mark.parametrize("shared", [0.0, 0.3])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_local_samples_covary_between_voxels_as_the_formula_says(kind, shared):
    """k(n, m) (L_n L_m^T + diag(sqrt(d_n d_m))), of all pairs of logits."""
    gaussian = gaussian_of(kind, classes=3, scope=Scope.LOCAL, length_mm=LENGTHS, shared_fraction=shared)
    deviations = torch.diag_embed(gaussian.variance()[0].flatten(1).T.sqrt())
    loading = [] if gaussian.loading is None else [gaussian.loading.dense()[0].flatten(2).movedim(-1, 0)]
    factors = torch.cat([deviations, *loading], dim=-1)  # (N, C, Q)
    expected = torch.einsum("ncq,mdq,nm->ncmd", factors, factors, dense(SHAPE, shared=shared)).flatten(2).flatten(0, 1)
    samples = gaussian.rsample(K, torch.Generator().manual_seed(1)) - gaussian.mean
    assert_covariance(samples[:, 0].flatten(2).movedim(1, 2).flatten(1), expected)


@pytest.mark.parametrize("shared", [0.25, 0.9])
def test_what_the_volume_shares_is_the_correlation_of_far_voxels_and_leaves_the_marginals(shared):
    """A line so long that its ends are out of each other's reach: all of it within 1 % of the stated variance."""
    shape = (1, 1, 24)
    log_variance = torch.linspace(-2, 1, 24).expand(1, 2, *shape).clone()
    gaussian = LogitGaussian(
        torch.zeros(1, 2, *shape), log_variance, scope=Scope.LOCAL, lengths=(1.0, 1.0, 2.0), shared_fraction=shared
    )
    drawn = gaussian.rsample(300_000, torch.Generator().manual_seed(3)).flatten(1)
    found = torch.corrcoef(drawn[:, :24].T)
    assert (drawn.var(dim=0) / log_variance.exp().flatten() - 1).abs().max() < 0.01
    assert found[:8, 16:].mean().item() == pytest.approx(shared, abs=0.005)
    assert correlation(np.array([[0.0, 0.0, 16.0]]), (1.0, 1.0, 2.0), shared) == pytest.approx(shared)
    assert torch.corrcoef(drawn.T)[:24, 24:].abs().max() < 0.01, "classes are drawn each for itself"


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_a_local_scope_leaves_every_marginal_as_it_is(kind):
    local = gaussian_of(kind, classes=2, scope=Scope.LOCAL, length_mm=LENGTHS, shared_fraction=0.3)
    usual = gaussian_of(kind, classes=2)
    torch.testing.assert_close(local.marginal_covariance(), usual.marginal_covariance())
    torch.testing.assert_close(local.contrast(), usual.contrast())


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_the_loading_says_how_the_contrast_covaries(kind):
    gaussian = gaussian_of(kind, classes=2, scope=Scope.LOCAL, length_mm=LENGTHS)
    factors = contrast_of(gaussian)[1]
    torch.testing.assert_close(factors.square().sum(dim=0), gaussian.contrast()[1][0])
    flat = factors.flatten(1)
    samples = gaussian.softmax_sampler(torch.Generator().manual_seed(2))(K) - gaussian.mean
    contrast = (samples[:, :, 1] - samples[:, :, 0]).flatten(1)
    assert_covariance(contrast, dense(SHAPE) * (flat.T @ flat))


def test_a_contrast_needs_two_classes():
    with pytest.raises(ValueError, match="two classes"):
        gaussian_of(Covariance.DIAGONAL, classes=3).contrast()


def test_a_local_scope_needs_a_length():
    with pytest.raises(ValueError, match="correlation length"):
        LogitGaussian(torch.zeros(1, 2, 3, 3, 3), loading=DenseLoading(torch.ones(1, 2, 1, 3, 3, 3)), scope=Scope.LOCAL)
