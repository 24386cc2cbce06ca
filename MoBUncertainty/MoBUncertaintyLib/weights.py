"""Weights on disk: safetensors of a model folder, and nnU-Net's own checkpoints read without running what is in them.

nnU-Net's modules hold the same parameter under several names (`encoder.` is also `decoder.encoder.`, `conv` is also
`all_modules.0`): a state dict names each two to four times. A file keeps each tensor once and its other names in the
metadata, as `safetensors.torch.save_model` does. torch is imported only by the functions that need it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

StateDict = dict[str, "Tensor"]

WEIGHTS_LIMIT = 8 * 2**30  # bytes of one file; a residual encoder L has 0.4 GB, its checkpoint 1.2 GB


@dataclass(frozen=True)
class Checkpoint:
    """What inference needs of an nnU-Net checkpoint.

    Attributes:
        weights: State dict with the keys of `StochasticNetwork` ("backbone." and "head.").
        configuration: Name of the configuration in the plans.
        trainer: Name of the trainer's class.
        epoch: Epochs trained.
        mirror_axes: Axes of the input that the training mirrored.
        temperature: What the logits were divided by at the end of a fine-tuning; None where they were not.
    """

    weights: StateDict
    configuration: str
    trainer: str
    epoch: int
    mirror_axes: tuple[int, ...]
    temperature: float | None = None


def write_weights(path: Path, weights: StateDict, half: bool = False) -> None:
    """Write a state dict, each tensor once; equal weights give equal files.

    Args:
        path: The safetensors file.
        weights: State dict.
        half: Store floating-point numbers as float16 (half the size; relative error up to 5e-4).

    Raises:
        ModelError: A weight is not finite, or not within float16's range if `half`.
        OSError: The file cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    first_name: dict[tuple[Any, ...], str] = {}
    stored: StateDict = {}
    aliases: dict[str, str] = {}
    for name, tensor in weights.items():
        identity = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and identity in first_name:
            aliases[name] = first_name[identity]
            continue
        first_name[identity] = name
        dtype = torch.float16 if half and tensor.is_floating_point() else tensor.dtype
        stored[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        _check_finite(name, stored[name], "the network" if not half else "the network, as float16,")
    try:
        save_file(stored, path, metadata={"format": "pt", **aliases})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Rewrite the metadata in order, which the library writes in another order each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length
        file.seek(8)
        file.write(text)


def read_weights(path: Path, where: str) -> StateDict:
    """Read a state dict; floating-point numbers come as float32.

    Args:
        path: The safetensors file.
        where: The model, as the user knows it, for messages.

    Raises:
        ModelError: The file is damaged, too large or holds numbers that are not finite or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    name_in_model = f"{path.parent.name}/{path.name} in {where}"
    _check_size(path, name_in_model)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            aliases = {name: first for name, first in (file.metadata() or {}).items() if name != "format"}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{name_in_model} is damaged or cut short ({error}); download the model again.") from error
    weights = {name: _single(name, tensor, name_in_model) for name, tensor in weights.items()}
    for name, first in aliases.items():
        if first not in weights or name in weights:
            raise ModelError(f"{name_in_model} refers to the tensor '{first}' wrongly; export the model again.")
    return weights | {name: weights[first] for name, first in aliases.items()}


def read_checkpoint(path: Path, where: str) -> Checkpoint:
    """Read an nnU-Net checkpoint, stock or fine-tuned, with `weights_only=True`: nothing in it can run.

    Beside tensors and plain Python data, nnU-Net's checkpoints hold its logged scores, which are NumPy scalars; exactly
    those are allowed. The file is memory-mapped, so the optimiser's state is not read.

    Args:
        path: `checkpoint_*.pth`.
        where: The results folder, as the user knows it, for messages.

    Raises:
        ModelError: The file asks for code, is damaged, or is not a checkpoint of nnU-Net.
    """
    import torch

    name_in_model = f"{path.parent.name}/{path.name} in {where}"
    _check_size(path, name_in_model)
    _check_torch_is_safe(torch.__version__)
    try:
        with torch.serialization.safe_globals(_nnunet_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
        what = f"asks to run code ({asked[1]})" if asked else "holds more than weights"
        raise ModelError(
            f"{name_in_model} {what}, which is never done; ask for the model as exported by `mob-uncertainty export`."
        ) from error
    except Exception as error:  # torch raises a dozen types on files that are not checkpoints
        raise ModelError(f"{name_in_model} is damaged or not a checkpoint of nnU-Net; copy it again.") from error
    return _interpret(content, name_in_model)


def _interpret(content: Any, name_in_model: str) -> Checkpoint:
    import torch

    lacking = f"{name_in_model} is not a checkpoint of nnU-Net: it lacks "
    for key, kind in (("network_weights", dict), ("init_args", dict), ("trainer_name", str)):
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise ModelError(f"{lacking}'{key}'.")
    configuration = content["init_args"].get("configuration")
    if not isinstance(configuration, str):
        raise ModelError(f"{lacking}the name of its configuration.")
    weights: StateDict = {}
    for name, tensor in content["network_weights"].items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{lacking}proper 'network_weights'.")
        # DataParallel and torch.compile put their own prefix before the network's names.
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
        name = name if name.startswith(("backbone.", "head.")) else f"backbone.{name}"
        weights[name] = _single(name, tensor, name_in_model)
    axes = content.get("inference_allowed_mirroring_axes") or ()
    epoch, temperature = content.get("current_epoch"), content.get("temperature")
    return Checkpoint(
        weights=weights,
        configuration=configuration,
        trainer=content["trainer_name"],
        epoch=epoch if isinstance(epoch, int) else 0,
        mirror_axes=tuple(axis for axis in axes if axis in (0, 1, 2)) if isinstance(axes, (tuple, list)) else (),
        temperature=temperature if isinstance(temperature, float) and math.isfinite(temperature) else None,
    )


def _nnunet_globals() -> list[Any]:
    """What unpickling NumPy's scalars takes, under NumPy 2's name of it and NumPy 1's."""
    import numpy as np

    try:
        from numpy._core.multiarray import scalar
    except ImportError:  # NumPy 1
        from numpy.core.multiarray import scalar

    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _check_torch_is_safe(version: str) -> None:
    """`weights_only=True` could be circumvented before torch 2.6 (CVE-2025-32434)."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < (2, 6):
        raise ModelError(
            f"torch {version} cannot read nnU-Net's checkpoints safely; update torch to 2.6 or newer, "
            "or use a model exported by `mob-uncertainty export`."
        )


def _check_size(path: Path, name_in_model: str) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{name_in_model} cannot be read: {error.strerror}.") from error
    if size > WEIGHTS_LIMIT:
        raise ModelError(f"{name_in_model} is larger than {WEIGHTS_LIMIT >> 30} GB; this is not a model file.")


def _single(name: str, tensor: Tensor, where: str) -> Tensor:
    """Weights as float32; whole numbers, which layers count batches with, as they are.

    Raises:
        ModelError: They are of a kind that nnU-Net's networks do not compute with (quantised, say), or not finite.
    """
    import torch

    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"The weights '{name}' of {where} are of the kind {kind}, which cannot be used; "
            "export the model again as float32 or float16."
        )
    single = tensor.float() if tensor.is_floating_point() else tensor
    _check_finite(name, single, where)
    return single


def _check_finite(name: str, tensor: Tensor, where: str) -> None:
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"The weights '{name}' of {where} are not all finite; train or download the model again.")
