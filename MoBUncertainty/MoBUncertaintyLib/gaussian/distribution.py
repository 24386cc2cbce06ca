"""The common distribution of all five models: a Gaussian over the logits of a tile (paper, Eqs. 2 to 7, 14).

    eta_n = mu_n + sqrt(d_n) * z1_n + L_n z2,     Sigma_n = L_n L_n^T + diag(d_n)

With the scope `local`, z1 and z2 are smooth fields of unit variance and correlation k, so that the covariance between
voxels n and m is k(n, m) (L_n L_m^T + diag(sqrt(d_n d_m))); every marginal stays what it is. A fraction of their
variance may be one draw for the whole volume: then k has this value far away, not 0.

Arrays are NumPy's or torch's; nothing here imports torch.

Shapes: B tiles in a batch, C classes, R rank, *S the tile's three spatial axes, k samples.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from MoBUncertaintyLib.gaussian.arrays import Array, like, logsumexp, namespace, softmax
from MoBUncertaintyLib.gaussian.correlation import Lengths, smooth
from MoBUncertaintyLib.gaussian.partitions import spread_cells
from MoBUncertaintyLib.model.covariance import Scope

Generator = Any
"""Source of the normals: NumPy's or torch's."""

MANY_CLASSES = 7
"""From so many classes on it is cheaper to draw z1 and z2 than to factorise a covariance at every voxel."""


def stretch(contrast: Array, variance: Array) -> Array:
    """Compute the factor of a contrast >= 0 that makes up for its noise: E[sigma(t)] is again sigma(contrast).

    Noise draws a probability towards 1/2. About 1/2 sqrt(1 + pi v / 8) m makes up for that (MacKay 1992, Neural
    Computation 4, 720), in the tails m + v / 2; between them the inverse cubes of what they add are added. The
    probability is right to 0.005 for v <= 9, to 0.009 for v <= 16 and to 0.017 for v <= 100; for v <= 4 to 4 % of
    itself where it is small.
    """
    root = (1 + math.pi / 8 * variance) ** 0.5
    ratio = math.pi / 4 * contrast / (root + 1)  # of what the first adds to what the second does
    return 1 + (root - 1) * (1 + ratio**3) ** (-1 / 3)


def against_rest(logits: Array, label: int) -> tuple[Array, Array]:
    """Compare a label with the rest.

    Returns:
        eta_c - ln sum exp(eta_others), (B, *S), and its slopes by the logits, (B, C, *S), like these.
    """
    xp = namespace(logits)
    others = xp.concatenate((logits[:, :label], logits[:, label + 1 :]), 1)
    pull = -softmax(others, 1)
    slopes = xp.concatenate((pull[:, :label], xp.ones_like(pull[:, :1]), pull[:, label:]), 1)
    return logits[:, label] - logsumexp(others, 1), slopes


class Loading(ABC):
    """L_n in R^(C x R) at every voxel n, stored in the cheapest form, from which some results are cheaper as well."""

    @abstractmethod
    def dense(self) -> Array:
        """Compute the loading itself, (B, C, R, *S)."""

    @abstractmethod
    def at(self, mask: Array) -> Loading:
        """Take the voxels of a mask, see `LogitGaussian.at`."""

    @property
    def rank(self) -> int:
        """R, the number of columns."""
        return int(self.dense().shape[2])

    def gram(self) -> Array:
        """Compute L_n L_n^T, (B, C, C, *S)."""
        dense = self.dense()
        return namespace(dense).einsum("bcr...,bdr...->bcd...", dense, dense)

    def contrast_variance(self, one: int = 1, other: int = 0) -> Array:
        """Compute |L_1 - L_0|^2, (B, *S): the loading's part of the variance of eta_1 - eta_0, or of two others."""
        dense = self.dense()
        return ((dense[:, one] - dense[:, other]) ** 2).sum(1)

    def mixed(self, weights: Array) -> Array:
        """Compute L_n^T w_n, the loading of a weighted sum of the logits: w (B, C, *S) -> (B, R, *S)."""
        return namespace(weights).einsum("bcr...,bc...->br...", self.dense(), weights)

    def apply(self, z: Array) -> Array:
        """Compute L_n z_n: z (k, B, R, *S), with axes of length one where voxels share a draw -> (k, B, C, *S)."""
        return namespace(z).einsum("bcr...,kbr...->kbc...", self.dense(), z)


@dataclass(eq=False)
class DenseLoading(Loading):
    """The low-rank model's predicted P(x) (Eq. 3). values: (B, C, R, *S)."""

    values: Array

    def dense(self) -> Array:
        return self.values

    def at(self, mask: Array) -> DenseLoading:
        return DenseLoading(_line(self.values, mask))


@dataclass(eq=False)
class BasisLoading(Loading):
    """L_n = B_m diag(a_n): one of M learned bases, chosen per partition cell, scaled per voxel (Eqs. 4 and 7).

    Attributes:
        bases: B_1 ... B_M, (M, C, R).
        scales: a, (B, R, *S), signed.
        choice: One-hot choice of each cell's basis, (B, M, P, P, P); None if there is only one basis.
        weights: W(x), the probability of each basis in each cell, like `choice`, for the loss of Eq. 10.
    """

    bases: Array
    scales: Array
    choice: Array | None = None
    weights: Array | None = None

    @property
    def rank(self) -> int:
        return int(self.scales.shape[1])

    def dense(self) -> Array:
        if self.choice is None:
            return self.bases[:, :, :, None, None, None] * self.scales[:, None]
        basis = namespace(self.bases).einsum("mcr,bm...->bcr...", self.bases, self.choice)
        return spread_cells(basis, tuple(self.scales.shape[2:])) * self.scales[:, None]

    def at(self, mask: Array) -> BasisLoading:
        shape = tuple(self.scales.shape[2:])
        choice = None if self.choice is None else _line(spread_cells(self.choice, shape), mask)
        return BasisLoading(self.bases, _line(self.scales, mask), choice)

    def gram(self) -> Array:
        products = self.bases[:, :, None] * self.bases[:, None]
        bases, classes, _, rank = products.shape
        flat = self._contract(products.reshape(bases, -1, rank), self.scales[None] ** 2)[0]
        return flat.reshape(len(flat), classes, classes, *flat.shape[2:])

    def contrast_variance(self, one: int = 1, other: int = 0) -> Array:
        weights = (self.bases[:, one : one + 1] - self.bases[:, other : other + 1]) ** 2
        return self._contract(weights, self.scales[None] ** 2)[0, :, 0]

    def mixed(self, weights: Array) -> Array:
        return self._contract(self.bases.swapaxes(1, 2), weights[None])[0] * self.scales

    def apply(self, z: Array) -> Array:
        return self._contract(self.bases, self.scales * z)

    def _contract(self, weights: Array, values: Array) -> Array:
        """Sum w[m, q, r] v[r, n] over r with n's own m: weights (M, Q, R), values (k, B, R, *S) -> (k, B, Q, *S).

        One small matrix product with all bases, then a choice among M results, is cheaper than a product per cell.
        """
        flat = weights.reshape(-1, weights.shape[2]) @ values.reshape(*values.shape[:3], -1)
        every = flat.reshape(*values.shape[:2], *weights.shape[:2], *values.shape[3:])
        if self.choice is None:
            return every[:, :, 0]
        spread = spread_cells(self.choice, tuple(values.shape[3:]))
        return (every * spread[None, :, :, None]).sum(2)


@dataclass(eq=False)
class LogitGaussian:
    """A Gaussian over the logits of a tile.

    Attributes:
        logits: Those of the backbone, (B, C, *S): mu, unless the probability is kept.
        log_variance: ln d, (B, C, *S); None for the deterministic model (d = 0).
        loading: L; None for the deterministic and the diagonal model.
        scope: Which voxels share z2; with `local`, z1 is a smooth field as well.
        lengths: Correlation length along each axis of *S, in voxels, for the scope `local`.
        shared_fraction: Fraction of the variance of z1 and z2 that all voxels share, for the scope `local`.
        keep_probability: mu is what makes the softmax of the logits each voxel's mean probability (`mean`).

    Raises:
        ValueError: The scope is `local`, and there are no lengths.
    """

    logits: Array
    log_variance: Array | None = None
    loading: Loading | None = None
    scope: Scope = Scope.VOXEL
    lengths: Lengths | None = None
    shared_fraction: float = 0.0
    keep_probability: bool = False

    def __post_init__(self) -> None:
        self._mean: Array | None = None  # once computed
        if self.scope is Scope.LOCAL and self.lengths is None:
            raise ValueError("the scope local needs a correlation length")

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1])

    @property
    def is_deterministic(self) -> bool:
        return self.log_variance is None and self.loading is None

    def variance(self) -> Array:
        """Compute d, the variance of the diagonal part, (B, C, *S)."""
        xp = namespace(self.logits)
        return xp.zeros_like(self.logits) if self.log_variance is None else xp.exp(self.log_variance)

    @property
    def mean(self) -> Array:
        """Compute mu, (B, C, *S), once: if the probability is kept, the stretched logits, for samples of that mean.

        Each difference of two logits is stretched as that of two classes (`stretch`). A logit becomes the mean of its
        differences to all, weighted by their probabilities, so that those count which compete. With more than two
        classes that is an approximation, which is worst where three are as probable as each other.
        """
        if self._mean is None:  # not by cached_property, whose lock torch.compile does not know
            self._mean = self._stretched() if self.keep_probability else self.logits
        return self._mean

    def _stretched(self) -> Array:
        if self.num_classes == 2:
            contrast = self.logits[:, 1] - self.logits[:, 0]
            return self.logits * stretch(abs(contrast), self._contrast_variance(self.variance()))[:, None]
        diagonal, probability, xp = self.variance(), softmax(self.logits, 1), namespace(self.logits)
        means = [xp.zeros_like(self.logits[:, number]) for number in range(self.num_classes)]
        for one, other in itertools.combinations(range(self.num_classes), 2):
            difference = self.logits[:, one] - self.logits[:, other]
            moved = difference * stretch(abs(difference), self._contrast_variance(diagonal, one, other))
            means[one] = means[one] + probability[:, other] * moved
            means[other] = means[other] - probability[:, one] * moved
        return xp.stack(means, 1)

    def _contrast_variance(self, diagonal: Array, one: int = 1, other: int = 0) -> Array:
        """Compute the variance of the difference of two logits, (B, *S), from d."""
        variance = diagonal[:, one] + diagonal[:, other]
        return variance if self.loading is None else variance + self.loading.contrast_variance(one, other)

    def contrast(self) -> tuple[Array, Array]:
        """Compute mean m and variance s^2 of eta_1 - eta_0, each (B, *S): all that a two-class softmax depends on.

        Raises:
            ValueError: The model does not have two classes.
        """
        if self.num_classes != 2:
            raise ValueError(f"the contrast is defined for two classes, this model has {self.num_classes}")
        return self.mean[:, 1] - self.mean[:, 0], self._contrast_variance(self.variance())

    def contrast_with_rest(self, label: int) -> tuple[Array, Array]:
        """Compute mean and variance of eta_c - ln sum exp(eta_others), each (B, *S): a label against the rest.

        The logarithm is linear around the logits, so the contrast is normal, and its mean is stretched as that of two
        classes, if the probability is kept.
        """
        mean, weights = against_rest(self.logits, label)
        variance = (weights * weights * self.variance()).sum(1)
        if self.loading is not None:
            variance = variance + (self.loading.mixed(weights) ** 2).sum(1)
        return mean * stretch(abs(mean), variance) if self.keep_probability else mean, variance

    def at(self, mask: Array) -> LogitGaussian:
        """Take N voxels, (1, C, 1, 1, N), each with its own marginal and noise of its own.

        Args:
            mask: Of the voxels, (B, *S).
        """
        log_variance = None if self.log_variance is None else _line(self.log_variance, mask)
        loading = None if self.loading is None else self.loading.at(mask)
        return LogitGaussian(_line(self.logits, mask), log_variance, loading, keep_probability=self.keep_probability)

    def marginal_covariance(self) -> Array:
        """Compute Sigma_n = L_n L_n^T + diag(d_n) at every voxel, (B, C, C, *S)."""
        xp, diagonal = namespace(self.logits), self.variance()
        identity = xp.diag(xp.ones_like(diagonal[0, :, 0, 0, 0]))  # on the device, to which a copy would have to wait
        covariance = identity[:, :, None, None, None] * diagonal[:, None]
        return covariance if self.loading is None else covariance + self.loading.gram()

    def rsample(self, k: int, generator: Generator | None = None) -> Array:
        """Draw k samples of the logits, (k, B, C, *S), differentiable in all parameters (Eq. 14 with sqrt(d) for D).

        z1 is drawn per voxel and class; z2 once per voxel or tile as `scope` says. With `local` both are smooth.
        """
        return self._sampler(generator)(k)

    def _sampler(self, generator: Generator | None) -> Callable[[int], Array]:
        """Make the function k -> `rsample`."""
        noise = _Noise(self, generator)
        xp = namespace(self.mean)
        deviation = None if self.log_variance is None else xp.exp(0.5 * self.log_variance)

        def logits(k: int) -> Array:
            eta = xp.broadcast_to(self.mean, (k, *self.mean.shape))
            if deviation is not None:
                eta = eta + deviation * noise.field((k, *self.mean.shape))
            if self.loading is not None:
                eta = eta + self.loading.apply(noise.latent(k))
            return eta

        return logits

    def sampler_at(self, mask: Array, generator: Generator | None = None) -> Callable[[], Array]:
        """Make a function that draws one sample of the logits at N voxels of a single tile, (C, N).

        Noise is drawn for the whole tile, so that the voxels share what they share in `rsample`.

        Args:
            mask: Of the voxels, (*S).
            generator: Source of the normals.
        """
        noise, at = _Noise(self, generator), mask.flatten().nonzero()[:, 0]

        def there(values: Array) -> Array:
            """Take (..., *S) at the voxels, (..., N); what they share, (..., 1), stays."""
            flat = values.flatten(-3)
            return flat if flat.shape[-1] == 1 else flat.index_select(-1, at)

        mean = there(self.mean[0])
        deviation = None if self.log_variance is None else (0.5 * there(self.log_variance[0])).exp()
        rows = () if self.loading is None else there(self.loading.dense()[0]).transpose(0, 1).contiguous()

        def draw() -> Array:
            eta = mean.clone()
            if deviation is not None:
                eta.addcmul_(deviation, there(noise.field(tuple(self.mean.shape))[0]))
            if self.loading is not None:
                for row, latent in zip(rows, there(noise.latent(1)[0, 0]), strict=True):
                    eta.addcmul_(row, latent)
            return eta

        return draw

    def softmax_sampler(self, generator: Generator | None = None) -> Callable[[int], Array]:
        """Make the cheapest function k -> logits (k, B, C, *S) whose softmax is distributed as that of `rsample`.

        Noise that is independent between voxels is drawn from each voxel's C x C marginal, with C normals per voxel, or
        one for two classes: the contrast, with 0 for the background. Noise that voxels share is drawn by Eq. 14, and so
        is that of `MANY_CLASSES`, whose marginals would take more memory and time.
        """
        shared = self.scope is Scope.LOCAL or (self.loading is not None and self.scope is not Scope.VOXEL)
        drawn = self.loading is None or self.num_classes >= MANY_CLASSES
        if shared or (drawn and self.num_classes != 2):
            return self._sampler(generator)
        normal, xp = _Noise(self, generator).normal, namespace(self.mean)
        if self.num_classes == 2:
            mean, variance = self.contrast()
            deviation = variance**0.5

            def contrast_logits(k: int) -> Array:
                delta = mean + deviation * normal((k, *mean.shape))
                return xp.stack((xp.zeros_like(delta), delta), 2)

            return contrast_logits
        rows = _cholesky(self.marginal_covariance())

        def marginal_logits(k: int) -> Array:
            z = normal((k, *self.mean.shape))
            noise = [sum(factor * z[:, :, c] for c, factor in enumerate(row)) for row in rows]
            return self.mean + xp.stack(noise, 2)

        return marginal_logits


def _line(values: Array, mask: Array) -> Array:
    """Take the voxels of a mask (B, *S) from (B, ..., *S), in one line: (1, ..., 1, 1, N)."""
    flat = values.reshape(*values.shape[:-3], -1)
    chosen = [one[..., at] for one, at in zip(flat, mask.reshape(len(mask), -1), strict=True)]
    return namespace(values).concatenate(chosen, -1)[None, ..., None, None, :]


def _cholesky(covariance: Array) -> list[list[Array]]:
    """Compute the lower triangle of the Cholesky factor at every voxel; NaN, as after an overflow, where there is none.

    Args:
        covariance: (B, C, C, *S).
    """
    classes = covariance.shape[1]
    # fp32 would lose a small d beside a large loading, and with it the factor.
    ridge = 1e-6 / classes * sum(covariance[:, c, c] for c in range(classes))
    rows: list[list[Array]] = []
    for row in range(classes):
        rows.append([])
        for column in range(row + 1):
            left = covariance[:, row, column] + (ridge if row == column else 0)
            for one, other in zip(rows[row], rows[column], strict=False):
                left = left - one * other
            rows[row].append(left**0.5 if row == column else left / rows[column][column])
    return rows


@dataclass
class _Noise:
    """Normals for z1 and z2 of a tile."""

    gaussian: LogitGaussian
    generator: Generator | None

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Draw independent ones on the generator's device, so that a seed gives the same result on every device.

        NumPy's arrays need a generator.
        """
        mean, generator = self.gaussian.mean, self.generator
        if isinstance(generator, np.random.Generator):
            return like(generator.standard_normal(shape, dtype=np.float32), mean)
        device = mean.device if generator is None else generator.device
        drawn = namespace(mean).randn(shape, generator=generator, device=device, dtype=mean.dtype)
        return drawn.to(mean.device)

    def field(self, shape: tuple[int, ...]) -> Array:
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

    def latent(self, k: int) -> Array:
        """Draw z2 (k, B, R, *S), with axes of length one where the whole tile shares a draw."""
        gaussian = self.gaussian
        assert gaussian.loading is not None
        shape = tuple(gaussian.mean.shape[2:])
        drawn = (1,) * len(shape) if gaussian.scope is Scope.TILE else shape
        return self.field((k, gaussian.mean.shape[0], gaussian.loading.rank, *drawn))
