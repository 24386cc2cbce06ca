"""Installing at Apply: asked once and by name, declined without a trace, and torch never enters Slicer's process.

With SLICER_SOURCE, Slicer's own `packaging.py` decides what is missing and what is handed to pip.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.errors import Cancelled, InstallationError

pytestmark = pytest.mark.own_process

MODULE_FOLDER = Path(__file__).parents[2] / "MoBUncertainty"
REAL = "SLICER_SOURCE" in os.environ


@pytest.fixture(scope="module")
def desktop():
    """The panel, open."""
    from desktop.host import open_module

    opened = open_module("MoBUncertainty", MODULE_FOLDER)
    yield opened
    opened.close()


@pytest.fixture
def installation(desktop):
    """The room under test."""
    from MoBUncertaintyLib.app import installation

    desktop.dialogs.clear()
    return installation


class Machine:
    """What is installed, and what was done about it.

    Attributes:
        missing: Requirements that are not met.
        done: What was installed, in order: (by whom, what).
        kept: What pip was told to leave as it is.
        failing: Whether installing fails.
    """

    def __init__(self, missing: list[str]) -> None:
        self.missing = list(missing)
        self.done: list[tuple[str, str]] = []
        self.kept: list[str] = []
        self.failing = False

    def pip_check(self, requirements) -> bool:
        requirements = requirements if isinstance(requirements, list) else [requirements]
        return not any(str(requirement) in self.missing for requirement in requirements)

    def install(self, by: str, requirements: list[str]) -> None:
        if self.failing:
            raise CalledProcessError(1, "pip install")
        for requirement in requirements:
            self.done.append((by, requirement))
            self.missing.remove(requirement)

    def pip_install(self, requirements, skip_packages=None, **_options) -> list[str]:
        self.kept = skip_packages
        self.install("pip", list(requirements))
        return []

    def pip_ensure(self, requirements, skip_packages=None, prompt_install=True, **_options) -> None:
        assert not prompt_install
        self.pip_install([r for r in requirements if not self.pip_check(r)], skip_packages)

    def torch_logic(self) -> object:
        """What PyTorchUtils does, in its own order: install, then import."""

        def install_torch(askConfirmation=False, torchVersionRequirement=None):  # noqa: N803
            assert not askConfirmation
            self.install("PyTorch extension", [f"torch{torchVersionRequirement}"])
            import torch

            return torch

        return SimpleNamespace(installTorch=install_torch)


@pytest.fixture
def machine(installation, monkeypatch):
    """Makes a machine on which some requirements are missing."""

    def make(*missing: str, extension: bool = True) -> Machine:
        import slicer.packaging

        machine = Machine(list(missing))
        monkeypatch.setattr(slicer.packaging, "pip_check", machine.pip_check)
        if REAL:
            monkeypatch.setattr(slicer.packaging, "pip_install", machine.pip_install)
        else:
            monkeypatch.setattr(slicer.packaging, "pip_ensure", machine.pip_ensure)
        utils = SimpleNamespace(PyTorchUtilsLogic=machine.torch_logic) if extension else None
        monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
        return machine

    return make


def accept(desktop) -> None:
    import qt

    desktop.answer(qt.QMessageBox.Ok)


def decline(desktop) -> None:
    import qt

    desktop.answer(qt.QMessageBox.Cancel)


def test_nothing_missing_is_nothing_asked(desktop, installation, machine):
    here = machine()
    installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs
    assert not here.done


def test_what_is_missing_is_named_once_and_then_installed(desktop, installation, machine):
    here = machine("torch>=2.6", "nnunetv2>=2.8", "safetensors>=0.4")
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    (asked,) = desktop.dialogs
    assert asked.title == "MoB Uncertainty"
    assert all(name in asked.text for name in ("torch>=2.6", "nnunetv2>=2.8", "safetensors>=0.4"))
    assert "matplotlib" not in asked.text
    assert here.done == [
        ("PyTorch extension", "torch>=2.6"),
        ("pip", "nnunetv2>=2.8"),
        ("pip", "safetensors>=0.4"),
    ]
    assert {"torch", "torchvision", "SimpleITK", "numpy"} <= set(here.kept)


def test_torch_never_enters_this_process(desktop, installation, machine):
    machine("torch>=2.6")
    assert "torch" not in sys.modules
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert "torch" not in sys.modules


def test_a_torch_that_somebody_has_loaded_stays(desktop, installation, machine, monkeypatch):
    machine("torch>=2.6")
    loaded = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", loaded)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert sys.modules["torch"] is loaded


def test_declining_installs_nothing(desktop, installation, machine):
    here = machine("torch>=2.6", "nnunetv2>=2.8")
    decline(desktop)
    with pytest.raises(Cancelled, match=r"^Nothing was installed"):
        installation.ensureReady("MoB Uncertainty")
    assert not here.done
    assert here.missing == ["torch>=2.6", "nnunetv2>=2.8"]


@pytest.mark.parametrize("version", [(5, 11), (5, 8), (4, 13)])
def test_an_old_slicer_is_told_so_before_anything_else(desktop, installation, machine, monkeypatch, version):
    import slicer

    machine("torch>=2.6")
    monkeypatch.setattr(slicer.app, "majorVersion", version[0])
    monkeypatch.setattr(slicer.app, "minorVersion", version[1])
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # it is not there in old versions
    with pytest.raises(InstallationError, match=rf"needs Slicer 5\.12 or newer.*{version[0]}\.{version[1]};"):
        installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs


def test_without_the_pytorch_extension_nothing_is_asked(desktop, installation, machine):
    here = machine("torch>=2.6", "nnunetv2>=2.8", extension=False)
    with pytest.raises(InstallationError, match=r"^The PyTorch extension is missing; install it"):
        installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs
    assert not here.done


def test_with_torch_there_the_pytorch_extension_is_not_needed(desktop, installation, machine):
    here = machine("nnunetv2>=2.8", extension=False)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert here.done == [("pip", "nnunetv2>=2.8")]


@pytest.mark.parametrize("missing", ["torch>=2.6", "nnunetv2>=2.8"])
def test_a_failed_installation_names_what_is_still_missing(desktop, installation, machine, missing):
    machine(missing).failing = True
    accept(desktop)
    with pytest.raises(InstallationError, match=f"could not be installed: {missing};"):
        installation.ensureReady("MoB Uncertainty")
    assert sys.modules.get("torch", "kept out") == "kept out"


def test_an_installation_that_only_pretends_is_noticed(desktop, installation, machine, monkeypatch):
    here = machine("nnunetv2>=2.8")
    monkeypatch.setattr(here, "install", lambda *_: None)
    accept(desktop)
    with pytest.raises(InstallationError, match=r"could not be installed: nnunetv2>=2\.8;"):
        installation.ensureReady("MoB Uncertainty")


def test_a_pytorch_extension_that_does_not_work_says_why(desktop, installation, machine, monkeypatch):
    here = machine("torch>=2.6")

    def broken(*_):
        raise ImportError("No module named 'light_the_torch'", name="light_the_torch")

    monkeypatch.setattr(here, "install", broken)
    accept(desktop)
    with pytest.raises(InstallationError, match="cannot install PyTorch: No module named 'light_the_torch'"):
        installation.ensureReady("MoB Uncertainty")


def test_slicers_own_tests_install_nothing(desktop, installation, machine, monkeypatch):
    import slicer

    here = machine("torch>=2.6", "nnunetv2>=2.8")
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs
    assert not here.done


def test_what_is_missing_is_read_from_what_python_has(installation, tmp_path, monkeypatch):
    """No stand-in for the check: one requirement is met, one is too new, one does not exist."""
    (tmp_path / "requirements.txt").write_text("# a comment\n\nnumpy>=1\nscipy>=999\nno-such-package>=1\n")
    monkeypatch.setattr(installation, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(installation, "TORCH", "torch>=999")
    assert installation.missingPackages() == ["torch>=999", "scipy>=999", "no-such-package>=1"]


def test_declining_at_apply_leaves_the_scene_as_it_was(desktop, installation, machine):
    here = machine("torch>=2.6")
    desktop.ui.sampleLabel.linkActivated.emit("demo")
    desktop.process()
    nodes = desktop.scene.GetNumberOfNodes()
    decline(desktop)
    desktop.ui.applyButton.click()
    desktop.process()
    assert desktop.ui.statusLabel.text.startswith("Nothing was installed")
    assert desktop.ui.applyButton.text == "Apply"
    assert desktop.scene.GetNumberOfNodes() == nodes
    assert not here.done
    assert not desktop.logic.busy


def test_what_cannot_be_is_one_dialog_at_apply(desktop, installation, machine):
    machine("torch>=2.6", extension=False)
    desktop.ui.applyButton.click()
    desktop.process()
    assert [shown.text.split(";")[0] for shown in desktop.dialogs] == ["The PyTorch extension is missing"]
    assert not desktop.logic.busy
