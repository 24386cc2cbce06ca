"""nnU-Net's backbone with a head: its keys, its mean, other architectures, `torch.compile`, and plans that lie."""

import warnings

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.gaussian.probability import moments
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec
from MoBUncertaintyLib.network.backbone import StochasticNetwork, build_network
from support.tiny import CONFIGURATION, make_dataset, make_plans

SPEC = CovarianceSpec(Covariance.MIXTURE_OF_BASES, rank=4, bases=2, partitions=3)


def build(spec: CovarianceSpec = SPEC, plans: dict | None = None) -> StochasticNetwork:
    return build_network(plans or make_plans(), make_dataset(), CONFIGURATION, spec).eval()


def plans_of(name: str) -> dict:
    """Plans of another of nnU-Net's architectures."""
    plans = make_plans()
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    architecture["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{name}"
    kwargs = architecture["arch_kwargs"]
    if name == "PlainConvUNet":
        kwargs["n_conv_per_stage"] = kwargs.pop("n_blocks_per_stage")
    return plans


def stock_network(plans: dict) -> torch.nn.Module:
    """What nnU-Net itself builds from the plans."""
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )


def test_mean_is_the_stock_networks_output_for_the_same_checkpoint():
    plans = make_plans()
    stock = stock_network(plans).eval()
    ours = build(SPEC, plans)
    ours.backbone.load_state_dict(stock.state_dict())
    x = torch.randn(1, 1, *plans["configurations"][CONFIGURATION]["patch_size"])
    with torch.no_grad():
        torch.testing.assert_close(ours(x).mean, stock(x))


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualUNet", "ResidualEncoderUNet"])
def test_any_architecture_with_segmentation_layers_will_do(name):
    network = build(SPEC, plans_of(name))
    with torch.no_grad():
        result = moments(network(torch.randn(1, 1, 32, 32, 32)))
    assert result.mean.shape == (1, 1, 32, 32, 32)
    assert (result.variance > 0).any()


def test_architecture_without_segmentation_layers_is_refused():
    with pytest.raises(ModelError):
        StochasticNetwork(torch.nn.Conv3d(1, 2, 3), SPEC, 2)


@pytest.mark.parametrize("kind", list(Covariance))
def test_state_dict_keys_tell_backbone_from_head(kind):
    network = build(CovarianceSpec.of_kind(kind))
    stock = set(stock_network(make_plans()).state_dict())
    keys = set(network.state_dict())
    assert {key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")} == stock
    assert all(key.startswith(("backbone.", "head.")) for key in keys)
    assert any(key.startswith("head.") for key in keys) is (kind is not Covariance.DETERMINISTIC)


@pytest.mark.parametrize("kind", list(Covariance))
def test_graph_is_captured_whole(kind):
    """`torch.compile` sees one graph: no break, which would cost speed, and the same result."""
    torch.compiler.reset()  # it compiles one function a few times only
    network = build(CovarianceSpec.of_kind(kind, rank=3, partitions=3))

    def predict(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = moments(network(x))
        return result.mean, result.variance

    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(predict, fullgraph=True, backend="eager")
        for ours, expected in zip(compiled(x), predict(x), strict=True):
            torch.testing.assert_close(ours, expected)


def test_plans_that_cannot_be_built_are_refused():
    plans = make_plans()
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["strides"] = [[1, 1, 1]]
    with pytest.raises(ModelError):
        build(SPEC, plans)
