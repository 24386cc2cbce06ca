"""Choose a device of PyTorch, and the precision of the backbone on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from MoBUncertaintyLib.base.errors import SettingsError
from MoBUncertaintyLib.regions.prediction import Precision


def select_device(name: str = "auto") -> torch.device:
    """Choose a device by name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        SettingsError: This computer does not have the device.
    """
    available = {"cuda": _cuda_runs(), "mps": _mps_runs_unets(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(kind for kind, yes in available.items() if yes)
        raise SettingsError(f"The device {name!r} is not available on this computer; choose auto or one of: {there}.")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"{name!r} is not a device; choose auto, cuda, cuda:1, mps or cpu.") from error
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"There is no {name!r}: this computer has {torch.cuda.device_count()} CUDA device(s).")
    return device


def autocast_dtype(device: torch.device, precision: Precision | str = Precision.AUTO) -> torch.dtype:
    """Choose the backbone's number format on a device: half precision where the hardware supports it, else fp32.

    On CUDA that is float16, as in nnU-Net: bfloat16 errs ten times as much. What float16 cannot hold becomes infinite,
    so whoever takes it looks for that (`SlidingWindow`), or takes `wide_precision`.
    """
    precision = Precision(precision)
    if device.type == "mps" and precision in (Precision.BFLOAT16, Precision.FLOAT16):
        raise SettingsError(f"Apple's GPU runs the network in float32 only, not {precision}; choose auto or float32.")
    if precision is not Precision.AUTO:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, precision: Precision | str = Precision.AUTO) -> AbstractContextManager[object]:
    """Make the context in which the backbone runs."""
    dtype = autocast_dtype(device, precision)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def wide_precision(device: torch.device) -> Precision:
    """Choose a format that holds what float32 holds, for training and fits, where nobody looks for overflow."""
    wide = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.BFLOAT16 if wide else Precision.AUTO


def exact_dtype(device: torch.device) -> torch.dtype:
    """Choose the format for what needs many digits: float64, or float32 on Apple's GPUs, which have nothing finer."""
    return torch.float32 if device.type == "mps" else torch.float64


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a CUDA device from pinned memory, so that the host need not wait for it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor).to(device, non_blocking=True)


@contextmanager
def cuda_settings() -> Iterator[None]:
    """Let cuDNN try its algorithms on a shape that repeats, as tiles do, and compute float32 in full, not as TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _cuda_runs() -> bool:
    """Whether there is a GPU that this build of PyTorch has code for: on old ones every kernel fails."""
    if not torch.cuda.is_available():
        return False
    names = torch.cuda.get_arch_list()
    built = [match for name in names if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name))]
    if not names or len(built) < len(names):  # AMD's have other names
        return True
    own = torch.cuda.get_device_capability()
    for match in built:
        version = int(match[2]), int(match[3])
        if version <= own and (match[1] == "compute" or version[0] == own[0]):
            return True
    return False


def _mps_runs_unets() -> bool:
    """Whether Apple's GPU can run nnU-Net's decoder: its transposed 3D convolution came to MPS with torch 2.8."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return torch.backends.mps.is_available() and (major, minor) >= (2, 8)


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 (AVX512-BF16 or AMX); emulated, it is slower than fp32."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:
        return False
