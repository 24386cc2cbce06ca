"""What the network says is no number: in half precision it is asked again in float32, and there it is an error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from MoBUncertaintyLib.base.errors import ModelError, is_out_of_memory
from MoBUncertaintyLib.inference.predictor import predict
from MoBUncertaintyLib.inference.sliding_window import OVERFLOWED
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.network.backbone import StochasticNetwork
from MoBUncertaintyLib.regions.prediction import PredictionSettings
from support.tiny import make_ct, make_dataset, make_model


def overflowing(only_in_half: bool) -> Callable[[StochasticNetwork, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    features = StochasticNetwork.features

    def spoiled(self: StochasticNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, mean = features(self, x)
        if not torch.is_autocast_enabled("cpu") and only_in_half:
            return found, mean
        place = torch.tensor([3])
        return found.index_fill(2, place, float("inf")), mean.index_fill(2, place, float("nan"))

    return spoiled


def model_of(folder: Path, kind: Covariance, classes: int) -> Model:
    dataset = make_dataset(["liver", "spleen", "pancreas"][: classes - 1])
    spec = CovarianceSpec.of_kind(kind, rank=4, partitions=2)
    return make_model(folder / "model", dataset=dataset, covariance=spec)


MOB = Covariance.MIXTURE_OF_BASES
MODELS = pytest.mark.parametrize(("kind", "classes"), [(Covariance.LOW_RANK, 2), (MOB, 2), (MOB, 4)])


@MODELS
def test_output_that_overflows_in_half_precision_is_computed_again_in_float32(tmp_path, monkeypatch, kind, classes):
    model, ct = model_of(tmp_path, kind, classes), make_ct((16, 20, 18))
    expected = predict(ct, model, PredictionSettings(device="cpu", precision="float32"))
    monkeypatch.setattr(StochasticNetwork, "features", overflowing(only_in_half=True))
    found = predict(ct, model, PredictionSettings(device="cpu", precision="bfloat16"))
    assert OVERFLOWED in found.warnings
    assert found.provenance["precision"] == "float32"
    for name in ("probability", "variance"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@MODELS
def test_output_that_is_no_number_is_an_error(tmp_path, monkeypatch, kind, classes):
    monkeypatch.setattr(StochasticNetwork, "features", overflowing(only_in_half=False))
    settings = PredictionSettings(device="cpu", precision="float32")
    with pytest.raises(ModelError):
        predict(make_ct((16, 20, 18)), model_of(tmp_path, kind, classes), settings)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "GET was unable to find an engine to execute this computation",
        "Invalid buffer size: 12.00 GiB",
        "could not create a primitive",  # oneDNN, on a CPU
    ],
)
def test_what_libraries_say_when_the_memory_is_full_is_known(message):
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_one_voxel_that_overflows_is_noticed_where_its_moments_are_finite(tmp_path, monkeypatch):
    """An infinite contrast has the probability 0 or 1."""
    features = StochasticNetwork.features

    def spoiled(self: StochasticNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, mean = features(self, x)
        if torch.is_autocast_enabled("cpu"):
            mean[0, 1, 1, 1, 1] = float("inf")
        return found, mean

    model, ct = model_of(tmp_path, Covariance.DIAGONAL, 2), make_ct((16, 20, 18))
    expected = predict(ct, model, PredictionSettings(device="cpu", precision="float32"))
    monkeypatch.setattr(StochasticNetwork, "features", spoiled)
    found = predict(ct, model, PredictionSettings(device="cpu", precision="bfloat16"))
    assert OVERFLOWED in found.warnings and np.array_equal(found.probability, expected.probability)


def test_tiles_after_one_that_overflows_have_half_precision_again(tmp_path, monkeypatch):
    """One bright spot must not make the whole run slow."""
    features, half = StochasticNetwork.features, []

    def spoiled(self: StochasticNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found, mean = features(self, x)
        half.append(torch.is_autocast_enabled("cpu"))
        if half == [True, True]:  # the second tile
            mean = mean * float("nan")
        return found, mean

    model = model_of(tmp_path, Covariance.DIAGONAL, 2)
    monkeypatch.setattr(StochasticNetwork, "features", spoiled)
    settings = PredictionSettings(device="cpu", precision="bfloat16", tiling="full")
    found = predict(make_ct((24, 24, 56)), model, settings)
    assert half == [True, True, False, *[True] * (len(half) - 3)] and len(half) > 3
    assert found.provenance["precision"] == "bfloat16" and found.warnings.count(OVERFLOWED) == 1
    assert np.isfinite(found.probability).all()
