"""What the user chooses among in the panel."""

from __future__ import annotations

from enum import Enum

from slicer.i18n import tr as _


class Device(Enum):
    """Where to compute; the values are those of the worker."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"
    XPU = "xpu"

    def label(self) -> str:
        """Name it as the user reads it."""
        return {
            Device.AUTO: _("Auto (graphics card first)"),
            Device.CPU: _("CPU (processor)"),
            Device.CUDA: _("CUDA (NVIDIA graphics card)"),
            Device.MPS: _("MPS (Apple graphics)"),
            Device.XPU: _("XPU (Intel graphics)"),
        }[self]


class Engine(Enum):
    """What runs the network; the values are those of the worker."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"

    def label(self) -> str:
        """Name it as the user reads it."""
        return {Engine.AUTO: _("Auto"), Engine.TORCH: _("PyTorch"), Engine.OPENVINO: _("OpenVINO")}[self]
