"""Read and write weights: safetensors of a model folder, and nnU-Net's own checkpoints without executing them.

A state dict of nnU-Net names each parameter two to four times. A file keeps each tensor once and its other names in the
metadata, as `safetensors.torch.save_model` does. torch is imported only for checkpoints, and to write.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.base.errors import ModelError, is_out_of_memory, reason_of
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT, JsonError, parse_object
from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.model.covariance import LENGTH_RANGE
from MoBUncertaintyLib.model.files import ModelFile

if TYPE_CHECKING:
    from torch import Tensor

StateDict = dict[str, "Tensor"]

STORED = {"F16", "F32", "F64", "I64"}
"""Kinds of numbers that a model folder's weights may have; whole ones count batches."""
WEIGHTS_LIMIT = 8 * 2**30  # bytes of one file; a residual encoder L has 0.4 GB, its checkpoint 1.2 GB
TENSORS_LIMIT = 10_000  # of one network; a residual encoder L has 1,500, each under all its names
PICKLE_LIMIT = 8 * 2**20  # bytes of a checkpoint without its tensors; with 1,000 logged epochs it has 1 MB

ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of torch, which overrides what its callers ask for."""


@dataclass(frozen=True)
class Checkpoint:
    """What inference needs of an nnU-Net checkpoint."""

    weights: StateDict  # with the keys of `StochasticNetwork`, "backbone." and "head."
    configuration: str  # in the plans
    trainer: str  # name of its class
    epoch: int  # epochs trained
    mirror_axes: tuple[int, ...]  # of the input
    temperature: float | None = None  # divisor of the logits, fitted at the end of a fine-tuning

    @property
    def length_mm(self) -> tuple[float, float, float] | None:
        """The correlation length that a covariance head has learned; None if it has none."""
        learned = self.weights.get("head.log_length")
        if learned is None or tuple(learned.shape) != (3,):
            return None
        low, high = LENGTH_RANGE
        depth, height, width = (min(max(float(length), low), high) for length in learned.exp())
        return depth, height, width


def write_weights(path: Path, weights: StateDict, half: bool = False) -> None:
    """Write a state dict as safetensors, each tensor once; equal weights give equal files.

    `half` stores floating-point numbers as float16 (relative error up to 5e-4). Raises `ModelError` for a weight that
    is not finite as it is stored, and `OSError`.
    """
    import torch
    from safetensors.torch import save

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
        _check_finite(name, _is_finite(stored[name]), "the network, as float16," if half else "the network")
    # Not by the library's own file, which only its owner could read; and it orders the metadata anew each time.
    content = memoryview(save(stored, metadata={"format": "pt", **aliases}))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(start - 8)
    assert len(text) == start - 8
    with path.open("wb") as file:
        file.write(content[:8])
        file.write(text)
        file.write(content[start:])


def read_weights(file: ModelFile) -> dict[str, np.ndarray]:
    """Read weights from safetensors under all their names, floating-point numbers as float32.

    Raises `ModelError` if the file is damaged, or holds too many tensors, or numbers not finite or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        length = int.from_bytes(file.content[:8], "little")
        if SIZE_LIMIT < length <= len(file.content):
            raise _too_many(file)
        header = parse_object(file.content[8 : 8 + min(length, SIZE_LIMIT)])
        metadata = header.pop("__metadata__", {})
        if len(header) > TENSORS_LIMIT or len(metadata) > TENSORS_LIMIT:
            raise _too_many(file)
        for name, entry in header.items():
            if entry["dtype"] not in STORED:
                raise _unusable(name, entry["dtype"], file)
        stored = load(file.content)
    except (JsonError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        reason = printable(reason_of(error))
        raise ModelError(f"{file} is damaged or truncated ({reason}); download the model again.") from error
    weights = {}
    for name, array in stored.items():
        weights[name] = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        _check_finite(name, bool(np.isfinite(weights[name]).all()), str(file))
    for name, first in metadata.items():
        if name == "format":
            continue
        if first not in weights or name in stored:
            raise ModelError(f"{file} refers to the tensor '{first[:80]}' wrongly; export the model again.")
        weights[name] = weights[first]
    return weights


def read_checkpoint(file: ModelFile) -> Checkpoint:
    """Read an nnU-Net checkpoint, stock or fine-tuned; raises `ModelError` for anything else, and for code."""
    import torch

    content = load_checkpoint(file)
    lacking = f"{file} is not a checkpoint of nnU-Net: it lacks "
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
        plain = re.sub(r"^(module\.|_orig_mod\.)+", "", name)  # the prefixes of DataParallel and torch.compile
        weights[plain if plain.startswith(("backbone.", "head.")) else f"backbone.{plain}"] = tensor
    axes: Any = content.get("inference_allowed_mirroring_axes")
    axes = axes if isinstance(axes, tuple | list) else ()
    epoch, temperature = content.get("current_epoch"), content.get("temperature")
    return Checkpoint(
        weights=_singles(weights, file),
        configuration=configuration,
        trainer="".join(filter(str.isprintable, content["trainer_name"]))[:100],
        epoch=epoch if isinstance(epoch, int) else 0,
        mirror_axes=tuple(axis for axis in axes if isinstance(axis, int) and 0 <= axis <= 2),
        temperature=temperature if isinstance(temperature, float) and math.isfinite(temperature) else None,
    )


def load_checkpoint(file: ModelFile) -> Any:
    """Load a whole checkpoint without executing anything; raises `ModelError` if it asks for code or is damaged."""
    import torch

    try:
        _check_archive(file)
        with only_weights_are_loaded():
            return torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        refusal = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
        what = f"asks to run code ({refusal[1]})" if refusal else "holds more than weights"
        raise ModelError(
            f"{file} {what}, which is not allowed; ask its author to export the model with `mob-uncertainty export`."
        ) from error
    except Exception as error:  # torch raises a dozen types on files that are not checkpoints
        if is_out_of_memory(error):
            raise ModelError(
                f"There is not enough memory to read {file}; close other programs and try again."
            ) from error
        raise ModelError(f"{file} is damaged or not a checkpoint of nnU-Net; copy it again.") from error


@contextmanager
def only_weights_are_loaded() -> Iterator[None]:
    """Make every `torch.load`, nnU-Net's own too, refuse anything that could execute code.

    Only tensors, plain data and NumPy's scalars (nnU-Net's logged scores) are allowed. Raises `ModelError` if this
    version of torch cannot do so.
    """
    import torch

    # Before 2.10, `weights_only=True` can be circumvented (CVE-2025-32434, CVE-2026-24747).
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        raise ModelError(
            f"torch {torch.__version__} cannot read nnU-Net's checkpoints safely; update torch to 2.10 or newer, "
            "or use a model exported by `mob-uncertainty export`."
        )
    before = os.environ.get(ONLY_WEIGHTS)
    os.environ[ONLY_WEIGHTS] = "1"
    try:
        with torch.serialization.safe_globals(_nnunet_globals()):
            yield
    finally:
        del os.environ[ONLY_WEIGHTS]
        if before is not None:
            os.environ[ONLY_WEIGHTS] = before


def _check_archive(file: ModelFile) -> None:
    """Refuse a file that would take minutes, or more memory than its size, before torch reads it."""
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        entries = archive.infolist()
    if len(entries) > 8 * TENSORS_LIMIT:  # the optimiser has some for each weight
        raise _too_many(file)
    for entry in entries:
        pickled = entry.filename.endswith("data.pkl")
        if entry.compress_type != zipfile.ZIP_STORED or (pickled and entry.file_size > PICKLE_LIMIT):
            raise ValueError(entry.filename)


def _nnunet_globals() -> list[Any]:
    """List what unpickling NumPy's scalars needs, by the names of NumPy 2 and NumPy 1."""
    scalar = import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray").scalar
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _singles(tensors: StateDict, file: ModelFile) -> StateDict:
    """Convert weights to float32, except integers, which count batches; a shared tensor stays shared.

    Raises `ModelError` for too many, or for a kind that nnU-Net's networks do not compute with (quantised, say).
    """
    import torch

    if len(tensors) > TENSORS_LIMIT:
        raise _too_many(file)
    singles: dict[tuple[Any, ...], Tensor] = {}
    weights: StateDict = {}
    total = 0
    for name, tensor in tensors.items():
        allowed = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in allowed:
            kind = str(tensor.dtype if plain else tensor.layout if tensor.device.type == "cpu" else tensor.device.type)
            raise _unusable(name, kind.removeprefix("torch."), file)
        identity = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if identity not in singles:
            total += tensor.numel() * 4
            # A tensor can claim any size with few numbers in memory, all of which a copy would have.
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() or total > WEIGHTS_LIMIT:
                raise ModelError(f"The weights of {file} are larger than they are on disk; do not use this model.")
            singles[identity] = tensor.float() if tensor.is_floating_point() else tensor
            _check_finite(name, _is_finite(singles[identity]), str(file))
        weights[name] = singles[identity]
    return weights


def _too_many(file: ModelFile) -> ModelError:
    return ModelError(f"{file} holds more than {TENSORS_LIMIT:,} tensors; this is not a model file.")


def _unusable(name: str, kind: str, file: ModelFile) -> ModelError:
    return ModelError(
        f"The weights '{name[:80]}' of {file} are of the kind {kind}, which cannot be used; export the model again as "
        "float32 or float16."
    )


def _is_finite(tensor: Tensor) -> bool:
    import torch

    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _check_finite(name: str, is_finite: bool, where: str) -> None:
    if not is_finite:
        raise ModelError(f"The weights '{name[:80]}' of {where} are not all finite; train or download the model again.")
