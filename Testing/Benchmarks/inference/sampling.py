"""The sampling stage alone: seconds from the distribution of one tile to its moments, against K."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.measure import settle
from MoBUncertaintyLib.inference.devices import autocast, autocast_dtype, select_device
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import load_network
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.moments import Moments, moments

SAMPLES = (1, 5, 10, 30, 100)


def measure_sampling(model: Model, device: str, repeats: int, samples: int, limit: float) -> dict[str, Any]:
    """Seconds of the stages of one tile of the model's own patch, each the median of several runs after a first one.

    The input is noise: what is computed does not depend on it.

    Args:
        model: With a covariance head.
        device: As for `predict`.
        repeats: Runs.
        samples: K, beside those of `SAMPLES`.
        limit: Seconds for all runs of one system and K; where they would take longer, they are not made.

    Returns:
        `backbone_s`, `head_s`, `e_s`, and for c and d seconds by K.
    """
    where = select_device(device)
    network = load_network(model, model.folds[0]).to(where)
    patch = [int(n) for n in model.plans["configurations"][model.card.configuration]["patch_size"]]
    tile = torch.randn(1, 1, *patch, generator=torch.Generator().manual_seed(0)).to(where)
    generator = torch.Generator(where).manual_seed(0)

    def backbone() -> Any:
        with autocast(where):
            return network.features(tile)

    with torch.inference_mode():
        timer = _Timer(settle(where), repeats)
        features, mean = backbone()
        result: dict[str, Any] = {"backbone_s": timer(backbone), "head_s": timer(lambda: network.head(features, mean))}
        gaussian = network.head(features, mean)
        result["e_s"] = timer(lambda: moments(gaussian, None))
        for system, draw in (("c", literal_moments), ("d", moments)):
            seconds: dict[str, float] = {}
            for k in sorted({*SAMPLES, samples}):
                if seconds and max(v / int(n) for n, v in seconds.items()) * k * (repeats + 1) > limit:
                    break
                seconds[str(k)] = timer(lambda k=k, draw=draw: draw(gaussian, k, generator))
            result[f"{system}_s"] = seconds
    precision = str(autocast_dtype(where)).split(".")[-1]
    return result | {"device": str(where), "precision": precision, "patch": patch}


def literal_moments(gaussian: LogitGaussian, samples: int, generator: torch.Generator | None = None) -> Moments:
    """Eq. 13 as printed: the softmax of K draws of eta = mu + sqrt(d) z1 + B_m diag(a) z2, their mean and variance.

    Both normals are drawn for every voxel, also where the model's own z2 is shared by voxels: the moments are the same.
    One sample at a time, which is the kinder reading: all at once would need K times the memory.
    """
    mean, deviation, loading = gaussian.mean, gaussian.variance().sqrt(), gaussian.loading.dense()  # (B, C, R, *S)

    def draw() -> Tensor:
        z1 = torch.randn(mean.shape, generator=generator, device=mean.device)
        z2 = torch.randn((len(mean), *loading.shape[2:]), generator=generator, device=mean.device)
        return torch.softmax(mean + deviation * z1 + torch.einsum("bcr...,br...->bc...", loading, z2), dim=1)[:, 1:]

    first = second = 0
    for _ in range(samples):
        p = draw()
        first, second = first + p, second + p.square()
    return Moments(first / samples, second / samples - (first / samples).square())


class _Timer:
    """Median seconds of a call; the first one, which warms up, does not count."""

    def __init__(self, wait: Callable[[], None], repeats: int) -> None:
        self._wait, self._repeats = wait, repeats

    def __call__(self, work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(self._repeats + 1):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:]))
