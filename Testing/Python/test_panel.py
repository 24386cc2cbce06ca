"""The panel's parts through their widgets, with the stand-in worker: what acts, and what says why it does not."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import small_panel
from small_panel import MATRIX, MODULE_FOLDER, add_ct, apply, statuses, use_worker

pytestmark = pytest.mark.own_process

DEMO_MODEL = MODULE_FOLDER / "Resources" / "Models" / "PhantomPancreas"


@pytest.fixture(scope="module")
def panel():
    yield from small_panel.opened()


@pytest.fixture
def desktop(panel):
    yield from small_panel.emptied(panel)


@pytest.fixture
def reviewed(desktop):
    """The panel with a result, and its session."""
    return small_panel.segmented(desktop)


class TestInputs:
    def test_apply_says_what_is_missing(self, desktop):
        ui = desktop.ui
        assert (ui.applyButton.enabled, ui.applyButton.toolTip) == (False, "Select a CT first.")
        add_ct(desktop)
        assert ui.applyButton.enabled

    def test_maps_are_not_offered_as_cts(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        assert session.results.node("variance")
        assert ui.ctSelector.nodes() == [session.ctNode]
        ui.mapSelector.currentText = "Entropy (nats)"
        assert session.results.node("map")
        assert ui.ctSelector.nodes() == [session.ctNode]
        assert ui.ctSelector.currentNode() is session.ctNode

    def test_a_new_region_of_interest_holds_the_ct(self, desktop):
        from MoBUncertaintyLib.app.roi import roiBounds

        ct = add_ct(desktop)
        roi = desktop.ui.roiSelector.addNode()
        bounds = [0.0] * 6
        ct.GetRASBounds(bounds)
        assert desktop.widget.panel.parameters.roi is roi
        assert roiBounds(roi, ct) == pytest.approx(bounds)
        assert bounds[1] > bounds[0]
        assert not roi.GetDisplayNode().GetFillVisibility()

    def test_a_volume_without_voxels_is_refused(self, desktop):
        desktop.ui.ctSelector.setCurrentNode(desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
        assert not desktop.ui.applyButton.enabled
        assert "no voxels" in desktop.ui.applyButton.toolTip

    def test_a_model_is_added_chosen_and_remembered(self, desktop, tmp_path):
        from MoBUncertaintyLib.app.models import ModelList

        folder = tmp_path / "Modèle à moi"
        shutil.copytree(DEMO_MODEL, folder)
        ui = desktop.ui
        before = ui.modelSelector.count
        desktop.choose(folder / "model.json")
        ui.addModelButton.click()
        assert ui.modelSelector.count == before + 1
        assert desktop.widget.panel.inputs.model.path == folder
        assert "Apache" in ui.modelInfoLabel.text
        assert folder in [model.path for model in ModelList().models()]
        ui.modelSelector.currentIndex = 0
        assert desktop.widget.panel.inputs.model.path == DEMO_MODEL
        assert not ui.removeModelButton.enabled
        assert "comes with the extension" in ui.removeModelButton.toolTip
        ui.modelSelector.currentIndex = before
        ui.removeModelButton.click()
        assert ui.modelSelector.count == before
        assert folder not in [model.path for model in ModelList().models()]
        assert folder.is_dir()

    def test_what_is_no_model_is_one_dialog(self, desktop, tmp_path):
        (tmp_path / "model.zip").write_bytes(b"PK, but no more")
        before = desktop.ui.modelSelector.count
        desktop.choose(tmp_path / "model.zip")
        desktop.ui.addModelButton.click()
        (dialog,) = desktop.dialogs
        assert "not a readable zip file" in dialog.text
        assert desktop.ui.modelSelector.count == before

    def test_a_model_that_has_gone_keeps_apply_from_being_pressed(self, desktop, tmp_path):
        folder = tmp_path / "gone"
        shutil.copytree(DEMO_MODEL, folder)
        add_ct(desktop)
        desktop.choose(folder / "model.json")
        desktop.ui.addModelButton.click()
        shutil.rmtree(folder)
        desktop.widget.panel.inputs.fill()
        desktop.widget.panel.inputs.choose(str(folder))
        desktop.widget.panel.onModel()
        assert not desktop.ui.applyButton.enabled
        assert "There is no model at" in desktop.ui.modelInfoLabel.text
        desktop.ui.removeModelButton.click()
        assert desktop.ui.applyButton.enabled

    def test_mirroring_is_offered_only_to_models_trained_with_it(self, desktop):
        assert not desktop.ui.mirrorCheckBox.enabled
        assert "left is not right" in desktop.ui.mirrorCheckBox.toolTip

    def test_declining_the_installation_changes_nothing(self, desktop):
        from MoBUncertaintyLib.errors import Cancelled

        def decline():
            raise Cancelled("Nothing was installed.")

        add_ct(desktop)
        before = desktop.scene.GetNumberOfNodes()
        desktop.widget.panel.ensureReady = decline
        desktop.ui.applyButton.click()
        assert desktop.ui.statusLabel.text == "Nothing was installed."
        assert desktop.ui.applyButton.text == "Apply"
        assert desktop.scene.GetNumberOfNodes() == before
        assert desktop.dialogs == []


class TestRun:
    def test_what_the_widgets_say_is_what_is_asked_for(self, desktop):
        import slicer
        import vtk

        asked = []

        class Recorder:
            busy = False

            def request(self, message, *_callbacks):
                asked.append(message)

            def close(self):
                pass

            cancel = close

        desktop.logic.client = Recorder()
        ct, ui = add_ct(desktop), desktop.ui
        shift = desktop.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 100.0)
        shift.SetMatrixTransformToParent(matrix)
        ct.SetAndObserveTransformNodeID(shift.GetID())
        roi = desktop.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        roi.SetCenter(110.0, 10.0, 12.0)
        roi.SetSize(8.0, 6.0, 4.0)
        ui.roiSelector.setCurrentNode(roi)
        ui.methodSelector.currentText = "Monte Carlo"
        ui.samplesSpinBox.value = 12
        ui.deviceSelector.currentText = "CPU (processor)"
        ui.overlapSlider.value = 0.25
        ui.applyButton.click()
        settings = asked[0]["settings"]
        assert settings.pop("region_of_interest") == pytest.approx([6, 14, 7, 13, 10, 14])
        assert settings == {"samples": 12, "overlap": 0.25, "mirror": False, "device": "cpu"}
        assert asked[0]["ct"]["array"] is not None
        assert np.array_equal(asked[0]["ct"]["array"], slicer.util.arrayFromVolume(ct))
        assert asked[0]["ct"]["ijk_to_ras"] == MATRIX.tolist()
        assert asked[0]["model"] == str(DEMO_MODEL)
        ui.applyButton.click()
        ui.methodSelector.currentIndex = 0
        ui.deviceSelector.currentIndex = 0

    def test_closing_the_scene_ends_the_run(self, desktop):
        use_worker(desktop, "slow")
        add_ct(desktop)
        desktop.ui.applyButton.click()
        desktop.process(until=lambda: desktop.ui.progressBar.value > 0)
        desktop.scene.Clear(0)
        desktop.process()
        assert not desktop.logic.busy
        assert desktop.ui.applyButton.text == "Apply"
        assert desktop.ui.ctSelector.enabled
        assert desktop.dialogs == []

    def test_a_ct_that_is_removed_meanwhile_is_no_crash(self, desktop):
        ct = add_ct(desktop)
        desktop.ui.applyButton.click()
        desktop.scene.RemoveNode(ct)
        desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")
        (dialog,) = desktop.dialogs
        assert "removed" in dialog.text

    def test_a_ct_that_is_changed_meanwhile_gets_no_results(self, desktop):
        import slicer.util

        ct = add_ct(desktop)
        desktop.ui.applyButton.click()
        slicer.util.updateVolumeFromArray(ct, np.zeros((4, 5, 6), np.int16))
        desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")
        (dialog,) = desktop.dialogs
        assert "changed while it was segmented" in dialog.text
        assert desktop.logic.session(ct) is None

    def test_results_that_cannot_be_shown_are_one_dialog(self, desktop, monkeypatch):
        from MoBUncertaintyLib.app import tasks

        def fail(*_):
            raise MemoryError

        monkeypatch.setattr(tasks, "showResult", fail)
        add_ct(desktop)
        apply(desktop)
        (dialog,) = desktop.dialogs
        assert "could not be shown (MemoryError)" in dialog.text
        assert "Traceback" in dialog.details
        assert desktop.ui.applyButton.enabled

    def test_the_review_waits_while_its_ct_is_segmented_anew(self, reviewed):
        desktop, _ = reviewed
        desktop.ui.applyButton.click()
        assert not desktop.ui.includeButton.enabled
        desktop.ui.applyButton.click()
        assert desktop.ui.includeButton.enabled

    def test_a_new_run_keeps_what_counts_as_a_region(self, reviewed, monkeypatch):
        desktop, session = reviewed
        session.setDoubt(0.02, 50.0)
        asked = []
        monkeypatch.setattr(desktop.logic.client, "request", lambda message, *_: asked.append(message["regions"]))
        desktop.ui.applyButton.click()
        assert (asked[0]["threshold"], asked[0]["minimum_mm3"]) == (0.02, 50.0)
        desktop.ui.applyButton.click()

    def test_progress_is_told_in_the_panels_words(self, desktop):
        from MoBUncertaintyLib.app.sections.run import stageText
        from MoBUncertaintyLib.estimate import STAGES, Estimate

        estimate = Estimate(dict.fromkeys(STAGES, 1.0))
        for stage in STAGES:  # none is left to the worker's English
            assert stageText(estimate.step(stage, 1, 1) | {"text": "?"}) == STAGES[stage]
        step = estimate.step("network", 3, 40)
        assert stageText(step | {"text": "?"}) == step["text"] == "Predicting tiles: 3 of 40"

    def test_a_new_run_asks_before_it_ends_a_review(self, reviewed):
        import qt

        desktop, session = reviewed
        desktop.ui.includeButton.click()
        desktop.answer(qt.QMessageBox.Cancel)
        desktop.ui.applyButton.click()
        assert desktop.ui.applyButton.text == "Apply"
        assert statuses(desktop)[0] == "Included"
        desktop.answer(qt.QMessageBox.Ok)
        apply(desktop)
        assert statuses(desktop) == ["To review"] * 3
        assert desktop.logic.session(session.ctNode) is not session


class TestOverlay:
    def test_controls_act_at_once(self, reviewed):
        desktop, session = reviewed
        ui, results = desktop.ui, session.results
        display = results.node("variance").GetDisplayNode()
        ui.lowerThresholdSlider.value = 0.05
        assert display.GetLowerThreshold() == pytest.approx(0.05)
        ui.windowRangeWidget.setValues(0.01, 0.2)
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0.01, 0.2))
        organ = results.node("segmentation").GetDisplayNode()
        ui.fillCheckBox.checked = True
        assert organ.GetOpacity2DFill() > 0
        ui.surfaceCheckBox.checked = False
        assert not results.node("surface").GetDisplayNode().GetVisibility()
        ui.surfaceCheckBox.checked = True
        assert results.node("surface").GetDisplayNode().GetVisibility()

    def test_each_map_has_a_range_of_its_own(self, reviewed):
        desktop, _ = reviewed
        ui = desktop.ui
        ui.lowerThresholdSlider.value = 0.03
        ui.mapSelector.currentText = "Probability"
        assert ui.windowRangeWidget.maximum == 1.0
        ui.lowerThresholdSlider.value = 0.5
        ui.mapSelector.currentText = "Variance"
        assert ui.lowerThresholdSlider.value == pytest.approx(0.03)
        assert ui.windowRangeWidget.maximum == 0.25


class TestExport:
    def test_it_says_what_is_missing(self, reviewed):
        desktop, _ = reviewed
        ui = desktop.ui
        ui.exportDirectoryEdit.currentPath = "/somewhere"
        assert ui.exportButton.enabled
        ui.reportCheckBox.checked = ui.segmentationCheckBox.checked = False
        assert (ui.exportButton.enabled, ui.exportButton.toolTip) == (False, "Choose at least one kind of file.")
        ui.reportCheckBox.checked = ui.segmentationCheckBox.checked = True
        ui.exportDirectoryEdit.currentPath = ""
        assert (ui.exportButton.enabled, ui.exportButton.toolTip) == (False, "Choose a folder.")

    def test_dicom_is_offered_to_a_ct_from_dicom(self, desktop, monkeypatch):
        import slicer

        ui, files = desktop.ui, {"1.2.3": "/dicom/1.dcm", "1.2.4": "/dicom/2.dcm"}

        class Database:
            def fileForInstance(self, uid):  # noqa: N802
                return files.get(uid, "")

        monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
        ct = add_ct(desktop)
        apply(desktop)
        assert not ui.dicomSegCheckBox.enabled
        assert "DICOM database" in ui.dicomSegCheckBox.toolTip
        ct.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
        desktop.widget.panel.export.setSession(desktop.logic.session(ct))
        assert ui.dicomSegCheckBox.enabled
        assert ui.parametricMapCheckBox.enabled
        files.pop("1.2.4")
        desktop.widget.panel.export.setSession(desktop.logic.session(ct))
        assert not ui.dicomSegCheckBox.enabled

    def test_what_was_written_can_be_opened_by_a_click(self, reviewed, tmp_path, monkeypatch):
        import qt

        desktop, _ = reviewed
        ui, opened = desktop.ui, []
        monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        ui.exportButton.click()
        desktop.process(until=lambda: ui.applyButton.text == "Apply", seconds=60)
        assert desktop.dialogs == []
        (made,) = tmp_path.iterdir()
        assert "files written" in ui.exportStatusLabel.text
        ui.exportStatusLabel.linkActivated.emit((made / "report.html").as_uri())
        assert opened == [str(made / "report.html")]


def test_the_modules_own_test_passes(desktop, tmp_path, monkeypatch):
    """What ctest runs in Slicer; `PythonSlicer` is this Python."""
    import MoBUncertainty

    program = tmp_path / "PythonSlicer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    MoBUncertainty.MoBUncertaintyTest().runTest()


def test_importing_the_module_costs_little():
    """Beyond what Slicer has imported itself; neither torch nor what takes long comes with it."""
    script = """
        import sys, time
        from pathlib import Path
        from desktop import host
        host.application.start()
        import slicer
        slicer.__path__.append(str(host.STAND_INS))
        import slicer.ScriptedLoadableModule, slicer.parameterNodeWrapper, slicer.i18n
        sys.path.insert(0, sys.argv[1])
        had, began = set(sys.modules), time.perf_counter()
        import MoBUncertainty
        print("SECONDS", time.perf_counter() - began)
        heavy = {"torch", "scipy", "SimpleITK", "matplotlib", "nnunetv2"}
        print("HEAVY", sorted(heavy & (set(sys.modules) - had)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(MODULE_FOLDER)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("SECONDS", "HEAVY")))
    assert told, done.stderr
    assert told["HEAVY"] == "[]"
    assert float(told["SECONDS"]) < 0.3
