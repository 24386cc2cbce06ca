"""`LogitGaussian` against `torch.distributions` and its own definition, for all five models."""

import itertools
import json

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.gaussian.distribution import MANY_CLASSES, BasisLoading, DenseLoading, LogitGaussian
from MoBUncertaintyLib.gaussian.partitions import cell_bounds, cell_means, spread_cells
from MoBUncertaintyLib.gaussian.probability import moments
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from support.gaussians import SHAPE, STOCHASTIC, gaussian_of


def flat(values: torch.Tensor) -> torch.Tensor:
    """(k, 1, C, *S) -> (k, N, C)."""
    return values[:, 0].flatten(2).transpose(1, 2)


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_marginal_covariance_is_loading_times_its_transpose_plus_diagonal(kind):
    gaussian = gaussian_of(kind)
    expected = torch.diag_embed(gaussian.log_variance.exp().movedim(1, -1))
    if gaussian.loading is not None:
        dense = gaussian.loading.dense().movedim((1, 2), (-2, -1))
        expected = expected + dense @ dense.transpose(-1, -2)
    torch.testing.assert_close(gaussian.marginal_covariance().movedim((1, 2), (-2, -1)), expected)


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_contrast_is_the_difference_of_the_two_logits(kind):
    gaussian = gaussian_of(kind, classes=2)
    mean, variance = gaussian.contrast()
    c = gaussian.marginal_covariance()
    torch.testing.assert_close(mean, gaussian.mean[:, 1] - gaussian.mean[:, 0])
    torch.testing.assert_close(variance, c[:, 0, 0] + c[:, 1, 1] - 2 * c[:, 0, 1])


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_samples_have_the_marginal_covariance(kind):
    gaussian = gaussian_of(kind)
    k = 5_000
    samples = flat(gaussian.rsample(k, torch.Generator().manual_seed(1)))
    centred = samples - flat(gaussian.mean[None])
    empirical = torch.einsum("knc,knd->ncd", centred, centred) / k
    expected = gaussian.marginal_covariance()[0].flatten(2).movedim(-1, 0)
    # Standard error of a Gaussian's covariance entry, sqrt((s_ii s_jj + s_ij^2) / k); five of them over ~1,000 entries.
    diagonal = expected.diagonal(dim1=-2, dim2=-1)
    error = ((diagonal[:, :, None] * diagonal[:, None, :] + expected.square()) / k).sqrt()
    assert ((empirical - expected).abs() < 5 * error).all()


def test_low_rank_samples_covary_between_voxels_as_torch_distributions_says():
    gaussian = gaussian_of(Covariance.LOW_RANK, classes=2)
    factor = gaussian.loading.dense()[0].movedim(1, -1).reshape(-1, 4)
    oracle = LowRankMultivariateNormal(gaussian.mean.flatten(), factor, gaussian.log_variance.exp().flatten())
    k = 10_000
    samples = gaussian.rsample(k, torch.Generator().manual_seed(2)).reshape(k, -1)
    centred = samples - gaussian.mean.flatten()
    empirical = centred.T @ centred / k
    covariance = oracle.covariance_matrix
    d = covariance.diagonal()
    error = ((d[:, None] * d[None] + covariance.square()) / k).sqrt()
    assert ((empirical - covariance).abs() < 5.5 * error).all()
    assert (covariance - torch.diag(d)).abs().max() > 20 * error.max(), "the test would not see a missing correlation"


@pytest.mark.parametrize(("scope", "shared"), [(Scope.VOXEL, False), (Scope.TILE, True)])
def test_scope_says_which_voxels_share_their_noise(scope, shared):
    ones = torch.ones(1, 1, 2, *SHAPE)
    gaussian = LogitGaussian(torch.zeros(1, 1, *SHAPE), loading=DenseLoading(ones), scope=scope)
    drawn = gaussian.rsample(1, torch.Generator().manual_seed(0))[0, 0, 0]
    assert bool(drawn[0, 0, 0] == drawn[1, 1, 1]) is shared


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("scope", [*Scope])
def test_some_voxels_are_sampled_as_with_all_others(kind, scope):
    """The same noise, so the same numbers; a tile and neighbours share it."""
    if kind is Covariance.LOW_RANK and scope is Scope.VOXEL:
        pytest.skip("there is no such model")
    length_mm = (2.0, 1.0, 1.5) if scope is Scope.LOCAL else None
    gaussian = gaussian_of(kind, classes=3, scope=scope, length_mm=length_mm)
    mask = torch.rand(gaussian.mean.shape[2:], generator=torch.Generator().manual_seed(0)) < 0.3
    draw = gaussian.sampler_at(mask, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        torch.testing.assert_close(draw(), gaussian.rsample(1, generator)[0, 0][:, mask])


@pytest.mark.parametrize("classes", [2, 3, MANY_CLASSES])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_softmax_sampler_draws_the_same_probabilities_as_the_literal_samples(kind, classes):
    gaussian = gaussian_of(kind, classes)
    k = 5_000
    cheap = gaussian.softmax_sampler(torch.Generator().manual_seed(3))(k).softmax(dim=2)
    literal = gaussian.rsample(k, torch.Generator().manual_seed(4)).softmax(dim=2)
    for power in (1, 2):
        a, b = cheap**power, literal**power
        error = ((a.var(dim=0) + b.var(dim=0)) / k).sqrt()
        assert ((a.mean(dim=0) - b.mean(dim=0)).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize(("keep_probability", "samples"), [(False, 3), (True, 3), (True, None)])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_many_classes_build_no_covariance(kind, keep_probability, samples):
    """Which would have C x C numbers a voxel: 879 GB for 117 classes and a tile of 128 x 128 x 128."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for each in made if isinstance(made, (tuple, list)) else (made,):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // 4)
            return made

    classes = 25
    gaussian = gaussian_of(kind, classes, keep_probability=keep_probability)
    with Largest() as largest:
        moments(gaussian, samples, torch.Generator().manual_seed(0))
    assert largest.numbers < classes**2 / 2 * gaussian.logits[0, 0].numel()


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_any_two_logits_have_the_contrast_of_their_covariance(kind):
    gaussian = gaussian_of(kind, classes=4)
    covariance = gaussian.marginal_covariance()
    for one, other in itertools.combinations(range(4), 2):
        expected = covariance[:, one, one] + covariance[:, other, other] - 2 * covariance[:, one, other]
        found = gaussian.variance()[:, one] + gaussian.variance()[:, other]
        if gaussian.loading is not None:
            found = found + gaussian.loading.contrast_variance(one, other)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_two_class_sampler_draws_one_normal_per_voxel(monkeypatch):
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES, classes=2)
    drawn = []
    original = torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **kw: drawn.append(tuple(shape)) or original(shape, **kw))
    gaussian.softmax_sampler()(1)
    assert drawn == [(1, 1, *SHAPE)]


@pytest.mark.parametrize(("size", "partitions"), [(10, 4), (48, 5), (3, 4), (1, 2)])
def test_cells_cover_an_axis_that_partitions_do_not_divide(size, partitions):
    bounds = cell_bounds(size, partitions)
    assert [i for a, b in bounds for i in range(a, b)] == list(range(size))
    lengths = {b - a for a, b in bounds}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


def test_cell_means_and_spread_agree_with_a_loop():
    values = torch.randn(2, 3, 5, 7, 6)
    means = cell_means(values, 4)
    spread = spread_cells(means, (5, 7, 6))
    axes = [list(enumerate(cell_bounds(size, 4))) for size in (5, 7, 6)]
    for cell in itertools.product(*axes):
        index, box = [i for i, _ in cell], [slice(*bounds) for _, bounds in cell]
        expected = values[(..., *box)].mean(dim=(-3, -2, -1))
        torch.testing.assert_close(means[(..., *index)], expected)
        assert (spread[(..., *box)] == means[(..., *index)][..., None, None, None]).all()


def test_partition_with_one_basis_is_the_single_basis_model():
    scales = torch.randn(1, 4, *SHAPE)
    basis = torch.randn(1, 3, 4)
    single = BasisLoading(basis, scales)
    mixed = BasisLoading(basis, scales, choice=torch.ones(1, 1, 3, 3, 3))
    torch.testing.assert_close(single.gram(), mixed.gram())
    torch.testing.assert_close(single.dense(), mixed.dense())


def test_apply_is_the_dense_product():
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES)
    z = torch.randn(2, 1, 4, *SHAPE)
    expected = torch.einsum("bcr...,kbr...->kbc...", gaussian.loading.dense(), z)
    torch.testing.assert_close(gaussian.loading.apply(z), expected)


LEARNED = {"scope": Scope.LOCAL, "length_mm": (3.0, 2.0, 2.5), "learn_length": True, "shared_fraction": 0.25}


LENGTH_MM = (5.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"rank": 0}, "rank"),
        ({"kind": Covariance.LOW_RANK, "scope": Scope.VOXEL}, "scope"),
        ({"kind": Covariance.DETERMINISTIC, "scope": Scope.LOCAL, "length_mm": LENGTH_MM}, "scope"),
        ({"scope": Scope.LOCAL}, "length_mm"),
        ({"length_mm": LENGTH_MM}, "length_mm"),
        ({"scope": Scope.LOCAL, "length_mm": (5.0, 5.0)}, "length_mm"),
        ({"scope": Scope.LOCAL, "length_mm": (5.0, 5.0, 0.0)}, "length_mm"),
        ({"scope": Scope.LOCAL, "length_mm": (5.0, 5.0, float("nan"))}, "length_mm"),
        ({"shared_fraction": 0.2}, "shared_fraction"),
        ({"scope": Scope.LOCAL, "length_mm": LENGTH_MM, "shared_fraction": 1.0}, "shared_fraction"),
        ({"learn_length": True}, "learn_length"),
    ],
)
def test_spec_refuses_what_is_missing_or_without_effect(values, wrong):
    with pytest.raises(ValueError, match=wrong):
        CovarianceSpec(**values)


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("options", [{}, LEARNED])
def test_spec_comes_back_from_its_json(kind, options):
    spec = CovarianceSpec(**{"kind": kind, "scope": kind.usual_scope, "rank": 7} | options)
    assert from_json(CovarianceSpec, json.loads(json.dumps(to_json(spec)))) == spec
