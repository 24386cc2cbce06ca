"""The Python packages that the worker needs: named at Apply or Export, and installed if the user agrees.

OpenVINO runs models that have a graph. PyTorch is asked for only where something needs it, with the reason. It comes
through the PyTorch extension, which knows the build for the graphics card, and all else by pip, which is told to leave
PyTorch and Slicer's own packages as they are. PyTorch is never loaded here: on some platforms it crashes a running
Slicer.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory

import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import Cancelled, InstallationError
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.model.listing import ListedModel
from MoBUncertaintyLib.output.formats import DICOM

OLDEST_SLICER = (5, 12)
TORCH = "torch>=2.10"
OPENVINO = "requirements-openvino.txt"
RETRIES = "PIP_RETRIES"  # pip's own variable
ON_PYTORCH = {"torch", "cuda", "mps"}
PINNED = ["numpy", "scipy", "SimpleITK", "torch", "torchvision"]
"""Packages of Slicer and of PyTorch, which pip leaves as they are."""


class ShownError(Cancelled):
    """An error that Slicer has shown in a box of its own: it needs no other."""


def ensureReady(
    requester: str,
    formats: Collection[str] = (),
    onInstall: Callable[[], None] = lambda: None,
    why: str = "",
    engine: str | None = "auto",
) -> None:
    """Ask once, then install what is missing. Do nothing while Slicer is testing.

    Args:
        requester: The module's title, for the dialogs.
        formats: The formats to be exported (`review_export.Format`); empty: an image is to be segmented.
        onInstall: Called when the user has agreed.
        why: Why PyTorch and nnU-Net are needed for that, in a sentence; empty: they are not.
        engine: What is to run the network, as in `PredictionSettings`; None where another computer segments,
            which needs nothing here.

    Raises:
        Cancelled: The user does not want it; nothing was installed.
        ShownError: pip failed.
        InstallationError: Slicer is too old, the PyTorch extension is missing, or nothing was installed all the same.
    """
    _checkSlicer(requester)
    if engine is None:
        return
    missing = missingPackages(formats, engine, bool(why))
    if not missing or slicer.app.testingEnabled():
        return
    pytorch = _pytorchExtension(why) if TORCH in missing else None
    # With PyTorch, it is only faster.
    offered = _missing(OPENVINO) if why and engine == "auto" and not formats else []
    question = _question(requester, formats, [*missing, *offered], why)
    if not slicer.util.confirmOkCancelDisplay(question, windowTitle=requester):
        raise Cancelled(
            _("Nothing was installed, so nothing was written. Try again, or choose other files.")
            if formats
            else _("Nothing was installed, so nothing was computed. Press the button again to be asked again.")
        )
    onInstall()
    if pytorch:
        _installTorch(pytorch)
    try:
        _install(requester, [requirement for requirement in missing if requirement != TORCH])
    except CalledProcessError as error:
        raise ShownError(_failure(missingPackages(formats, engine, bool(why)) or missing)) from error
    if missing := missingPackages(formats, engine, bool(why)):
        raise InstallationError(_failure(missing))
    with suppress(CalledProcessError):  # PyTorch computes then
        _install(requester, offered, isOptional=True)


def whyPyTorch(parameters, model: ListedModel | None) -> str:
    """Say in a sentence why PyTorch is needed to segment with a model, by the panel's parameters; "": it is not."""
    chosen = [parameters.engine, *([] if parameters.engine.value == "openvino" else [parameters.device])]
    choice = next((each for each in chosen if each.value in ON_PYTORCH), None)
    if choice:
        return _("PyTorch and nnU-Net are needed: {choice} is chosen under Advanced.").format(choice=choice.label())
    text = _("PyTorch and nnU-Net are needed for {model}, which was not exported with a graph of its network.")
    return text.format(model=model.name) if model and not model.is_light else ""


def _install(requester: str, requirements: list[str], isOptional: bool = False) -> None:
    """Install all but PyTorch with what it needs in turn.

    OpenVINO comes alone: it needs a package by which it reports its use, and does without it. Raises
    `CalledProcessError` if pip failed, which Slicer has shown unless what is installed is optional.
    """
    openvino = [requirement for requirement in requirements if requirement.startswith("openvino")]
    others = [requirement for requirement in requirements if requirement not in openvino]
    with TemporaryDirectory() as folder, _fewRetries():
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(map(_pin, PINNED)), encoding="utf-8")
        if others:
            slicer.packaging.pip_install(others, constraints=constraints, requester=requester)
        if openvino:
            # Slicer's dialog would show an error for what may fail.
            slicer.packaging.pip_install(["--no-deps", *openvino], requester=requester, show_progress=not isOptional)


def _pin(name: str) -> str:
    """Write a line of constraints that keeps a package as it is; nothing where it is missing or states no version."""
    from packaging.version import InvalidVersion, Version

    try:
        return f"{name}=={Version(version(name))}\n"
    except (PackageNotFoundError, InvalidVersion, TypeError):
        return ""


def missingPackages(formats: Collection[str] = (), engine: str = "auto", pytorch: bool = False) -> list[str]:
    """List the requirements that Slicer's Python does not meet, PyTorch first.

    An export has its own, so that a review can be exported where nothing is segmented. Apply installs them too, except
    those for DICOM, which replace Slicer's own. What an installed package lacks in turn is not looked for.

    Args:
        formats, engine: As for `ensureReady`.
        pytorch: Whether PyTorch and nnU-Net are needed.
    """
    names = ["requirements-export.txt"]
    if formats:
        return _missing(*names, *(["requirements-dicom.txt"] if DICOM.keys() & set(formats) else []))
    names.append("requirements.txt")
    if engine == "openvino" or not pytorch:
        names.append(OPENVINO)
    if not pytorch:
        return _missing(*names)
    missing = _missing(*names, "requirements-pytorch.txt")
    return missing if slicer.packaging.pip_check(TORCH) else [TORCH, *missing]


def _missing(*names: str) -> list[str]:
    import slicer.packaging

    importlib.invalidate_caches()
    requirements = [each for name in names for each in slicer.packaging.load_requirements(RESOURCES / name)]
    return [str(requirement) for requirement in requirements if not slicer.packaging.pip_check(requirement)]


def _checkSlicer(requester: str) -> None:
    version = int(slicer.app.majorVersion), int(slicer.app.minorVersion)
    if version < OLDEST_SLICER:
        raise InstallationError(
            _("{requester} needs Slicer {oldest} or newer, and this is Slicer {version}; update Slicer.").format(
                requester=requester, oldest="{}.{}".format(*OLDEST_SLICER), version="{}.{}".format(*version)
            )
        )


def _pytorchExtension(why: str):
    """Return the logic of the PyTorch extension; where it is missing, the error says why it is needed."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        missing = _(
            "The PyTorch extension is missing; install it in the Extensions Manager, restart Slicer and apply again."
        )
        raise InstallationError(f"{why} {missing}") from error
    return PyTorchUtilsLogic()


def _question(requester: str, formats: Collection[str], missing: list[str], why: str) -> str:
    if formats:
        effort = _("in place of older ones, which takes about a minute")
    elif TORCH in missing:
        effort = _("up to 3 GB with PyTorch, which takes several minutes")
    elif why:  # nnU-Net has many dependencies, some of which may be there
        effort = _("which takes a minute or two")
    else:
        effort = _("about 100 MB, which takes a minute or two")
    return _(
        "{requester} needs Python packages that Slicer lacks or has in an older version:\n\n{packages}\n\n"
        "They and their dependencies are downloaded and installed into Slicer, {effort}. {why}\n"
        "None of your data leaves this computer. Install them?"
    ).format(requester=requester, packages="\n".join(f"    {name}" for name in missing), effort=effort, why=why)


def _failure(missing: list[str]) -> str:
    return _(
        "These Python packages could not be installed: {packages}; see pip's output in the Python console, check the "
        "network and the free disk space, restart Slicer and try again."
    ).format(packages=", ".join(missing))


def _installTorch(pytorch) -> None:
    slicer.util.showStatusMessage(_("Installing PyTorch, which takes a few minutes..."))
    with slicer.util.WaitCursor(), _torchBlocked(), _fewRetries():
        try:
            pytorch.installTorch(askConfirmation=False, torchVersionRequirement=TORCH.removeprefix("torch"))
        except CalledProcessError as error:
            raise InstallationError(_failure([TORCH])) from error
        except ImportError as error:
            # Having installed it, it imports torch, which is blocked here.
            if error.name != "torch":
                raise InstallationError(
                    _("The PyTorch extension cannot install PyTorch: {reason}.").format(reason=error)
                ) from error
        finally:
            slicer.util.showStatusMessage("")


@contextmanager
def _fewRetries() -> Iterator[None]:
    """Let pip try once more only, unless the user has said how often: without network it tries for minutes."""
    isSaid = RETRIES in os.environ
    os.environ.setdefault(RETRIES, "1")
    try:
        yield
    finally:
        if not isSaid:
            del os.environ[RETRIES]


@contextmanager
def _torchBlocked() -> Iterator[None]:
    """Let `import torch` raise an ImportError within, unless torch is loaded already."""
    loaded = "torch" in sys.modules
    if not loaded:
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if not loaded:
            sys.modules.pop("torch", None)
