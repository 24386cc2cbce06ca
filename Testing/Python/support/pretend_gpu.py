"""A GPU that is not there: its tensors lie in the CPU's memory, and each request for memory or a copy can fail.

    with PretendGpu() as gpu:
        predict(image, model, PredictionSettings(device="cuda"))
    print(gpu.uploads, gpu.waits, gpu.peak)

Every call of PyTorch that touches one of its tensors, or names the device, goes through it. Results are the CPU's. As a
GPU does, it refuses tensors of another device and, if it is Apple's, float64. What a kernel needs for itself alone (the
workspace of a convolution) is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from MoBUncertaintyLib.inference import devices

WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "nonzero", "argwhere"}
"""What the host waits for, since it needs the values or their number."""
ITEMS = {"__getitem__", "__setitem__"}


class GpuTensor(Tensor):
    """A tensor that says it is on the device; `PretendGpu` makes it so."""

    pretended = torch.device("cuda", 0)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.pretended

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.pretended.type == "cuda"

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False


class _Event:
    """Time on the device."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def elapsed_time(self, _: _Event) -> float:
        return 1.0


class _Memory(TorchDispatchMode):
    """Tell the device what an operation allocates."""

    whole: ClassVar[set[Any]] = set()
    """Operations that consist of no others."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.whole:
            with self:
                parts = func.decompose(*args, **kwargs)  # which inference mode leaves together
            if parts is not NotImplemented:
                return parts
            self.whole.add(func)
        given = {_place(each) for each in _tensors((args, kwargs))}
        made = func(*args, **kwargs)
        for each in _tensors(made):
            if _place(each) not in given:
                self.gpu.allocated(each)
        return made


class PretendGpu(TorchFunctionMode):
    """The device, while it is entered.

    Args:
        kind: `cuda` or `mps`.
        fails: Told the number of a request for memory or a copy, from 0, and the bytes that would be in use; whether it
            fails, as without memory.

    Attributes:
        uploads: Copies to it so far.
        waits: How often the host waited for it: for a value, for a copy from it, and for a copy to it of memory that is
            not pinned.
        used, peak: Bytes in use, and the most that were at once.
        requests: Number of requests for memory and copies so far.
        failures: How many of them failed.
    """

    def __init__(self, kind: str = "cuda", fails: Callable[[int, int], bool] = lambda number, used: False) -> None:
        super().__init__()
        self.kind, self.fails = kind, fails
        self.uploads = self.waits = self.used = self.peak = self.requests = self.failures = 0
        self._memory = _Memory(self)
        self._pinned: set[int] = set()

    def __enter__(self) -> PretendGpu:
        self._stack = ExitStack()
        gpu = self

        class Autocast(torch.autocast):
            def __init__(self, device_type: str, *given: Any, **options: Any) -> None:
                super().__init__("cpu" if device_type == gpu.kind else device_type, *given, **options)

        class Generator(torch.Generator):
            def __new__(cls, device: Any = "cpu") -> Generator:
                made = super().__new__(cls)
                made.own = torch.device(device)
                if made.own.type == gpu.kind:
                    gpu._request(0)
                return made

            @property
            def device(self) -> torch.device:
                return GpuTensor.pretended if self.own.type == gpu.kind else self.own

        replaced: list[tuple[Any, str, Any]] = [
            (GpuTensor, "pretended", torch.device(self.kind, 0)),
            (torch, "autocast", Autocast),
            (torch, "Generator", Generator),
            (devices, "_cuda_runs", lambda: self.kind == "cuda"),
            (devices, "_mps_runs_unets", lambda: self.kind == "mps"),
        ]
        if self.kind == "cuda":
            replaced += [
                (torch.cuda, "is_available", lambda: True),
                (torch.cuda, "device_count", lambda: 1),
                (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
                (torch.cuda, "empty_cache", lambda: None),
                (torch.cuda, "synchronize", lambda device=None: self._wait()),
                (torch.cuda, "Event", _Event),
            ]
        for target, name, value in replaced:
            self._stack.enter_context(mock.patch.object(target, name, value))
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._stack.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "to":
            return self._moved(args, kwargs)
        if name in ("cpu", "numpy") and isinstance(args[0], GpuTensor):
            assert name == "cpu", "a GPU's tensor has no NumPy array"
            return self._moved((args[0], "cpu"), {})
        if kwargs.get("pin_memory"):
            made = func(*args, **kwargs | {"pin_memory": False})
            self._request(0)
            self._pinned.add(made.data_ptr())
            weakref.finalize(made.untyped_storage(), self._pinned.discard, made.data_ptr())
            return made
        here = self._is_here(kwargs.get("device"))
        tensors = _tensors((args, kwargs))
        if not here and not any(isinstance(each, GpuTensor) for each in tensors):
            return func(*args, **kwargs)
        if name == "__get__":  # an attribute
            return func(*args, **kwargs)
        if name == "_has_compatible_shallow_copy_type":  # so that a module that is moved has new parameters
            return False
        return self._operation(func, name, args, kwargs, tensors, here)

    def _operation(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], here: bool
    ) -> Any:
        """Run a call on the device's tensors."""
        if name in WAITS:
            self._wait()
        if name in ("copy_", "__setitem__"):
            target, source = args[0], args[-1]
            if isinstance(source, Tensor) and isinstance(source, GpuTensor) != isinstance(target, GpuTensor):
                self._copied(source, up=isinstance(target, GpuTensor), blocking=not kwargs.get("non_blocking"))
                func(*args, **kwargs)
                return target
        if name in ITEMS and any(isinstance(each, list) or _is_mask(each) for each in _index(args[1])):
            self._wait()  # a list is uploaded, and how many voxels a mask has is asked
        if name == "new_tensor" or (here and name in ("tensor", "as_tensor")):
            self._copied(torch.zeros(1), up=True)
        strangers = [each for each in tensors if not isinstance(each, GpuTensor) and each.ndim]
        if strangers and not here and name not in ("__get__", "__set__", "as_subclass"):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        if here:
            kwargs = kwargs | {"device": "cpu"}
        with self._memory:
            made = func(*args, **kwargs)
        return self._wrapped(made)

    def _wrapped(self, made: Any) -> Any:
        if isinstance(made, Tensor):
            if self.kind == "mps" and made.dtype is torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework has no float64.")
            return made if isinstance(made, GpuTensor) else made.as_subclass(GpuTensor)
        if isinstance(made, (tuple, list)):
            parts = [self._wrapped(each) for each in made]
            return type(made)(*parts) if hasattr(made, "_fields") else type(made)(parts)
        return made

    def _moved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Convert a tensor to another device or type."""
        tensor, *given = args
        other = next((each for each in (*given, kwargs.get("other")) if isinstance(each, Tensor)), None)
        named = [each for each in (*given, kwargs.get("device")) if isinstance(each, (str, torch.device))]
        dtype = next((each for each in (*given, kwargs.get("dtype")) if isinstance(each, torch.dtype)), tensor.dtype)
        target = torch.device(named[0]) if named else tensor.device
        if other is not None:
            target, dtype = other.device, other.dtype
        up = target.type == self.kind
        if self.kind == "mps" and dtype is torch.float64 and (up or isinstance(tensor, GpuTensor)):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework has no float64.")
        crosses = up != isinstance(tensor, GpuTensor)
        plain = tensor.as_subclass(Tensor)
        if not crosses and dtype == tensor.dtype:
            return tensor
        if crosses:
            self._copied(tensor, up, blocking=not kwargs.get("non_blocking"))
        if not up:
            return plain.to(dtype, copy=crosses)
        with self._memory:
            made = plain.to(dtype, copy=True)
        return made.as_subclass(GpuTensor)

    def _copied(self, tensor: Tensor, up: bool, blocking: bool = True) -> None:
        self._request(0)
        self.uploads += up
        if blocking or (up and tensor.data_ptr() not in self._pinned):
            self._wait()

    def allocated(self, tensor: Tensor) -> None:
        """Count memory that an operation has taken."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        if not size:
            return
        self._request(size)
        self.used += size
        self.peak = max(self.peak, self.used)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.used -= size

    def _request(self, size: int) -> None:
        """Fail, or not."""
        number = self.requests
        self.requests += 1
        if self.fails(number, self.used + size):
            self.failures += 1
            raise torch.OutOfMemoryError(f"{self.kind.upper()} out of memory, as is pretended at request {number}")

    def _wait(self) -> None:
        self.waits += 1

    def _is_here(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.kind


def _tensors(values: Any) -> list[Tensor]:
    """List the tensors in nested arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return []
    return [tensor for each in values for tensor in _tensors(each)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _index(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool
