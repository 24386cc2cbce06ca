"""The predictive mean and second moment of the class probabilities under a Gaussian over the logits (Eq. 13).

For two classes both have closed forms; otherwise, or on request, Monte Carlo with K samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from MoBUncertaintyLib.network.distribution import LogitGaussian, cached_voxels

# sigma(t) ~ sum_k WEIGHTS_k Phi(SLOPES_k t): four terms bring the error of the mean below 5e-6 and of the variance
# below 2e-5, uniformly in m and s (design, section 2).
WEIGHTS = (0.060968, 0.374193, 0.458337, 0.106502)
SLOPES = (0.321077, 0.47514, 0.698778, 1.023129)

DEFAULT_SAMPLES = 30


@dataclass
class Moments:
    """E[p] and E[p^2] of the foreground classes, each (B, C - 1, *S). Moments blend linearly; variances do not."""

    first: Tensor
    second: Tensor

    def variance(self) -> Tensor:
        """E[p^2] - E[p]^2, held within its possible range [0, p (1 - p)]."""
        bound = self.first * (1 - self.first)
        return torch.minimum((self.second - self.first.square()).clamp_min(0), bound)


def logistic_normal_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """E[sigma(t)] and Var[sigma(t)] for t ~ N(mean, variance), in closed form; any common shape.

    The logistic function is a mixture of probits, so with r_k = c_k / sqrt(1 + c_k^2 s^2)

        E = sum_k p_k Phi(r_k m),     Var = E - E^2 - sum_k p_k r_k phi(r_k m),   since sigma^2 = sigma - sigma'.

    Differentiable. As s goes to 0 the variance goes to 0 up to the approximation's error, so it is held at 0 or above.
    """
    # With u = r / sqrt 2 = 1 / sqrt(2 / c^2 + 2 s^2): Phi(r m) = (1 + erf(u m)) / 2 and
    # r phi(r m) = u exp(-(u m)^2) / sqrt pi.
    # erf is vectorised on every device, the normal's own function is not.
    doubled = 2 * variance
    expectation, slope = torch.full_like(mean, 0.5), torch.zeros_like(mean)
    for weight, c in zip(WEIGHTS, SLOPES, strict=True):
        u = torch.rsqrt(doubled + 2 / c**2)
        t = u * mean
        expectation = torch.add(expectation, torch.erf(t), alpha=0.5 * weight)
        slope = torch.addcmul(slope, u, torch.exp(-t * t), value=weight / math.sqrt(math.pi))
    expectation = expectation.clamp(0, 1)
    bound = expectation * (1 - expectation)
    return expectation, torch.minimum((bound - slope).clamp_min(0), bound)


def moments(gaussian: LogitGaussian, samples: int | None = None, generator: torch.Generator | None = None) -> Moments:
    """Both moments of the class probabilities.

    Args:
        gaussian: Distribution of the logits.
        samples: K for Monte Carlo; None takes the closed form for two classes and K = 30 for more.
        generator: Source of the normals, for repeatable results.
    """
    if gaussian.is_deterministic:
        p = _foreground(gaussian.mean)
        return Moments(p, p.square())
    if samples is None and gaussian.num_classes == 2:
        return _closed_form(*gaussian.contrast())
    return monte_carlo_moments(gaussian, DEFAULT_SAMPLES if samples is None else samples, generator)


def _closed_form(mean: Tensor, variance: Tensor) -> Moments:
    """Two-class moments of a whole tile, in pieces whose some forty intermediate results stay in a CPU's cache."""
    pieces = cached_voxels(mean.device, mean.numel())
    first, second = [], []
    for m, v in zip(mean.flatten().split(pieces), variance.flatten().split(pieces), strict=True):
        expectation, spread = logistic_normal_moments(m, v)
        first.append(expectation)
        second.append(torch.addcmul(spread, expectation, expectation))
    return Moments(torch.cat(first).view_as(mean)[:, None], torch.cat(second).view_as(mean)[:, None])


def monte_carlo_moments(gaussian: LogitGaussian, samples: int, generator: torch.Generator | None = None) -> Moments:
    """Eq. 13 with K samples, one at a time, so that memory does not grow with K.

    As printed: the variance that follows is on average (K - 1) / K of the distribution's.

    Raises:
        ValueError: K is below 1.
    """
    if samples < 1:
        raise ValueError(f"at least one sample is needed, not {samples}")
    draw = gaussian.softmax_sampler(generator)
    first = _foreground(draw(1)[0])
    second = first.square()
    for _ in range(samples - 1):
        p = _foreground(draw(1)[0])
        first += p
        second.addcmul_(p, p)
    return Moments(first / samples, second / samples)


def _foreground(logits: Tensor) -> Tensor:
    """Softmax (Eq. 1) without the background: (B, C, *S) -> (B, C - 1, *S)."""
    if logits.shape[1] == 2:
        return torch.sigmoid(logits[:, 1:] - logits[:, :1])
    return torch.softmax(logits, dim=1)[:, 1:]
