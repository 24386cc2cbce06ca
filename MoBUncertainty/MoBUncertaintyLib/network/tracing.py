"""Trace a model's network to a graph of OpenVINO's operators, which runs without PyTorch.

For two classes the graph goes down to the moments, from features, by convolutions and arithmetic alone: what engines
run fast. The values are those of `LogitGaussian.contrast` and `closed_form_moments`. Engines lay memory out voxel by
voxel, as their convolutions need it: whatever is not a convolution or arithmetic comes after all channels are summed,
and is done on few of them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from MoBUncertaintyLib.gaussian.distribution import LogitGaussian, stretch
from MoBUncertaintyLib.gaussian.moments import fused_moments
from MoBUncertaintyLib.gaussian.partitions import cell_means, spread_cells
from MoBUncertaintyLib.gaussian.tile import largest
from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.graph import Graph, describe, openvino
from MoBUncertaintyLib.network.backbone import StochasticNetwork, load_network
from MoBUncertaintyLib.network.heads import LOG_VARIANCE_LIMIT, CovarianceHead


class _Outputs(nn.Module):
    """The network, with the outputs of `model.graph.output_shapes`."""

    def __init__(self, network: StochasticNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features, mean = self.network.features(x)
        head = self.network.head
        if head is None:
            return (mean,)
        gaussian = mean, *head.tensors(features)
        if self.network.classes > 2:
            return gaussian
        mean, variance = contrast(features, self.network.mean_layer, head)
        return *gaussian, mean, variance, *fused_moments(mean, variance)


def traced(model: Model, fold: Fold) -> Graph:
    """Trace the network of one fold.

    Raises:
        ModelError: The weights do not fit the network.
        Exception: OpenVINO does not know an operator of it.
    """
    network, shapes = load_network(model, fold), model.output_shapes
    graph = converted(_Outputs(network), (1, model.inputs, *model.tile))
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    content = describe(graph, tensors, {name: len(outputs) for name, outputs in shapes.items()})
    return Graph(str(model.path), content, tensors, shapes)


def converted(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """Turn a module into a graph of OpenVINO's, for one shape of its input."""
    openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.passes import ConstantFolding, Manager

    # Not by openvino.convert_model(), which is what reports its use.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what is fixed by tracing: the shape, which is fixed
        decoder = TorchScriptPythonDecoder(
            module.eval(), example_input=(torch.zeros(shape),), shared_memory=False, trace_kwargs={"check_trace": False}
        )
        reader = FrontEndManager().load_by_framework("pytorch")
        graph = reader.convert(reader.load(decoder))
    graph.reshape(list(shape))
    passes = Manager()
    passes.register_pass(ConstantFolding())  # most of it computes shapes
    passes.run_passes(graph)
    return graph


def contrast(features: Tensor, mean_layer: nn.Conv3d, head: CovarianceHead) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of the contrast of two classes, each (B, *S), from the features (B, F, *S)."""
    layer = head.contrast_layer()
    if layer is None:
        gaussian: LogitGaussian = head(features, mean_layer(features)[1])
        return gaussian.contrast()
    choosing = [] if layer.choosing is None else [layer.choosing]
    layers = [head.log_variance, *choosing]
    difference = [_split(x[1:] - x[:1]) for x in (mean_layer.weight, mean_layer.bias) if x is not None]
    few = conv3d(
        features,
        torch.cat([difference[0], *(other.weight for other in layers)]),
        torch.cat([difference[1], *(other.bias for other in layers if other.bias is not None)]),
    )
    rounded, rest, *others = torch.split(few, [1, 1, 1, 1, *(other.out_channels for other in choosing)], dim=1)
    mean = rounded + rest
    background, foreground = (x.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT).exp() for x in others[:2])
    sums = conv3d(conv3d(features, layer.weight, layer.bias).square(), layer.sums[..., None, None, None])
    parts = sums.unbind(dim=1)  # what is done with these is one loop, which a sum over an axis would not join
    if choosing:
        shape = tuple(int(size) for size in features.shape[2:])
        chosen = spread_cells(largest(cell_means(others[2], head.spec.partitions)), shape)
        parts = tuple(part * here for part, here in zip(parts, chosen.unbind(dim=1), strict=True))
    mean, variance = mean[:, 0], sum(parts, (background + foreground)[:, 0])
    return (mean * stretch(mean.abs(), variance) if head.spec.keep_probability else mean), variance


def _split(values: Tensor) -> Tensor:
    """Split (1, ...) into numbers that bfloat16 holds and what they leave, (2, ...).

    Where an engine rounds weights to bfloat16, those of the mean would change more labels than its whole backbone.
    """
    scaled = (2**16 + 1) * values  # Veltkamp's splitting
    rounded = scaled - (scaled - values)
    return torch.cat((rounded, values - rounded))
