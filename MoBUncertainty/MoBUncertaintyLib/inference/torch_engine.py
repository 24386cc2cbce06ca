"""PyTorch runs every network on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.probability import Moments, moments
from MoBUncertaintyLib.inference.devices import autocast, autocast_dtype, cuda_settings, uploaded
from MoBUncertaintyLib.inference.engines import Engine, marked
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork, fitting_weights, load_network
from MoBUncertaintyLib.regions.prediction import EngineName, Precision


class TorchEngine(Engine):
    """PyTorch; its networks stay as they are loaded."""

    name = EngineName.TORCH
    packages = ("torch", "nnunetv2")

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._device = torch.device("cpu")
        self._networks: dict[Fold, StochasticNetwork] = {}

    def number_size(self, device: str, precision: Precision) -> int:
        return autocast_dtype(torch.device(device), precision).itemsize

    def network_of(self, fold: Fold, device: str = "cpu") -> StochasticNetwork:
        """Return the network with the weights of a fold: on a GPU one for each fold, on a CPU the one of the last fold.

        A GPU is faster than weights are read and checked, and its memory is not the computer's.
        """
        if fold not in self._networks:
            if self._networks and device == "cpu":
                network = self._networks.popitem()[1]
                self._networks.clear()
                network.load_state_dict(fitting_weights(network, self.model, fold), assign=True)
            else:
                network = load_network(self.model, fold)
            self._networks[fold] = network
        return self._networks[fold]

    def load(self, fold: Fold, device: str, precision: Precision) -> None:
        self._device, self._format = torch.device(device), precision
        self._network = self.network_of(fold, device).to(self._device)
        self.device = str(self._device)
        self.precision = Precision(str(autocast_dtype(self._device, precision)).removeprefix("torch."))

    def unload(self) -> None:
        for network in self._networks.values():
            network.cpu()

    def free(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def uploaded(self, tile: np.ndarray) -> Tensor:
        return uploaded(torch.from_numpy(tile), self._device)

    @torch.inference_mode()
    @cuda_settings()
    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        with autocast(self._device, self._format):
            features, mean = self._network.features(x)
        return features, mean

    @torch.inference_mode()
    def moments(self, output: tuple[Tensor, ...], seed: int) -> Moments:
        result = moments(self.gaussian(output), self.samples, self.generator(seed), self.wanted, self.overlapping)
        return marked(result, output[1])

    def gaussian(self, output: tuple[Tensor, ...]) -> LogitGaussian:
        features, mean = output
        head = self._network.head
        gaussian: LogitGaussian = LogitGaussian(mean) if head is None else head(features, mean)
        return gaussian

    def generator(self, seed: int) -> np.random.Generator | torch.Generator:
        """Return the source of Monte Carlo's normals: on a CPU NumPy's, as for OpenVINO."""
        on_cpu = self._device.type == "cpu"
        return np.random.default_rng(seed) if on_cpu else torch.Generator(self._device).manual_seed(seed)

    def clock(self) -> Callable[[], Any]:
        return _CudaTime if self._device.type == "cuda" else super().clock()


class _CudaTime:
    """A time of a CUDA device's own clock, for which nobody has to wait before it is read."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, earlier: _CudaTime) -> float:
        torch.cuda.synchronize()
        milliseconds: float = earlier.event.elapsed_time(self.event)
        return milliseconds / 1000
