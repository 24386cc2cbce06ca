"""Which Python packages are installed, of those that not everything needs."""

from __future__ import annotations

from importlib.util import find_spec

from MoBUncertaintyLib.base.errors import InstallationError


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without doing so."""
    return find_spec(package) is not None


def has_pytorch() -> bool:
    """Tell whether PyTorch and nnU-Net are installed: other extensions of Slicer install the one without the other."""
    return is_installed("torch") and is_installed("nnunetv2")


def check_pytorch(what: str) -> None:
    """Raise `InstallationError`, which says what needs PyTorch and nnU-Net, where they are not installed."""
    if not has_pytorch():
        raise InstallationError(
            f"{what} needs PyTorch and nnU-Net, which are not installed; run `pip install 'mob-uncertainty[gpu]'`, or "
            "choose the engine PyTorch in Slicer and apply."
        )
