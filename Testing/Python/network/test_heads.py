"""Heads: shapes, starting point, which parameters learn, and the choice of bases."""

import math
from dataclasses import replace

import pytest
import torch

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.probability import moments
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec, Scope
from MoBUncertaintyLib.network.backbone import MeanLayer
from MoBUncertaintyLib.network.heads import INITIAL_LOADING_VARIANCE, LOG_VARIANCE_LIMIT, build_head
from MoBUncertaintyLib.network.tracing import contrast
from support.gaussians import STOCHASTIC

FEATURES = 8


def run(kind: Covariance, shape=(6, 7, 5), classes=2, training=False, **options):
    torch.manual_seed(0)
    head = build_head(CovarianceSpec.of_kind(kind, **options), FEATURES, classes).train(training)
    features = torch.randn(2, FEATURES, *shape)
    return head, features, head(features, torch.randn(2, classes, *shape))


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_starts_near_the_prior(kind):
    _, _, gaussian = run(kind, shape=(12, 12, 12))
    assert (gaussian.variance() == 1).all()
    if gaussian.loading is not None:
        added = gaussian.loading.gram().diagonal(dim1=1, dim2=2).mean().item()
        assert added == pytest.approx(INITIAL_LOADING_VARIANCE, rel=0.5)


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_what_a_head_predicts_has_the_shapes_that_its_spec_states(kind):
    head, features, _ = run(kind, classes=3)
    _, *predicted = head.tensors(features[:1])
    assert [each.shape for each in predicted] == head.spec.predicted_shapes(3, features.shape[2:])


@pytest.mark.parametrize("learned", [False, True])
def test_a_length_in_mm_becomes_one_in_voxels(learned):
    spec = CovarianceSpec(Covariance.DIAGONAL, scope=Scope.LOCAL, length_mm=(6.0, 3.0, 5.0), learn_length=learned)
    head = build_head(spec, FEATURES, 2, spacing=(3.0, 1.5, 1.0))
    gaussian = head(torch.randn(1, FEATURES, 6, 7, 5), torch.zeros(1, 2, 6, 7, 5))
    torch.testing.assert_close(torch.as_tensor(gaussian.lengths), torch.tensor([2.0, 2.0, 5.0]))
    if learned:
        gaussian.rsample(3).square().mean().backward()
        assert (head.log_length.grad != 0).all()
    with pytest.raises(ValueError, match="spacing"):
        build_head(spec, FEATURES, 2)


def test_low_rank_channels_are_ordered_class_by_rank():
    head, features, gaussian = run(Covariance.LOW_RANK, rank=3)
    raw = head.factors(features)
    torch.testing.assert_close(gaussian.loading.dense()[:, 1, 2], raw[:, 1 * 3 + 2])


def test_log_variance_is_clamped():
    head, features, _ = run(Covariance.DIAGONAL)
    torch.nn.init.constant_(head.log_variance.bias, 99.0)
    assert head(features, torch.zeros(2, 2, 6, 7, 5)).log_variance.max() == LOG_VARIANCE_LIMIT


def test_single_basis_is_eq_4():
    head, features, gaussian = run(Covariance.SINGLE_BASIS, rank=3)
    b = head.unit_basis()[0]
    a = head.scales(features)[1, :, 2, 3, 4]
    d = gaussian.log_variance[1, :, 2, 3, 4].exp()
    expected = b @ torch.diag(a).square() @ b.T + torch.diag(d)
    torch.testing.assert_close(gaussian.marginal_covariance()[1, :, :, 2, 3, 4], expected)


def test_mixture_is_eq_7_with_the_most_probable_basis_of_the_cell():
    """P = 4 does not divide 6, 7 or 5: voxel (5, 6, 0) lies in cell (3, 3, 0)."""
    head, features, gaussian = run(Covariance.MIXTURE_OF_BASES, rank=3, bases=3, partitions=4)
    weights = head.weights(features)
    assert weights.shape == (2, 3, 4, 4, 4)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 4, 4, 4))
    b = head.unit_basis()[weights[0, :, 3, 3, 0].argmax()]
    a = head.scales(features)[0, :, 5, 6, 0]
    d = gaussian.log_variance[0, :, 5, 6, 0].exp()
    torch.testing.assert_close(
        gaussian.marginal_covariance()[0, :, :, 5, 6, 0], b @ torch.diag(a).square() @ b.T + torch.diag(d)
    )


def test_pooling_before_the_weighting_equals_pooling_after_it():
    head, features, _ = run(Covariance.MIXTURE_OF_BASES, shape=(8, 8, 8), partitions=4)
    after = torch.nn.functional.avg_pool3d(head.weighting(features), 2).softmax(dim=1)
    torch.testing.assert_close(head.weights(features), after)


def test_choice_is_hard_in_training_too_but_passes_the_softmax_gradient():
    head, features, trained = run(Covariance.MIXTURE_OF_BASES, training=True)
    evaluated = head.eval()(features, trained.mean)
    torch.testing.assert_close(trained.marginal_covariance(), evaluated.marginal_covariance())
    (trained.contrast()[1] * torch.randn(2, 6, 7, 5)).sum().backward()
    assert head.weighting.weight.grad.abs().sum() > 0


def test_columns_of_every_basis_have_unit_norm():
    head, *_ = run(Covariance.MIXTURE_OF_BASES)
    torch.testing.assert_close(head.unit_basis().norm(dim=1), torch.ones(3, 16))


def test_heads_stay_in_fp32_under_autocast():
    head, features, _ = run(Covariance.MIXTURE_OF_BASES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gaussian = head(features.bfloat16(), torch.zeros(2, 2, 6, 7, 5, dtype=torch.bfloat16))
    assert gaussian.mean.dtype == gaussian.log_variance.dtype == gaussian.loading.scales.dtype == torch.float32


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_the_contrast_as_layers_is_that_of_the_distribution(kind, stretched):
    """P = 4 does not divide the axes."""
    head, features, _ = run(kind, rank=3, bases=3, partitions=4, keep_probability=stretched)
    mean_layer = MeanLayer(torch.nn.Conv3d(FEATURES, 2, kernel_size=1))
    torch.nn.init.normal_(head.log_variance.weight, std=2)
    wanted = head(features, mean_layer(features)[1]).contrast()
    for found, each in zip(contrast(features, mean_layer, head), wanted, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("variance", "stated"),
    [*((each, 0.005) for each in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 9.0)), (16.0, 0.009), (49.0, 0.017), (100.0, 0.017)],
)
def test_stretched_mean_keeps_the_probability(variance, stated):
    """Over all logits, two classes; the sign of the contrast stays."""
    logits = torch.linspace(-12, 12, 97)
    mean = torch.stack((torch.zeros(97), logits))[None, ..., None, None]
    gaussian = LogitGaussian(mean, torch.full_like(mean, math.log(max(variance, 1e-9) / 2)), keep_probability=True)
    kept, expected = moments(gaussian).mean.flatten(), logits.sigmoid()
    assert (kept - expected).abs().max() < stated
    assert variance > 4 or (kept / expected - 1)[logits < 0].abs().max() < 0.04
    assert torch.equal((gaussian.mean[0, 1] > gaussian.mean[0, 0]).flatten(), logits > 0)


@pytest.mark.parametrize("classes", [3, 4, 6])
def test_stretched_mean_of_more_classes_keeps_the_probability(classes):
    """Drawn from the law itself; what is stated has no noise of Monte Carlo."""
    _, _, plain = run(Covariance.MIXTURE_OF_BASES, classes=classes)
    generator = torch.Generator().manual_seed(1)
    log_variance = 1 + 0.5 * torch.randn(plain.log_variance.shape, generator=generator)
    plain = replace(plain, logits=3 * plain.logits, log_variance=log_variance)
    expected, stretched = plain.mean.softmax(dim=1), replace(plain, keep_probability=True)
    left, drawn = (
        (gaussian.rsample(2000, generator).softmax(dim=2).mean(dim=0) - expected).abs().amax(dim=1)
        for gaussian in (plain, stretched)
    )
    assert drawn.mean() < 0.2 * left.mean() and drawn.max() < 0.4 * left.max()
    torch.testing.assert_close(moments(stretched, samples=2).mean, expected[:, 1:])


def test_stretching_pairs_is_the_formula_of_two_classes_where_there_are_two():
    """A third class without a chance changes nothing."""
    _, _, plain = run(Covariance.DIAGONAL)
    hopeless = torch.full_like(plain.mean[:, :1], -40)
    three = LogitGaussian(torch.cat((plain.mean, hopeless), 1), torch.cat((plain.log_variance, hopeless * 0), 1))
    expected, found = (replace(each, keep_probability=True).mean for each in (plain, three))
    torch.testing.assert_close(found[:, 1] - found[:, 0], expected[:, 1] - expected[:, 0])


def test_head_stretches_if_its_spec_says_so():
    _, _, plain = run(Covariance.MIXTURE_OF_BASES)
    _, _, stretched = run(Covariance.MIXTURE_OF_BASES, keep_probability=True)
    torch.testing.assert_close(stretched.mean, replace(plain, keep_probability=True).mean)
    torch.testing.assert_close(stretched.contrast()[1], plain.contrast()[1])
    assert not torch.allclose(stretched.mean, plain.mean)
