"""Temperature scaling (Guo et al. 2017): divide all logits by one number, fitted on the validation cases.

The cases are used whole: patches centred on an organ, as in training, would give the organ too much weight, and the
rest of the body would become underconfident. How they are divided says `network.backbone`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from mob_training.training.predictive import PredictiveNetwork, log_predictive_mean, merge_missing
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.inference.devices import autocast, uploaded, wide_precision
from MoBUncertaintyLib.inference.tiles import TileGrid
from MoBUncertaintyLib.network.backbone import divide_head

if TYPE_CHECKING:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

TEMPERATURES = tuple(2 ** (quarter / 4) for quarter in range(-4, 13))
"""Temperatures to try, 0.5 to 8; between them the NLL is interpolated by a parabola in ln T."""

NOT_COUNTED = -100
"""Label of voxels outside the case or in an earlier tile."""


@torch.no_grad()
def fit_temperature(network: PredictiveNetwork, tiles: Iterable[tuple[Tensor, ...]]) -> tuple[float, float, float]:
    """Find the temperature, 0.5 to 8, with the lowest NLL of the predictive mean; and the NLL without and with it.

    The network is in evaluation mode, and not changed. Tiles are parts of images (B, C_in, *S) and their label maps (B,
    *S), of which voxels labelled `NOT_COUNTED` are not counted; and, where cases lack labels, which those are, as for
    `merge_missing`.
    """
    heads = [copy.deepcopy(network.head) for _ in TEMPERATURES]
    for head, temperature in zip(heads, TEMPERATURES, strict=True):
        if head is not None:
            divide_head(head, temperature)
    losses, voxels = [], 0
    device = next(network.parameters()).device
    for tile in tiles:
        data, target, *missing = (uploaded(part, device) for part in tile)
        voxels += int((target != NOT_COUNTED).sum())
        with autocast(device, wide_precision(device)):
            features, mean = network.features(data)
        row = []
        for head, temperature in zip(heads, TEMPERATURES, strict=True):
            divided = mean / temperature
            gaussian = LogitGaussian(divided) if head is None else head(features, divided)
            log_p = log_predictive_mean(gaussian)
            for lacked in missing:
                log_p = merge_missing(log_p, lacked)
            row.append(float(nn.functional.nll_loss(log_p, target, ignore_index=NOT_COUNTED, reduction="sum")))
        losses.append(row)
    nll = np.sum(losses, axis=0) / voxels
    temperature, lowest = _vertex(np.log(TEMPERATURES), nll)
    return math.exp(temperature), float(nll[TEMPERATURES.index(1.0)]), lowest


def tiles_of_cases(
    cases: nnUNetBaseDataset, tile: Sequence[int], missing: Callable[[str], Tensor | None]
) -> Iterator[tuple[Tensor, ...]]:
    """Cover whole preprocessed cases with tiles, as `fit_temperature` takes them.

    `missing` returns which labels the case of a name lacks, (1, C); None if it has all.
    """
    for name in cases.identifiers:
        data, labels, _, _ = cases.load_case(name)
        lacked = missing(name)
        for image, target in cover_with_tiles(data[:], labels[0], tile):
            yield (image, target) if lacked is None else (image, target, lacked)


def cover_with_tiles(data: np.ndarray, labels: np.ndarray, tile: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Cover a case with few tiles, in which each voxel counts once: (1, C_in, *tile) fp32, (1, *tile) int64.

    Data (C_in, *S) that are smaller than a tile are padded with 0, as nnU-Net does; labels (*S) below 0, which is how
    nnU-Net marks air outside the crop, are background.
    """
    image = pad_nd_image(torch.tensor(data, dtype=torch.float32), tile, "constant", {"value": 0})
    target = torch.tensor(labels, dtype=torch.int64).clamp_min(0)
    target = pad_nd_image(target, tile, "constant", {"value": NOT_COUNTED})
    grid = TileGrid(target.shape, tile, overlap=0)
    for start in grid.all():
        place = grid.box(start)
        yield image[(None, slice(None), *place)], target[place].clone()[None]
        target[place] = NOT_COUNTED


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Find the minimum of the parabola through the lowest value and its neighbours; at an end, that end."""
    i = int(np.argmin(y))
    if i in (0, len(y) - 1):
        return float(x[i]), float(y[i])
    parabola = np.polynomial.Polynomial.fit(x[i - 1 : i + 2], y[i - 1 : i + 2], 2)
    (lowest,) = parabola.deriv().roots()
    return float(lowest), float(parabola(lowest))
