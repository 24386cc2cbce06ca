"""The Python packages that the worker needs: named at Apply or Export, and installed if the user agrees.

PyTorch comes through the PyTorch extension, which knows the build for the graphics card, and all else through
`slicer.packaging`. PyTorch is never loaded here: on some platforms it crashes a running Slicer.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from subprocess import CalledProcessError, TimeoutExpired
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
CONNECTION_S, CHECK_S = 5, 20  # to reach the package index, and to ask it: pip alone tries for a minute or more
RETRIES = "PIP_RETRIES"  # pip's own variable
DECLINED_KEY = "MoBUncertainty/OpenVINODeclined"
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
            `auto` it is installed with the other packages if they are, and may fail, and offered later if it is
            missing. None: another computer segments, and nothing is needed here.

    Raises:
        Cancelled: The user does not want it; nothing was installed.
        InstallationError: Slicer is too old, the PyTorch extension is missing, or the installation failed.
    """
    _checkSlicer(requester)
    if engine is None:
        return
    asked = engine == "openvino" and not formats
    missing = missingPackages(formats, asked)
    if slicer.app.testingEnabled():
        return
    if not missing:
        if engine == "auto" and not formats:
            _offerOpenVino(requester, onInstall)
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
    _checkIndex(missing[0])
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


def _offerOpenVino(requester: str, onInstall: Callable[[], None]) -> None:
    """Offer OpenVINO where only that is missing, once in each run of Slicer, until the user declines."""
    if requester in _offered or slicer.app.userSettings().value(DECLINED_KEY):
        return
    _offered.add(requester)
    missing = missingPackages(openvino=True)
    question = _(
        "OpenVINO is missing; without a graphics card it segments faster than PyTorch:\n\n{packages}\n\n"
        "Download and install it into Slicer? With No, PyTorch segments, and you are not asked again."
    )
    if not missing:
        return
    if not slicer.util.confirmYesNoDisplay(question.format(packages=_list(missing)), windowTitle=requester):
        slicer.app.userSettings().setValue(DECLINED_KEY, "yes")
        return
    onInstall()
    with suppress(CalledProcessError):  # PyTorch computes then
        _install(requester, (), openvino=True)


_offered: set[str] = set()  # who has offered OpenVINO in this run of Slicer


def _checkIndex(requirement: str) -> None:
    """Ask, before pip tries for minutes, whether the package index has what is needed.

    Raises:
        InstallationError: It has not, or it cannot be reached.
    """
    if not _isOffered(requirement):
        text = _(
            "pip finds no {requirement} for this computer, so nothing was installed; check the network and the proxy,"
            " and apply again."
        )
        raise InstallationError(text.format(requirement=requirement))


def _isOffered(requirement: str, *options: str) -> bool:
    """Tell whether the package index has a version that fits; True where pip cannot tell.

    Args:
        requirement: What is needed.
        options: Others of pip.
    """
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    arguments = ["index", "versions", wanted.name, *options, "--disable-pip-version-check"]
    arguments += ["--retries", "0", "--timeout", str(CONNECTION_S)]
    program = [shutil.which("PythonSlicer") or "PythonSlicer", "-m", "pip", *arguments]
    with slicer.util.WaitCursor():
        try:
            process = slicer.util.launchConsoleProcess(program, useStartupEnvironment=False)
        except OSError:
            return True
        try:
            said, _none = process.communicate(timeout=CHECK_S)
        except TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    versions = re.search(r"^Available versions: (.+)$", said, re.MULTILINE)
    if versions:
        return any(wanted.specifier.contains(each, prereleases=True) for each in versions[1].split(", "))
    return "No matching distribution" not in said


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
    with slicer.util.WaitCursor(), _torchBlocked(), _fewRetries():
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
def _fewRetries() -> Iterator[None]:
    """Let pip try once more only, unless the user has said how often: PyTorch comes from a server of its own."""
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
