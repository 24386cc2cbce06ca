"""System c: Eq. 14 drawn as it is printed, in place of our sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from MoBUncertaintyLib.model.covariance import Scope
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.moments import Moments


@dataclass
class LiteralGaussian(LogitGaussian):
    """The same distribution, sampled as the paper's formula reads: eta = mu + sqrt(d) z1 + B_m diag(a) z2.

    Both normals are drawn for every voxel, also where the model's own z2 is shared by voxels: the moments are the same.
    Deviation and the chosen basis' loading are laid out for every voxel, and every sample draws C normals z1 and R
    normals z2 per voxel. One sample at a time, which is the kinder reading: all at once would need K times the memory.
    """

    def softmax_sampler(self, generator: torch.Generator | None = None) -> Callable[[int], Tensor]:
        """A function k -> logits (k, B, C, *S); its k must be 1."""
        deviation = self.variance().sqrt()
        loading = self.loading.dense()  # (B, C, R, *S)

        def draw(k: int) -> Tensor:
            if k != 1:
                raise ValueError(f"samples are drawn one at a time, not {k} at once")
            z1 = self._normal(tuple(self.mean.shape), generator)
            z2 = self._latent(1, generator)[0]  # (B, R, *S)
            return (self.mean + deviation * z1 + torch.einsum("bcr...,br...->bc...", loading, z2))[None]

        return draw


def literal(gaussian: LogitGaussian) -> LiteralGaussian:
    """The same distribution, drawn literally."""
    return LiteralGaussian(gaussian.mean, gaussian.log_variance, gaussian.loading, Scope.VOXEL)


def literal_moments(gaussian: LogitGaussian, samples: int, generator: torch.Generator | None = None) -> Moments:
    """Eq. 13 as printed: the softmax of K draws, and the mean and the variance of those."""
    draw = literal(gaussian).softmax_sampler(generator)
    first = second = None
    for _ in range(samples):
        p = torch.softmax(draw(1)[0], dim=1)[:, 1:]
        first = p if first is None else first + p
        second = p.square() if second is None else second + p.square()
    return Moments(first / samples, second / samples - (first / samples).square())


class LiteralHead:
    """Makes a network's head hand out distributions that are drawn literally, by a hook: no code of ours changes.

    Attributes:
        used: How many tiles the hook has seen; 0 means that the pipeline goes another way by now.
    """

    def __init__(self) -> None:
        self.used = 0

    def attach(self, head: nn.Module) -> None:
        """From now on `head` gives a `LiteralGaussian`."""
        head.register_forward_hook(self._exchange)

    def _exchange(self, head: nn.Module, inputs: tuple[Tensor, ...], gaussian: LogitGaussian) -> LiteralGaussian:
        self.used += 1
        return literal(gaussian)
