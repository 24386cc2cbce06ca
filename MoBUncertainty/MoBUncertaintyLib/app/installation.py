"""The Python packages that the worker needs: named when Apply is pressed, and installed if the user agrees.

PyTorch comes through the PyTorch extension, which knows the build for the graphics card, and all else through
`slicer.packaging`. PyTorch is never loaded here: on some platforms it crashes a running Slicer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError

import slicer
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import Cancelled, InstallationError

OLDEST_SLICER = (5, 12)
REQUIREMENTS = Path(__file__).parents[2] / "Resources" / "requirements.txt"
TORCH = "torch>=2.6"
# Slicer's own packages and PyTorch's: whatever another package asks for, pip leaves them as they are.
KEPT = ["numpy", "scipy", "SimpleITK", "torch", "torchvision"]


def ensureReady(requester: str) -> None:
    """Install what is missing after asking once; at once if nothing is. Does nothing while Slicer is testing.

    Args:
        requester: Who asks, for the dialogs: the module's title.

    Raises:
        Cancelled: The user does not want it; nothing was installed.
        InstallationError: Slicer is too old, the PyTorch extension is missing, or the installation has failed.
    """
    _checkSlicer(requester)
    missing = missingPackages()
    if not missing or slicer.app.testingEnabled():
        return
    pytorch = _pytorchExtension() if TORCH in missing else None
    if not slicer.util.confirmOkCancelDisplay(_question(requester, missing), windowTitle=requester):
        raise Cancelled(_("Nothing was installed, so nothing was computed; press Apply to be asked again."))
    try:
        if pytorch:
            _installTorch(pytorch)
        others = [requirement for requirement in missing if requirement != TORCH]
        slicer.packaging.pip_ensure(others, skip_packages=KEPT, prompt_install=False, requester=requester)
    except CalledProcessError as error:
        raise _failed(missingPackages() or missing) from error
    if still := missingPackages():
        raise _failed(still)


def missingPackages() -> list[str]:
    """The requirements that Slicer's Python does not meet: PyTorch first, then those of `requirements.txt`."""
    import slicer.packaging

    importlib.invalidate_caches()
    requirements = [TORCH, *map(str, slicer.packaging.load_requirements(REQUIREMENTS))]
    return [requirement for requirement in requirements if not slicer.packaging.pip_check(requirement)]


def _checkSlicer(requester: str) -> None:
    version = int(slicer.app.majorVersion), int(slicer.app.minorVersion)
    if version < OLDEST_SLICER:
        raise InstallationError(
            _("{requester} needs Slicer {oldest} or newer, and this is Slicer {version}; update Slicer.").format(
                requester=requester,
                oldest="{}.{}".format(*OLDEST_SLICER),
                version="{}.{}".format(*version),
            )
        )


def _pytorchExtension():
    """The logic of the PyTorch extension."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        raise InstallationError(
            _("The PyTorch extension is missing; install it in the Extensions Manager, restart Slicer and apply again.")
        ) from error
    return PyTorchUtilsLogic()


def _question(requester: str, missing: list[str]) -> str:
    return _(
        "{requester} needs Python packages that Slicer does not have yet:\n\n{packages}\n\n"
        "They and what they need are downloaded and installed into Slicer, up to 3 GB with PyTorch, "
        "which takes some minutes.\nNothing of your data leaves this computer. Install them?"
    ).format(requester=requester, packages="\n".join(f"    {requirement}" for requirement in missing))


def _failed(missing: list[str]) -> InstallationError:
    return InstallationError(
        _(
            "These Python packages could not be installed: {packages}; see what pip says in the Python console, check "
            "the network and the free disk space, restart Slicer and apply again."
        ).format(packages=", ".join(missing))
    )


def _installTorch(pytorch) -> None:
    slicer.util.showStatusMessage(_("Installing PyTorch, which takes a few minutes..."))
    with slicer.util.WaitCursor(), _torchKeptOut():
        try:
            pytorch.installTorch(askConfirmation=False, torchVersionRequirement=TORCH.removeprefix("torch"))
        except ImportError as error:
            # When all is installed, it imports torch, which is kept out.
            if error.name != "torch":
                raise InstallationError(
                    _("The PyTorch extension cannot install PyTorch: {reason}.").format(reason=error)
                ) from error
        finally:
            slicer.util.showStatusMessage("")


@contextmanager
def _torchKeptOut() -> Iterator[None]:
    """Within, `import torch` is an ImportError, unless somebody has loaded it already."""
    loaded = "torch" in sys.modules
    if not loaded:
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if not loaded:
            sys.modules.pop("torch", None)
