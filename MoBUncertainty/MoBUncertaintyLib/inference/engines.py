"""Engines: what runs the network and computes the moments of a tile.

PyTorch runs everything everywhere. OpenVINO is faster on a CPU, and runs on Intel's GPUs: its graph holds the backbone
and the head, for two classes in closed form down to the moments; the few voxels that need another formula are computed
outside of it. Otherwise its outputs are the tensors of the distribution, from which PyTorch draws samples.
"""

from __future__ import annotations

import hashlib
import re
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from MoBUncertaintyLib import network as network_package
from MoBUncertaintyLib.base.errors import UserError, is_out_of_memory, reason_of
from MoBUncertaintyLib.gaussian import moments as closed_form
from MoBUncertaintyLib.inference.devices import autocast, autocast_dtype
from MoBUncertaintyLib.inference.graph_cache import GraphCache
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.network.contrast import completed, contrast_moments
from MoBUncertaintyLib.network.distribution import LogitGaussian
from MoBUncertaintyLib.network.moments import Moments, moments
from MoBUncertaintyLib.regions.prediction import EngineName, Precision

HINTS = {torch.float32: ("f32", "FP32"), torch.bfloat16: ("bf16", "BF16"), torch.float16: ("f16", "FP16")}
"""OpenVINO's names of number formats: in its settings, and in what a device says that it can do."""

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
        gaussian: LogitGaussian = LogitGaussian(mean) if head is None else head(features, mean)
        return gaussian


class OpenVinoEngine(Engine):
    """OpenVINO, on a graph for one shape of tile.

    Args:
        model: The model.
        pytorch: What computes where OpenVINO cannot; its network is not asked for if the graph is in the cache.
        tile: Voxels of a tile along each axis.
        target: OpenVINO's name of the device.
        cache: Where graphs are kept.
    """

    name = EngineName.OPENVINO

    def __init__(
        self,
        model: Model,
        pytorch: TorchEngine,
        tile: tuple[int, ...],
        target: Literal["CPU", "GPU"] = "CPU",
        cache: GraphCache | None = None,
    ) -> None:
        self.classes, self.samples = pytorch.classes, pytorch.samples
        self.kept, self.overlapping = pytorch.kept, pytorch.overlapping
        self.device = {"CPU": "cpu", "GPU": "xpu"}[target]
        self._model, self._fallback, self._target = model, pytorch, target
        self._shape = (1, model.inputs, *tile)
        self._cache = cache or GraphCache()
        self._failure: EngineError | None = None
        self._loaded: tuple[Fold, Precision, int] | None = None
        if model.card.covariance.kind is Covariance.DETERMINISTIC:
            self._graph: type[_Graph] = _MeanGraph
        else:
            self._graph = _MomentsGraph if self.classes == 2 and self.samples is None else _GaussianGraph

    def load(self, fold: Fold, device: torch.device, precision: Precision) -> None:
        state = fold, precision, torch.get_num_threads()
        if self._failure:
            raise self._failure
        if state != self._loaded:
            try:
                self.precision = self._dtype(precision)
                self._request = self._compiled(fold, HINTS[self.precision][0]).create_infer_request()
            except UserError:  # of the model
                raise
            except Exception as error:  # whatever it is, PyTorch does without
                raise self._failed(error) from error
            self._network = self._fallback.network_of(fold) if self._graph is _GaussianGraph else None
            self._loaded = state

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        try:
            tile = np.ascontiguousarray(x.numpy())  # not by torch, whose threads would take the cores
            output = self._request.infer([tile], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise self._failed(error) from error
        return tuple(torch.from_numpy(array) for array in output.to_tuple())

    def moments(self, output: tuple[Tensor, ...], generator: torch.Generator) -> Moments:
        if self._graph is _MomentsGraph:
            return completed(*output)
        if self._graph is _MeanGraph:
            return moments(LogitGaussian(mean=output[0]), kept=self.kept, overlapping=self.overlapping)
        assert self._network is not None and self._network.head is not None
        return moments(self._network.head.gaussian(*output), self.samples, generator, self.kept)

    def _dtype(self, precision: Precision) -> torch.dtype:
        """Choose the number format: half precision where the hardware computes in it, else float32."""
        if self._target not in _core().available_devices:
            raise RuntimeError(f"it finds no device {self.device}")
        can = _core().get_property(self._target, "OPTIMIZATION_CAPABILITIES")
        if precision is Precision.AUTO:
            half = torch.bfloat16 if self._target == "CPU" else torch.float16
            return half if HINTS[half][1] in can else torch.float32
        dtype: torch.dtype = getattr(torch, precision.value)
        if HINTS[dtype][1] not in can:
            raise RuntimeError(f"it does not compute in {precision} on this computer")
        return dtype

    def _compiled(self, fold: Fold, hint: str) -> Any:
        """Compile the graph of a fold, or take it from the cache."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
            **({"INFERENCE_NUM_THREADS": torch.get_num_threads()} if self._target == "CPU" else {}),
            # Other programs compute too, and would be pinned to the same cores.
            **({"ENABLE_CPU_PINNING": False} if self._target == "CPU" else {}),
        }
        core = _core()
        made_of = {
            "model": self._model.digest,
            "fold": fold,
            "output": self._graph.__name__,
            "shape": self._shape,
            "precision": hint,
            "versions": [openvino().__version__, torch.__version__],
            "code": _code_digest(),
            "device": [core.get_property(self._target, name) for name in ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE")],
        }
        if graph := self._cache.read(made_of):
            try:
                return core.import_model(graph, self._target, settings)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
        compiled = _compile(_traced(self._graph(self._fallback.network_of(fold)), self._shape), self._target, settings)
        self._cache.write(made_of, compiled.export_model().getvalue())
        return compiled

    def _failed(self, error: Exception) -> Exception:
        """Say what becomes of an error of OpenVINO; without enough memory PyTorch could not compute either."""
        if is_out_of_memory(error):
            return error
        # Its own messages begin with places in its source.
        lines = [line for line in str(error).splitlines() if not re.match("Exception from |Check '", line)]
        reason = reason_of(RuntimeError("\n".join(lines)))
        message = f"OpenVINO cannot run this network ({reason}), so PyTorch was used, which takes longer."
        self._failure = EngineError(message, self._fallback)
        return self._failure


class _Graph(nn.Module, ABC):
    """What the engine runs: its outputs are those of `outputs`."""

    def __init__(self, network: StochasticNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(*self.network.features(x))

    @abstractmethod
    def outputs(self, features: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        """Compute from the features and the mean logits what `OpenVinoEngine.moments` takes."""


class _MomentsGraph(_Graph):
    def outputs(self, features: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        assert self.network.head is not None
        return contrast_moments(features, self.network.mean_layer, self.network.head)


class _MeanGraph(_Graph):
    def outputs(self, features: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return (mean,)


class _GaussianGraph(_Graph):
    def outputs(self, features: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        assert self.network.head is not None
        return mean, *self.network.head.tensors(features)


def _traced(graph: _Graph, shape: tuple[int, ...]) -> Any:
    """Turn a graph into one of OpenVINO's, for one shape."""
    openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not by openvino.convert_model(), which is what reports its use.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what is fixed by tracing: the shape, which is fixed
        decoder = TorchScriptPythonDecoder(
            graph.eval(), example_input=(torch.zeros(shape),), shared_memory=False, trace_kwargs={"check_trace": False}
        )
        reader = FrontEndManager().load_by_framework("pytorch")
        converted = reader.convert(reader.load(decoder))
    converted.reshape(list(shape))
    return converted


def _compile(graph: Any, target: str, settings: Mapping[str, Any]) -> Any:
    """Compile a graph; on a processor without AVX-512, OpenVINO may lack registers for the loops that it joins."""
    try:
        return _core().compile_model(graph, target, settings)
    except RuntimeError as error:
        if target != "CPU" or is_out_of_memory(error):
            raise
        return _core().compile_model(graph, target, {**settings, "SNIPPETS_MODE": "DISABLE"})


@cache
def openvino() -> Any:
    """Import OpenVINO, without the package by which it reports to its makers that it was imported.

    Raises:
        RuntimeError: It cannot be loaded.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise RuntimeError(f"it cannot be loaded: {error}") from error
    return openvino


@cache
def _core() -> Any:
    return openvino().Core()


@cache
def _code_digest() -> str:
    """Hash the code that graphs are traced from."""
    files = [Path(closed_form.__file__), *sorted(Path(network_package.__path__[0]).glob("*.py"))]
    nnunet = version("dynamic-network-architectures")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + nnunet.encode()).hexdigest()
