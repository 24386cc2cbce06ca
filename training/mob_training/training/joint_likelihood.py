"""Likelihoods of the labels of a tile taken together: how probable a model holds them, not voxel by voxel.

The likelihood of a label's contrasts is integrated by Laplace's approximation, corrected by each voxel's own integral,
which makes it exact where voxels are independent (Rasmussen & Williams 2006, sections 3.4 and 3.6; Cseke & Heskes 2011,
section 3).

Only *informative* voxels are taken together, a random part of them; what is nearly certain stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mob_training.contrasts import Contrast, contrasts
from mob_training.training.temperature import NOT_COUNTED
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.devices import exact_dtype
from MoBUncertaintyLib.model.covariance import correlation

CERTAIN = 6.0
"""A voxel whose true label has this contrast or more stands alone."""
TOGETHER = 600
"""Voxels that are taken together; the time rises with the cube of their number."""
MAX_STEPS = 50
SMALLEST = 1e-12
TINY = 1e-30
FOR_LENGTHS = 300
"""Voxels that are taken together where lengths alone are fitted."""
SHORTEST = 0.5
"""Correlation length along an axis that a fit may find, in voxels: neighbours hardly agree."""


def evidence_loss(
    gaussian: LogitGaussian,
    target: Tensor,
    generator: torch.Generator | None = None,
    missing: Tensor | None = None,
) -> Tensor:
    """Compute -ln p(labels of the tile) for each voxel, mean over tiles; with several labels, their sum.

    Of the informative voxels a random part is taken together, and stands for the others.
    """
    total = gaussian.mean.new_zeros(())
    for contrast in contrasts(gaussian, target, missing):
        informative, certain = _divide(contrast)
        chosen = _some(informative, TOGETHER, generator)
        part = len(informative) / max(len(chosen), 1)
        together = contrast.at(chosen)
        total = total - marginal_log_likelihood(contrast.at(certain)).sum()
        total = total - part * log_evidence(together.mean, together.covariance(), together.signs)
    return total / target.numel()


def together(
    gaussian: LogitGaussian,
    target: Tensor,
    generator: torch.Generator | None = None,
    missing: Tensor | None = None,
) -> Iterator[tuple[Contrast, float]]:
    """Yield, for each label in each tile, informative voxels near a random one, and how many each stands for.

    They are neighbours, since voxels from all over the tile would say little of a short correlation. Voxels that are
    `NOT_COUNTED` in the label map (B, *S), and labels that are missing, (B, C), are left out.
    """
    counted = target.flatten(1).repeat_interleave(gaussian.num_classes - 1, dim=0) != NOT_COUNTED
    counted = counted if missing is None else counted[~missing[:, 1:].flatten()]
    for contrast, here in zip(contrasts(gaussian, target, missing), counted, strict=True):
        informative = _divide(contrast)[0]
        informative = informative[here[informative]]
        centre = _some(informative, 1, generator)
        distance = (contrast.places[informative] - contrast.places[centre]).square().sum(dim=1)
        chosen = informative[distance.argsort()[:FOR_LENGTHS]]
        if len(chosen):
            yield contrast.at(chosen), len(informative) / len(chosen)


def fit_lengths(laws: Sequence[tuple[Contrast, float]], start: Sequence[float]) -> list[float]:
    """Fit the correlation length along each axis, in voxels, to the labels of tiles (`together`); marginals stay."""
    logarithms = torch.tensor(start).log().requires_grad_()
    search = torch.optim.LBFGS([logarithms], max_iter=20, tolerance_change=1e-3, line_search_fn="strong_wolfe")

    def lengths() -> Tensor:
        """Three numbers stay on the CPU: on a GPU each step of the search would wait for them."""
        return logarithms.exp().clamp_min(SHORTEST)

    def loss() -> Tensor:
        search.zero_grad()
        total = torch.zeros(())
        for contrast, weight in laws:
            here = lengths().to(contrast.mean.device)
            smooth = replace(contrast, correlation=partial(_stationary, here))
            part = -weight * log_evidence(smooth.mean, smooth.covariance(), smooth.signs)
            part.backward()
            total += part.detach().cpu()
        return total

    search.step(loss)
    fitted: list[float] = lengths().tolist()
    return fitted


def _stationary(lengths: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return correlation(one[:, None] - other, lengths)


def marginal_log_likelihood(contrast: Contrast) -> Tensor:
    """Compute ln E[sigma(y t)] of each voxel alone, (N,)."""
    return _log_expectation(contrast.signs * contrast.mean, contrast.variance())


def log_evidence(mean: Tensor, covariance: Tensor, signs: Tensor) -> Tensor:
    """Compute ln E[prod_n sigma(y_n t_n)], t ~ N(mean, covariance), differentiable in both; signs y are +1 or -1, (N,).

    Laplace's approximation, in which each voxel's own integral, in the posterior without it, takes the place of the
    quadratic one.
    """
    if not len(mean):
        return mean.new_zeros(())
    logits = mode(mean, covariance, signs)
    wrong, curvature = _wrong(logits, signs)
    slope, root = signs * wrong, curvature.sqrt()
    lower = torch.linalg.cholesky(_unit(covariance, root))
    explained = torch.linalg.solve_triangular(lower, root[:, None] * covariance, upper=False)
    posterior = (covariance.diagonal() - explained.square().sum(dim=0)).clamp_min(0)
    left = (1 - posterior * curvature).clamp_min(SMALLEST)
    cavity = posterior / left
    own = _log_expectation(signs * (logits - slope * cavity), cavity)
    corrected = own + 0.5 * slope.square() * cavity - 0.5 * left.log()
    return corrected.sum() - 0.5 * slope @ (logits - mean) - lower.diagonal().log().sum()


def mode(mean: Tensor, covariance: Tensor, signs: Tensor) -> Tensor:
    """Find the most probable logits given the labels, (N,), differentiable in mean and covariance.

    Newton's method finds them without gradients. One more step of it, at the mode, has the mode's own gradient, since
    there it does not depend on where it starts from.
    """
    with torch.no_grad():
        exact = exact_dtype(mean.device)
        m, prior, y = mean.to(exact), covariance.to(exact), signs.to(exact)
        weights, logits = torch.zeros_like(m), m
        best = _objective(weights, logits, m, y)
        for _ in range(MAX_STEPS):
            step = _newton(logits - m, logits, prior, y) - weights
            along, size = prior @ step, 1.0
            while True:
                value = _objective(weights + size * step, logits + size * along, m, y)
                if value >= best or size < SMALLEST:
                    break
                size /= 2
            weights, logits, gain = weights + size * step, logits + size * along, float(value - best)
            best = value
            if gain < 1e-10:
                break
        logits = logits.to(mean)
    return mean + covariance @ _newton(logits - mean, logits, covariance, signs)


def _newton(moved: Tensor, logits: Tensor, covariance: Tensor, signs: Tensor) -> Tensor:
    """Compute the weights a, with the mode at m + K a, that a Newton step leads to: algorithm 3.1 there."""
    wrong, curvature = _wrong(logits, signs)
    root = curvature.sqrt()
    target = curvature * moved + signs * wrong
    lower = torch.linalg.cholesky(_unit(covariance, root))
    return target - root * torch.cholesky_solve((root * (covariance @ target))[:, None], lower)[:, 0]


def _wrong(logits: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the probability of the wrong sign, and the curvature of the likelihood, never 0: its root has a slope."""
    wrong = torch.sigmoid(-signs * logits)
    return wrong, (wrong * torch.sigmoid(signs * logits)).clamp_min(TINY)


def _objective(weights: Tensor, logits: Tensor, mean: Tensor, signs: Tensor) -> Tensor:
    likelihood = torch.nn.functional.logsigmoid(signs * logits).sum()
    return likelihood - 0.5 * weights @ (logits - mean)


def _unit(covariance: Tensor, root: Tensor) -> Tensor:
    """Compute I + W^1/2 K W^1/2, which is well conditioned whatever K is."""
    return torch.eye(len(root), dtype=root.dtype, device=root.device) + root[:, None] * covariance * root


def _log_expectation(mean: Tensor, variance: Tensor) -> Tensor:
    """Compute ln E[sigma(t)], t ~ N(mean, variance)."""
    return logistic_normal_moments(mean, variance)[0].clamp_min(SMALLEST).log()


def _divide(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """Return the voxels that are informative, and those whose true label is nearly certain."""
    certain = contrast.mean.detach() * contrast.signs >= CERTAIN
    return (~certain).nonzero()[:, 0], certain.nonzero()[:, 0]


def _some(voxels: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator else None  # torch refuses to draw elsewhere
    order = torch.randperm(len(voxels), generator=generator, device=device)
    return voxels[order[:count].to(voxels.device)]
