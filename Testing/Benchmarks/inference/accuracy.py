"""How far mean and variance are from a reference in float64, on one tile.

The reference shares no code with what it judges beyond the backbone: the head is written out from Eqs. 4 and 7, and the
moments are integrals of the one-dimensional contrast of two classes by the trapezoidal rule. For the normal density and
the logistic function, both analytic in a strip around the real axis, the rule converges geometrically with the step,
whatever the variance; Gauss-Hermite's nodes would have to grow with the square of the deviation.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from inference.literal import literal_moments
from MoBUncertaintyLib.inference.devices import autocast, autocast_dtype, select_device
from MoBUncertaintyLib.inference.preprocessing import Preprocessor
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork, load_network
from MoBUncertaintyLib.network.heads import LOG_VARIANCE_LIMIT, MixtureOfBasesHead
from MoBUncertaintyLib.network.moments import Moments, moments
from MoBUncertaintyLib.network.partitions import cell_bounds
from MoBUncertaintyLib.prediction import Precision

REACH = 9.0  # standard deviations that are integrated over; beyond lie 2e-19 of the mass
STEP = 0.5  # of the logistic function's argument: its poles at i pi leave an error of exp(-2 pi^2 / STEP) = 7e-18
LARGEST_TILE = 64  # voxels along an axis: float64 convolutions are slow


def measure_accuracy(model: Model, ct: sitk.Image, device: str, samples: int) -> dict[str, Any]:
    """Errors of c, d and e, in fp32 and in the device's own precision, on the tile in the middle of a CT.

    Returns:
        By system and precision: largest and root mean square error of mean and variance.
    """
    where = select_device(device)
    network = load_network(model, model.folds[0])
    tile = middle_tile(model, ct)
    with torch.inference_mode():
        reference = logistic_normal_reference(*reference_contrast(network, tile))
        errors: dict[str, Any] = {}
        network.to(where)
        precisions = {"float32": Precision.FLOAT32}
        chosen = str(autocast_dtype(where)).split(".")[-1]
        if chosen != "float32":
            precisions[chosen] = Precision.AUTO
        for name, precision in precisions.items():
            found = network_moments(network, tile.to(where), precision, samples)
            errors |= {f"{system}, {name}": difference(each, reference) for system, each in found.items()}
    return {"device": str(where), "tile": list(tile.shape[2:]), "samples": samples, "errors": errors}


def network_moments(network: StochasticNetwork, tile: Tensor, precision: Precision, samples: int) -> dict[str, Moments]:
    """The moments of a tile by c, d and e."""

    def generator() -> torch.Generator:
        return torch.Generator(tile.device).manual_seed(0)

    with autocast(tile.device, precision):
        features, mean = network.features(tile)
    gaussian = network.head(features, mean)
    return {
        "c": literal_moments(gaussian, samples, generator()),
        "d": moments(gaussian, samples, generator()),
        "e": moments(gaussian, None),
    }


def middle_tile(model: Model, ct: sitk.Image, largest: int = LARGEST_TILE) -> Tensor:
    """The network's input (1, 1, *S) around the middle of a CT, no larger than a patch."""
    preprocessor = Preprocessor(model.plans, model.dataset, model.card.configuration, model.card.orientation)
    data = torch.from_numpy(preprocessor.prepare(ct).data)
    shape = [min(n, largest) for n in preprocessor.patch]
    for axis, n in enumerate(shape, start=1):
        short = max(n - data.shape[axis], 0)
        padding = [0, 0] * (3 - axis) + [short // 2, short - short // 2]
        data = nn.functional.pad(data, padding)
        data = data.narrow(axis, (data.shape[axis] - n) // 2, n)
    return data[None].contiguous()


def reference_contrast(network: StochasticNetwork, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of eta_1 - eta_0 in float64, each (*S), of a Mixture-of-Bases network on the CPU."""
    exact = copy.deepcopy(network).cpu().double().eval()
    layers, head = exact.backbone.decoder.seg_layers, exact.head
    assert isinstance(head, MixtureOfBasesHead)
    last, layers[-1] = layers[-1], nn.Identity()  # hands out the features, which the layer itself would round to fp32
    features = exact.backbone(tile.double())[0]

    def linear(layer: nn.Conv3d, values: Tensor) -> Tensor:
        bias = layer.bias.reshape(-1, *[1] * (values.ndim - 1))
        return torch.tensordot(layer.weight[:, :, 0, 0, 0], values, dims=1) + bias

    mean = linear(last, features)
    variance = linear(head.log_variance, features).clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT).exp().sum(dim=0)
    scales = linear(head.scales, features)
    basis = head.basis / head.basis.norm(dim=1, keepdim=True).clamp_min(1e-6)
    weights = (basis[:, 1] - basis[:, 0]).square()  # (M, R)
    for cell in _cells(features.shape[1:], head.spec.partitions):
        pooled = features[(slice(None), *cell)].mean(dim=(1, 2, 3))
        chosen = linear(head.weighting, pooled).argmax()
        variance[cell] += torch.tensordot(weights[chosen], scales[(slice(None), *cell)].square(), dims=1)
    return mean[1] - mean[0], variance


def logistic_normal_reference(mean: Tensor, variance: Tensor, voxels: int = 4096) -> Moments:
    """E[sigma(t)] and Var[sigma(t)] for t ~ N(mean, variance) in float64, (1, 1, *S), by quadrature."""
    expectations, variances = [], []
    for m, v in zip(mean.flatten().split(voxels), variance.flatten().split(voxels), strict=True):
        deviation = v.sqrt()
        step = min(0.25, STEP / max(float(deviation.max()), 1e-6))
        # The square of sigma has its mass in the tails up to two deviations s beyond the density's.
        count = math.ceil((REACH + 2 * min(float(deviation.max()), 6.0)) / step)
        x = torch.arange(-count, count + 1, dtype=torch.float64) * step
        density = torch.exp(-0.5 * x.square())
        density /= density.sum()
        p = torch.sigmoid(m[:, None] + deviation[:, None] * x)
        expectations.append(p @ density)
        variances.append((p - expectations[-1][:, None]).square() @ density)
    return Moments(*(torch.cat(parts).view(1, 1, *mean.shape) for parts in (expectations, variances)))


def difference(found: Moments, reference: Moments) -> dict[str, float]:
    """Largest and root mean square error of mean and variance."""
    result = {}
    for name in ("mean", "variance"):
        error = getattr(found, name).double().cpu() - getattr(reference, name)
        result[f"{name}_largest"] = float(error.abs().max())
        result[f"{name}_rms"] = float(error.square().mean().sqrt())
    return result


def _cells(shape: tuple[int, ...], partitions: int) -> list[tuple[slice, ...]]:
    bounds = [cell_bounds(size, partitions) for size in shape]
    return [
        tuple(slice(*bounds[axis][i]) for axis, i in enumerate(index))
        for index in np.ndindex(*(len(axis) for axis in bounds))
    ]
