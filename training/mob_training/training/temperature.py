"""Temperature scaling (Guo et al. 2017): all logits are divided by one number, which the validation cases choose.

They do so as whole cases: patches that are centred on an organ, as in training, would give its doubt too much weight,
and the rest of the body would become less sure than it should be.

A stochastic model's logits are divided as random numbers, eta / T: its mean and its loading by T, its variance by T^2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from mob_training.training.predictive import PredictiveNetwork, log_predictive_mean
from MoBUncertaintyLib.inference.devices import autocast
from MoBUncertaintyLib.inference.tiles import TileGrid
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.heads import CovarianceHead

TEMPERATURES = tuple(2 ** (quarter / 4) for quarter in range(-4, 13))
"""Those that are tried, 0.5 to 8; between them the NLL is taken to be a parabola in ln T."""

NOT_COUNTED = -100
"""Label of voxels that lie outside the case, or in an earlier tile, too."""


@torch.no_grad()
def divide_logits(network: PredictiveNetwork, temperature: float) -> None:
    """Change a network's weights so that its logits are those that it had, divided by a temperature."""
    _divide_layers([network.backbone.decoder.seg_layers[-1]], temperature)
    if network.head is not None:
        _divide_head(network.head, temperature)


@torch.no_grad()
def fit_temperature(network: PredictiveNetwork, tiles: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """The temperature at which the predictive mean has the least NLL.

    Args:
        network: In evaluation mode; it is not changed.
        tiles: Parts of images (B, C_in, *S) and their label maps (B, *S), on the network's device; voxels labelled
            `NOT_COUNTED` are not counted.

    Returns:
        The temperature, 0.5 to 8; the NLL per voxel as it is, and with this temperature.
    """
    heads = [copy.deepcopy(network.head) for _ in TEMPERATURES]
    for head, temperature in zip(heads, TEMPERATURES, strict=True):
        if head is not None:
            _divide_head(head, temperature)
    losses, voxels = [], 0
    for data, target in tiles:
        voxels += int((target != NOT_COUNTED).sum())
        with autocast(data.device):
            features, mean = network.features(data)
        row = []
        for head, temperature in zip(heads, TEMPERATURES, strict=True):
            divided = mean / temperature
            gaussian = LogitGaussian(divided) if head is None else head(features, divided)
            log_p = log_predictive_mean(gaussian)
            row.append(float(nn.functional.nll_loss(log_p, target, ignore_index=NOT_COUNTED, reduction="sum")))
        losses.append(row)
    nll = np.sum(losses, axis=0) / voxels
    temperature, least = _vertex(np.log(TEMPERATURES), nll)
    return math.exp(temperature), float(nll[TEMPERATURES.index(1.0)]), least


def side_by_side(data: np.ndarray, labels: np.ndarray, tile: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """As few tiles as cover a case, in which each of its voxels counts once: (1, C_in, *tile) fp32, (1, *tile) int64.

    Args:
        data: The network's input, (C_in, *S); where it is smaller than a tile it is padded with 0, as nnU-Net does.
        labels: (*S); below 0, which is how nnU-Net marks air outside the crop, is background.
        tile: Voxels of a tile.
    """
    image = pad_nd_image(torch.tensor(data, dtype=torch.float32), tile, "constant", {"value": 0})
    target = torch.tensor(labels, dtype=torch.int64).clamp_min(0)
    target = pad_nd_image(target, tile, "constant", {"value": NOT_COUNTED})
    grid = TileGrid(target.shape, tile, overlap=0)
    for number in range(len(grid)):
        place = grid[number]
        yield image[(None, slice(None), *place)], target[place].clone()[None]
        target[place] = NOT_COUNTED


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
