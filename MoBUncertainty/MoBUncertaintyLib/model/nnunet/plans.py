"""Check nnU-Net's `plans.json`, which comes from others. Needs no torch.

nnU-Net imports whatever it names (`pydoc.locate`), and allocates memory for whatever sizes it states. So, before
nnU-Net reads it, names must be on a list of nnU-Net's own, and numbers in a sane range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from copy import deepcopy
from typing import Any

from MoBUncertaintyLib.base.errors import ModelError
from MoBUncertaintyLib.base.json_input import is_number, is_whole

PACKAGE = "dynamic_network_architectures"
# nnU-Net's U-Nets; `residual_unet` is where old plans look for one, and nnU-Net finds it by its class name.
NETWORKS = {
    f"{PACKAGE}.architectures.{module}.{name}"
    for module in ("unet", "residual_unet")
    for name in ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
}
NORMALISATIONS = {
    "CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization",
}  # fmt: skip
READERS = {"SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"}

MAX_CHANNELS = 16
MAX_PATCH = 1024  # voxels along one axis
MAX_PATCH_VOXELS = 2**25
SPACING_RANGE = (0.01, 100.0)  # mm
# Maximum of any number in these arguments of a network.
NETWORK_LIMITS = {
    "n_stages": 10,
    "features_per_stage": 1024,
    "kernel_sizes": 11,
    "strides": 16,
    "n_blocks_per_stage": 32,
    "n_conv_per_stage": 32,
    "n_conv_per_stage_decoder": 32,
    "bottleneck_channels": 1024,
    "stem_channels": 1024,
}
WEIGHTS_LIMIT = 2e9  # by the same estimate, residual encoder L has 2e8
REQUIRED_SIZES = ("n_stages", "features_per_stage", "kernel_sizes", "strides")
# Names of the sizes before nnU-Net 2.4; features double from a base up to the number given here.
OLD_SIZES = {
    "features_per_stage": "unet_max_num_features",
    "kernel_sizes": "conv_kernel_sizes",
    "strides": "pool_op_kernel_sizes",
    "n_conv_per_stage": "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder": "n_conv_per_stage_decoder",
}
OLD_NETWORKS = {"PlainConvUNet", "ResidualEncoderUNet"}


def _spelled(module: str, *names: str) -> set[str]:
    """List both names of torch's layers: nnU-Net writes either."""
    return {f"torch.nn.{path}{name}" for path in ("", f"modules.{module}.") for name in names}


def _within(low: float, high: float, kind: Callable[[Any], bool] = is_number) -> Callable[[Any], bool]:
    return lambda value: kind(value) and low <= value <= high


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


# The layers of a network, and the arguments of each. Others could have any number of weights, whatever the sizes above.
OPERATORS = {
    "conv_op": _spelled("conv", "Conv3d"),
    "norm_op": _spelled("instancenorm", "InstanceNorm3d") | _spelled("batchnorm", "BatchNorm3d"),
    "dropout_op": _spelled("dropout", "Dropout3d"),
    "nonlin": _spelled("activation", "ReLU", "LeakyReLU"),
    "block": {f"{PACKAGE}.building_blocks.residual.{name}" for name in ("BasicBlockD", "BottleneckD")},
}
OPERATOR_ARGUMENTS = {
    "norm_op_kwargs": {
        "eps": _within(0, 1),
        "momentum": _within(0, 1),
        "affine": _is_switch,
        "track_running_stats": _is_switch,
    },
    "dropout_op_kwargs": {"p": _within(0, 1), "inplace": _is_switch},
    "nonlin_kwargs": {"negative_slope": _within(0, 1), "inplace": _is_switch},
}
_SEPARATE_Z = {
    "is_seg": _is_switch,
    "force_separate_z": lambda value: value is None or _is_switch(value),
    "separate_z_anisotropy_threshold": _within(0, 64),
}
_MODES = ("linear", "nearest", "nearest-exact", "area")
# nnU-Net's resampling functions, and the arguments each takes.
RESAMPLERS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "resample_data_or_seg_to_shape": _SEPARATE_Z
    | {"order": _within(0, 5, is_whole), "order_z": _within(0, 5, is_whole)},  # of splines
    "resample_torch_fornnunet": _SEPARATE_Z
    | {"num_threads": _within(1, 64, is_whole), "memefficient_seg_resampling": _is_switch}
    | dict.fromkeys(("mode", "aniso_axis_mode"), lambda value: value in _MODES),
    "no_resampling_hack": {},
}
CUBIC = {"is_seg": False, "order": 3, "order_z": 0}
"""Arguments of nnU-Net's first function, its defaults for images, with which it is replaced by our own."""


def check_plans(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Raise `ModelError` for unsafe or absurd plans; return the configuration of this name with what it inherits.

    A two-dimensional one must be as `training_folder.in_3d` returns it.
    """
    planned = resolve(plans, configuration)
    previous = previous_stage(plans, configuration)
    cascade = previous is not None and previous_stage(plans, previous) is not None
    _require(not cascade, "it has a cascade of more than two stages")
    patch = _numbers(planned, "patch_size", 1, MAX_PATCH, whole=True)
    spacing = _numbers(planned, "spacing", *SPACING_RANGE)
    in_3d = len(patch) == 3 and (len(spacing) == 3 or (len(spacing) == 2 and patch[0] == 1))
    _require(
        in_3d and math.prod(patch) <= MAX_PATCH_VOXELS,
        "'patch_size' and 'spacing' must have three sensible numbers each",
    )
    _check_axes(plans)
    _one_of(plans.get("image_reader_writer", "SimpleITKIO"), READERS, "image reader")
    _one_of(plans.get("label_manager", "LabelManager"), {"LabelManager"}, "label manager")
    _one_of(planned.get("preprocessor_name"), {"DefaultPreprocessor"}, "preprocessor")
    _check_resampling(planned)
    _check_normalisation(plans, planned)
    _check_network(planned, patch)
    return planned


def is_cubic(function: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a resampling function and its arguments are those that nnU-Net has for images unless told otherwise."""
    chosen = {name: arguments.get(name, value) for name, value in CUBIC.items()}
    return function == "resample_data_or_seg_to_shape" and chosen == CUBIC


def intensities(plans: dict[str, Any], channel: int) -> Any:
    """Return the intensities of the foreground in the training images, in a channel; None if there are none."""
    for key in ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"):
        if isinstance(plans.get(key), dict):
            return plans[key].get(str(channel))
    return None


def image_spacing(plans: dict[str, Any], planned: dict[str, Any]) -> tuple[float, float, float]:
    """Return the network's spacing, mm, as x, y, z of the image; of slices' distance, the training images' median."""
    spacing = planned["spacing"]
    if len(spacing) == 2:
        median = plans.get("original_median_spacing_after_transp")
        low, high = SPACING_RANGE
        sane = isinstance(median, list) and median and _is_finite(median[0]) and low <= median[0] <= high
        spacing = [median[0] if sane else 1.0, *spacing]  # type: ignore[index]
    z, y, x = (float(spacing[axis]) for axis in plans["transpose_backward"])
    return x, y, z


def resolve(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """Merge a configuration with those that it inherits from; the nearest definition wins."""
    configurations: Any = plans.get("configurations")
    _require(isinstance(configurations, dict), "it has no configurations")
    resolved: dict[str, Any] = {}
    visited: list[str] = []
    heir: Any = name
    while heir is not None:
        planned = configurations.get(heir) if isinstance(heir, str) else None
        _require(planned is None or heir not in visited, f"the configuration {heir} inherits from itself")
        if not isinstance(planned, dict):
            there = ", ".join(configurations)[:200] or "none"
            raise ModelError(
                f"plans.json has no configuration {_shown(heir)} (there is: {there}); export the model again."
            )
        visited.append(heir)
        resolved = {**deepcopy(planned), **resolved}
        heir = planned.get("inherits_from")
    return resolved


def first_features(planned: dict[str, Any]) -> int:
    """Return the features of the network's first stage, of a checked configuration."""
    if "architecture" not in planned:
        return int(planned["UNet_base_num_features"])
    of_stages = planned["architecture"]["arch_kwargs"]["features_per_stage"]
    return int(of_stages[0] if isinstance(of_stages, list) else of_stages)


def previous_stage(plans: dict[str, Any], configuration: str) -> str | None:
    """Return the configuration whose label map a cascade's second stage takes; None of others. Raises `ModelError`."""
    previous: str | None = resolve(plans, configuration).get("previous_stage")
    _require(previous is None or isinstance(previous, str), "'previous_stage' must be the name of a configuration")
    return previous


def beside(name: str, configuration: str) -> str:
    """Name the training folder of another configuration that lies beside one, TRAINER__PLANS__CONFIGURATION."""
    return f"{name.rpartition('__')[0]}__{configuration}"


def first_stage_of(name: str, plans: dict[str, Any]) -> str | None:
    """Name the training folder beside that of a cascade's second stage, by its unchecked plans; None of others."""
    with suppress(ModelError):
        previous = previous_stage(plans, name.rpartition("__")[2])
        return beside(name, previous) if previous else None
    return None


def _check_axes(plans: dict[str, Any]) -> None:
    forward: Any = plans.get("transpose_forward")
    backward: Any = plans.get("transpose_backward")
    for order in (forward, backward):
        _require(
            isinstance(order, list) and all(map(is_whole, order)) and sorted(order) == [0, 1, 2],
            "'transpose_forward' and 'transpose_backward' must be orders of the axes 0, 1, 2",
        )
    undone = [forward[axis] for axis in backward] == [0, 1, 2]
    _require(undone, "'transpose_backward' does not undo 'transpose_forward'")


def _check_resampling(planned: dict[str, Any]) -> None:
    for what in ("data", "seg", "probabilities"):
        function: Any = planned.get(f"resampling_fn_{what}")
        _require(
            function != "resample_torch_simple",
            "nnU-Net's resample_torch_simple is called by other functions only, not by plans",
        )
        _one_of(function, RESAMPLERS.keys(), "resampling function")
        _check_arguments(planned, f"resampling_fn_{what}_kwargs", RESAMPLERS[function])


def _check_normalisation(plans: dict[str, Any], planned: dict[str, Any]) -> None:
    schemes: Any = planned.get("normalization_schemes")
    masked: Any = planned.get("use_mask_for_norm")
    _require(
        isinstance(schemes, list) and 1 <= len(schemes) <= MAX_CHANNELS,
        f"'normalization_schemes' must have one entry for each input channel, 1 to {MAX_CHANNELS}",
    )
    if "RGBTo01Normalization" in schemes:
        raise ModelError("The model is for colour images; MoB Uncertainty works on images with one value per voxel.")
    _require(
        isinstance(masked, list) and [type(entry) for entry in masked] == [bool] * len(schemes),
        "'use_mask_for_norm' must have an entry for each input channel, true or false",
    )
    names = ("mean", "std", "percentile_00_5", "percentile_99_5")
    for channel, scheme in enumerate(schemes):
        _one_of(scheme, NORMALISATIONS, "normalisation")
        if scheme == "CTNormalization":
            measured: Any = intensities(plans, channel)
            _require(
                isinstance(measured, dict) and all(_is_finite(measured.get(name)) for name in names),
                "it lacks the intensities (mean, std, percentiles) that CT normalisation needs",
            )
            low, high = measured["percentile_00_5"], measured["percentile_99_5"]
            _require(measured["std"] > 0 and low < high, "the intensities for CT normalisation are contradictory")


def _check_network(planned: dict[str, Any], patch: list[float]) -> None:
    arguments = _new_arguments(planned) if "architecture" in planned else _old_arguments(planned)
    for name in REQUIRED_SIZES:
        _require(name in arguments, f"it lacks '{name}' of the network")
    for name, limit in NETWORK_LIMITS.items():
        values = [value for value in _leaves(arguments.get(name)) if value is not None or name in REQUIRED_SIZES]
        valid = all(is_whole(value) and 1 <= value <= limit for value in values)
        _require(valid, f"'{name}' of the network must be whole numbers from 1 to {limit}")
    _check_weights(arguments)
    _check_strides(arguments["strides"], patch)


def _new_arguments(planned: dict[str, Any]) -> dict[str, Any]:
    """Return the network's arguments, all checked except its sizes."""
    architecture = planned["architecture"]
    arguments: Any = architecture.get("arch_kwargs") if isinstance(architecture, dict) else None
    _require(isinstance(arguments, dict), "it does not describe a network")
    _one_of(architecture.get("network_class_name"), NETWORKS, "network class")
    imported = architecture.get("_kw_requires_import")
    _require(
        isinstance(imported, list) and set(map(str, imported)) <= OPERATORS.keys() & arguments.keys(),
        "'_kw_requires_import' must list operators of the network",
    )
    for name, names in OPERATORS.items():
        if arguments.get(name) is not None:
            _one_of(arguments[name], names, f"network's {name}")
    for name, allowed in OPERATOR_ARGUMENTS.items():
        if arguments.get(name) is not None:
            _check_arguments(arguments, name, allowed)
    return dict(arguments)


def _old_arguments(planned: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of plans written before nnU-Net 2.4, by today's names; nnU-Net converts these plans."""
    _one_of(planned.get("UNet_class_name"), OLD_NETWORKS, "network class")
    for name in ("num_pool_per_axis", "UNet_base_num_features", *OLD_SIZES.values()):
        _require(name in planned, f"it lacks '{name}' of the network")
    encoder, width = planned["n_conv_per_stage_encoder"], NETWORK_LIMITS["features_per_stage"]
    _require(isinstance(encoder, list), "'n_conv_per_stage_encoder' of the network must be a list")
    for name in ("UNet_base_num_features", "unet_max_num_features"):
        valid = _within(1, width, is_whole)(planned[name])
        _require(valid, f"'{name}' of the network must be a whole number from 1 to {width}")
    return {name: planned[old] for name, old in OLD_SIZES.items()} | {"n_stages": len(encoder)}


def _check_arguments(holder: dict[str, Any], what: str, allowed: dict[str, Callable[[Any], bool]]) -> None:
    arguments: Any = holder.get(what)
    _require(isinstance(arguments, dict), f"'{what}' must be an object")
    for name, value in arguments.items():
        _require(name in allowed, f"'{what}' has the argument {_shown(name)}, which nnU-Net does not know")
        _require(allowed[name](value), f"the argument '{name}' in '{what}' is out of range")


def _check_weights(arguments: dict[str, Any]) -> None:
    """Refuse a network larger than any weights file may be, by an upper bound, before memory is allocated."""

    def largest(*names: str) -> int:
        return max((value or 0 for name in names for value in _leaves(arguments.get(name))), default=0)

    stages = largest("n_stages")
    features = largest("features_per_stage", "bottleneck_channels", "stem_channels")
    kernel = largest("kernel_sizes", "strides")  # the kernel of a transposed convolution is its stride
    convolutions = 2 * stages  # stem and transposed ones
    for name in ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder"):
        blocks = [value or 0 for value in _leaves(arguments.get(name))]
        # One number stands for every stage; a residual block has two convolutions.
        convolutions += 2 * sum(blocks) * (1 if isinstance(arguments.get(name), list) else stages)
    weights = convolutions * features**2 * kernel**3
    _require(weights <= WEIGHTS_LIMIT, f"the network would have more than {WEIGHTS_LIMIT:.0e} weights")


def _check_strides(strides: Any, patch: list[float]) -> None:
    """Check that the strides divide the patch evenly down to the last stage, or the decoder's skips do not fit."""
    _require(isinstance(strides, list), "'strides' of the network must be a list")
    for axis, size in enumerate(patch):
        steps = [stage[axis] if isinstance(stage, list) and len(stage) == 3 else stage for stage in strides]
        divides = not any(isinstance(step, list) for step in steps) and size % math.prod(steps) == 0
        _require(divides, "'patch_size' is not divisible by the network's strides")


def _leaves(value: Any, depth: int = 0) -> list[Any]:
    """List all entries of nested lists."""
    if not isinstance(value, list):
        return [value]
    _require(depth <= 2 and len(value) <= 32, "it nests or repeats the network's sizes too often")
    return [leaf for entry in value for leaf in _leaves(entry, depth + 1)]


def _numbers(planned: dict[str, Any], name: str, low: float, high: float, whole: bool = False) -> list[float]:
    values: Any = planned.get(name)
    valid = _within(low, high, is_whole if whole else _is_finite)
    _require(
        isinstance(values, list) and all(map(valid, values)),
        f"'{name}' must be a list of numbers from {low:g} to {high:g}",
    )
    return list(values)


def _one_of(name: Any, allowed: Set[str], what: str) -> None:
    if not isinstance(name, str) or name not in allowed:
        raise ModelError(
            f"plans.json names the {what} {_shown(name)}, which is not one of nnU-Net's own; this model is not safe to "
            "load."
        )


def _shown(value: Any) -> str:
    """Show a wrong value, cut to a length that fits a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ModelError(f"plans.json cannot be used: {problem}; export the model again.")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and -1e12 < value < 1e12
