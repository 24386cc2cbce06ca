"""The contrast of a label with the other classes: its Gaussian over the voxels of a tile or a volume.

A label has the contrast t with the other classes, and the likelihood sigma(y t), y = +1 where the voxel has the label
and -1 elsewhere. Over the voxels t is Gaussian, with the covariance that the model's scope says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian, against_rest
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.model.covariance import Scope, correlation


@dataclass(eq=False)
class Contrast:
    """The Gaussian of a label's contrast with the other classes at N voxels, and the truth.

    Attributes:
        mean: m, (N,).
        factors: u, (Q, N): voxels n and m share the covariance k(n, m) u_n . u_m; Q may be 0.
        white: (N,) variance that a voxel has besides, for itself.
        signs: y, (N,), +1 where the truth has the label, else -1.
        places: (N, 3) in voxels.
        correlation: k of two sets of places, (N, 3) and (M, 3) -> (N, M); 1 for equal places.
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

    def shared(self) -> Tensor:
        """Compute the variance of each voxel without its white part, (N,)."""
        return self.factors.square().sum(dim=0)

    def variance(self) -> Tensor:
        """Compute s^2, (N,)."""
        return self.white + self.shared()

    def marginal(self) -> Tensor:
        """Compute the probability of the label at each voxel, (N,)."""
        return logistic_normal_moments(self.mean, self.variance())[0]

    def columns(self, chosen: Tensor) -> Tensor:
        """Compute the covariance of all voxels with some of them, without white noise, (N, chosen)."""
        return self.factors.T @ self.factors[:, chosen] * self.correlation(self.places, self.places[chosen])

    def covariance(self) -> Tensor:
        """Compute the covariance of the voxels, (N, N)."""
        return self.columns(torch.arange(len(self.mean), device=self.mean.device)) + torch.diag(self.white)


def contrasts(gaussian: LogitGaussian, target: Tensor, missing: Tensor | None = None) -> Iterator[Contrast]:
    """Yield the contrast of each foreground label in each tile of a label map (B, *S), all voxels of the tile.

    With two classes it is eta_1 - eta_0. With more, ln sum_j exp(eta_j) of the other classes takes the place of eta_0,
    to the first order at the mean. Labels that are missing, (B, C), have no contrast; the others keep theirs.
    """
    shape = tuple(gaussian.mean.shape[2:])
    places = torch.cartesian_prod(*(torch.arange(size, dtype=gaussian.mean.dtype) for size in shape))
    places = places.to(gaussian.mean.device)
    loading = None if gaussian.loading is None else gaussian.loading.dense().flatten(3)
    deviation = gaussian.variance().sqrt().flatten(2)
    for tile, mean in enumerate(gaussian.mean.flatten(2).split(1)):
        for label in range(1, gaussian.num_classes):
            if missing is not None and missing[tile, label]:
                continue
            (contrast,), (weights,) = against_rest(mean, label)
            own = weights * deviation[tile]
            # Class by class, voxel by voxel: einsum takes a small matrix product at each voxel.
            rows = own[:0] if loading is None else sum(map(torch.mul, weights, loading[tile]))
            if gaussian.scope is Scope.LOCAL:
                factors, white = torch.cat((rows, own)), torch.zeros_like(own[0])
            elif gaussian.scope is Scope.VOXEL:
                factors, white = own[:0], own.square().sum(dim=0) + rows.square().sum(dim=0)
            else:
                factors, white = rows, own.square().sum(dim=0)
            signs = torch.where(target[tile].flatten() == label, 1.0, -1.0).to(mean)
            yield Contrast(contrast, factors, white, signs, places, _correlation(gaussian))


def _correlation(gaussian: LogitGaussian) -> Callable[[Tensor, Tensor], Tensor]:
    """Return k: that of the scope `local`, else 1, of two voxels in one tile."""
    if gaussian.scope is Scope.LOCAL:
        lengths, shared = gaussian.lengths, gaussian.shared_fraction  # not the whole Gaussian, which is large
        assert lengths is not None
        return lambda first, second: correlation(first[:, None] - second, lengths, shared)
    return lambda first, second: first.new_ones(len(first), len(second))
