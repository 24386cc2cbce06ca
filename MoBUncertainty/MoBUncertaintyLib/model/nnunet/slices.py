"""Turn nnU-Net's 2D configurations into 3D ones that look at one slice: tiles and kernels with a depth of one voxel.

The network is the same: a 3D convolution whose kernel is one voxel deep is a 2D one. So nothing else need know of two
dimensions, but that the spacing has two numbers: slices lie as far apart as in the image.
"""

from __future__ import annotations

from typing import Any

from MoBUncertaintyLib.files.json_input import is_whole
from MoBUncertaintyLib.model.nnunet.plans import resolve

SIZES = ("kernel_sizes", "strides", "conv_kernel_sizes", "pool_op_kernel_sizes")
"""Of each stage; the last two in plans written before nnU-Net 2.4."""
OPERATORS = ("conv_op", "norm_op", "dropout_op")


def in_3d(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return plans whose configuration, if it is two-dimensional, is a three-dimensional one.

    Args:
        plans: Content of `plans.json`, unchecked; what is malformed stays as it is.
        configuration: Name of the configuration.

    Raises:
        ModelError: There is no such configuration.
    """
    planned = resolve(plans, configuration)
    patch = planned.get("patch_size")
    if not isinstance(patch, list) or len(patch) != 2:
        return plans
    deeper = {name: value for name, value in planned.items() if name != "inherits_from"} | {"patch_size": [1, *patch]}
    architecture = deeper.get("architecture")
    if isinstance(architecture, dict) and isinstance(architecture.get("arch_kwargs"), dict):
        arguments = _deepened(architecture["arch_kwargs"])
        deeper["architecture"] = architecture | {"arch_kwargs": arguments}
    else:
        deeper = _deepened(deeper)
    return plans | {"configurations": plans["configurations"] | {configuration: deeper}}


def _deepened(arguments: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: _stages(arguments[name]) for name in SIZES if isinstance(arguments.get(name), list)}
    operators = {name: arguments[name] for name in OPERATORS if isinstance(arguments.get(name), str)}
    return arguments | sizes | {name: value.removesuffix("2d") + "3d" for name, value in operators.items()}


def _stages(sizes: list[Any]) -> list[Any]:
    """Give each stage's size a depth of one voxel."""
    return [
        [1, size, size] if is_whole(size) else [1, *size] if isinstance(size, list) and len(size) == 2 else size
        for size in sizes
    ]
