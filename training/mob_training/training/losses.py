"""The terms of the training loss (paper, Eqs. 8 to 12), each a plain function of tensors.

Shapes: k samples, B tiles, C classes, *S the three spatial axes; targets are integer label maps (B, *S).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mob_training.training.joint_likelihood import evidence_loss
from mob_training.training.predictive import merge_missing
from mob_training.training.settings import FineTuning, Likelihood
from MoBUncertaintyLib.gaussian.distribution import BasisLoading, LogitGaussian
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments

DICE_SMOOTH = 1e-5
BATCH_DICE_SMOOTH = 1e-3
PAPER = FineTuning()


def kl_to_prior(log_variance: Tensor) -> Tensor:
    """Compute Eq. 8, KL(N(mu, I) || N(mu, D)) = (1/d - 1 + ln d) / 2, as a mean over voxels and classes."""
    return 0.5 * (torch.exp(-log_variance) - 1 + log_variance).mean()


def orthogonality(bases: Tensor) -> Tensor:
    """Compute Eq. 9, the mean square of the cosines between different bases (M, C, R); 0 for a single basis."""
    count = bases.shape[0]
    if count == 1:
        return bases.new_zeros(())
    flat = F.normalize(bases.flatten(1), dim=1)
    gram = flat @ flat.T
    return (gram - torch.eye(count, device=gram.device)).square().sum() / (count * (count - 1))


def weight_negentropy(weights: Tensor) -> Tensor:
    """Compute Eq. 10, the mean over partitions of sum_i W ln W; weights (B, M, P, P, P). Minimum -ln M at uniform W."""
    # Not xlogy, whose gradient is not a number where a weight has underflowed to 0.
    return (weights * weights.clamp_min(1e-12).log()).sum(dim=1).mean()


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - soft Dice of the foreground, mean over N volumes: probabilities (N, C, *S), target (N, *S)."""
    return _dice_loss(probabilities, target, (), DICE_SMOOTH)


def batch_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - soft Dice of the foreground over a batch as one volume: probabilities (B, C, *S), target (B, *S).

    A class that a small batch does not show hardly pulls: Dice is then `BATCH_DICE_SMOOTH` over the sum of p.
    """
    return _dice_loss(probabilities, target, (0,), BATCH_DICE_SMOOTH)


def _dice_loss(probabilities: Tensor, target: Tensor, together: tuple[int, ...], smooth: float) -> Tensor:
    truth = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities.dtype)
    p = probabilities[:, 1:]
    axes = (*together, *range(2, p.ndim))
    intersection, total = (p * truth).sum(axes), p.sum(axes) + truth.sum(axes)
    return 1 - ((2 * intersection + smooth) / (total + smooth)).mean()


def sample_loss(samples: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Eq. 12's two terms, cross entropy and Dice, as means over the k samples: samples (k, B, C, *S)."""
    flat = samples.flatten(0, 1)
    targets = target.repeat(samples.shape[0], *(1,) * (target.ndim - 1))
    return F.cross_entropy(flat, targets), soft_dice_loss(flat.softmax(dim=1), targets)


def log_mean_exp_loss(samples: Tensor, target: Tensor) -> Tensor:
    """Compute -(ln 1/k sum_k prod_n p(t_n | eta_n^k)) / N, mean over tiles: samples (k, B, C, *S)."""
    k = samples.shape[0]
    log_p = samples.log_softmax(dim=2)
    index = target[None, :, None].expand(k, -1, -1, *target.shape[1:])
    likelihood = log_p.gather(2, index).flatten(2).sum(dim=2)
    return -(likelihood.logsumexp(dim=0) - math.log(k)).mean() / target[0].numel()


def analytic_loss(gaussian: LogitGaussian, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute cross entropy and Dice of the closed-form predictive mean (two classes)."""
    p = logistic_normal_moments(*gaussian.contrast())[0].clamp(1e-7, 1 - 1e-7)
    cross_entropy = F.binary_cross_entropy(p, target.to(p.dtype))
    return cross_entropy, soft_dice_loss(torch.stack((1 - p, p), dim=1), target)


def training_loss(
    gaussian: LogitGaussian,
    target: Tensor,
    settings: FineTuning = PAPER,
    generator: torch.Generator | None = None,
    missing: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute every weighted term of Eqs. 11 and 12, and their sum, `total`.

    One forward pass gives the distribution; the segmentation terms are means over its samples, the regularisers are
    added once. A label that a case lacks, (B, C), counts as background there (`merge_missing`), in each sample; the
    likelihood of the labels together leaves it out.
    """

    def merged(logits: Tensor) -> Tensor:
        return logits if missing is None else merge_missing(logits, missing)

    likelihood = settings.likelihood
    if gaussian.is_deterministic:
        cross_entropy, dice = sample_loss(merged(gaussian.mean)[None], target)
    elif likelihood is Likelihood.ANALYTIC:
        cross_entropy, dice = analytic_loss(gaussian, target)
    elif likelihood is Likelihood.EVIDENCE:
        cross_entropy = evidence_loss(gaussian, target, generator, missing)
        dice = soft_dice_loss(merged(gaussian.mean).softmax(dim=1), target)
    else:
        drawn = torch.stack([merged(sample) for sample in gaussian.softmax_sampler(generator)(settings.samples)])
        cross_entropy, dice = sample_loss(drawn, target)
        if likelihood is Likelihood.LOG_MEAN_EXP:
            cross_entropy = log_mean_exp_loss(drawn, target)
    terms = {"cross_entropy": cross_entropy, "dice": settings.dice_weight * dice}
    if gaussian.log_variance is not None:
        terms["kl"] = settings.kl_weight * kl_to_prior(gaussian.log_variance)
    loading = gaussian.loading
    if isinstance(loading, BasisLoading) and loading.weights is not None:
        terms["orthogonality"] = settings.orthogonality_weight * orthogonality(loading.bases)
        terms["weight"] = settings.entropy_weight * weight_negentropy(loading.weights)
    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms
