"""Temperature scaling (Guo et al. 2017): all logits are divided by one number, which validation patches choose.

A stochastic model's logits are divided as random numbers, eta / T: its mean and its loading by T, its variance by T^2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mob_training.predictive import PredictiveNetwork, log_predictive_mean
from MoBUncertaintyLib.devices import autocast
from MoBUncertaintyLib.distribution import LogitGaussian
from MoBUncertaintyLib.heads import CovarianceHead

TEMPERATURES = tuple(2 ** (quarter / 4) for quarter in range(-4, 13))
"""Those that are tried, 0.5 to 8; between them the NLL is taken to be a parabola in ln T."""


@torch.no_grad()
def divide_logits(network: PredictiveNetwork, temperature: float) -> None:
    """Change a network's weights so that its logits are those that it had, divided by a temperature."""
    _divide_layers([network.backbone.decoder.seg_layers[-1]], temperature)
    if network.head is not None:
        _divide_head(network.head, temperature)


@torch.no_grad()
def fit_temperature(network: PredictiveNetwork, patches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """The temperature at which the predictive mean has the least NLL.

    Args:
        network: In evaluation mode; it is not changed.
        patches: Image patches (B, C_in, *S) and their label maps (B, *S), on the network's device.

    Returns:
        The temperature, 0.5 to 8; the NLL per voxel as it is, and with this temperature.
    """
    heads = [copy.deepcopy(network.head) for _ in TEMPERATURES]
    for head, temperature in zip(heads, TEMPERATURES, strict=True):
        if head is not None:
            _divide_head(head, temperature)
    losses = []
    for data, target in patches:
        with autocast(data.device):
            features, mean = network.features(data)
        row = []
        for head, temperature in zip(heads, TEMPERATURES, strict=True):
            divided = mean / temperature
            gaussian = LogitGaussian(divided) if head is None else head(features, divided)
            row.append(float(nn.functional.nll_loss(log_predictive_mean(gaussian), target)))
        losses.append(row)
    nll = np.mean(losses, axis=0)
    temperature, least = _vertex(np.log(TEMPERATURES), nll)
    return math.exp(temperature), float(nll[TEMPERATURES.index(1.0)]), least


def _divide_head(head: CovarianceHead, temperature: float) -> None:
    # Its clamp stays where it is; a variance that is near a limit would be cut off there, but none is.
    head.log_variance.bias -= 2 * math.log(temperature)
    _divide_layers(head.loading_layers, temperature)


def _divide_layers(layers: Iterable[nn.Conv3d], temperature: float) -> None:
    for layer in layers:
        layer.weight /= temperature
        layer.bias /= temperature


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Lowest point of the parabola through the least of some values and its neighbours; at an end, that end."""
    least = int(np.argmin(y))
    if least in (0, len(y) - 1):
        return float(x[least]), float(y[least])
    parabola = np.polynomial.Polynomial.fit(x[least - 1 : least + 2], y[least - 1 : least + 2], 2)
    (lowest,) = parabola.deriv().roots()
    return float(lowest), float(parabola(lowest))
