"""A GPU whose memory runs out anywhere: the result is the CPU's, the user is told, and no pass counts twice."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from MoBUncertaintyLib.base.errors import NOT_ENOUGH_MEMORY, SettingsError
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.inference.torch_engine import TorchEngine
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.regions.prediction import Precision, PredictionSettings, Tiling
from support.bright_network import BareEngine, Bright
from support.pretend_gpu import PretendGpu
from support.tiny import make_ct, make_dataset, make_model

TILE, GPU = (4, 4, 4), "cuda:0"
SUMMED, COMPUTED = "results were summed on the CPU", "the CPU was used"


def data() -> torch.Tensor:
    return torch.rand(1, 4, 4, 7, generator=torch.Generator().manual_seed(0)) - 0.2


def window(device: str = GPU, networks: dict[int, Bright] | None = None) -> SlidingWindow:
    """Two folds, adaptive tiling, and a class that is not kept: all that asks for memory."""
    torch.manual_seed(1)
    networks = networks or {fold: Three(Covariance.SINGLE_BASIS, gain) for fold, gain in enumerate((6.0, 9.0))}
    engine = BareEngine(networks.__getitem__, 3, samples=2, wanted=(1,))
    placement = Placement(device, device, Precision.FLOAT32)
    return SlidingWindow(engine, placement, tiling=Tiling.ADAPTIVE)


class Three(Bright):
    """A second organ, where it is dark."""

    def __init__(self, covariance: Covariance, gain: float) -> None:
        super().__init__(covariance, gain, classes=3)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, mean = super().features(x)
        return features, torch.cat((mean, -mean[:, 1:]), dim=1)


def run(made: SlidingWindow) -> tuple[np.ndarray, np.ndarray]:
    return made.run(data().numpy(), TILE, (0, 1))


def told(made: SlidingWindow) -> list[str]:
    """What the user is told of the ladder; nothing else is."""
    said = [part for text in made.warnings for part in (SUMMED, COMPUTED) if part in text]
    assert len(said) == len(made.warnings)
    return said


@pytest.fixture(scope="module", autouse=True)
def same_noise() -> Iterator[None]:
    """That of PyTorch on the CPU, too, which is the pretended GPU's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "generator", lambda self, seed: torch.Generator(self._device).manual_seed(seed))
        yield


@pytest.fixture(scope="module")
def wanted() -> tuple[np.ndarray, np.ndarray, SlidingWindow, int]:
    """The CPU's results, and how many requests of a GPU they take."""
    made = window(CPU)
    results = run(made)
    with PretendGpu() as gpu:
        on_gpu = window()
        for one, other in zip(run(on_gpu), results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert on_gpu.warnings == [] and on_gpu.placement == Placement(GPU, GPU, Precision.FLOAT32)
    return *results, made, gpu.requests


def assert_same(made: SlidingWindow, found: tuple[np.ndarray, np.ndarray], wanted: tuple) -> None:
    for one, other in zip(found, wanted[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert made._passes == wanted[2]._passes, "each pass once"
    assert made.tiles == wanted[2].tiles


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_each_request_fails_in_turn_and_costs_one_step(wanted, step: int) -> None:
    """Every allocation and every copy of the whole run, one after the other."""
    for number in range(0, wanted[-1], step):
        with PretendGpu(fails=lambda request, used, number=number: request == number) as gpu:
            made = window()
            found = run(made)
        assert gpu.failures == 1, number
        assert told(made) == [SUMMED], number
        assert made.placement == Placement(GPU, CPU, Precision.FLOAT32), number
        assert_same(made, found, wanted)


def test_from_a_request_on_all_memory_is_refused_and_the_cpu_computes(wanted) -> None:
    """As where another program takes the memory. What the GPU holds then, it can still give back."""
    for number in range(0, wanted[-1], 31):
        with PretendGpu(fails=lambda request, used, number=number: request >= number and used > 0) as gpu:
            made = window()
            gpu.fails = lambda request, used, number=number, gpu=gpu: request >= number and used > gpu.used
            found = run(made)
        assert told(made) in ([SUMMED, COMPUTED], [SUMMED]) or not gpu.failures, number
        assert_same(made, found, wanted)


def test_whatever_the_memory_the_result_is_there(wanted) -> None:
    """From none at all, as on a GPU that another program has filled, to enough."""
    with PretendGpu() as gpu:
        run(window())
    steps = []
    peak = gpu.peak
    for limit in (*range(0, peak, peak // 12), peak):
        with PretendGpu(fails=lambda _, used, limit=limit: used > limit):
            made = window()
            found = run(made)
        steps.append(len(told(made)))
        assert_same(made, found, wanted)
    assert steps[0] == 2 and steps[-1] == 0 and steps == sorted(steps, reverse=True) and 1 in steps


def test_a_step_is_taken_once_for_all_folds(wanted) -> None:
    """With little memory one fold's weights are on the device at a time; the others wait in the computer's."""
    networks = {fold: Three(Covariance.SINGLE_BASIS, gain) for fold, gain in enumerate((6.0, 9.0))}
    with PretendGpu(fails=lambda request, _: request == 0):
        made = window(networks=networks)
        run(made)
        there = [any(not each.is_cpu for each in network.parameters()) for network in networks.values()]
    assert there == [False, True]


def test_without_memory_on_the_cpu_either_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: TorchEngine, x: torch.Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(TorchEngine, "run", full)
    with PretendGpu(), pytest.raises(SettingsError) as error:
        run(window())
    assert str(error.value) == NOT_ENOUGH_MEMORY


@pytest.mark.parametrize("labels", [("organ",), ("liver", "spleen")])
def test_a_whole_prediction_has_the_cpu_s_numbers(tmp_path, labels: tuple[str, ...]) -> None:
    spec = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=2)
    model = make_model(tmp_path / "model", dataset=make_dataset(labels, orientation="RAS"), covariance=spec, folds=2)
    ct, settings = make_ct((12, 24, 12)), {"precision": "float32", "engine": "torch", "tiling": Tiling.FULL}
    expected = Predictor(model, PredictionSettings(device="cpu", **settings)).predict(ct, exact=True)
    with PretendGpu() as gpu:
        predictor = Predictor(model, PredictionSettings(device="cuda", **settings))
        found = predictor.predict(ct, exact=True)
        uploads = gpu.uploads
        predictor.predict(ct, exact=True)
        assert gpu.uploads - uploads < uploads / 4, "the weights stay on the GPU"
    assert found.provenance["device"] == "cuda" and found.warnings == expected.warnings
    for name in ("probability", "variance"):
        torch.testing.assert_close(
            torch.tensor(getattr(found, name)), torch.tensor(getattr(expected, name)), rtol=1e-3, atol=1e-5
        )
