"""The Python packages that the worker needs: named at Apply or Export, and installed if the user agrees.

PyTorch comes through the PyTorch extension, which knows the build for the graphics card, and all else through
`slicer.packaging`. PyTorch is never loaded here: on some platforms it crashes a running Slicer.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from subprocess import CalledProcessError
from typing import TYPE_CHECKING

import slicer
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.errors import Cancelled, InstallationError
from MoBUncertaintyLib.files.resources import RESOURCES

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OLDEST_SLICER = (5, 12)
DICOM_FORMATS = {"dicom_seg", "dicom_seg_fractional", "dicom_sr", "parametric_map"}
TORCH = "torch>=2.10"
# Packages of Slicer and of PyTorch, which pip does not touch, whatever other packages require.
# OpenVINO reports its use through one of its own, and does without it.
KEPT = ["numpy", "scipy", "SimpleITK", "torch", "torchvision", "openvino-telemetry"]


def ensureReady(
    requester: str,
    formats: Collection[str] = (),
    onInstall: Callable[[], None] = lambda: None,
    engine: str | None = "auto",
) -> None:
    """Ask once, then install what is missing. Do nothing while Slicer is testing.

    Args:
        requester: The module's title, for the dialogs.
        formats: The formats to be exported (`review_export.Format`); empty: a CT is to be segmented.
        onInstall: Called when the user has agreed.
        engine: What is to run the network, as in `PredictionSettings`. OpenVINO is required if it is asked for; with
            `auto` it is installed with the other packages if they are, and may fail. None: another computer segments,
            and nothing is needed here.

    Raises:
        Cancelled: The user does not want it; nothing was installed.
        InstallationError: Slicer is too old, the PyTorch extension is missing, or the installation failed.
    """
    _checkSlicer(requester)
    if engine is None:
        return
    asked = engine == "openvino" and not formats
    missing = missingPackages(formats, asked)
    if not missing or slicer.app.testingEnabled():
        return
    pytorch = _pytorchExtension() if TORCH in missing else None
    extra = engine == "auto" and not formats and set(missingPackages(openvino=True)) - set(missing)
    named = [*missing, *sorted(extra or ())]
    question = (_exportQuestion if formats else _applyQuestion)(requester, named)
    if not slicer.util.confirmOkCancelDisplay(question, windowTitle=requester):
        raise Cancelled(
            _("Nothing was installed, so nothing was written; try again to be asked again, or choose other files.")
            if formats
            else _("Nothing was installed, so nothing was computed; try again to be asked again.")
        )
    onInstall()
    try:
        if pytorch:
            _installTorch(pytorch)
        _install(requester, formats, asked)
    except CalledProcessError as error:
        raise _failed(missingPackages(formats, asked) or missing) from error
    if still := missingPackages(formats, asked):
        raise _failed(still)
    if extra:
        with suppress(CalledProcessError):  # PyTorch computes then
            _install(requester, formats, openvino=True)


def _install(requester: str, formats: Collection[str], openvino: bool) -> None:
    """Install all but PyTorch, until nothing is missing or what is missing was tried before.

    With `skip_packages`, `slicer.packaging` installs no package that only an extra of another one requires; those are
    installed in the next round.

    Raises:
        CalledProcessError: pip failed.
    """
    tried = {TORCH}
    while wanted := [requirement for requirement in missingPackages(formats, openvino) if requirement not in tried]:
        tried.update(wanted)
        slicer.packaging.pip_ensure(
            wanted,
            skip_packages=KEPT,
            prompt_install=False,
            prompt_restart=False,  # the worker is a process of its own and has loaded none of them
            requester=requester,
        )


def missingPackages(formats: Collection[str] = (), openvino: bool = False) -> list[str]:
    """List the requirements that Slicer's Python does not meet, PyTorch first.

    The requirements of installed packages are among them, extras included: pip only warns where those are not met, and
    `pip_ensure` does not check the requirements of packages that are installed already.

    Args:
        formats: As for `ensureReady`.
        openvino: OpenVINO too.
    """
    import slicer.packaging
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    importlib.invalidate_caches()
    missing: list[str] = []
    asked: set[str] = set()
    walked: set[tuple[str, str]] = set()  # packages and their extras
    kept = set(map(canonicalize_name, KEPT))
    requirements = _requirements(formats, openvino)
    for requirement in requirements:  # the list grows meanwhile
        text, name = str(requirement), canonicalize_name(requirement.name)
        if text in asked:
            continue
        asked.add(text)
        bare = Requirement(text)
        bare.extras = set()
        if not slicer.packaging.pip_check(bare):
            missing.append(text)
        elif name not in kept:
            new = {(name, extra) for extra in ("", *requirement.extras)} - walked
            walked |= new
            requirements += [need for _name, extra in sorted(new) for need in _needs(name, extra)]
    return missing


def _requirements(formats: Collection[str], openvino: bool) -> list[Requirement]:
    """List the requirements of an export, or of Apply if no formats are given.

    An export has its own, so that a review can be exported where nothing is segmented. Apply installs them too, except
    those for DICOM, which replace Slicer's own.
    """
    import slicer.packaging
    from packaging.requirements import Requirement

    names = ["requirements-export.txt"]
    if not formats:
        names.append("requirements.txt")
    elif DICOM_FORMATS.intersection(formats):
        names.append("requirements-dicom.txt")
    if openvino:
        names.append("requirements-openvino.txt")
    requirements = [each for name in names for each in slicer.packaging.load_requirements(RESOURCES / name)]
    return requirements if formats else [Requirement(TORCH), *requirements]


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    """List what an installed package needs here with one of its extras ("": without), except what is kept."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    kept = set(map(canonicalize_name, KEPT))
    for line in importlib.metadata.requires(name) or ():
        try:
            need = Requirement(line)
        except InvalidRequirement:  # pip would reject it, too
            continue
        marker, need.marker = need.marker, None
        if (marker is None or marker.evaluate({"extra": extra})) and canonicalize_name(need.name) not in kept:
            yield need


def _checkSlicer(requester: str) -> None:
    version = int(slicer.app.majorVersion), int(slicer.app.minorVersion)
    if version < OLDEST_SLICER:
        raise InstallationError(
            _("{requester} needs Slicer {oldest} or newer, and this is Slicer {version}; update Slicer.").format(
                requester=requester, oldest="{}.{}".format(*OLDEST_SLICER), version="{}.{}".format(*version)
            )
        )


def _pytorchExtension():
    """Return the logic of the PyTorch extension."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError as error:
        raise InstallationError(
            _("The PyTorch extension is missing; install it in the Extensions Manager, restart Slicer and apply again.")
        ) from error
    return PyTorchUtilsLogic()


def _applyQuestion(requester: str, missing: list[str]) -> str:
    long = _("up to 3 GB with PyTorch, which takes some minutes")
    effort = long if TORCH in missing else _("which takes a minute or two")
    return _(
        "{requester} needs Python packages that Slicer lacks or has in an older version:\n\n{packages}\n\n"
        "They and what they need are downloaded and installed into Slicer, {effort}.\n"
        "Nothing of your data leaves this computer. Install them?"
    ).format(requester=requester, packages=_list(missing), effort=effort)


def _exportQuestion(requester: str, missing: list[str]) -> str:
    return _(
        "{requester} writes these files with Python packages that Slicer lacks or has in an older version:\n\n"
        "{packages}\n\n"
        "They are downloaded and installed into Slicer, in place of older ones, which takes about a minute.\n"
        "Nothing of your data leaves this computer. Install them?"
    ).format(requester=requester, packages=_list(missing))


def _list(missing: list[str]) -> str:
    # Not required by the others, so its size is said.
    notes = {"openvino": _(" (59 MB; faster where there is no graphics card)")}
    return "\n".join(f"    {requirement}{notes.get(requirement.partition('>')[0], '')}" for requirement in missing)


def _failed(missing: list[str]) -> InstallationError:
    return InstallationError(
        _(
            "These Python packages could not be installed: {packages}; see what pip says in the Python console, check "
            "the network and the free disk space, restart Slicer and try again."
        ).format(packages=", ".join(missing))
    )


def _installTorch(pytorch) -> None:
    slicer.util.showStatusMessage(_("Installing PyTorch, which takes a few minutes..."))
    with slicer.util.WaitCursor(), _torchBlocked():
        try:
            pytorch.installTorch(askConfirmation=False, torchVersionRequirement=TORCH.removeprefix("torch"))
        except ImportError as error:
            # Having installed it, it imports torch, which is blocked here.
            if error.name != "torch":
                raise InstallationError(
                    _("The PyTorch extension cannot install PyTorch: {reason}.").format(reason=error)
                ) from error
        finally:
            slicer.util.showStatusMessage("")


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
