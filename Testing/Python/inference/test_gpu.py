"""Whether a GPU computes what the CPU does, and what happens when its memory runs out. Needs CUDA."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from benchmark import make_case
from MoBUncertaintyLib.gaussian.probability import moments
from MoBUncertaintyLib.inference.predictor import Predictor
from MoBUncertaintyLib.inference.sliding_window import CPU, Placement, SlidingWindow
from MoBUncertaintyLib.model.covariance import Scope
from MoBUncertaintyLib.model.folder import Model, load_model
from MoBUncertaintyLib.model.listing import find_model
from MoBUncertaintyLib.network.backbone import StochasticNetwork, load_network
from MoBUncertaintyLib.regions.prediction import Precision, Prediction, PredictionSettings, Tiling
from support.bright_network import BareEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

GPU = "cuda:0"
TILE = (48, 64, 64)
ROOM = 16e6
"""Bytes beside the weights: too few for the feature maps of a tile, whatever algorithms the GPU chooses."""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(find_model("PhantomPancreas"))


@pytest.fixture
def network(model: Model) -> StochasticNetwork:
    return load_network(model, model.folds[0])


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> sitk.Image:
    return sitk.ReadImage(make_case(tmp_path_factory.mktemp("phantom"), (64, 64, 64)))


@pytest.mark.parametrize(
    ("precision", "largest", "equal"),
    [(Precision.FLOAT32, 1e-3, 0.9999), (Precision.FLOAT16, 0.02, 0.999), (Precision.BFLOAT16, 0.05, 0.999)],
)
def test_every_number_format_gives_what_float32_on_the_cpu_gives(
    model: Model, ct: sitk.Image, precision: Precision, largest: float, equal: float
) -> None:
    def by(device: str, precision: Precision) -> Prediction:
        settings = PredictionSettings(device=device, precision=precision, engine="torch", tiling=Tiling.FULL)
        return Predictor(model, settings).predict(ct, exact=True)

    expected, found = by("cpu", Precision.FLOAT32), by("cuda", precision)
    assert found.warnings == expected.warnings
    assert np.abs(np.subtract(found.probability, expected.probability)).max() <= largest
    assert (found.segmentation == expected.segmentation).mean() >= equal


def test_samples_have_the_moments_of_the_closed_form(network: StochasticNetwork) -> None:
    """The mean of K samples is off by the square root of variance / K."""
    count, x = 30, torch.randn(1, 1, *TILE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = moments(network(x))
        # Every voxel its own draws, whatever the model shares: then the errors of voxels average out.
        gaussian = replace(network.to(GPU)(x.to(GPU)), scope=Scope.VOXEL)
        drawn = moments(gaussian, count, torch.Generator(GPU).manual_seed(0))
    doubtful = exact.variance > 0.01
    variance = exact.variance[doubtful]
    assert len(variance) > 500
    error = (drawn.mean.cpu() - exact.mean)[doubtful] / (variance / count).sqrt()
    ratio = drawn.variance.cpu()[doubtful] / variance * count / (count - 1)
    assert float(error.square().mean().sqrt()) == pytest.approx(1, abs=0.15)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.07)


def run(network: StochasticNetwork, data: np.ndarray, sums: str) -> tuple[SlidingWindow, np.ndarray]:
    window = SlidingWindow(BareEngine(lambda _: network, 2), Placement(GPU, sums, Precision.FLOAT32), overlap=0.0)
    return window, window.run(data, TILE, (0,))[0]


@pytest.mark.parametrize("steps", [1, 2])
def test_without_memory_the_sums_go_to_the_cpu_and_then_the_tiles(network: StochasticNetwork, steps: int) -> None:
    shape = (256, 512, 512) if steps == 1 else (2 * TILE[0], *TILE[1:])  # sums of 0.5 GB are more than a tile takes
    data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    _, expected = run(network, data, CPU)
    needed, weights = torch.cuda.max_memory_reserved(GPU), sum(each.nbytes for each in network.parameters())
    limit = needed + data.nbytes if steps == 1 else weights + ROOM
    network.cpu()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(GPU).total_memory, GPU)
    try:
        window, found = run(network, data, GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert (window.placement.network, window.placement.sums) == ((GPU, CPU), (CPU, CPU))[steps - 1]
    assert len(window.warnings) == steps
    # The CPU chooses the number format anew.
    np.testing.assert_allclose(found, expected, atol=1e-4 if steps == 1 else 0.06, rtol=0)
