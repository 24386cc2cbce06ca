"""Covariance heads, one per model: features of the backbone's last stage -> a `LogitGaussian`.

The mean comes from the backbone's own last segmentation layer. Heads run in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from MoBUncertaintyLib.gaussian.correlation import Lengths
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.partitions import cell_means
from MoBUncertaintyLib.gaussian.tile import predicted_loading, tile_gaussian
from MoBUncertaintyLib.model.covariance import LENGTH_RANGE, Covariance, CovarianceSpec

LOG_VARIANCE_LIMIT = 10.0
# At first the low-rank part adds this fraction of the prior variance (1), so that fine-tuning starts near the prior.
INITIAL_LOADING_VARIANCE = 0.1


def project(features: Tensor, *layers: nn.Conv3d) -> tuple[Tensor, ...]:
    """Apply several 1 x 1 x 1 convolutions to the same features as one matrix product, which reads them once.

    On CPUs this is several times faster than the convolutions, which first rearrange the features. In the graph of
    another engine, which keeps the features as its convolutions need them, one convolution is faster.
    """
    sizes = [layer.out_channels for layer in layers]
    bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return torch.split(conv3d(features, torch.cat([layer.weight for layer in layers]), bias), sizes, dim=1)
    weight = torch.cat([layer.weight.flatten(1) for layer in layers])
    flat = features.flatten(2)
    made: Tensor = torch.baddbmm(bias[:, None], weight.expand(flat.shape[0], *weight.shape), flat)
    return torch.split(made.unflatten(2, features.shape[2:]), sizes, dim=1)


class ContrastLayer(NamedTuple):
    """|L_1 - L_0|^2 = sum_r w_r (k * features + b)_r^2, for each of M bases.

    Attributes:
        weight, bias: k, (R, F, 1, 1, 1), and b, (R,).
        sums: w, (M, R).
        choosing: Layer of M outputs whose largest in each cell, on average, tells the basis; None if M is 1.
    """

    weight: Tensor
    bias: Tensor
    sums: Tensor
    choosing: nn.Conv3d | None = None


class CovarianceHead(nn.Module):
    """Sigma = diag(d(x)), which all stochastic models share.

    The log-variance is predicted, since Eq. 4 needs a variance and Eq. 14 a standard deviation, and clamped to
    [-10, 10].
    """

    step_mm: tuple[float, ...] | None = None
    """Voxel size of the network's input along its axes, for the scope `local`; set by `build_head`."""

    def __init__(self, spec: CovarianceSpec, features: int, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.classes = classes
        if spec.learn_length:
            assert spec.length_mm is not None
            self.log_length = nn.Parameter(torch.tensor(spec.length_mm).log())
        self.log_variance = nn.Conv3d(features, classes, kernel_size=1)
        # Starts at the prior, d = 1, everywhere (Eq. 8 is then zero).
        nn.init.zeros_(self.log_variance.weight)
        _zero_bias(self.log_variance)

    @property
    def loading_layers(self) -> tuple[nn.Conv3d, ...]:
        """Layers whose outputs `predicted_loading` takes, before `cell_tensors` and `bases`."""
        return ()

    def lengths(self) -> Lengths | None:
        """Compute the correlation length along each axis in voxels; None for all scopes but `local`."""
        if self.spec.length_mm is None:
            return None
        assert self.step_mm is not None
        if self.spec.learn_length:
            low, high = LENGTH_RANGE
            in_mm: Tensor = self.log_length.clamp(math.log(low), math.log(high)).exp()
            return torch.stack([length / step for length, step in zip(in_mm, self.step_mm, strict=True)])
        return tuple(length / step for length, step in zip(self.spec.length_mm, self.step_mm, strict=True))

    def cell_tensors(self, features: Tensor) -> tuple[Tensor, ...]:
        """Compute what L needs for each cell of the partition, from the features of a tile."""
        return ()

    def bases(self) -> tuple[Tensor, ...]:
        """Return what L needs that is the same for all tiles."""
        return ()

    def contrast_layer(self) -> ContrastLayer | None:
        """Return |L_1 - L_0|^2 as layers, for engines to which these are faster, if there are such."""
        return None

    def tensors(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (B, F, *S) of a tile to what `gaussian` takes, in fp32."""
        with torch.autocast(device_type=features.device.type, enabled=False):
            features = features.float()
            log_variance, *predicted = project(features, self.log_variance, *self.loading_layers)
            log_variance = log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
            return log_variance, *predicted, *self.cell_tensors(features), *self.bases()

    def gaussian(self, mean: Tensor, log_variance: Tensor, *predicted: Tensor) -> LogitGaussian:
        """Make the distribution of a tile from its mean (B, C, *S) and its `tensors`."""
        with torch.autocast(device_type=mean.device.type, enabled=False):
            loading = predicted_loading(self.spec, self.classes, predicted, self.training)
            return tile_gaussian(self.spec, mean.float(), log_variance, loading, self.lengths())

    def forward(self, features: Tensor, mean: Tensor) -> LogitGaussian:
        """Map features (B, F, *S) and mean (B, C, *S) of a tile to its distribution, in fp32."""
        return self.gaussian(mean, *self.tensors(features))


class LowRankHead(CovarianceHead):
    """Sigma = P(x) P(x)^T + diag(d(x)) with predicted P (Eq. 3; Stochastic Segmentation Networks)."""

    def __init__(self, spec: CovarianceSpec, features: int, classes: int) -> None:
        super().__init__(spec, features, classes)
        self.factors = nn.Conv3d(features, classes * spec.rank, kernel_size=1)
        _init_loading(self.factors, spec.rank)

    @property
    def loading_layers(self) -> tuple[nn.Conv3d, ...]:
        return (self.factors,)

    def contrast_layer(self) -> ContrastLayer:
        weight, bias = (_of_classes(tensor, self.classes) for tensor in (self.factors.weight, self.factors.bias))
        return ContrastLayer(weight[1] - weight[0], bias[1] - bias[0], weight.new_ones(1, self.spec.rank))


class SingleBasisHead(CovarianceHead):
    """Sigma_n = B diag(a_n)^2 B^T + diag(d_n) with one learned basis B (Eq. 4)."""

    def __init__(self, spec: CovarianceSpec, features: int, classes: int, bases: int = 1) -> None:
        super().__init__(spec, features, classes)
        self.basis = nn.Parameter(torch.randn(bases, classes, spec.rank))
        self.scales = nn.Conv3d(features, spec.rank, kernel_size=1)
        _init_loading(self.scales, spec.rank, per_class=classes)

    def unit_basis(self) -> Tensor:
        """Normalise the columns of the bases, (M, C, R), to unit norm, so that the scale is identified by a alone."""
        unit: Tensor = self.basis / self.basis.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return unit

    @property
    def loading_layers(self) -> tuple[nn.Conv3d, ...]:
        return (self.scales,)

    def bases(self) -> tuple[Tensor, ...]:
        return (self.unit_basis(),)

    def contrast_layer(self) -> ContrastLayer:
        unit = self.unit_basis()
        assert self.scales.bias is not None
        return ContrastLayer(self.scales.weight, self.scales.bias, (unit[:, 1] - unit[:, 0]).square())


class MixtureOfBasesHead(SingleBasisHead):
    """Sigma_n = B_m diag(a_n)^2 B_m^T + diag(d_n), m the most probable of M bases in n's partition cell (Eqs. 6, 7).

    The choice is hard in the forward pass; in training its gradient is the softmax's, since an argmax would leave W to
    the entropy term alone.
    """

    def __init__(self, spec: CovarianceSpec, features: int, classes: int) -> None:
        super().__init__(spec, features, classes, spec.bases)
        self.weighting = nn.Conv3d(features, spec.bases, kernel_size=1)

    def weights(self, features: Tensor) -> Tensor:
        """Compute W(x), the probability of each basis in each cell, (B, M, P, P, P).

        Pooling before the 1 x 1 x 1 convolution equals pooling after it, and reads the features once.
        """
        pooled = cell_means(features.float(), self.spec.partitions)
        return torch.softmax(self.weighting(pooled), dim=1)

    def cell_tensors(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.weights(features),)

    def contrast_layer(self) -> ContrastLayer:
        return super().contrast_layer()._replace(choosing=self.weighting)


HEADS: dict[Covariance, type[CovarianceHead]] = {
    Covariance.DIAGONAL: CovarianceHead,
    Covariance.LOW_RANK: LowRankHead,
    Covariance.SINGLE_BASIS: SingleBasisHead,
    Covariance.MIXTURE_OF_BASES: MixtureOfBasesHead,
}


def build_head(
    spec: CovarianceSpec, features: int, classes: int, spacing: Sequence[float] | None = None
) -> CovarianceHead | None:
    """Build the head that `spec` describes; None for the deterministic model.

    Args:
        spec: Its shape.
        features: Channels of the feature map.
        classes: C, background included.
        spacing: Voxel size along the axes of the network's input, mm, as plans state it; for the scope `local`.

    Raises:
        ValueError: The scope is `local`, and there is no spacing.
    """
    if spec.kind is Covariance.DETERMINISTIC:
        return None
    if spec.length_mm is not None and spacing is None:
        raise ValueError("a head with the scope local needs the spacing of the network's input")
    head = HEADS[spec.kind](spec, features, classes)
    head.step_mm = None if spacing is None else tuple(map(float, spacing))
    return head


def _init_loading(layer: nn.Conv3d, rank: int, per_class: int = 1) -> None:
    """Initialise a loading so that L L^T has about INITIAL_LOADING_VARIANCE on its diagonal for features of unit scale.

    A basis column of unit norm over C classes has mean square 1 / C per class, which `per_class` compensates.
    """
    deviation = math.sqrt(INITIAL_LOADING_VARIANCE * per_class / rank / layer.in_channels)
    nn.init.normal_(layer.weight, std=deviation)
    _zero_bias(layer)


def _of_classes(values: Tensor | None, classes: int) -> Tensor:
    assert values is not None
    split: Tensor = values.unflatten(0, (classes, -1))
    return split


def _zero_bias(layer: nn.Conv3d) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
