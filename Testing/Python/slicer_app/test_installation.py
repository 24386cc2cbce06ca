"""Installing at Apply and at Export: asked once and by name, declined without a trace, and torch never enters Slicer's
process.

With SLICER_SOURCE, Slicer's own `packaging.py` decides what is missing and what is handed to pip.
"""

import importlib
import os
import sys
from contextlib import nullcontext
from importlib.metadata import version
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.base.errors import Cancelled, InstallationError
from support import small_panel
from support.late import slicer
from support.small_panel import finish

pytestmark = pytest.mark.own_process

TITLE = "MoB Uncertainty"
TORCH, NNUNET, OPENVINO = "torch>=2.10", "nnunetv2>=2.8", "openvino>=2025.3"
SAFETENSORS, JINJA, HIGHDICOM = "safetensors>=0.4", "jinja2>=3.1.6", "highdicom>=0.28"
EXTENSION, PIP, WHY = "PyTorch extension", "pip", "The model has no graph."


@pytest.fixture
def desktop(panel):
    """The panel, which asks before it installs."""
    panel.dialogs.clear()
    return panel


@pytest.fixture
def installation(desktop):
    """The room under test."""
    from MoBUncertaintyLib.slicer_app import installation as room

    return room


class Machine:
    """What is installed, and what was done about it.

    Attributes:
        missing: Requirements that are not met.
        done: What was installed, in order: (by whom, what).
        pinned: What pip was told to leave as it is.
        failing: What cannot be installed.
    """

    def __init__(self, missing: list[str]) -> None:
        self.missing = list(missing)
        self.done: list[tuple[str, str]] = []
        self.pinned = ""
        self.failing: set[str] = set()

    def pip_check(self, requirements) -> bool:
        requirements = requirements if isinstance(requirements, list) else [requirements]
        return not any(str(requirement) in self.missing for requirement in requirements)

    def install(self, by: str, requirements: list[str]) -> None:
        if self.failing & set(requirements):
            raise CalledProcessError(1, "pip install")
        for requirement in requirements:
            self.done.append((by, requirement))
            self.missing.remove(requirement)

    def pip_install(self, requirements, constraints=None, **_options) -> None:
        assert os.environ["PIP_RETRIES"] == "1"  # else a server that cannot be reached is tried for a minute
        assert ("--no-deps" in requirements) == (OPENVINO in requirements)  # which needs what reports its use
        self.pinned += constraints.read_text() if constraints else ""
        self.install("pip", [each for each in requirements if each != "--no-deps"])

    def torch_logic(self) -> object:
        """What PyTorchUtils does, in its own order: install, then import."""

        def install_torch(askConfirmation=False, torchVersionRequirement=None):  # noqa: N803
            assert not askConfirmation
            assert os.environ["PIP_RETRIES"] == "1"  # else a server that cannot be reached is tried for a minute
            self.install("PyTorch extension", [f"torch{torchVersionRequirement}"])
            import torch

            return torch

        return SimpleNamespace(installTorch=install_torch)


@pytest.fixture
def machine(installation, monkeypatch):
    """Makes a machine on which some requirements are missing."""

    def make(*missing: str, extension: bool = True) -> Machine:
        machine = Machine(list(missing))
        packaging = importlib.import_module("slicer.packaging")
        monkeypatch.setattr(packaging, "pip_check", machine.pip_check)
        monkeypatch.setattr(packaging, "pip_install", machine.pip_install, raising=False)
        utils = SimpleNamespace(PyTorchUtilsLogic=machine.torch_logic) if extension else None
        monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
        return machine

    return make


@pytest.mark.parametrize(
    ("missing", "why", "extension", "formats", "engine", "done"),
    [
        ((), "", True, (), "auto", []),
        ((TORCH, NNUNET, OPENVINO), "", False, (), "auto", [(PIP, OPENVINO)]),
        ((TORCH, NNUNET, SAFETENSORS), "", False, (), "auto", [(PIP, SAFETENSORS)]),
        ((TORCH, NNUNET, SAFETENSORS), WHY, True, (), "auto", [(EXTENSION, TORCH), (PIP, SAFETENSORS), (PIP, NNUNET)]),
        ((NNUNET, OPENVINO), WHY, True, (), "auto", [(PIP, NNUNET), (PIP, OPENVINO)]),
        ((NNUNET, OPENVINO), WHY, True, (), "torch", [(PIP, NNUNET)]),
        ((OPENVINO,), WHY, True, (), "torch", []),
        ((OPENVINO,), WHY, True, (), "openvino", [(PIP, OPENVINO)]),
        ((OPENVINO,), "", True, ("report",), "openvino", []),
        ((OPENVINO,), "", True, ("report",), "auto", []),
        ((NNUNET,), WHY, False, (), "auto", [(PIP, NNUNET)]),
        ((HIGHDICOM,), "", True, (), "auto", []),
        ((HIGHDICOM,), "", True, ("report", "segmentation"), "auto", []),  # Slicer's own does
        ((HIGHDICOM,), "", True, ("parametric_map",), "auto", [(PIP, HIGHDICOM)]),
        ((TORCH, NNUNET, JINJA), "", False, ("report",), "auto", [(PIP, JINJA)]),
    ],
)
def test_what_is_needed_is_named_once_and_then_installed(
    desktop, installation, machine, missing, why, extension, formats, engine, done
):
    here, environment = machine(*missing, extension=extension), dict(os.environ)
    if done:
        desktop.answer("Ok")
    installation.ensureReady(TITLE, formats, why=why, engine=engine)
    assert here.done == done
    assert [asked.title for asked in desktop.dialogs] == [TITLE] * bool(done)
    for asked in desktop.dialogs:
        assert {name for name in missing if name in asked.text} == {name for _, name in done}
        assert why in asked.text
    pins = [f"{name}=={version(name)}" for name in installation.PINNED]
    assert here.pinned.splitlines() == pins * any(by == PIP and name != OPENVINO for by, name in done)
    assert os.environ == environment  # other extensions are left pip's own retries
    assert "torch" not in sys.modules


def test_pytorch_is_needed_by_what_has_no_graph_and_for_what_only_it_can_do(installation):
    light, heavy = (SimpleNamespace(name=name, is_light=name == "light") for name in ("light", "heavy"))
    for engine, device, model, needed in (
        ("auto", "auto", light, ""),
        ("openvino", "xpu", light, ""),
        ("auto", "auto", heavy, "heavy"),
        ("torch", "auto", light, "TORCH "),
        ("auto", "cuda", light, "CUDA "),
        ("openvino", "cuda", light, ""),  # which is refused, PyTorch or not
    ):
        chosen_there = {"engine": engine, "device": device}
        parameters = {name: SimpleNamespace(value=v, label=v.upper) for name, v in chosen_there.items()}
        why = installation.whyPyTorch(SimpleNamespace(**parameters), model)
        assert bool(why) == bool(needed) and needed in why


@pytest.mark.parametrize(("why", "fails"), [(WHY, False), ("", True)])
def test_an_openvino_that_cannot_be_installed_is_said_where_pytorch_does_not_compute_instead(
    desktop, installation, machine, why, fails
):
    here = machine(NNUNET, OPENVINO)
    here.failing = {OPENVINO}
    desktop.answer("Ok")
    with pytest.raises(installation.ShownError) if fails else nullcontext():
        installation.ensureReady(TITLE, why=why)
    assert here.done == ([] if fails else [(PIP, NNUNET)])


def test_a_torch_that_somebody_has_loaded_stays(desktop, installation, machine, monkeypatch):
    machine(TORCH)
    loaded = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", loaded)
    desktop.answer("Ok")
    installation.ensureReady(TITLE, why=WHY)
    assert sys.modules["torch"] is loaded


def test_declining_installs_nothing(desktop, installation, machine):
    here = machine(TORCH, NNUNET)
    desktop.answer("Cancel")
    with pytest.raises(Cancelled):
        installation.ensureReady(TITLE, why=WHY)
    assert not here.done
    assert here.missing == [TORCH, NNUNET]


@pytest.mark.parametrize("version", [(5, 11), (5, 8), (4, 13)])
def test_an_old_slicer_is_refused_before_anything_else(desktop, installation, machine, monkeypatch, version):
    machine(TORCH)
    monkeypatch.setattr(slicer.app, "majorVersion", version[0])
    monkeypatch.setattr(slicer.app, "minorVersion", version[1])
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # it is not there in old versions
    with pytest.raises(InstallationError):
        installation.ensureReady(TITLE)
    assert not desktop.dialogs


def test_without_the_pytorch_extension_nothing_is_asked(desktop, installation, machine):
    here = machine(TORCH, NNUNET, extension=False)
    with pytest.raises(InstallationError) as raised:
        installation.ensureReady(TITLE, why=WHY)
    assert str(raised.value).startswith(WHY)
    assert not desktop.dialogs
    assert not here.done


def fail(*_) -> None:
    raise CalledProcessError(1, "pip install")


def fail_to_import(*_) -> None:
    raise ImportError("No module named 'light_the_torch'", name="light_the_torch")


@pytest.mark.parametrize(
    ("missing", "install"), [(TORCH, fail), (NNUNET, fail), (NNUNET, lambda *_: None), (TORCH, fail_to_import)]
)
def test_an_installation_that_fails_or_only_pretends_is_refused(desktop, installation, machine, missing, install):
    machine(missing).install = install
    desktop.answer("Ok")
    with pytest.raises((InstallationError, installation.ShownError)):
        installation.ensureReady(TITLE, why=WHY)
    assert sys.modules.get("torch", "kept out") == "kept out"


def test_slicers_own_tests_install_nothing(desktop, installation, machine, monkeypatch):
    here = machine(TORCH, NNUNET)
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    installation.ensureReady(TITLE)
    assert not desktop.dialogs
    assert not here.done


# What an export needs. No fake for the check here.


@pytest.fixture
def wanted(installation, tmp_path, monkeypatch):
    """Writes what is wanted: the lines of requirements.txt, of its likes for an export, and of those for DICOM."""

    def write(*always: str, export: tuple[str, ...] = (), dicom: tuple[str, ...] = ()) -> None:
        for name, lines in (("", always), ("-export", export), ("-dicom", dicom), ("-openvino", ()), ("-pytorch", ())):
            (tmp_path / f"requirements{name}.txt").write_text("\n".join(("# a comment", "", *lines)))
        monkeypatch.setattr(installation, "RESOURCES", tmp_path)
        monkeypatch.setattr(installation, "TORCH", "torch>=999")

    return write


def test_what_is_missing_is_read_from_what_python_has(installation, wanted):
    """One requirement is met, one is too new, one does not exist."""
    wanted("numpy>=1", "scipy>=999", "no-such-package>=1", export=("no-such-writer",), dicom=("no-such-dicom",))
    missing = ["no-such-writer", "scipy>=999", "no-such-package>=1"]
    assert installation.missingPackages() == missing
    assert installation.missingPackages(pytorch=True) == ["torch>=999", *missing]


def test_where_the_project_is_installed_nothing_is_missing(installation):
    assert installation.missingPackages(pytorch=True) == installation.missingPackages(["parametric_map"]) == []


def test_an_export_needs_less_and_dicom_a_package_more(installation, wanted):
    wanted("no-such-package>=1", export=("no-such-writer",), dicom=("no-such-dicom",))
    assert installation.missingPackages(["report", "segmentation"]) == ["no-such-writer"]
    for kind in ("dicom_seg", "parametric_map"):
        assert installation.missingPackages(["report", kind]) == ["no-such-writer", "no-such-dicom"]


@pytest.fixture
def from_dicom(desktop, tmp_path, monkeypatch):
    """The panel with the results of a CT from Slicer's DICOM database, and nothing but DICOM to export."""
    database = SimpleNamespace(fileForInstance=lambda uid: f"/dicom/{uid}.dcm", fileValue=lambda _file, _tag: "CT")
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    desktop.scene.Clear(0)
    small_panel.use_worker(desktop, "normal")
    small_panel.add_ct(desktop).SetAttribute("DICOM.instanceUIDs", "1 2")
    with monkeypatch.context() as patch:
        patch.setattr(desktop.widget.panel, "ensureReady", lambda *_: None)
        small_panel.apply(desktop)
    ui = desktop.ui
    ui.exportDirectoryEdit.currentPath = str(tmp_path)
    ui.reportCheckBox.checked = ui.segmentationCheckBox.checked = False
    ui.dicomSegCheckBox.checked = ui.parametricMapCheckBox.checked = True
    desktop.process()
    desktop.dialogs.clear()
    return desktop


@pytest.mark.parametrize("answer", ["Cancel", "Ok"])
def test_what_is_declined_or_cannot_be_had_at_export_writes_nothing(from_dicom, machine, tmp_path, answer):
    here = machine(HIGHDICOM)
    here.failing = {HIGHDICOM}
    from_dicom.answer(answer)
    from_dicom.ui.exportButton.click()
    from_dicom.process()
    (asked,) = from_dicom.dialogs  # Slicer's own dialog says what pip cannot do
    assert HIGHDICOM in asked.text
    expected = "Nothing was installed" if answer == "Cancel" else f"could not be installed: {HIGHDICOM};"
    assert expected in from_dicom.ui.exportStatusLabel.text
    assert from_dicom.ui.exportButton.text == "Export"
    assert not from_dicom.logic.client.busy
    assert not here.done
    assert list(tmp_path.iterdir()) == []


def test_without_dicom_an_export_asks_nothing(from_dicom, machine, tmp_path):
    machine(HIGHDICOM, TORCH)
    ui = from_dicom.ui
    ui.ctSelector.currentNode().RemoveAttribute("DICOM.instanceUIDs")  # whose files are not there
    ui.dicomSegCheckBox.checked = ui.parametricMapCheckBox.checked = False
    ui.segmentationCheckBox.checked = True
    ui.exportButton.click()
    finish(from_dicom)
    assert from_dicom.dialogs == []
    (made,) = tmp_path.iterdir()
    assert (made / "segmentation.seg.nrrd").exists()


@pytest.mark.parametrize("extension", [True, False])
def test_what_is_declined_or_cannot_be_had_at_apply_leaves_the_scene_as_it_was(desktop, machine, extension):
    here = machine(TORCH, extension=extension)
    small_panel.load_phantom(desktop)
    desktop.ui.engineSelector.currentText = "PyTorch"
    nodes = desktop.scene.GetNumberOfNodes()
    if extension:
        desktop.answer("Cancel")
    desktop.ui.applyButton.click()
    desktop.process()
    assert len(desktop.dialogs) == 1
    assert desktop.ui.statusLabel.text.startswith("Nothing was installed") == extension
    assert desktop.ui.applyButton.text == "Apply"
    assert desktop.scene.GetNumberOfNodes() == nodes
    assert not here.done
    assert not desktop.logic.client.busy
