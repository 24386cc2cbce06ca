"""Divide a network's logits by a temperature (Guo et al. 2017), in its weights: what runs them need not know of it.

The random logits are divided, eta / T: mean and loading by T, the variance by T^2. So probabilities, variances and what
clicks make of both follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.network.heads import CovarianceHead


@torch.no_grad()
def divide_logits(network: StochasticNetwork, temperature: float) -> None:
    """Divide a network's logits by a temperature, by changing its weights."""
    _divide_layers([network.mean_layer], temperature)
    if network.head is not None:
        divide_head(network.head, temperature)


@torch.no_grad()
def divide_head(head: CovarianceHead, temperature: float) -> None:
    """Divide the noise that a head adds to the logits by a temperature, by changing its weights."""
    # The clamp stays as it is; no variance is near its limits.
    assert head.log_variance.bias is not None
    head.log_variance.bias -= 2 * math.log(temperature)
    _divide_layers(head.loading_layers, temperature)


def _divide_layers(layers: Iterable[nn.Conv3d], temperature: float) -> None:
    for layer in layers:
        layer.weight /= temperature
        if layer.bias is not None:
            layer.bias /= temperature
