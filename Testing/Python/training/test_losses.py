"""Each term of the training loss against a hand-computed value, autograd or `torch.distributions`."""

import copy
import math

import pytest
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.distributions import Normal, kl_divergence

from mob_training.training.losses import (
    analytic_loss,
    batch_dice_loss,
    kl_to_prior,
    log_mean_exp_loss,
    orthogonality,
    sample_loss,
    soft_dice_loss,
    training_loss,
    weight_negentropy,
)
from mob_training.training.predictive import merge_missing, pad_depth_first
from mob_training.training.settings import FineTuning, Likelihood
from MoBUncertaintyLib.model.covariance import Covariance
from support.gaussians import SHAPE, gaussian_of


def test_kl_is_that_of_torch_distributions():
    log_variance = torch.randn(2, 3, 4, 4, 4)
    prior = Normal(torch.zeros_like(log_variance), 1.0)
    predicted = Normal(torch.zeros_like(log_variance), (0.5 * log_variance).exp())
    torch.testing.assert_close(kl_to_prior(log_variance), kl_divergence(prior, predicted).mean())


def test_orthogonality_of_hand_computed_bases():
    # Cosines 0.6 between the two: 2 * 0.36 / (2 * 1).
    bases = torch.tensor([[[2.0, 0.0]], [[3.0, 4.0]]])
    assert orthogonality(bases) == pytest.approx(0.36)
    assert orthogonality(torch.tensor([[[1.0, 0.0]], [[0.0, -5.0]]])) == 0


def test_orthogonality_is_a_mean_over_pairs_and_takes_all_classes():
    # Two classes and rank 1, so four numbers a basis; cosines 0.6, 0.8 and 0 between the three, each counted twice.
    bases = torch.tensor([[[1.0], [0.0]], [[0.6], [0.8]], [[0.0], [1.0]]])
    assert orthogonality(bases) == pytest.approx(2 * (0.6**2 + 0.8**2 + 0) / 6)


def test_orthogonality_of_a_single_basis_is_skipped():
    assert orthogonality(torch.randn(1, 2, 4)) == 0


def test_weight_negentropy_is_least_at_uniform_weights():
    uniform = torch.full((1, 4, 2, 2, 2), 0.25)
    assert weight_negentropy(uniform) == pytest.approx(-math.log(4))
    certain = torch.zeros(1, 4, 2, 2, 2)
    certain[:, 1] = 1
    assert weight_negentropy(certain) == 0


def test_weight_negentropy_is_a_mean_over_cells():
    """One cell in eight is uniform, the others are certain."""
    weights = torch.zeros(1, 2, 2, 2, 2)
    weights[:, 0] = 1
    weights[:, :, 1, 0, 1] = 0.5
    assert weight_negentropy(weights) == pytest.approx(-math.log(2) / 8)


def test_dice_is_nnunets():
    logits = torch.randn(3, 3, 5, 6, 4)
    target = torch.randint(0, 3, (3, 5, 6, 4))
    theirs = MemoryEfficientSoftDiceLoss(
        apply_nonlin=lambda x: x.softmax(dim=1), batch_dice=False, do_bg=False, smooth=1e-5
    )
    torch.testing.assert_close(soft_dice_loss(logits.softmax(dim=1), target), 1 + theirs(logits, target[:, None]))


def test_sample_loss_is_the_mean_over_samples():
    samples = torch.randn(4, 2, 3, 4, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4, 4))
    cross_entropy, dice = sample_loss(samples, target)
    each = [(torch.nn.functional.cross_entropy(s, target), soft_dice_loss(s.softmax(1), target)) for s in samples]
    torch.testing.assert_close(cross_entropy, torch.stack([c for c, _ in each]).mean())
    torch.testing.assert_close(dice, torch.stack([d for _, d in each]).mean())


def test_log_mean_exp_of_a_hand_computed_case():
    """One voxel, two samples with p = 0.2 and 0.6 of the right class: -ln 0.4."""
    p = torch.tensor([0.2, 0.6])
    samples = torch.stack(((1 - p).log(), p.log()), dim=1)[:, None, :, None, None, None]
    loss = log_mean_exp_loss(samples, torch.ones(1, 1, 1, 1, dtype=torch.long))
    assert loss.item() == pytest.approx(-math.log(0.4), rel=1e-6)


def test_log_mean_exp_is_of_the_voxels_together():
    """Two voxels, two samples, each right at one of them and none at both. Voxel by voxel it would be -ln 0.5."""
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # sample, voxel: of the right class
    samples = torch.stack(((1 - p).log(), p.log()), dim=1)[:, None, :, :, None, None]
    loss = log_mean_exp_loss(samples, torch.ones(1, 2, 1, 1, dtype=torch.long))
    assert loss.item() == pytest.approx(-math.log(0.9 * 0.1) / 2, rel=1e-6)


def test_analytic_loss_is_the_likelihood_of_many_samples_mean():
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES, classes=2)
    target = torch.randint(0, 2, (1, *SHAPE))
    p = gaussian.rsample(5_000, torch.Generator().manual_seed(0)).softmax(dim=2).mean(dim=0)
    expected = torch.nn.functional.nll_loss(p.log(), target)
    cross_entropy, dice = analytic_loss(gaussian, target)
    assert cross_entropy == pytest.approx(expected.item(), rel=5e-3)
    assert dice == pytest.approx(soft_dice_loss(p, target).item(), rel=5e-3)


def test_total_adds_each_weighted_term_once():
    gaussian = gaussian_of(Covariance.MIXTURE_OF_BASES, classes=2)
    target = torch.randint(0, 2, (1, *SHAPE))
    settings = FineTuning(samples=3, dice_weight=3, kl_weight=0.5, orthogonality_weight=0.7, entropy_weight=0.2)
    loss = training_loss(gaussian, target, settings, torch.Generator().manual_seed(0))
    drawn = gaussian.softmax_sampler(torch.Generator().manual_seed(0))(3)
    cross_entropy, dice = sample_loss(drawn, target)
    expected = (
        cross_entropy
        + 3 * dice
        + 0.5 * kl_to_prior(gaussian.log_variance)
        + 0.7 * orthogonality(gaussian.loading.bases)
        + 0.2 * weight_negentropy(gaussian.loading.weights)
    )
    torch.testing.assert_close(loss["total"], expected)


@pytest.mark.parametrize("likelihood", list(Likelihood))
def test_deterministic_control_has_the_plain_loss(likelihood):
    gaussian = gaussian_of(Covariance.DIAGONAL, classes=2)
    gaussian.log_variance = None
    target = torch.randint(0, 2, (1, *SHAPE))
    loss = training_loss(gaussian, target, FineTuning(likelihood))
    assert set(loss) == {"cross_entropy", "dice", "total"}
    torch.testing.assert_close(loss["cross_entropy"], torch.nn.functional.cross_entropy(gaussian.mean, target))


def test_a_weight_that_underflows_has_a_gradient():
    logits = torch.tensor([0.0, -200.0]).reshape(1, 2, 1, 1, 1).requires_grad_()
    weight_negentropy(logits.softmax(dim=1)).backward()
    assert torch.isfinite(logits.grad).all()


# --- labels that a case lacks


def marginal_oracle(logits: torch.Tensor, target: torch.Tensor, missing: list[set[int]]) -> tuple[float, float]:
    """Cross entropy and Dice, case by case and voxel by voxel, as the papers write them."""
    cases, classes = logits.shape[:2]
    cross_entropy, dice = [], []
    for case in range(cases):
        p = torch.softmax(logits[case].double(), dim=0).flatten(1).numpy()
        t = target[case].flatten().tolist()
        background = {0, *missing[case]}
        for voxel, label in enumerate(t):
            counted = background if label == 0 else {label}
            cross_entropy.append(-math.log(sum(p[each][voxel] for each in counted)))
        for label in range(1, classes):
            if label in missing[case]:
                dice.append(1.0)  # of nothing with nothing
                continue
            both = sum(p[label][voxel] for voxel, true in enumerate(t) if true == label)
            dice.append((2 * both + 1e-5) / (sum(p[label]) + t.count(label) + 1e-5))
    return sum(cross_entropy) / len(cross_entropy), 1 - sum(dice) / len(dice)


@pytest.mark.parametrize("missing", [[set(), set()], [{1}, set()], [{1, 3}, {2}], [{1, 2, 3}, {3}]])
def test_a_missing_label_counts_as_background_in_cross_entropy_and_dice(missing):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 4, 3, 4, 5, generator=generator)).requires_grad_()
    target = torch.randint(0, 4, (2, 3, 4, 5), generator=generator)
    for case, lacked in enumerate(missing):
        for label in lacked:
            target[case][target[case] == label] = 0
    mask = torch.tensor([[value in lacked for value in range(4)] for lacked in missing])
    merged = merge_missing(logits, mask)
    cross_entropy, dice = sample_loss(merged[None], target)
    expected = marginal_oracle(logits.detach(), target, missing)
    assert (float(cross_entropy), float(dice)) == pytest.approx(expected, abs=1e-5)
    (cross_entropy + dice).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.sum(dim=1).abs().max() < 1e-6, "only differences of logits count"


def test_a_missing_label_is_neither_pushed_away_nor_told_from_background():
    """Where the organ lies, background may turn into it for nothing."""
    logits = torch.tensor([2.0, 5.0, -1.0]).reshape(1, 3, 1, 1, 1).requires_grad_()
    merged = merge_missing(logits, torch.tensor([[False, True, False]]))
    torch.nn.functional.cross_entropy(merged, torch.zeros(1, 1, 1, 1, dtype=torch.long)).backward()
    towards_background, towards_organ, towards_other = -logits.grad.flatten()
    assert towards_background > 0 and towards_organ > 0 > towards_other
    torch.testing.assert_close(towards_organ / towards_background, torch.tensor(3.0).exp())


def test_without_missing_labels_nothing_changes():
    logits = torch.randn(2, 3, 2, 2, 2)
    assert torch.equal(merge_missing(logits, torch.zeros(2, 3, dtype=torch.bool)), logits)


def test_dice_of_a_batch_is_that_of_one_volume():
    p = torch.rand(2, 3, 2, 3, 4).softmax(dim=1)
    target = torch.randint(0, 3, (2, 2, 3, 4))
    whole = torch.cat(tuple(p), dim=1)[None], torch.cat(tuple(target))[None]
    torch.testing.assert_close(batch_dice_loss(p, target), batch_dice_loss(*whole))
    assert batch_dice_loss(torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float(), target) == pytest.approx(0)


@pytest.mark.parametrize("likelihood", [Likelihood.MEAN, Likelihood.LOG_MEAN_EXP, Likelihood.EVIDENCE])
@pytest.mark.parametrize("kind", [Covariance.DIAGONAL, Covariance.MIXTURE_OF_BASES])
def test_heads_learn_nothing_of_a_missing_label(likelihood, kind):
    """The loss is the same whatever is drawn of it: as background, or not at all in a case of its own."""
    gaussian = gaussian_of(kind, classes=3)
    target = torch.randint(0, 2, (gaussian.mean.shape[0], *SHAPE))
    missing = torch.zeros(gaussian.mean.shape[:2], dtype=torch.bool)
    missing[:, 2] = True
    terms, plain = (
        training_loss(gaussian, target, FineTuning(likelihood, 2), torch.Generator().manual_seed(0), lacked)
        for lacked in (missing, None)
    )
    assert terms["cross_entropy"] < plain["cross_entropy"]
    assert torch.isfinite(terms["total"])


def test_a_network_that_pads_the_depth_first_is_the_same_network():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1),
        torch.nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1)),
        torch.nn.Conv3d(4, 2, 3, stride=2, padding=(1, 1, 1)),
    )
    padded = copy.deepcopy(plain)
    pad_depth_first(padded)
    assert [module.padding[0] for module in padded] == [0, 0, 0]
    padded = copy.deepcopy(padded)  # as the moving average of weights is made
    x = torch.randn(2, 1, 6, 7, 8)
    outputs = [network(x) for network in (plain, padded)]
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(*outputs)
    assert plain.state_dict().keys() == padded.state_dict().keys()
    for one, other in zip(plain.parameters(), padded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
