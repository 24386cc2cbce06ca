"""Trace a model's network to a graph of OpenVINO's operators, which runs without PyTorch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from MoBUncertaintyLib.model.card import Fold
from MoBUncertaintyLib.model.folder import Model
from MoBUncertaintyLib.model.graph import Graph, describe, openvino
from MoBUncertaintyLib.network.backbone import StochasticNetwork, load_network
from MoBUncertaintyLib.network.contrast import contrast_moments


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
        return *gaussian, *contrast_moments(features, self.network.mean_layer, head)


def traced(model: Model, fold: Fold) -> Graph:
    """Trace the network of one fold.

    Raises:
        ModelError: The weights do not fit the network.
        Exception: OpenVINO does not know an operator of it.
    """
    network, shapes = load_network(model, fold), model.output_shapes
    graph = converted(_Outputs(network), (1, model.inputs, *model.tile))
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    content = describe(graph, tensors, {name: len(each) for name, each in shapes.items()})
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
