"""Two-class moments from features, as convolutions and arithmetic alone: what other inference engines run fast.

The values are those of `LogitGaussian.contrast` and `closed_form_moments`. Engines lay memory out voxel by voxel, as
their convolutions need it: whatever is not a convolution or arithmetic comes after all channels are summed, and is done
on few of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian, stretch
from MoBUncertaintyLib.gaussian.moments import fused_moments
from MoBUncertaintyLib.gaussian.partitions import cell_means, spread_cells
from MoBUncertaintyLib.gaussian.tile import largest
from MoBUncertaintyLib.network.heads import LOG_VARIANCE_LIMIT, CovarianceHead


def contrast(features: Tensor, mean_layer: nn.Conv3d, head: CovarianceHead) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of the contrast of two classes, each (B, *S), from the features (B, F, *S)."""
    layer = head.contrast_layer()
    if layer is None:
        gaussian: LogitGaussian = head(features, mean_layer(features)[1])
        return gaussian.contrast()
    choosing = [] if layer.choosing is None else [layer.choosing]
    layers = [head.log_variance, *choosing]
    difference = [_split(each[1:] - each[:1]) for each in (mean_layer.weight, mean_layer.bias) if each is not None]
    few = conv3d(
        features,
        torch.cat([difference[0], *(each.weight for each in layers)]),
        torch.cat([difference[1], *(each.bias for each in layers if each.bias is not None)]),
    )
    rounded, rest, *others = torch.split(few, [1, 1, 1, 1, *(each.out_channels for each in choosing)], dim=1)
    mean = rounded + rest
    background, foreground = (x.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT).exp() for x in others[:2])
    sums = conv3d(conv3d(features, layer.weight, layer.bias).square(), layer.sums[..., None, None, None])
    parts = sums.unbind(dim=1)  # what is done with these is one loop, which a sum over an axis would not join
    if choosing:
        shape = tuple(int(size) for size in features.shape[2:])
        chosen = spread_cells(largest(cell_means(others[2], head.spec.partitions)), shape)
        parts = tuple(part * here for part, here in zip(parts, chosen.unbind(dim=1), strict=True))
    mean, variance = mean[:, 0], sum(parts, (background + foreground)[:, 0])
    return (mean * stretch(mean.abs(), variance) if head.spec.keep_probability else mean), variance


def _split(values: Tensor) -> Tensor:
    """Split (1, ...) into numbers that bfloat16 holds and what they leave, (2, ...).

    Where an engine rounds weights to bfloat16, those of the mean would change more labels than its whole backbone.
    """
    scaled = (2**16 + 1) * values  # Veltkamp's splitting
    rounded = scaled - (scaled - values)
    return torch.cat((rounded, values - rounded))


def contrast_moments(features: Tensor, mean_layer: nn.Conv3d, head: CovarianceHead) -> tuple[Tensor, ...]:
    """Compute what `gaussian.probability.completed` takes."""
    mean, variance = contrast(features, mean_layer, head)
    return mean, variance, *fused_moments(mean, variance)
