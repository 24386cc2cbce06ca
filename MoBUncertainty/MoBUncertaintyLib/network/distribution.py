"""The common distribution of all five models: a Gaussian over the logits of a tile (paper, Eqs. 2 to 7, 14).

    eta_n = mu_n + sqrt(d_n) * z1_n + L_n z2,     Sigma_n = L_n L_n^T + diag(d_n)

With the scope `local`, z1 and z2 are smooth fields of unit variance and correlation k, so that the covariance between
voxels n and m is k(n, m) (L_n L_m^T + diag(sqrt(d_n d_m))); every marginal stays what it is. A fraction of their
variance may be one draw for the whole volume: then k has this value far away, not 0.

Shapes: B tiles in a batch, C classes, R rank, *S the tile's three spatial axes, k samples.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from MoBUncertaintyLib.model.covariance import Scope
from MoBUncertaintyLib.network.correlation import Lengths, smooth
from MoBUncertaintyLib.network.partitions import cell_bounds, spread_cells

MANY_CLASSES = 7
"""From so many classes on it is cheaper to draw z1 and z2 than to factorise a covariance at every voxel."""


def cached_voxels(device: torch.device, voxels: int) -> int:
    """Choose how many voxels to process at once: on a CPU as many as fit in its cache."""
    return min(voxels, 2**16) if device.type == "cpu" else voxels


def stretch(contrast: Tensor, variance: Tensor) -> Tensor:
    """Compute the factor of a contrast >= 0 that makes up for its noise: E[sigma(t)] is again sigma(contrast).

    Noise draws a probability towards 1/2. About 1/2 sqrt(1 + pi v / 8) m makes up for that (MacKay 1992, Neural
    Computation 4, 720), in the tails m + v / 2; between them the inverse cubes of what they add are added. The
    probability is right to 0.005 for v <= 9, to 0.009 for v <= 16 and to 0.017 for v <= 100; for v <= 4 to 4 % of
    itself where it is small.
    """
    root = (1 + math.pi / 8 * variance).sqrt()
    ratio = math.pi / 4 * contrast / (root + 1)  # of what the first adds to what the second does
    return 1 + (root - 1) * (1 + ratio**3) ** (-1 / 3)


class Loading(ABC):
    """L_n in R^(C x R) at every voxel n, stored in the cheapest form, from which some results are cheaper as well."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Compute the loading itself, (B, C, R, *S)."""

    @property
    def rank(self) -> int:
        """R, the number of columns."""
        return self.dense().shape[2]

    def gram(self) -> Tensor:
        """Compute L_n L_n^T, (B, C, C, *S)."""
        dense = self.dense()
        return torch.einsum("bcr...,bdr...->bcd...", dense, dense)

    def contrast_variance(self, one: int = 1, other: int = 0) -> Tensor:
        """Compute |L_1 - L_0|^2, (B, *S): the loading's part of the variance of eta_1 - eta_0, or of two others."""
        return self.contrast_rows(one, other).square().sum(dim=1)

    def contrast_rows(self, one: int = 1, other: int = 0) -> Tensor:
        """Compute L_1 - L_0, (B, R, *S): the loading of eta_1 - eta_0, or of two others."""
        dense = self.dense()
        return dense[:, one] - dense[:, other]

    def apply(self, z: Tensor) -> Tensor:
        """Compute L_n z_n: z (k, B, R, *S), with axes of length one where voxels share a draw -> (k, B, C, *S)."""
        return torch.einsum("bcr...,kbr...->kbc...", self.dense(), z)


@dataclass
class DenseLoading(Loading):
    """The low-rank model's predicted P(x) (Eq. 3). values: (B, C, R, *S)."""

    values: Tensor

    def dense(self) -> Tensor:
        return self.values


@dataclass
class BasisLoading(Loading):
    """L_n = B_m diag(a_n): one of M learned bases, chosen per partition cell, scaled per voxel (Eqs. 4 and 7).

    Attributes:
        bases: B_1 ... B_M, (M, C, R).
        scales: a, (B, R, *S), signed.
        choice: One-hot choice of each cell's basis, (B, M, P, P, P); None if there is only one basis.
        weights: W(x), the probability of each basis in each cell, like `choice`, for the loss of Eq. 10.
        soft: `choice` is not one-hot; a cell's basis is the sum of the bases, weighted by it.
    """

    bases: Tensor
    scales: Tensor
    choice: Tensor | None = None
    weights: Tensor | None = None
    soft: bool = False

    @property
    def rank(self) -> int:
        return self.scales.shape[1]

    def dense(self) -> Tensor:
        if self.choice is None:
            return self.bases[:, :, :, None, None, None] * self.scales[:, None]
        basis = torch.einsum("mcr,bm...->bcr...", self.bases, self.choice)
        return spread_cells(basis, tuple(self.scales.shape[2:])) * self.scales[:, None]

    def gram(self) -> Tensor:
        if self.soft:
            return DenseLoading(self.dense()).gram()
        products = torch.einsum("mcr,mdr->mcdr", self.bases, self.bases)
        flat = self._contract(products.flatten(1, 2), self.scales.square()[None])[0]
        gram: Tensor = flat.unflatten(1, products.shape[1:3])
        return gram

    def contrast_variance(self, one: int = 1, other: int = 0) -> Tensor:
        if self.soft:
            return DenseLoading(self.dense()).contrast_variance(one, other)
        weights = (self.bases[:, one] - self.bases[:, other]).square()
        shape = self.scales.shape[2:]
        size = cached_voxels(self.scales.device, shape.numel())
        scales = self.scales.flatten(2).split(size, dim=2)
        if self.choice is None:
            pieces = [(weights @ a.square())[:, 0] for a in scales]
        else:
            choices = spread_cells(self.choice, tuple(shape)).flatten(2).split(size, dim=2)
            pieces = [((weights @ a.square()) * c).sum(dim=1) for a, c in zip(scales, choices, strict=True)]
        variance: Tensor = torch.cat(pieces, dim=1).unflatten(1, shape)
        return variance

    def contrast_rows(self, one: int = 1, other: int = 0) -> Tensor:
        rows = self.bases[:, one] - self.bases[:, other]
        if self.choice is None:
            return rows[:, :, None, None, None] * self.scales
        chosen = torch.einsum("mr,bm...->br...", rows, self.choice)
        return spread_cells(chosen, tuple(self.scales.shape[2:])) * self.scales

    def apply(self, z: Tensor) -> Tensor:
        return self._contract(self.bases, self.scales * z)

    def _contract(self, weights: Tensor, values: Tensor) -> Tensor:
        """Sum w[m, q, r] v[r, n] over r with n's own m: weights (M, Q, R), values (k, B, R, *S) -> (k, B, Q, *S).

        One small matrix product with all bases, then a choice among M results, is cheaper than a product per cell.
        """
        every = torch.einsum("mqr,kbr...->kbmq...", weights, values)
        if self.choice is None:
            return every[:, :, 0]
        spread = spread_cells(self.choice, tuple(values.shape[3:]))
        return (every * spread[None, :, :, None]).sum(dim=2)


@dataclass
class LogitGaussian:
    """A Gaussian over the logits of a tile.

    Attributes:
        mean: mu, (B, C, *S).
        log_variance: ln d, (B, C, *S); None for the deterministic model (d = 0).
        loading: L; None for the deterministic and the diagonal model.
        scope: Which voxels share z2; with `local`, z1 is a smooth field as well.
        partitions: P, cells per axis for the scope `partition`; or their number along each axis.
        lengths: Correlation length along each axis of *S, in voxels, for the scope `local`.
        shared_fraction: Fraction of the variance of z1 and z2 that all voxels share, for the scope `local`.
        unstretched: With more than two classes the mean before it was stretched, (B, C, *S): its softmax is each
            voxel's mean probability.

    Raises:
        ValueError: The scope is `local`, and there are no lengths.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    loading: Loading | None = None
    scope: Scope = Scope.VOXEL
    partitions: int | tuple[int, ...] = 1
    lengths: Lengths | None = None
    shared_fraction: float = 0.0
    unstretched: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scope is Scope.LOCAL and self.lengths is None:
            raise ValueError("the scope local needs a correlation length")

    @property
    def num_classes(self) -> int:
        return self.mean.shape[1]

    @property
    def is_deterministic(self) -> bool:
        return self.log_variance is None and self.loading is None

    def variance(self) -> Tensor:
        """Compute d, the variance of the diagonal part, (B, C, *S)."""
        return torch.zeros_like(self.mean) if self.log_variance is None else self.log_variance.exp()

    def contrast(self) -> tuple[Tensor, Tensor]:
        """Compute mean m and variance s^2 of eta_1 - eta_0, each (B, *S): all that a two-class softmax depends on.

        Raises:
            ValueError: The model does not have two classes.
        """
        if self.num_classes != 2:
            raise ValueError(f"the contrast is defined for two classes, this model has {self.num_classes}")
        mean = self.mean[:, 1] - self.mean[:, 0]
        variance = torch.zeros_like(mean) if self.log_variance is None else self.log_variance.exp().sum(dim=1)
        if self.loading is not None:
            variance = variance + self.loading.contrast_variance()
        return mean, variance

    def contrast_factors(self) -> Tensor:
        """Compute u (B, R + 2, *S) with eta_1 - eta_0 = m + u . z, z = (z2, z1 of both logits); u . u = s^2.

        With the scope `local` the covariance of the contrast between two voxels is k(n, m) u_n . u_m. Otherwise its
        first R entries belong to noise with the scope's correlation, and the last two to white noise. Without a
        loading R is 0.

        Raises:
            ValueError: The model does not have two classes.
        """
        if self.num_classes != 2:
            raise ValueError(f"the contrast is defined for two classes, this model has {self.num_classes}")
        own = self.variance().sqrt() * self.mean.new_tensor((-1.0, 1.0))[:, None, None, None]
        return own if self.loading is None else torch.cat((self.loading.contrast_rows(), own), dim=1)

    def stretched(self) -> LogitGaussian:
        """Stretch the mean, so that each voxel keeps the probability that its mean logits alone have.

        Each difference of two logits is stretched as that of two classes (`stretch`). A logit becomes the mean of its
        differences to all, weighted by their probabilities, so that those count which compete. With more than two
        classes that is an approximation, which is worst where three are as probable as each other.
        """
        if self.num_classes == 2:
            contrast, variance = self.contrast()
            return replace(self, mean=self.mean * stretch(contrast.abs(), variance)[:, None])
        diagonal, probability = self.variance(), self.mean.softmax(dim=1)
        means = [torch.zeros_like(each) for each in self.mean.unbind(dim=1)]
        for one, other in itertools.combinations(range(self.num_classes), 2):
            difference = self.mean[:, one] - self.mean[:, other]
            variance = diagonal[:, one] + diagonal[:, other]
            if self.loading is not None:
                variance = variance + self.loading.contrast_variance(one, other)
            moved = difference * stretch(difference.abs(), variance)
            means[one] = means[one] + probability[:, other] * moved
            means[other] = means[other] - probability[:, one] * moved
        return replace(self, mean=torch.stack(means, dim=1), unstretched=self.mean)

    def marginal_covariance(self) -> Tensor:
        """Compute Sigma_n = L_n L_n^T + diag(d_n) at every voxel, (B, C, C, *S)."""
        covariance = torch.diag_embed(self.variance().movedim(1, -1)).movedim((-2, -1), (1, 2))
        return covariance if self.loading is None else covariance + self.loading.gram()

    def rsample(self, k: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw k samples of the logits, (k, B, C, *S), differentiable in all parameters (Eq. 14 with sqrt(d) for D).

        z1 is drawn per voxel and class; z2 once per voxel, cell or tile as `scope` says. With `local` both are smooth.
        """
        return self._sampler(generator)(k)

    def _sampler(self, generator: torch.Generator | None) -> Callable[[int], Tensor]:
        """Make the function k -> `rsample`."""
        noise = _Noise(self, generator)
        deviation = None if self.log_variance is None else (0.5 * self.log_variance).exp()

        def logits(k: int) -> Tensor:
            eta = self.mean.expand(k, *self.mean.shape)
            if deviation is not None:
                eta = eta + deviation * noise.field((k, *self.mean.shape))
            if self.loading is not None:
                eta = eta + self.loading.apply(noise.latent(k))
            return eta

        return logits

    def sampler_at(self, mask: Tensor, generator: torch.Generator | None = None) -> Callable[[], Tensor]:
        """Make a function that draws one sample of the logits at N voxels of a single tile, (C, N).

        Noise is drawn for the whole tile, so that the voxels share what they share in `rsample`.

        Args:
            mask: Of the voxels, (*S).
            generator: Source of the normals.
        """
        noise, at = _Noise(self, generator), mask.flatten().nonzero()[:, 0]

        def there(values: Tensor) -> Tensor:
            """Take (..., *S) at the voxels, (..., N); what they share, (..., 1), stays."""
            flat = values.flatten(-3)
            return flat if flat.shape[-1] == 1 else flat.index_select(-1, at)

        mean = there(self.mean[0])
        deviation = None if self.log_variance is None else (0.5 * there(self.log_variance[0])).exp()
        rows = () if self.loading is None else there(self.loading.dense()[0]).transpose(0, 1).contiguous()

        def draw() -> Tensor:
            eta = mean.clone()
            if deviation is not None:
                eta.addcmul_(deviation, there(noise.field(tuple(self.mean.shape))[0]))
            if self.loading is not None:
                for row, latent in zip(rows, there(noise.latent(1)[0, 0]), strict=True):
                    eta.addcmul_(row, latent)
            return eta

        return draw

    def softmax_sampler(self, generator: torch.Generator | None = None) -> Callable[[int], Tensor]:
        """Make the cheapest function k -> logits (k, B, C, *S) whose softmax is distributed as that of `rsample`.

        Noise that is independent between voxels is drawn from each voxel's C x C marginal, with C normals per voxel, or
        one for two classes: the contrast, with 0 for the background. Noise that voxels share is drawn by Eq. 14, and so
        is that of `MANY_CLASSES`, whose marginals would take more memory and time.
        """
        shared = self.scope is Scope.LOCAL or (self.loading is not None and self.scope is not Scope.VOXEL)
        drawn = self.loading is None or self.num_classes >= MANY_CLASSES
        if shared or (drawn and self.num_classes != 2):
            return self._sampler(generator)
        normal = _Noise(self, generator).normal
        if self.num_classes == 2:
            mean, variance = self.contrast()
            deviation = variance.sqrt()

            def contrast_logits(k: int) -> Tensor:
                delta = mean + deviation * normal((k, *mean.shape))
                return torch.stack((torch.zeros_like(delta), delta), dim=2)

            return contrast_logits
        covariance = self.marginal_covariance().movedim((1, 2), (-2, -1))
        # fp32 would lose a small d beside a large loading, and with it the factor.
        size = covariance.detach().diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)
        covariance = covariance + torch.diag_embed(1e-6 * size.expand(*size.shape[:-1], self.num_classes))
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # NaN, as after an overflow in half precision, stays NaN, so that callers can see it.
        factor = factor.masked_fill((failed > 0)[..., None, None], torch.nan).movedim((-2, -1), (1, 2))

        def marginal_logits(k: int) -> Tensor:
            return self.mean + torch.einsum("bcd...,kbd...->kbc...", factor, normal((k, *self.mean.shape)))

        return marginal_logits


@dataclass
class _Noise:
    """Normals for z1 and z2 of a tile."""

    gaussian: LogitGaussian
    generator: torch.Generator | None

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw independent ones on the generator's device, so that a seed gives the same result on every device."""
        mean, generator = self.gaussian.mean, self.generator
        device = mean.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device, dtype=mean.dtype).to(mean.device)

    def field(self, shape: tuple[int, ...]) -> Tensor:
        """Draw normals; with the scope `local` smooth ones, and a part that all voxels share.

        If they share all of it, the three last axes have length one.
        """
        lengths, shared = self.gaussian.lengths, self.gaussian.shared_fraction
        if lengths is None:
            return self.normal(shape)
        if shared == 1:
            return self.normal((*shape[:-3], 1, 1, 1))
        field = smooth(self.normal(shape), lengths)
        if not shared:
            return field
        return math.sqrt(1 - shared) * field + math.sqrt(shared) * self.normal((*shape[:-3], 1, 1, 1))

    def latent(self, k: int) -> Tensor:
        """Draw z2 (k, B, R, *S), with axes of length one where the whole tile shares a draw."""
        gaussian = self.gaussian
        assert gaussian.loading is not None
        scope, batch, shape = gaussian.scope, gaussian.mean.shape[0], tuple(gaussian.mean.shape[2:])
        drawn = (1,) * len(shape) if scope is Scope.TILE else shape
        if scope is Scope.PARTITION:
            cells = (gaussian.partitions,) * 3 if isinstance(gaussian.partitions, int) else gaussian.partitions
            drawn = tuple(len(cell_bounds(*axis)) for axis in zip(shape, cells, strict=True))
        z = self.field((k, batch, gaussian.loading.rank, *drawn))
        return spread_cells(z, shape) if scope is Scope.PARTITION else z
