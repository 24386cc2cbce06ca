"""Temperature scaling: what it does to the distribution, what it finds, and that the kept checkpoint has it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from torch import Tensor

from mob_training.training.predictive import PredictiveNetwork, log_predictive_mean
from mob_training.training.temperature import (
    NOT_COUNTED,
    TEMPERATURES,
    cover_with_tiles,
    fit_temperature,
)
from mob_training.training.trainer import FineTuningTrainer
from MoBUncertaintyLib.gaussian.distribution import LogitGaussian
from MoBUncertaintyLib.gaussian.moments import logistic_normal_moments
from MoBUncertaintyLib.inference.devices import autocast
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.model.folder import load_model
from MoBUncertaintyLib.network.backbone import divide_logits, load_network
from support.tiny import CONFIGURATION, make_dataset, make_plans
from support.tiny_training import NAME, PATCH, make_workspace, same_weights, train, tune, weights

SPECS = [CovarianceSpec.of_kind(kind, rank=3, partitions=2) for kind in Covariance]
KINDS = [spec.kind.value for spec in SPECS]


def random_network(spec: CovarianceSpec, classes: int = 2) -> PredictiveNetwork:
    """A network whose logits and variances differ from voxel to voxel."""
    from MoBUncertaintyLib.network.backbone import build_network

    torch.manual_seed(0)
    plans, dataset = make_plans(patch=(16, 16, 16)), make_dataset([f"organ {i}" for i in range(1, classes)])
    network = PredictiveNetwork(build_network(plans, dataset, CONFIGURATION, spec).backbone, spec, classes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        network.backbone.decoder.seg_layers[-1].weight *= 3
    return network.eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def gaussian_of(network: PredictiveNetwork, x: Tensor):
    gaussian = network.train()(x)
    network.eval()
    return gaussian


@pytest.mark.parametrize("spec", SPECS, ids=KINDS)
def test_mean_and_loading_are_divided_by_t_and_variance_by_its_square(spec):
    network, x = random_network(spec), images(1)
    before = gaussian_of(network, x)
    divide_logits(network, 1.7)
    after = gaussian_of(network, x)
    torch.testing.assert_close(after.mean, before.mean / 1.7)
    torch.testing.assert_close(after.marginal_covariance(), before.marginal_covariance() / 1.7**2)


@pytest.mark.parametrize("spec", SPECS, ids=KINDS)
@pytest.mark.parametrize("true", [0.7, 2.3])
def test_finds_the_temperature_that_the_truth_was_drawn_with(spec, true):
    """By two routes: what is fitted divides the network's layers; what is drawn, the Gaussian of the contrast."""
    network, x = random_network(spec), images(6)
    gaussian = gaussian_of(network, x)
    mean, variance = gaussian.contrast()
    p = logistic_normal_moments(mean / true, variance / true**2)[0]
    target = (torch.rand(p.shape, generator=torch.Generator().manual_seed(2)) < p).long()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    tiles = [(x[i : i + 1], target[i : i + 1]) for i in range(len(x))]
    temperature, before, after = fit_temperature(network, tiles)
    assert temperature == pytest.approx(true, rel=0.06)
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    with torch.no_grad():
        assert before == pytest.approx(_nll(network, x, target), rel=1e-3)  # bfloat16
        divide_logits(network, temperature)
        assert after == pytest.approx(_nll(network, x, target), rel=2e-3)
    assert after <= before


def _nll(network: PredictiveNetwork, x: Tensor, target: Tensor) -> float:
    return float(torch.nn.functional.nll_loss(network(x), target))


def test_what_is_not_counted_has_no_say():
    network, x = random_network(SPECS[-1]), images(2)
    target = gaussian_of(network, x).mean.argmax(dim=1)
    target[:, ::3] = 1 - target[:, ::3]
    cut = target.clone()
    cut[0, 8:] = NOT_COUNTED
    cut[1] = NOT_COUNTED
    counted = fit_temperature(network, [(x, cut)])
    assert counted == pytest.approx(fit_temperature(network, [(x[:1], cut[:1]), (x[1:], cut[1:])]), rel=1e-2)
    assert counted != pytest.approx(fit_temperature(network, [(x, target)]), rel=1e-2)
    with torch.no_grad(), autocast(torch.device("cpu")):
        log_p = network(x)
    chosen = log_p[0, :, :8].gather(0, target[0, None, :8])
    assert counted[1] == pytest.approx(-float(chosen.mean()), rel=1e-3)


@pytest.mark.parametrize("shape", [(20, 9, 33), (16, 16, 16), (5, 6, 7)])
def test_tiles_show_a_case_whole_and_each_voxel_counts_once(shape):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, shape).astype(np.int8)
    data = np.stack([np.arange(labels.size, dtype=np.float32).reshape(shape) + 1, rng.normal(size=shape)])
    found = {}
    for image, target in cover_with_tiles(data, labels, PATCH):
        assert image.shape == (1, 2, *PATCH) and image.dtype is torch.float32
        assert target.shape == (1, *PATCH) and target.dtype is torch.int64
        counted = target != NOT_COUNTED
        numbers = image[:, 0][counted].int().tolist()
        assert 0 not in numbers and not found.keys() & set(numbers)
        found |= dict(zip(numbers, target[counted].tolist(), strict=True))
    assert found == dict(enumerate(labels.clip(0).ravel().tolist(), 1))


def test_three_classes_are_fitted_by_monte_carlo():
    network, x = random_network(SPECS[-1], classes=3), images(6)
    divide_logits(network, 2.0)
    with torch.no_grad():
        probabilities = network(x).exp().movedim(1, -1)
    divide_logits(network, 0.5)
    torch.manual_seed(3)
    target = torch.distributions.Categorical(probs=probabilities).sample()
    temperature, before, after = fit_temperature(network, [(x, target)])
    assert after < before
    assert temperature == pytest.approx(2, rel=0.08)


def test_a_truth_that_is_all_certain_or_all_wrong_gives_an_end_of_the_range():
    network, x = random_network(SPECS[0]), images(1)
    predicted = gaussian_of(network, x).mean.argmax(dim=1)
    assert fit_temperature(network, [(x, predicted)])[0] == pytest.approx(TEMPERATURES[0])
    assert fit_temperature(network, [(x, 1 - predicted)])[0] == pytest.approx(TEMPERATURES[-1])


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory) -> Path:
    """Results of the deterministic stage on two classes."""
    with pytest.MonkeyPatch.context() as patch:
        make_workspace(tmp_path_factory.mktemp("workspace"), patch)
        yield train()


def test_nothing_is_scaled_where_no_checkpoint_is_written(deterministic, monkeypatch):
    setting = property(lambda self: True, lambda self, value: None)  # nnUNetv2_train --disable_checkpointing
    monkeypatch.setattr(FineTuningTrainer, "disable_checkpointing", setting, raising=False)
    results = tune(deterministic, SPECS[0], "nothing", temperature_scaling=True)
    assert not list((results / "fold_0").glob("*.pth"))


def _nll_of_validation(results: Path) -> float:
    """Of the kept epoch, on the whole of the one validation case."""
    network = load_network(load_model(results), 0).eval()
    folder = results.parents[2] / "preprocessed" / NAME / "tiny_3d_fullres"
    data, labels, _, _ = nnUNetDatasetBlosc2(str(folder), ["case0"]).load_case("case0")
    total = 0.0
    for image, target in cover_with_tiles(data[:], labels[0], PATCH):
        with autocast(image.device):
            features, mean = network.features(image)
        gaussian = LogitGaussian(mean) if network.head is None else network.head(features, mean)
        counted = target != NOT_COUNTED
        chosen = log_predictive_mean(gaussian).gather(1, target[:, None].clamp_min(0))[:, 0]
        total -= float(chosen[counted].sum())
    return total / labels[0].size


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[-1]], ids=[KINDS[0], KINDS[-1]])
def test_only_the_kept_epoch_is_scaled_and_only_once(deterministic, spec):
    plain = tune(deterministic, spec, "plain")
    scaled = tune(deterministic, spec, "scaled", temperature_scaling=True)
    assert same_weights(plain, scaled, "final")
    best = scaled / "fold_0" / "checkpoint_best.pth"
    temperature = torch.load(best, weights_only=False)["temperature"]
    assert load_model(scaled).card.training["temperature"] == temperature
    log = "".join(path.read_text() for path in (scaled / "fold_0").glob("training_log*.txt"))
    assert f"temperature {temperature:.3f}: validation NLL {_nll_of_validation(plain):.4f} -> " in log
    assert ("end of the tested range" in log) == (temperature in (TEMPERATURES[0], TEMPERATURES[-1]))
    before, after = weights(plain, "best"), weights(scaled, "best")
    for name, value in before.items():
        if name == "head.log_variance.bias":
            value = value - 2 * math.log(temperature)
        elif "seg_layers.1" in name or name.startswith("head.scales"):
            value = value / temperature
        torch.testing.assert_close(after[name], value)
    written = best.read_bytes()
    tune(deterministic, spec, "scaled", temperature_scaling=True, resume=True)
    assert best.read_bytes() == written


def test_a_label_that_a_case_lacks_is_no_error_of_its_voxels():
    """As if it and the background were one class."""
    network = random_network(CovarianceSpec(Covariance.DETERMINISTIC), classes=3)
    x = images(1)
    p = log_predictive_mean(gaussian_of(network, x)).exp()
    target = torch.where(p[:, 1] > 0.5, 1, 0)
    missing = torch.tensor([[False, False, True]])
    _, nll, _ = fit_temperature(network, [(x, target, missing)])
    expected = -torch.where(target == 1, p[:, 1], p[:, 0] + p[:, 2]).log().mean()
    assert nll == pytest.approx(float(expected), rel=5e-3)  # some CPUs compute features in bfloat16
    assert nll < fit_temperature(network, [(x, target)])[1]
