"""Installing at Apply and at Export: asked once and by name, declined without a trace, and torch never enters Slicer's
process.

With SLICER_SOURCE, Slicer's own `packaging.py` decides what is missing and what is handed to pip.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from subprocess import CalledProcessError
from types import SimpleNamespace

import pytest

from MoBUncertaintyLib.base.errors import Cancelled, InstallationError
from support import MODULE_FOLDER

pytestmark = pytest.mark.own_process

OPENVINO = "openvino>=2025.3"


@pytest.fixture(scope="module")
def desktop():
    """The panel, open."""
    from slicer_host.host import open_module

    opened = open_module("MoBUncertainty", MODULE_FOLDER)
    yield opened
    opened.close()


@pytest.fixture
def installation(desktop):
    """The room under test."""
    import slicer

    from MoBUncertaintyLib.slicer_app import installation

    desktop.dialogs.clear()
    installation._offered.clear()  # as in a Slicer that was just started
    slicer.app.userSettings().remove(installation.DECLINED_KEY)
    return installation


class Machine:
    """What is installed, and what was done about it.

    Attributes:
        missing: Requirements that are not met.
        done: What was installed, in order: (by whom, what).
        pinned: What pip was told to leave as it is.
        failing: Whether installing fails.
    """

    def __init__(self, missing: list[str]) -> None:
        self.missing = list(missing)
        self.done: list[tuple[str, str]] = []
        self.pinned = ""
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
        import slicer.packaging

        machine = Machine(list(missing))
        monkeypatch.setattr(slicer.packaging, "pip_check", machine.pip_check)
        monkeypatch.setattr(slicer.packaging, "pip_install", machine.pip_install, raising=False)
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
    here = machine("torch>=2.10", "nnunetv2>=2.8", "safetensors>=0.4")
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    (asked,) = desktop.dialogs
    assert asked.title == "MoB Uncertainty"
    assert all(name in asked.text for name in ("torch>=2.10", "nnunetv2>=2.8", "safetensors>=0.4"))
    assert "matplotlib" not in asked.text
    assert "up to 3 GB with PyTorch" in asked.text
    assert here.done == [
        ("PyTorch extension", "torch>=2.10"),
        ("pip", "nnunetv2>=2.8"),
        ("pip", "safetensors>=0.4"),
    ]
    assert here.pinned.splitlines() == [f"{name}=={version(name)}" for name in installation.PINNED]


def test_openvino_is_named_with_its_size_and_installed_with_what_else_is_missing(desktop, installation, machine):
    here = machine("nnunetv2>=2.8", OPENVINO)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert (
        "nnunetv2>=2.8\n    openvino>=2025.3 (59 MB; faster where there is no graphics card)" in desktop.dialogs[0].text
    )
    assert here.done == [("pip", "nnunetv2>=2.8"), ("pip", OPENVINO)]


def test_an_openvino_that_is_missing_later_is_offered_until_it_is_declined(desktop, installation, machine):
    import qt

    here = machine("nnunetv2>=2.8", OPENVINO)
    install = here.install

    def without_network(by: str, requirements: list[str]) -> None:
        if OPENVINO in requirements:
            raise CalledProcessError(1, "pip install")
        install(by, requirements)

    here.install = without_network
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")  # what was in the first question could not be had
    assert here.missing == [OPENVINO]
    desktop.dialogs.clear()
    desktop.answer(qt.QMessageBox.Yes)
    installation.ensureReady("MoB Uncertainty")
    installation.ensureReady("MoB Uncertainty")
    (asked,) = desktop.dialogs  # once in a run of Slicer
    assert "openvino>=2025.3 (59 MB" in asked.text and here.missing == [OPENVINO]

    here.install = install
    for answer, missing in ((qt.QMessageBox.Yes, []), (qt.QMessageBox.No, [OPENVINO])):
        here.missing = [OPENVINO]
        installation._offered.clear()
        desktop.dialogs.clear()
        desktop.answer(answer)
        installation.ensureReady("MoB Uncertainty")
        assert len(desktop.dialogs) == 1 and here.missing == missing
    installation._offered.clear()
    installation.ensureReady("MoB Uncertainty")  # declined for good
    assert len(desktop.dialogs) == 1


def test_openvino_is_not_offered_where_it_is_not_used_and_required_where_it_is_wanted(desktop, installation, machine):
    here = machine(OPENVINO)
    installation.ensureReady("MoB Uncertainty", engine="torch")
    installation.ensureReady("MoB Uncertainty", ["report"], engine="openvino")
    installation.ensureReady("MoB Uncertainty", ["report"])
    assert not desktop.dialogs and not here.done
    accept(desktop)
    installation.ensureReady("MoB Uncertainty", engine="openvino")
    assert here.done == [("pip", OPENVINO)]


def test_pytorch_alone_needs_no_openvino(desktop, installation, machine):
    here = machine("nnunetv2>=2.8", OPENVINO)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty", engine="torch")
    assert "openvino" not in desktop.dialogs[0].text
    assert here.done == [("pip", "nnunetv2>=2.8")]


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_an_openvino_that_cannot_be_installed_is_said_only_if_it_was_asked_for(
    desktop, installation, machine, monkeypatch, engine
):
    here = machine("nnunetv2>=2.8", OPENVINO)
    install = here.install

    def without_wheel(by: str, requirements: list[str]) -> None:
        if OPENVINO in requirements:
            raise CalledProcessError(1, "pip install")
        install(by, requirements)

    monkeypatch.setattr(here, "install", without_wheel)
    accept(desktop)
    if engine == "auto":
        installation.ensureReady("MoB Uncertainty", engine=engine)
        assert here.done == [("pip", "nnunetv2>=2.8")]
    else:
        with pytest.raises(InstallationError):
            installation.ensureReady("MoB Uncertainty", engine=engine)


def test_torch_never_enters_this_process(desktop, installation, machine):
    machine("torch>=2.10")
    assert "torch" not in sys.modules
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert "torch" not in sys.modules


def test_other_extensions_are_left_pips_own_retries(desktop, installation, machine):
    machine("torch>=2.10")
    before = dict(os.environ)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert os.environ == before


def test_a_torch_that_somebody_has_loaded_stays(desktop, installation, machine, monkeypatch):
    machine("torch>=2.10")
    loaded = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "torch", loaded)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert sys.modules["torch"] is loaded


def test_declining_installs_nothing(desktop, installation, machine):
    here = machine("torch>=2.10", "nnunetv2>=2.8")
    decline(desktop)
    with pytest.raises(Cancelled):
        installation.ensureReady("MoB Uncertainty")
    assert not here.done
    assert here.missing == ["torch>=2.10", "nnunetv2>=2.8"]


@pytest.mark.parametrize("version", [(5, 11), (5, 8), (4, 13)])
def test_an_old_slicer_is_refused_before_anything_else(desktop, installation, machine, monkeypatch, version):
    import slicer

    machine("torch>=2.10")
    monkeypatch.setattr(slicer.app, "majorVersion", version[0])
    monkeypatch.setattr(slicer.app, "minorVersion", version[1])
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # it is not there in old versions
    with pytest.raises(InstallationError):
        installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs


def test_without_the_pytorch_extension_nothing_is_asked(desktop, installation, machine):
    here = machine("torch>=2.10", "nnunetv2>=2.8", extension=False)
    with pytest.raises(InstallationError):
        installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs
    assert not here.done


def test_with_torch_there_the_pytorch_extension_is_not_needed(desktop, installation, machine):
    here = machine("nnunetv2>=2.8", extension=False)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty")
    assert here.done == [("pip", "nnunetv2>=2.8")]


@pytest.mark.parametrize("missing", ["torch>=2.10", "nnunetv2>=2.8"])
def test_a_failed_installation_names_what_is_still_missing(desktop, installation, machine, missing):
    machine(missing).failing = True
    accept(desktop)
    with pytest.raises(InstallationError):
        installation.ensureReady("MoB Uncertainty")
    assert sys.modules.get("torch", "kept out") == "kept out"


def test_an_installation_that_only_pretends_is_noticed(desktop, installation, machine, monkeypatch):
    here = machine("nnunetv2>=2.8")
    monkeypatch.setattr(here, "install", lambda *_: None)
    accept(desktop)
    with pytest.raises(InstallationError):
        installation.ensureReady("MoB Uncertainty")


def test_a_pytorch_extension_that_does_not_work_is_refused(desktop, installation, machine, monkeypatch):
    here = machine("torch>=2.10")

    def broken(*_):
        raise ImportError("No module named 'light_the_torch'", name="light_the_torch")

    monkeypatch.setattr(here, "install", broken)
    accept(desktop)
    with pytest.raises(InstallationError):
        installation.ensureReady("MoB Uncertainty")


def test_slicers_own_tests_install_nothing(desktop, installation, machine, monkeypatch):
    import slicer

    here = machine("torch>=2.10", "nnunetv2>=2.8")
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    installation.ensureReady("MoB Uncertainty")
    assert not desktop.dialogs
    assert not here.done


# What an export needs. No fake for the check here.


@pytest.fixture
def wanted(installation, tmp_path, monkeypatch):
    """Writes what is wanted: the lines of requirements.txt, of its likes for an export, and of those for DICOM."""

    def write(*always: str, export: tuple[str, ...] = (), dicom: tuple[str, ...] = ()) -> None:
        for name, lines in (("", always), ("-export", export), ("-dicom", dicom), ("-openvino", ())):
            (tmp_path / f"requirements{name}.txt").write_text("\n".join(("# a comment", "", *lines)))
        monkeypatch.setattr(installation, "RESOURCES", tmp_path)
        monkeypatch.setattr(installation, "TORCH", "torch>=999")

    return write


def test_what_is_missing_is_read_from_what_python_has(installation, wanted):
    """One requirement is met, one is too new, one does not exist."""
    wanted("numpy>=1", "scipy>=999", "no-such-package>=1", export=("no-such-writer",), dicom=("no-such-dicom",))
    assert installation.missingPackages() == ["torch>=999", "no-such-writer", "scipy>=999", "no-such-package>=1"]


def test_where_the_project_is_installed_nothing_is_missing(installation):
    assert installation.missingPackages() == installation.missingPackages(["parametric_map"]) == []


def test_an_export_needs_less_and_dicom_a_package_more(installation, wanted):
    wanted("no-such-package>=1", export=("no-such-writer",), dicom=("no-such-dicom",))
    assert installation.missingPackages(["report", "segmentation"]) == ["no-such-writer"]
    for kind in ("dicom_seg", "parametric_map"):
        assert installation.missingPackages(["report", kind]) == ["no-such-writer", "no-such-dicom"]


# Export


def test_slicers_own_highdicom_stays_until_dicom_is_exported(desktop, installation, machine):
    here = machine("highdicom>=0.28")
    installation.ensureReady("MoB Uncertainty")
    installation.ensureReady("MoB Uncertainty", ["report", "segmentation"])
    assert not desktop.dialogs
    accept(desktop)
    installation.ensureReady("MoB Uncertainty", ["parametric_map"])
    (asked,) = desktop.dialogs
    assert asked.title == "MoB Uncertainty"
    for words in ("writes these files with", "highdicom>=0.28", "in place of older ones"):
        assert words in asked.text
    assert "PyTorch" not in asked.text
    assert here.done == [("pip", "highdicom>=0.28")]


def test_an_export_asks_for_nothing_that_only_segmenting_needs(desktop, installation, machine):
    here = machine("torch>=2.10", "nnunetv2>=2.8", "jinja2>=3.1.6", extension=False)
    accept(desktop)
    installation.ensureReady("MoB Uncertainty", ["report"])
    assert here.done == [("pip", "jinja2>=3.1.6")]


@pytest.fixture
def from_dicom(desktop, tmp_path, monkeypatch):
    """The panel with the results of a CT from Slicer's DICOM database, and nothing but DICOM to export."""
    import slicer

    from support import small_panel

    class Database:
        def fileForInstance(self, uid: str) -> str:  # noqa: N802
            return f"/dicom/{uid}.dcm"

        def fileValue(self, name: str, tag: str) -> str:  # noqa: N802
            return "CT"

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
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


def test_declining_at_export_writes_nothing(from_dicom, machine, tmp_path):
    here = machine("highdicom>=0.28")
    decline(from_dicom)
    from_dicom.ui.exportButton.click()
    from_dicom.process()
    (asked,) = from_dicom.dialogs
    assert "highdicom>=0.28" in asked.text
    assert from_dicom.ui.exportStatusLabel.text.startswith("Nothing was installed, so nothing was written")
    assert from_dicom.ui.exportButton.text == "Export"
    assert not from_dicom.logic.client.busy
    assert not here.done
    assert list(tmp_path.iterdir()) == []


def test_what_pip_cannot_install_is_said_below_export_beside_slicers_own_dialog(from_dicom, machine):
    machine("highdicom>=0.28").failing = True
    accept(from_dicom)
    from_dicom.ui.exportButton.click()
    from_dicom.process()
    assert len(from_dicom.dialogs) == 1  # the question
    assert "could not be installed: highdicom>=0.28;" in from_dicom.ui.exportStatusLabel.text
    assert not from_dicom.logic.client.busy


def test_without_dicom_an_export_asks_nothing(from_dicom, machine, tmp_path):
    machine("highdicom>=0.28", "torch>=2.10")
    ui = from_dicom.ui
    ui.ctSelector.currentNode().RemoveAttribute("DICOM.instanceUIDs")  # whose files are not there
    ui.dicomSegCheckBox.checked = ui.parametricMapCheckBox.checked = False
    ui.segmentationCheckBox.checked = True
    ui.exportButton.click()
    from_dicom.process(until=lambda: ui.exportButton.text != "Cancel" and not from_dicom.logic.client.busy)
    assert not [shown.text for shown in from_dicom.dialogs]
    (made,) = tmp_path.iterdir()
    assert (made / "segmentation.seg.nrrd").exists()


# Apply


def test_declining_at_apply_leaves_the_scene_as_it_was(desktop, installation, machine):
    here = machine("torch>=2.10")
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
    assert not desktop.logic.client.busy


def test_what_cannot_be_is_one_dialog_at_apply(desktop, installation, machine):
    machine("torch>=2.10", extension=False)
    desktop.ui.applyButton.click()
    desktop.process()
    assert [shown.text.split(";")[0] for shown in desktop.dialogs] == ["The PyTorch extension is missing"]
    assert not desktop.logic.client.busy
