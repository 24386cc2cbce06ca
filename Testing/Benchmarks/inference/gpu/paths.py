"""Every way to compute one tile: is it what float32 on the CPU gives, how fast is it, and what memory does it take?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.gpu.rows import ResultError, Rows
from MoBUncertaintyLib.inference.devices import autocast
from MoBUncertaintyLib.model.covariance import Scope
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import load_network
from MoBUncertaintyLib.network.moments import Moments, moments
from MoBUncertaintyLib.regions.prediction import Precision

WARM_UP = 2
BOUNDS = {Precision.FLOAT32: (1e-3, 0.9999), Precision.FLOAT16: (0.02, 0.999), Precision.BFLOAT16: (0.05, 0.999)}
"""Largest change of a probability, and smallest fraction of equal labels, beside float32 on the CPU."""
ROUNDED = BOUNDS[Precision.FLOAT16]
"""Bounds of what is called float32 and is less: TF32 has as many digits as float16."""
OPEN, FEWEST = 0.01, 500
"""Samples are compared where the variance is above this, if so many voxels have one: their mean is then near normal."""


@dataclass(frozen=True)
class Path:
    """A way to run the network.

    Attributes:
        precision: Of the backbone.
        tf32: Let a GPU round float32 to TF32 in convolutions and matrix products; PyTorch's default for convolutions.
    """

    precision: Precision
    tf32: bool = False

    def __str__(self) -> str:
        return f"{self.precision}{', TF32' * self.tf32}"

    @property
    def bounds(self) -> tuple[float, float]:
        """See `BOUNDS`."""
        return ROUNDED if self.tf32 else BOUNDS[self.precision]


def paths(device: torch.device) -> list[Path]:
    """All that make sense on a device; the plainest come first."""
    on_gpu = [Path(Precision.FLOAT32, tf32=True), Path(Precision.FLOAT16)] if device.type == "cuda" else []
    return [Path(Precision.FLOAT32), Path(Precision.BFLOAT16), *on_gpu]


def check_paths(
    rows: Rows,
    model: Model,
    tile: Tensor,
    device: torch.device,
    samples: int,
    repeats: int,
    judge: bool,
) -> None:
    """One row for each path.

    Args:
        rows: Where they go.
        model: With a covariance head, two classes.
        tile: (1, 1, *S) on the CPU.
        device: Where the paths run.
        samples: K.
        repeats: Timed runs of each system.
        judge: Hold the results to `BOUNDS`; random weights are not held to them.
    """
    network = load_network(model, model.folds[0])
    with torch.inference_mode():
        reference = moments(network.head(*network.features(tile)))
    longest = 0.0
    for path in paths(device):
        start = time.perf_counter()
        rows.add(str(path), lambda p=path: _path(model, p, tile, reference, device, samples, repeats, judge), longest)
        longest = max(longest, time.perf_counter() - start)


def _path(
    model: Model,
    path: Path,
    tile: Tensor,
    reference: Moments,
    device: torch.device,
    samples: int,
    repeats: int,
    judge: bool,
) -> dict[str, Any]:
    with tf32(path.tf32), torch.inference_mode():
        network = load_network(model, model.folds[0]).to(device)
        x = tile.to(device)

        def features() -> tuple[Tensor, Tensor]:
            with autocast(device, path.precision):
                return network.features(x)

        def finish(features: Tensor, mean: Tensor) -> Moments:
            return moments(network.head(features, mean))

        forget_peak(device)
        start = time.perf_counter()
        found = finish(*features())
        finite = bool(torch.isfinite(found.mean.sum() + found.variance.sum()))  # waits for the device
        values: dict[str, Any] = {"first_s": time.perf_counter() - start}
        generator, timed = torch.Generator(device).manual_seed(0), Timer(device, repeats)
        gaussian = network.head(*features())
        values["a_ms"] = timed(features)
        values["e_ms"] = timed(lambda: finish(*features()))
        values |= peak_of(device)  # of the closed form: samples need more
        # Once is enough for what takes long on a CPU.
        once = Timer(device, repeats if device.type == "cuda" else 1)
        values["d_ms"] = values["a_ms"] + once(lambda: moments(gaussian, samples, generator))
    values |= changes(found.mean, found.variance, reference.mean, reference.variance)
    if not finite:
        raise ResultError("The output is not finite.", values)
    if judge:
        hold_to(path.bounds, values)
    return values


def check_samples(rows: Rows, model: Model, tile: Tensor, device: torch.device, samples: int) -> None:
    """Our sampler on the device, beside the closed form on the CPU, in standard errors.

    The mean of K samples is off by the square root of variance / K; the ratio of the two is 1 where all is right.
    """
    network = load_network(model, model.folds[0])

    def check() -> dict[str, Any]:
        with tf32(False), torch.inference_mode():
            exact = moments(network.cpu().head(*network.features(tile)))
            network.to(device)
            # Every voxel its own draws, whatever the model shares: then the errors of voxels average out.
            gaussian = replace(network.head(*network.features(tile.to(device))), scope=Scope.VOXEL)
            drawn = moments(gaussian, samples, torch.Generator(device).manual_seed(0))
            seconds = (
                Timer(device, 1)(lambda: moments(gaussian, samples, torch.Generator(device).manual_seed(0))) / 1000
            )
        doubtful = exact.variance > OPEN
        variance, count = exact.variance[doubtful], int(doubtful.sum())
        z = (drawn.mean.cpu() - exact.mean)[doubtful] / (variance / samples).sqrt()
        ratio = drawn.variance.cpu()[doubtful] / variance * samples / max(samples - 1, 1)
        values = {"k": samples, "voxels": count, "drawing_ms": 1000 * seconds}
        if count < FEWEST:
            return values
        values |= {"error_over_expected": float(z.square().mean().sqrt()), "variance_ratio": float(ratio.mean())}
        if not (0.85 < values["error_over_expected"] < 1.15 and 0.93 < values["variance_ratio"] < 1.07):
            raise ResultError("Mean or variance of the samples are not those of the distribution.", values)
        return values

    rows.add("(d) our Monte Carlo", check)


def changes(mean: Any, variance: Any, true_mean: Any, true_variance: Any) -> dict[str, float]:
    """Largest changes of a probability and a variance, and the fraction of equal labels, of two classes."""
    mean, variance, true_mean, true_variance = (
        each.detach().float().cpu().numpy() if isinstance(each, Tensor) else np.asarray(each)
        for each in (mean, variance, true_mean, true_variance)
    )
    return {
        "probability_change": float(np.abs(mean - true_mean).max()),
        "variance_change": float(np.abs(variance - true_variance).max()),
        "labels_equal": float(np.mean((mean > 0.5) == (true_mean > 0.5))),
    }


def hold_to(bounds: tuple[float, float], values: dict[str, Any]) -> None:
    """Compare changes with their bounds.

    Raises:
        ResultError: A bound is passed.
    """
    largest, equal = bounds
    if not values["probability_change"] <= largest:
        change = values["probability_change"]
        raise ResultError(f"A probability changes by {change:.2g}; at most {largest:g} was expected.", values)
    if values["labels_equal"] < equal:
        raise ResultError(
            f"Only {values['labels_equal']:.3%} of the labels are equal; {equal:.2%} were expected.", values
        )


class Timer:
    """Median milliseconds of a call, warmed up; on a GPU by its own clock."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def __call__(self, work: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            work()
            taken = []
            for _ in range(self.repeats):
                start = time.perf_counter()
                work()
                taken.append(1000 * (time.perf_counter() - start))
            return float(np.median(taken))
        for _ in range(WARM_UP):
            work()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        for start, end in events:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize(self.device)
        return float(np.median([start.elapsed_time(end) for start, end in events]))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def forget_peak(device: torch.device) -> None:
    """Begin to measure the GPU's peak memory anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> dict[str, float]:
    """The GPU's peak memory since `forget_peak`, GB; nothing on a CPU."""
    return {"peak_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}
