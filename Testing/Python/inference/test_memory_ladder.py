"""A device whose memory runs out anywhere: the result is the CPU's, the user is told, and no pass counts twice."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from MoBUncertaintyLib.base.errors import NOT_ENOUGH_MEMORY, SettingsError
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.inference.torch_engine import TorchEngine
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.regions.prediction import Precision, Tiling
from support.bright_network import BareEngine, Bright
from support.tiny import make_dataset, make_model

TILE = (4, 4, 4)
GPU = "cpu:0"
"""PyTorch's CPU by another name, under which the results are summed by PyTorch, as on a GPU."""
SUMMED, COMPUTED = "results were summed on the CPU", "the CPU was used"


class Memory(TorchDispatchMode):
    """Refuses memory to operations of PyTorch; those that change a tensor in place ask for none.

    Args:
        fails: Whether the request of a number, from 0, gets none.
    """

    def __init__(self, fails: Callable[[int], bool] = lambda number: False) -> None:
        super().__init__()
        self.fails, self.requests = fails, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        if storages(made) - storages((args, kwargs)):
            self.requests += 1
            if self.fails(self.requests - 1):
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return made


def storages(values: Any) -> set[int]:
    """Where the tensors among nested values lie."""
    return {each.untyped_storage().data_ptr() for each in tree_leaves(values) if isinstance(each, torch.Tensor)}


class Three(Bright):
    """A second organ, where it is dark."""

    def __init__(self, covariance: Covariance, gain: float) -> None:
        super().__init__(covariance, gain, classes=3)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, mean = super().features(x)
        return features, torch.cat((mean, -mean[:, 1:]), dim=1)


class CopyingEngine(BareEngine):
    """Weights and tiles take memory where they are copied to; `places` has where the weights of each fold are."""

    places: dict[Fold, str]

    def load(self, fold: Fold, device: str, precision: Precision) -> None:
        torch.empty(1)
        super().load(fold, device, precision)
        self.places[fold] = device

    def unload(self) -> None:
        self.places = dict.fromkeys(self.places, CPU)

    def uploaded(self, tile: np.ndarray) -> torch.Tensor:
        return super().uploaded(tile).clone()


def window(device: str = GPU) -> SlidingWindow:
    """Two folds, adaptive tiling, and a class that is not kept: all that asks for memory."""
    torch.manual_seed(1)
    networks = {fold: Three(Covariance.SINGLE_BASIS, gain) for fold, gain in enumerate((6.0, 9.0))}
    engine = CopyingEngine(networks.__getitem__, 3, samples=2, wanted=(1,))
    engine.places = {}
    return SlidingWindow(engine, Placement(device, device, Precision.FLOAT32), tiling=Tiling.ADAPTIVE)


def run(made: SlidingWindow) -> tuple[np.ndarray, np.ndarray]:
    return made.run(np.random.default_rng(0).random((1, 4, 4, 7), np.float32) - 0.2, TILE, (0, 1))


def told(made: SlidingWindow) -> list[str]:
    """What the user is told of the ladder; nothing else is."""
    said = [part for text in made.warnings for part in (SUMMED, COMPUTED) if part in text]
    assert len(said) == len(made.warnings)
    return said


@pytest.fixture(scope="module")
def wanted() -> tuple[np.ndarray, np.ndarray, SlidingWindow, int]:
    """The CPU's results, and how many requests for a GPU's memory they take."""
    made, on_gpu = window(CPU), window()
    results = run(made)
    with Memory() as memory:
        found = run(on_gpu)
    assert_same(on_gpu, found, (*results, made))
    assert on_gpu.warnings == [] and on_gpu.placement == Placement(GPU, GPU, Precision.FLOAT32)
    return *results, made, memory.requests


def assert_same(made: SlidingWindow, found: tuple[np.ndarray, np.ndarray], wanted: tuple) -> None:
    for one, other in zip(found, wanted[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert made._passes == wanted[2]._passes, "each pass once"
    assert made.tiles == wanted[2].tiles


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_each_request_fails_in_turn_and_costs_one_step(wanted, step: int) -> None:
    for number in range(0, wanted[-1], step):
        made = window()
        with Memory(partial(int.__eq__, number)) as memory:
            found = run(made)
        assert memory.requests > number
        assert told(made) == [SUMMED], number
        assert made.placement == Placement(GPU, CPU, Precision.FLOAT32), number
        assert_same(made, found, wanted)


def test_from_a_request_on_the_gpu_has_no_memory_and_the_cpu_computes(wanted) -> None:
    """As where another program takes the memory."""
    for number in range(0, wanted[-1], 61):
        made = window()
        with Memory(lambda request, made=made, number=number: request >= number and made.placement.network == GPU):
            found = run(made)
        assert told(made) == [SUMMED, COMPUTED], number
        assert_same(made, found, wanted)


def test_with_little_memory_one_fold_s_weights_are_on_the_device_at_a_time() -> None:
    made = window()
    with Memory(partial(int.__eq__, 0)):
        run(made)
    assert made.engine.places == {0: CPU, 1: GPU}


def test_without_memory_on_the_cpu_either_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: TorchEngine, x: torch.Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(TorchEngine, "run", full)
    with pytest.raises(SettingsError) as error:
        run(window())
    assert str(error.value) == NOT_ENOUGH_MEMORY


@pytest.mark.parametrize("kind", Covariance)
def test_nothing_is_computed_elsewhere_than_on_the_device(
    tmp_path, monkeypatch: pytest.MonkeyPatch, kind: Covariance
) -> None:
    """PyTorch's device without memory refuses tensors of other devices, as a GPU does."""
    spec = CovarianceSpec.of_kind(kind, rank=4, partitions=2)
    model = make_model(tmp_path / "model", dataset=make_dataset(("liver", "spleen")), covariance=spec)
    monkeypatch.setattr(TorchEngine, "generator", lambda self, seed: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device has not
    engine = TorchEngine(model)
    engine.samples = 2
    engine.load(model.folds[0], "meta", Precision.FLOAT32)
    result = engine.moments(engine.run(engine.uploaded(np.zeros((1, 1, 24, 24, 24), np.float32))), 0)
    assert result.mean.device.type == result.variance.device.type == "meta"


def test_weights_stay_on_the_gpu_from_one_prediction_to_the_next(tmp_path) -> None:
    model = make_model(tmp_path / "model", folds=2)
    engine = TorchEngine(model)
    networks = [engine.network_of(fold, "cuda") for fold in model.folds]
    assert [engine.network_of(fold, "cuda") for fold in model.folds] == networks
