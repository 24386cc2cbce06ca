"""Likelihoods of labels together in training: gradients, contrasts against samples, lengths that are fitted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mob_training.contrasts import contrasts
from mob_training.training import joint_likelihood as module
from mob_training.training.joint_likelihood import (
    evidence_loss,
    fit_lengths,
    log_evidence,
    marginal_log_likelihood,
    mode,
    together,
)
from mob_training.training.temperature import NOT_COUNTED
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.model.covariance import Covariance, Scope
from support.gaussians import SHAPE, STOCHASTIC, gaussian_of

LENGTHS = (2.0, 1.5, 2.5)


def test_gradients_of_evidence_and_mode():
    """Of five voxels on a line, correlated with their neighbours."""
    rng, places = np.random.default_rng(0), np.arange(5)[:, None]
    covariance = torch.tensor(2 * np.exp(-((places - places.T) ** 2) / 18) + np.diag(rng.uniform(0.1, 0.5, 5)))
    mean, signs = torch.tensor(rng.normal(0, 1.5, 5)), torch.tensor(rng.choice([-1.0, 1.0], 5))
    inputs = (mean.requires_grad_(), torch.linalg.cholesky(covariance).requires_grad_())
    assert torch.autograd.gradcheck(lambda m, a: log_evidence(m, a @ a.T, signs), inputs, eps=1e-5, atol=1e-4)
    assert float(log_evidence(mean[:0], covariance[:0, :0], signs[:0])) == 0
    assert torch.autograd.gradcheck(lambda m, a: mode(m, a @ a.T, signs), inputs, eps=1e-5, atol=1e-5)


@pytest.mark.parametrize("certainty", [20.0, 60.0, 200.0])
def test_labels_that_were_held_impossible_have_a_finite_slope(certainty):
    """The curvature of their likelihood is 0 in float32, and its root's slope would be infinite."""
    mean = torch.tensor([-certainty, certainty, -certainty], requires_grad=True)
    log_evidence(mean, 0.1 * torch.eye(3), torch.tensor([1.0, -1.0, -1.0])).backward()
    assert torch.isfinite(mean.grad).all()


def local(kind: Covariance, classes: int) -> LogitGaussian:
    return replace(gaussian_of(kind, classes), scope=Scope.LOCAL, lengths=LENGTHS)


SCOPES = [
    (kind, scope) for kind in STOCHASTIC for scope in Scope if (kind, scope) != (Covariance.LOW_RANK, Scope.VOXEL)
]


@pytest.mark.parametrize(("kind", "scope"), SCOPES, ids=lambda value: str(value))
def test_covariance_of_the_contrast_is_that_of_the_samples(kind, scope):
    if scope is Scope.LOCAL:
        gaussian = replace(local(kind, 2), shared_fraction=0.4)
    else:
        gaussian = gaussian_of(kind, 2, scope=scope)
    (contrast,) = contrasts(gaussian, torch.zeros(1, *SHAPE, dtype=torch.long))
    mean, variance = gaussian.contrast()
    torch.testing.assert_close(contrast.mean, mean.flatten())
    torch.testing.assert_close(contrast.variance(), variance.flatten())
    assert (contrast.signs == -1).all()
    voxels = torch.tensor([0, 1, 7, 30, 31, 119])
    drawn = gaussian.rsample(20_000, torch.Generator().manual_seed(0))[:, 0].flatten(2)
    found = torch.cov((drawn[:, 1] - drawn[:, 0])[:, voxels].T)
    expected = contrast.at(voxels).covariance()
    size = expected.diagonal().sqrt()
    torch.testing.assert_close(found / size / size[:, None], expected / size / size[:, None], atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", [Covariance.DIAGONAL, Covariance.MIXTURE_OF_BASES])
def test_contrast_with_the_rest_holds_to_first_order(kind):
    """Of three classes, with a tenth of the noise: the covariance of ln-odds in samples."""
    gaussian = local(kind, 3)
    gaussian.log_variance -= 2 * math.log(20)
    if gaussian.loading is not None:
        gaussian.loading.scales /= 20
    labels = torch.randint(0, 3, (1, *SHAPE))
    voxels = torch.tensor([0, 1, 30])
    drawn = gaussian.rsample(20_000, torch.Generator().manual_seed(0))[:, 0].flatten(2)[..., voxels]
    for label, contrast in enumerate(contrasts(gaussian, labels), start=1):
        others = [other for other in range(3) if other != label]
        odds = drawn[:, label] - drawn[:, others].logsumexp(dim=1)
        expected = contrast.at(voxels)
        torch.testing.assert_close(odds.mean(dim=0), expected.mean, atol=0.05, rtol=0)
        size = expected.variance().sqrt()
        torch.testing.assert_close(
            torch.cov(odds.T) / size / size[:, None], expected.covariance() / size / size[:, None], atol=0.06, rtol=0
        )
        assert torch.equal(contrast.signs > 0, labels.flatten() == label)


def test_loss_of_voxels_that_share_nothing_is_their_marginal_likelihood():
    """Whatever is taken together; a nearly certain voxel counts as well."""
    gaussian = gaussian_of(Covariance.DIAGONAL, 2)
    target = torch.randint(0, 2, (1, *SHAPE))
    gaussian.mean[0, 1, 0] += 20 * (2 * target[0, 0] - 1)
    (contrast,) = contrasts(gaussian, target)
    loss = evidence_loss(gaussian, target, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(float(-marginal_log_likelihood(contrast).mean()), rel=1e-3)


def test_the_right_correlation_length_has_the_lowest_loss():
    """Labels are drawn from a smooth field of known length."""
    shape = (6, 16, 16)
    spread = torch.full((1, 2, *shape), math.log(4.0))
    truth = LogitGaussian(torch.zeros(1, 2, *shape), spread, scope=Scope.LOCAL, lengths=(2.0, 2.0, 2.0))
    drawn = truth.rsample(6, torch.Generator().manual_seed(1))

    def mean_loss(length: float) -> float:
        gaussian = LogitGaussian(truth.mean, spread, scope=Scope.LOCAL, lengths=(length,) * 3)
        labels = [
            torch.bernoulli((one[:, 1] - one[:, 0]).sigmoid(), generator=torch.Generator().manual_seed(2))
            for one in drawn
        ]
        return float(np.mean([evidence_loss(gaussian, one.long(), torch.Generator().manual_seed(3)) for one in labels]))

    right = mean_loss(2.0)
    assert right < min(mean_loss(0.3), mean_loss(8.0))


def test_the_lengths_that_drew_the_labels_are_found(monkeypatch):
    """Labels of 10 tiles, drawn from the law with other lengths; what is not counted has no say."""
    monkeypatch.setattr(module, "FOR_LENGTHS", 150)
    shape, true = (8, 8, 8), (1.0, 2.5, 2.5)
    mean = torch.zeros(10, 2, *shape)
    law = LogitGaussian(mean, torch.full_like(mean, 2.0), scope=Scope.LOCAL, lengths=true)
    generator = torch.Generator().manual_seed(2)
    p = law.rsample(1, generator)[0].softmax(dim=1)[:, 1]
    target = (torch.rand(p.shape, generator=generator) < p).long()
    target[:, :, :, 7:] = NOT_COUNTED
    laws = list(together(replace(law, lengths=(1.0, 1.0, 1.0)), target, generator))
    assert all(len(part.mean) == 150 and weight == 8 * 8 * 7 / 150 for part, weight in laws)
    assert all(part.places[:, 2].max() < 7 for part, _ in laws)
    assert fit_lengths(laws, (2.0, 1.5, 4.0)) == pytest.approx(true, rel=0.3)


def test_a_label_that_a_case_lacks_has_no_contrast_and_the_others_keep_theirs():
    gaussian = local(Covariance.DIAGONAL, classes=4)
    target = torch.zeros(1, *gaussian.mean.shape[2:], dtype=torch.long)
    target[:, :1] = 1
    missing = torch.tensor([[False, False, True, False]])
    whole, some = list(contrasts(gaussian, target)), list(contrasts(gaussian, target, missing))
    assert len(whole) == 3
    for ours, other in zip(some, (whole[0], whole[2]), strict=True):
        assert torch.equal(ours.mean, other.mean) and torch.equal(ours.signs, other.signs)
    laws = list(together(gaussian, target, torch.Generator().manual_seed(0), missing))
    assert len(laws) == 2


def test_fits_find_the_same_in_float32_which_is_all_that_apple_s_gpus_have(monkeypatch) -> None:
    law = gaussian_of(Covariance.SINGLE_BASIS, 3, scope=Scope.LOCAL, length_mm=(2.0, 1.5, 3.0), learn_length=True)
    target = torch.randint(0, 3, (1, *SHAPE), generator=torch.Generator().manual_seed(0))

    def fitted() -> tuple[torch.Tensor, list[float]]:
        with torch.no_grad():
            laws = list(together(law, target, torch.Generator().manual_seed(1)))
            loss = evidence_loss(law, target, torch.Generator().manual_seed(1))
        return loss, fit_lengths(laws, (2.0, 1.5, 3.0))

    loss, lengths = fitted()
    monkeypatch.setattr(module, "exact_dtype", lambda _device: torch.float32)
    again = fitted()
    torch.testing.assert_close(again[0], loss, rtol=1e-3, atol=1e-5)
    assert again[1] == pytest.approx(lengths, rel=0.02)
