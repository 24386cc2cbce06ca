"""Likelihoods of the labels of a tile taken together: how probable a model holds them, not voxel by voxel.

A label has the contrast t with the other classes, and the likelihood sigma(y t), y = +1 where the voxel has the label
and -1 elsewhere. Over the voxels t is Gaussian, with the covariance that the model's scope says. What is integrated
over t is Laplace's approximation, corrected by each voxel's own integral, which makes it exact where voxels are
independent (Rasmussen & Williams 2006, sections 3.4 and 3.6; Cseke & Heskes 2011, section 3).

Only *informative* voxels are taken together, a random part of them; what is nearly certain stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mob_training.training.temperature import NOT_COUNTED
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.devices import exact_dtype
from MoBUncertaintyLib.model.covariance import Scope, correlation
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.partitions import cell_bounds

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


@dataclass
class Contrast:
    """The Gaussian of a label's contrast with the other classes at N voxels of a tile.

    Attributes:
        mean: m, (N,).
        factors: u, (Q, N): voxels n and m share the covariance k(n, m) u_n . u_m.
        white: (N,) variance that a voxel has besides, for itself.
        signs: y, (N,), +1 where the truth has the label, else -1.
        places: (N, 3) in voxels.
        correlation: k of two sets of places, (N, 3) and (M, 3) -> (N, M).
    """

    mean: Tensor
    factors: Tensor
    white: Tensor
    signs: Tensor
    places: Tensor
    correlation: Callable[[Tensor, Tensor], Tensor]

    def at(self, voxels: Tensor) -> Contrast:
        """Take some of the voxels."""
        chosen = (part[..., voxels] for part in (self.mean, self.factors, self.white, self.signs))
        return Contrast(*chosen, self.places[voxels], self.correlation)

    def variance(self) -> Tensor:
        """Compute s^2, (N,)."""
        return self.white + self.factors.square().sum(dim=0)

    def covariance(self) -> Tensor:
        """Compute the covariance of the voxels, (N, N)."""
        return self.factors.T @ self.factors * self.correlation(self.places, self.places) + torch.diag(self.white)


def contrasts(gaussian: LogitGaussian, target: Tensor, missing: Tensor | None = None) -> Iterator[Contrast]:
    """Yield the contrast of each foreground label in each tile, all voxels of the tile.

    With two classes it is eta_1 - eta_0. With more, ln sum_j exp(eta_j) of the other classes takes the place of eta_0,
    to the first order at the mean.

    Args:
        gaussian: Of the logits, B tiles.
        target: Label map (B, *S).
        missing: (B, C), True where a case lacks a label: it has no contrast there, and the others keep theirs.
    """
    shape = tuple(gaussian.mean.shape[2:])
    places = torch.cartesian_prod(*(torch.arange(size, dtype=gaussian.mean.dtype) for size in shape))
    places = places.to(gaussian.mean.device)
    loading = None if gaussian.loading is None else gaussian.loading.dense().flatten(3)
    deviation = gaussian.variance().sqrt().flatten(2)
    for tile, mean in enumerate(gaussian.mean.flatten(2)):
        for label in range(1, gaussian.num_classes):
            if missing is not None and missing[tile, label]:
                continue
            others = torch.cat((mean[:label], mean[label + 1 :]))
            pull = -others.softmax(dim=0)
            weights = torch.cat((pull[:label], torch.ones_like(pull[:1]), pull[label:]))
            own = weights * deviation[tile]
            rows = own[:0] if loading is None else torch.einsum("cn,crn->rn", weights, loading[tile])
            if gaussian.scope is Scope.LOCAL:
                factors, white = torch.cat((rows, own)), torch.zeros_like(own[0])
            elif gaussian.scope is Scope.VOXEL:
                factors, white = own[:0], own.square().sum(dim=0) + rows.square().sum(dim=0)
            else:
                factors, white = rows, own.square().sum(dim=0)
            signs = torch.where(target[tile].flatten() == label, 1.0, -1.0).to(mean)
            contrast = mean[label] - others.logsumexp(dim=0)
            yield Contrast(contrast, factors, white, signs, places, _correlation(gaussian, shape))


def _correlation(gaussian: LogitGaussian, shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return k: that of the scope `local`, or whether two voxels are in one cell or tile."""
    if gaussian.scope is Scope.LOCAL:
        lengths, shared = gaussian.lengths, gaussian.shared_fraction  # not the whole Gaussian, which is large
        assert lengths is not None
        return lambda first, second: correlation(first[:, None] - second, lengths, shared)
    if gaussian.scope is Scope.PARTITION:
        ends = [torch.tensor([end for _, end in cell_bounds(size, gaussian.partitions)]) for size in shape]
        cell = [torch.bucketize(torch.arange(size), end, right=True) for size, end in zip(shape, ends, strict=True)]

        def cells(places: Tensor) -> Tensor:
            return torch.stack([own.to(places.device)[at.long()] for own, at in zip(cell, places.T, strict=True)], 1)

        return lambda first, second: (cells(first)[:, None] == cells(second)).all(dim=-1).to(first.dtype)
    return lambda first, second: first.new_ones(len(first), len(second))


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

    They are neighbours, since voxels from all over the tile would say little of a short correlation.

    Args:
        gaussian: Of the logits, B tiles.
        target: Label map (B, *S); voxels that are `NOT_COUNTED` are left out.
        generator: Source of the choice.
        missing: As for `contrasts`.
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
    """Fit the correlation length along each axis, in voxels, to the labels of many tiles; marginals stay.

    Args:
        laws: As `together` yields them, with the scope `local`.
        start: Lengths at which the search starts.
    """
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
    """Compute ln E[prod_n sigma(y_n t_n)], t ~ N(mean, covariance), differentiable in both.

    Laplace's approximation, in which each voxel's own integral, in the posterior without it, takes the place of the
    quadratic one.

    Args:
        mean: (N,).
        covariance: (N, N).
        signs: (N,) +1 or -1.
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
    order = torch.randperm(len(voxels), generator=generator, device=_device_of(generator))
    return voxels[order[:count].to(voxels.device)]


def _device_of(generator: torch.Generator | None) -> torch.device | None:
    """Return where a generator draws; torch refuses to draw elsewhere."""
    return None if generator is None else generator.device
