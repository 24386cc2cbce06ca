"""Engines: what runs the network and computes the moments of a tile. Nothing here imports torch.

PyTorch (`torch_engine`) runs everything everywhere. OpenVINO is faster on a CPU, and runs on Intel's GPUs: its graph
holds the backbone and the head, for two classes in closed form down to the moments; the few voxels that need another
formula are computed outside of it. Otherwise its outputs are the arrays of the Gaussian, of which NumPy draws samples.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from MoBUncertaintyLib.base.errors import InstallationError, SettingsError, UserError, is_out_of_memory
from MoBUncertaintyLib.base.packages import check_pytorch, has_pytorch, is_installed
from MoBUncertaintyLib.gaussian.arrays import Array
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.probability import Moments, completed, moments
from MoBUncertaintyLib.gaussian.tile import predicted_loading, tile_gaussian
from MoBUncertaintyLib.model.card import Fold, overlap
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.graph import is_wanted, openvino, openvino_reason, read_graph
from MoBUncertaintyLib.regions.prediction import EngineName, Precision

HINTS = {Precision.FLOAT32: ("f32", "FP32"), Precision.BFLOAT16: ("bf16", "BF16"), Precision.FLOAT16: ("f16", "FP16")}
"""OpenVINO's names of number formats: in its settings, and in what a device says that it can do."""

THREADS = "OMP_NUM_THREADS"
"""Environment variable by which programs are told how many cores to take."""


class EngineError(Exception):
    """An engine cannot run a network here; the message is a sentence for the user.

    Attributes:
        fallback: Makes the engine that can.
    """

    def __init__(self, message: str, fallback: Callable[[], Engine]) -> None:
        super().__init__(message)
        self.fallback = fallback


class Engine(ABC):
    """Runs a network, one fold at a time.

    Args:
        model: The model.

    Attributes:
        name: As the settings name it.
        packages: Whose versions the provenance states.
        classes: C, background included.
        overlapping: Whether the classes overlap.
        samples: K, as for `moments`.
        wanted: Its `classes`.
        device: What computes, for the provenance; set by `load`.
        precision: Number format of the backbone; set by `load`.
    """

    name: ClassVar[EngineName]
    packages: ClassVar[tuple[str, ...]]
    device: str
    precision: Precision

    def __init__(self, model: Model) -> None:
        self.model = model
        self.classes, self.overlapping = len(model.card.labels) + 1, overlap(model.card.labels)
        self.samples: int | None = None
        self.wanted: tuple[int, ...] | None = None

    @abstractmethod
    def number_size(self, device: str, precision: Precision) -> int:
        """Return the bytes of a number of the backbone, at least."""

    @abstractmethod
    def load(self, fold: Fold, device: str, precision: Precision) -> None:
        """Get ready to run a fold on a device; what is ready already stays as it is.

        Raises:
            EngineError: The engine cannot; so may `run`.
        """

    def unload(self) -> None:  # noqa: B027 - an engine of the CPU has nothing to free
        """Free the device's memory of the weights of all folds; `load` brings back those of one."""

    def free(self) -> None:  # noqa: B027 - the same
        """Give memory that the device holds ready back to it."""

    def uploaded(self, tile: np.ndarray) -> Array:
        """Copy a tile to where `run` takes it from."""
        return tile

    @abstractmethod
    def run(self, x: Array) -> tuple[Array, ...]:
        """Run the network on one tile (1, C_in, *S) that was uploaded; the output is valid until the next run."""

    @abstractmethod
    def moments(self, output: tuple[Array, ...], seed: int) -> Moments:
        """Compute the moments from the output of `run`; not all are finite if not all of that is.

        Args:
            output: Of `run`.
            seed: Of Monte Carlo.
        """

    @abstractmethod
    def gaussian(self, output: tuple[Array, ...]) -> LogitGaussian:
        """Make the distribution of the logits from the output of `run`."""

    def clock(self) -> Callable[[], Any]:
        """Return what reads the device's clock; two times differ by seconds."""
        return time.perf_counter


class OpenVinoEngine(Engine):
    """OpenVINO, on the graph in the model or, where it has none, on one that PyTorch traces.

    Args:
        model: The model.
        fallback: Makes the engine that computes where OpenVINO cannot.
        target: OpenVINO's name of the device.
    """

    name = EngineName.OPENVINO
    packages = ("openvino",)

    def __init__(self, model: Model, fallback: Callable[[], Engine], target: Literal["CPU", "GPU"] = "CPU") -> None:
        super().__init__(model)
        self.device = {"CPU": "cpu", "GPU": "xpu"}[target]
        self._fallback, self._target = fallback, target
        self._failure: Exception | None = None
        self._requests: dict[tuple[Fold, Precision, str], Any] = {}

    @property
    def _outputs(self) -> str:
        """Which of the graph's lists of outputs is needed."""
        return "moments" if self.samples is None and "moments" in self.model.output_shapes else "gaussian"

    def number_size(self, device: str, precision: Precision) -> int:
        return 4 if precision is Precision.FLOAT32 else 2

    def load(self, fold: Fold, device: str, precision: Precision) -> None:
        if self._failure:
            raise self._failure
        try:
            self.precision = self._format(precision)
            state = fold, self.precision, self._outputs
            if state not in self._requests:  # folds take turns, and a graph takes seconds to compile
                self._requests[state] = self._compiled(fold).create_infer_request()
            self._request = self._requests[state]
        except UserError:  # of the model
            raise
        except Exception as error:  # whatever it is, PyTorch does without
            raise self._failed(error) from error

    def run(self, x: Array) -> tuple[Array, ...]:
        try:
            output = self._request.infer([np.ascontiguousarray(x)], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise self._failed(error) from error
        return tuple(output.to_tuple())

    def moments(self, output: tuple[Array, ...], seed: int) -> Moments:
        if self._outputs == "moments":
            return completed(*output)
        generator = np.random.default_rng(seed)
        with np.errstate(all="ignore"):  # what overflows is looked for
            result = moments(self.gaussian(output), self.samples, generator, self.wanted, self.overlapping)
            return marked(result, output[0])

    def gaussian(self, output: tuple[Array, ...]) -> LogitGaussian:
        mean, *rest = output
        if not rest:
            return LogitGaussian(mean)
        log_variance, *predicted = rest
        spec = self.model.card.covariance
        loading = predicted_loading(spec, self.classes, predicted)
        # Their unit does not matter: a voxel's probability knows nothing of its neighbours.
        return tile_gaussian(spec, mean, log_variance, loading, spec.length_mm)

    def _format(self, precision: Precision) -> Precision:
        """Choose the number format: half precision where the hardware computes in it, else float32."""
        if self._target not in _core().available_devices:
            raise RuntimeError(f"it finds no device {self.device}")
        can = _core().get_property(self._target, "OPTIMIZATION_CAPABILITIES")
        if precision is Precision.AUTO:
            half = Precision.BFLOAT16 if self._target == "CPU" else Precision.FLOAT16
            return half if HINTS[half][1] in can else Precision.FLOAT32
        if HINTS[precision][1] not in can:
            raise RuntimeError(f"it does not compute in {precision} on this computer")
        return precision

    def _compiled(self, fold: Fold) -> Any:
        """Compile the graph of a fold."""
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS[self.precision][0],
        }
        if self._target == "CPU":
            settings["ENABLE_CPU_PINNING"] = False  # other programs compute too, and would be pinned to the same cores
            if (threads := os.environ.get(THREADS, "")).isdecimal():
                settings["INFERENCE_NUM_THREADS"] = int(threads)
        graph = self.model.graph(fold)
        if graph is None:
            from MoBUncertaintyLib.network.tracing import traced

            graph = traced(self.model, fold)
        exact = self.precision is Precision.FLOAT32
        return _compile(read_graph(graph, self._outputs, exact), self._target, settings)

    def _failed(self, error: Exception) -> Exception:
        """Say what becomes of an error of OpenVINO; without enough memory PyTorch could not compute either."""
        if is_out_of_memory(error):
            return error
        reason = f"OpenVINO cannot run this network ({openvino_reason(error)})"
        if not has_pytorch():
            return InstallationError(f"{reason}; PyTorch can: run `pip install 'mob-uncertainty[gpu]'`.")
        message = f"{reason}, so PyTorch was used, which takes longer."
        self._failure = EngineError(message, self._fallback)
        return self._failure


def marked(result: Moments, logits: Array) -> Moments:
    """Put a NaN into moments whose logits are not all finite: infinite ones would look like a sure probability."""
    result.mean[(0,) * result.mean.ndim] += 0 * logits.sum()
    return result


def select_engine(engine: str, device: str) -> tuple[EngineName, str]:
    """Choose engine and device by name; `auto` takes a GPU that PyTorch has, then OpenVINO, then PyTorch on the CPU.

    Returns:
        The engine; the device, `xpu` for Intel's GPU.

    Raises:
        SettingsError: This computer does not have them, or the one cannot use the other.
    """
    name = EngineName(engine)
    if device == "auto" and (name is EngineName.OPENVINO or not may_have_gpu()):
        device = "cpu"
    if name is EngineName.OPENVINO and device not in ("cpu", "xpu"):
        raise SettingsError(f"OpenVINO cannot run on {device}; choose the device auto, cpu or xpu, or another engine.")
    if device != "cpu" and (device != "xpu" or name is EngineName.TORCH):
        check_pytorch(f"The device {device}")
        from MoBUncertaintyLib.inference.devices import select_device

        device = str(select_device(device))
    if name is EngineName.AUTO:
        nothing = not (has_pytorch() or is_installed("openvino"))  # then OpenVINO is installed sooner
        light = device == "xpu" or (device == "cpu" and (is_wanted() or nothing))
        name = EngineName.OPENVINO if light else EngineName.TORCH
    if name is EngineName.TORCH:
        check_pytorch("The engine torch")
    elif not is_installed("openvino"):
        raise SettingsError(
            "OpenVINO is not installed; install the Python package openvino, or choose the engine torch."
        )
    return name, device


def verify(path: Path | str) -> Model:
    """Open a model, read all its weights, and check that they fit its network; of a cascade those of both stages.

    Raises:
        ModelError: It is damaged, altered, unsafe or does not fit.
    """
    model = load_model(path)
    for stage in filter(None, (model, model.first_stage)):
        for fold in stage.folds:
            if graph := stage.graph(fold):
                for outputs in graph.shapes:
                    read_graph(graph, outputs)
            else:
                check_pytorch(f"The model {stage.card.name}")
                from MoBUncertaintyLib.network.backbone import fitting_weights, planned_network

                fitting_weights(planned_network(stage), stage, fold)
    return model


def may_have_gpu() -> bool:
    """Tell whether PyTorch could find a GPU, without PyTorch itself, which takes seconds to load."""
    if not has_pytorch():
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    drivers = ["/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg"]  # the last is Windows's, for its Linux
    if sys.platform == "win32":
        drivers = [f"{os.environ.get('SystemRoot', 'C:/Windows')}/System32/nvcuda.dll"]
    return any(map(os.path.exists, drivers))


def _compile(graph: Any, target: str, settings: Mapping[str, Any]) -> Any:
    """Compile a graph; on a processor without AVX-512, OpenVINO may lack registers for the loops that it joins."""
    try:
        return _core().compile_model(graph, target, settings)
    except RuntimeError as error:
        if target != "CPU" or is_out_of_memory(error):
            raise
        return _core().compile_model(graph, target, {**settings, "SNIPPETS_MODE": "DISABLE"})


@cache
def _core() -> Any:
    return openvino().Core()
