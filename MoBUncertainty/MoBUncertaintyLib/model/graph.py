"""The network of a model as data: a graph of OpenVINO's operators whose constants are the model's weights. No torch.

`fold_K/graph.json` lists the graph's nodes, each after those that it takes. Large constants are named tensors of
`weights.safetensors`, so that weights are stored once. It is for one shape of tile, the plans', and for one image:

    {"nodes": [{"op": "Parameter", "shape": [1, 1, 48, 64, 64]},
               {"op": "Constant", "tensor": "backbone.encoder...", "shape": [16, 1, 3, 3, 3]},
               {"op": "Constant", "type": "int64", "values": [0, 2], "shape": [2]},
               {"op": "opset1.Convolution", "inputs": [0, 1], "attributes": {"strides": [1, 1, 1], ...}}, ...],
     "moments": [...], "gaussian": [...]}

An input or output is the number of a node or, if that has several outputs, [node, output]. `gaussian` are the mean
logits and what `gaussian.tile` makes the distribution of; `moments`, for two classes, what `gaussian.probability`
completes. Nothing in a graph can be executed but these operators, and none of them reads files.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import ModelError, is_out_of_memory, reason_of
from MoBUncertaintyLib.base.packages import is_installed
from MoBUncertaintyLib.model.covariance import Covariance, CovarianceSpec

NODES_LIMIT = 20_000  # a residual encoder L has 1,000
FEATURES_LIMIT = 1024  # numbers of a node's output for each voxel of a tile, as for a network in `nnunet.plans`
SMALL = 8  # numbers of a constant that is written out, even if a tensor of the weights is the same
BLOCK = 8  # voxels along an axis whose mean is taken first, at most
KINDS = {"float32": np.float32, "int64": np.int64, "int32": np.int32, "bool": np.bool_}  # of constants written out
_OPSETS = {
    "opset1": (
        "Abs Add Concat Convert Convolution ConvolutionBackpropData Divide Equal Exp Greater Less LessEqual "
        "Maximum Minimum Multiply PRelu Power ReduceMean ReduceSum Relu Reshape Select Split Sqrt Squeeze "
        "Subtract Unsqueeze VariadicSplit"
    ),
    "opset5": "BatchNormInference",
    "opset6": "MVN",
    "opset7": "Einsum",
    "opset8": "Gather Slice Softmax",
    "opset11": "Interpolate TopK",
    "opset14": "AvgPool",
}
OPERATORS = frozenset(f"{opset}.{name}" for opset, names in _OPSETS.items() for name in names.split())
"""What graphs are made of, by OpenVINO's set that first had it as it is."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of a fold."""

    where: str  # its file, as the user knows it, for messages
    content: Mapping[str, Any]  # what that holds, unchecked
    tensors: Mapping[str, np.ndarray]  # the weights that it names
    shapes: Mapping[str, list[tuple[int, ...]]]  # of its outputs, by the name of the list


def output_shapes(
    spec: CovarianceSpec, classes: int, tile: tuple[int, ...], overlapping: bool = False
) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes of a graph's outputs for C classes, by the name of the list.

    Of classes that are `overlapping`, the background is none.
    """
    channels = classes - overlapping
    mean = (1, channels, *tile)
    if spec.kind is Covariance.DETERMINISTIC:
        return {"gaussian": [mean]}
    gaussian = {"gaussian": [mean, mean, *spec.predicted_shapes(classes, tile)]}
    return gaussian | ({"moments": [(1, *tile)] * 4} if classes == 2 else {})


def describe(graph: Any, tensors: Mapping[str, np.ndarray], lists: Mapping[str, int]) -> dict[str, Any]:
    """Write down an `openvino.Model` with one input, as `Graph.content`.

    Args:
        graph: The model.
        tensors: The weights, each once.
        lists: Names of the lists of its outputs, in their order, and the length of each.

    Raises:
        RuntimeError: It has an operator that is none of `OPERATORS`, or constants that are none of `KINDS`.
    """
    names = {_digest(tensor): name for name, tensor in tensors.items()}
    nodes: list[dict[str, Any]] = []
    places: dict[tuple[str, int], int | list[int]] = {}

    def reference(output: Any) -> int | list[int]:
        return places[output.get_node().get_name(), output.get_index()]

    for node in graph.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Result":
            continue
        if kind == "Convert" and node.get_element_type() == node.get_input_element_type(0):  # to what it is
            places[node.get_name(), 0] = reference(node.input_value(0))
            continue
        for port in range(node.get_output_size()):
            places[node.get_name(), port] = [len(nodes), port] if port else len(nodes)
        if kind == "Parameter":
            nodes.append({"op": kind, "shape": list(node.get_output_shape(0))})
        elif kind == "Constant":
            data = node.get_data()
            name = names.get(_digest(data)) if data.size > SMALL and data.dtype == np.float32 else None
            if data.dtype.name not in KINDS:
                raise RuntimeError(f"a graph cannot have constants of {data.dtype.name}")
            values = {"tensor": name} if name else {"type": data.dtype.name, "values": _numbers(data)}
            nodes.append({"op": kind, **values, "shape": list(data.shape)})
        else:
            operator = f"{node.get_type_info().version_id}.{kind}"
            if operator not in OPERATORS:
                raise RuntimeError(f"a graph cannot have the operator {operator}")
            inputs = [reference(source) for source in node.input_values()]
            nodes.append({"op": operator, "inputs": inputs, "attributes": node.get_attributes()})
    results = iter([reference(result.input_value(0)) for result in graph.get_results()])
    return {"nodes": nodes} | {name: [next(results) for _ in range(length)] for name, length in lists.items()}


def read_graph(graph: Graph, name: str, exact: bool = False) -> Any:
    """Make OpenVINO's graph with the outputs of one list; raises `ModelError` if it is unsafe or fits no weights.

    If it is `exact`, it will compute in float32, and is to have the digits of that: see `_normalised`.
    """
    try:
        made: list[Any] = []
        nodes, limit = graph.content["nodes"], FEATURES_LIMIT * math.prod(graph.shapes["gaussian"][0][2:])
        if len(nodes) > NODES_LIMIT:
            raise ValueError(f"it has more than {NODES_LIMIT:,} nodes")
        for node in nodes:
            made.append((exact and _normalised(node, made)) or _node(node, made, graph.tensors))
            for shape in (output.get_partial_shape() for output in made[-1].outputs()):
                if shape.is_dynamic or math.prod(shape.to_shape()) > limit:
                    raise ValueError(f"node {len(made) - 1} would be larger than a tile can be")
        outputs = [_output(place, made) for place in graph.content[name]]
        if [tuple(output.get_shape()) for output in outputs] != graph.shapes[name]:
            raise ValueError("its outputs are not what model.json says")
        return openvino().Model(outputs, [made[0]], name)
    except Exception as error:  # OpenVINO's and Python's, on whatever can be in a file
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{graph.where} cannot be used: {openvino_reason(error)}; export the model again.") from error


def _node(node: Mapping[str, Any], made: list[Any], tensors: Mapping[str, np.ndarray]) -> Any:
    """Make a node of those before it."""
    openvino()
    from openvino import op

    kind = node["op"]
    if kind == "Parameter":
        return op.Parameter(openvino().Type.f32, openvino().Shape(node["shape"]))
    if kind == "Constant":
        values = tensors[node["tensor"]] if "tensor" in node else np.array(node["values"], KINDS[node["type"]])
        return op.Constant(values.reshape(node["shape"]), shared_memory=True)
    if kind not in OPERATORS:
        raise ValueError(f"it has the operator {str(kind)[:80]!r}, which no network needs")
    opset, _, operator = kind.partition(".")
    return _factory(opset).create(operator, [_output(place, made) for place in node["inputs"]], node["attributes"])


def _normalised(node: Mapping[str, Any], made: list[Any]) -> Any:
    """Make what normalises the channels of a 3D tile, by the means of blocks and the mean of these.

    OpenVINO's operator adds the voxels of a channel one by one. Where many are equal, as in air, their rounding errors
    are too, and come to a thousandth of the deviation. In half precision, blocks would lose more digits than that.

    Returns:
        The node; None if the description is not of one.
    """
    attributes = {"normalize_variance": True, "eps_mode": "INSIDE_SQRT"}
    if node["op"] != "opset6.MVN" or not attributes.items() <= node["attributes"].items():
        return None
    values, axes = (_output(place, made) for place in node["inputs"])
    if axes.get_node().get_type_name() != "Constant" or axes.get_node().get_vector().tolist() != [2, 3, 4]:
        return None
    from openvino import opset14 as op

    block = [max(n for n in range(1, BLOCK + 1) if size % n == 0) for size in values.get_shape()[2:]]

    def mean(of: Any) -> Any:
        means = op.avg_pool(of, block, [0, 0, 0], [0, 0, 0], block, exclude_pad=True)
        return op.reduce_mean(means, axes, keep_dims=True)

    change = op.subtract(values, mean(values))
    variance = op.add(mean(op.multiply(change, change)), np.float32(node["attributes"]["eps"]))
    return op.divide(change, op.sqrt(variance))


def _output(place: int | list[int], made: list[Any]) -> Any:
    node, port = place if isinstance(place, list) else (place, 0)
    if node < 0 or port < 0:
        raise ValueError("it counts nodes from the end")
    return made[node].output(port)


@cache
def _factory(opset: str) -> Any:
    openvino()
    from openvino.utils.node_factory import NodeFactory

    return NodeFactory(opset)


def openvino_reason(error: Exception) -> str:
    """Quote an error of OpenVINO, whose messages begin with places in its source."""
    lines = [line for line in str(error).splitlines() if not re.match("Exception from |Check '", line)]
    return reason_of(RuntimeError("\n".join(lines))) if isinstance(error, RuntimeError) else reason_of(error)


def _digest(array: np.ndarray) -> bytes:
    return sha256(np.ascontiguousarray(array).data).digest()


def _numbers(array: np.ndarray) -> list[Any]:
    """List numbers with the digits that their format has."""
    return [float(str(number)) for number in array.flat] if array.dtype == np.float32 else array.ravel().tolist()


def is_wanted() -> bool:
    """Tell whether OpenVINO is installed; the environment variable `MOB_UNCERTAINTY_ENGINE=torch` leaves it out."""
    return os.environ.get("MOB_UNCERTAINTY_ENGINE") != "torch" and is_installed("openvino")


@cache
def openvino() -> Any:
    """Import OpenVINO without its telemetry; raises `RuntimeError` if it cannot be loaded."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise RuntimeError(f"it cannot be loaded: {error}") from error
    return openvino
