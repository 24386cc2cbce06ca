"""Engines: what runs the network and computes the moments of a tile. PyTorch here, OpenVINO in `engine_openvino`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from MoBUncertaintyLib.inference.devices import autocast, autocast_dtype
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.moments import Moments, moments
from MoBUncertaintyLib.prediction import EngineName, Precision

NetworkSource = Callable[[Fold], StochasticNetwork]
"""Gives the network with the weights of a fold, in evaluation mode."""


class EngineError(Exception):
    """An engine cannot run a network here; the message is a sentence for the user.

    Attributes:
        fallback: The engine that can.
    """

    def __init__(self, message: str, fallback: Engine) -> None:
        super().__init__(message)
        self.fallback = fallback


class Engine(ABC):
    """Runs a network, one fold at a time.

    Attributes:
        name: As the settings name it.
        classes: C, background included.
        kept: Classes that are wanted; None: all but the background.
        overlapping: Whether the classes overlap.
        device: What computes, for the provenance; set by `load`.
        precision: Number format of the backbone; set by `load`.
    """

    name: ClassVar[EngineName]
    classes: int
    kept: tuple[int, ...] | None
    overlapping: bool
    device: str
    precision: torch.dtype

    @abstractmethod
    def load(self, fold: Fold, device: torch.device, precision: Precision) -> None:
        """Get ready to run a fold on a device; what is ready already stays as it is.

        Raises:
            EngineError: The engine cannot; so may `run`.
        """

    def unload(self) -> None:  # noqa: B027 - an engine of the CPU has nothing to free
        """Free the device's memory of the weights of all folds; `load` brings back those of one."""

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the network on one tile (1, C_in, *S); the output is valid until the next run."""

    @abstractmethod
    def moments(self, output: tuple[Tensor, ...], generator: torch.Generator) -> Moments:
        """Compute the moments from the output of `run`; `generator` is the source of Monte Carlo's normals."""


class TorchEngine(Engine):
    """PyTorch: runs everything, everywhere.

    Args:
        network_of: Where the network comes from.
        classes: C, background included.
        samples, kept, overlapping: As for `moments`.
    """

    name = EngineName.TORCH

    def __init__(
        self,
        network_of: NetworkSource,
        classes: int,
        samples: int | None = None,
        kept: tuple[int, ...] | None = None,
        overlapping: bool = False,
    ) -> None:
        self.network_of = network_of
        self.classes = classes
        self.samples = samples
        self.kept = kept
        self.overlapping = overlapping
        self._placed: list[StochasticNetwork] = []

    def load(self, fold: Fold, device: torch.device, precision: Precision) -> None:
        with torch.inference_mode(False):  # whose tensors could not be moved again
            network = self.network_of(fold)
            if network not in self._placed:
                self._placed.append(network)
            self._network = network.to(device)
        self._place = device, precision
        self.device, self.precision = str(device), autocast_dtype(device, precision)

    def unload(self) -> None:
        with torch.inference_mode(False):
            while self._placed:
                self._placed.pop().cpu()

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        with autocast(*self._place):
            features, mean = self._network.features(x)
        return features, mean

    def moments(self, output: tuple[Tensor, ...], generator: torch.Generator) -> Moments:
        return moments(self.gaussian(output), self.samples, generator, self.kept, self.overlapping)

    def gaussian(self, output: tuple[Tensor, ...]) -> LogitGaussian:
        """Compute the distribution of the logits from the output of `run`."""
        features, mean = output
        head = self._network.head
        found: LogitGaussian = LogitGaussian(mean) if head is None else head(features, mean)
        return found
