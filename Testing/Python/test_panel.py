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
        import qt

        from MoBUncertaintyLib.app.roi import roiBounds

        ct = add_ct(desktop)
        made = desktop.ui.roiSelector.addNode()  # by code, which knows what it wants
        assert tuple(made.GetSize()) == (0, 0, 0)
        menu = desktop.ui.roiSelector.findChild(qt.QComboBox)
        menu.activated.emit(menu.findData("add"))
        roi = desktop.ui.roiSelector.currentNode()
        assert roi is not made
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
        assert str(folder) in ModelList().models()
        assert desktop.widget.panel.parameters.model == str(folder)
        ui.modelSelector.currentIndex = 0
        assert desktop.widget.panel.inputs.model.path == DEMO_MODEL
        assert desktop.widget.panel.parameters.model == DEMO_MODEL.name
        assert not ui.removeModelButton.enabled
        assert "comes with the extension" in ui.removeModelButton.toolTip
        ui.modelSelector.currentIndex = before
        ui.removeModelButton.click()
        assert ui.modelSelector.count == before
        assert str(folder) not in ModelList().models()
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
        desktop.widget.panel.inputs.fill(str(folder))
        desktop.widget.panel.onModel()
        assert not desktop.ui.applyButton.enabled
        assert "There is no model at" in desktop.ui.modelInfoLabel.text
        desktop.ui.removeModelButton.click()
        assert desktop.ui.applyButton.enabled

    @pytest.mark.parametrize("name", ["{folder}/Liver.zip", "C:\\models\\Liver", "Liver"])
    def test_a_model_of_another_computer_is_not_replaced(self, desktop, tmp_path, name):
        name, parameters, ui = name.format(folder=tmp_path), desktop.widget.panel.parameters, desktop.ui
        add_ct(desktop)
        parameters.model = name  # as a scene that was saved there brings it
        desktop.widget.exit()
        desktop.widget.enter()
        assert parameters.model == name
        assert ui.modelSelector.currentText.endswith("Liver")
        assert not ui.applyButton.enabled
        assert ui.applyButton.toolTip == ui.modelInfoLabel.text
        assert ui.modelInfoLabel.text.startswith("There is no model ")
        assert name in ui.modelInfoLabel.text
        ui.removeModelButton.click()
        assert parameters.model == DEMO_MODEL.name
        assert ui.applyButton.enabled

    def test_a_model_that_a_scene_names_is_used_where_it_is(self, desktop, tmp_path):
        add_ct(desktop)
        desktop.widget.panel.parameters.model = str(shutil.copytree(DEMO_MODEL, tmp_path / "network drive"))
        desktop.widget.exit()
        desktop.widget.enter()
        assert desktop.widget.panel.inputs.model.path == tmp_path / "network drive"
        assert desktop.ui.applyButton.enabled

    def test_messages_of_models_are_in_the_users_language(self, monkeypatch):
        from MoBUncertaintyLib.app import models

        monkeypatch.setattr(models, "_", lambda text: "«" + text.replace("There is no model", "Es gibt kein Modell"))
        assert models.ModelList().find("Liver").problem.startswith("«Es gibt kein Modell Liver")

    def test_each_inference_is_explained_by_its_name(self, desktop):
        from MoBUncertaintyLib.app.choices import Method

        lines = desktop.ui.methodSelector.toolTip.splitlines()[1:]
        assert [line.split(":")[0] for line in lines] == [method.label() for method in Method]

    def test_only_monte_carlo_asks_for_the_number_of_samples(self, desktop):
        from MoBUncertaintyLib.app.choices import Method

        desktop.ui.advancedCollapsibleButton.collapsed = False
        for method in (Method.MONTE_CARLO, Method.EXACT):
            desktop.widget.panel.parameters.method = method
            assert desktop.ui.samplesSpinBox.isHidden() == (method is Method.EXACT)

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

    @pytest.mark.parametrize(("name", "request_of"), [("applyButton", "predict"), ("exportButton", "export")])
    def test_what_cannot_even_be_asked_for_is_one_dialog(self, reviewed, monkeypatch, name, request_of):
        from MoBUncertaintyLib.app import tasks

        def fail(*_):
            raise MemoryError

        desktop, _ = reviewed
        button, ui = getattr(desktop.ui, name), desktop.ui
        ui.exportDirectoryEdit.currentPath = "/somewhere"
        monkeypatch.setattr(tasks, f"{request_of}Request", fail)
        before = button.text
        button.click()
        assert len(desktop.dialogs) == 1
        assert (button.text, button.enabled) == (before, True)
        assert all(widget.enabled for widget in (ui.applyButton, ui.exportButton, ui.ctSelector, ui.includeButton))
        assert "MemoryError" in desktop.errors.pop()  # raised again, for Slicer's log

    def test_what_is_quoted_is_shown_as_it_is(self, desktop):
        import qt

        work = desktop.widget.panel.run.work
        work.start("")
        work.warn("The CT <b>Lung</b> is odd.")
        work.stop("")
        labels = (desktop.ui.statusLabel, desktop.ui.modelInfoLabel, desktop.ui.reviewProgressLabel)
        assert [label.textFormat for label in labels] == [qt.Qt.PlainText] * 3
        assert labels[0].text == "The CT <b>Lung</b> is odd."
        work.say("")

    def test_a_run_unlocks_only_what_it_has_locked(self, desktop):
        add_ct(desktop)
        desktop.ui.applyButton.click()
        assert not desktop.ui.modelSelector.enabled
        desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")
        assert desktop.ui.modelSelector.enabled
        assert not desktop.ui.removeModelButton.enabled

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

    @pytest.mark.parametrize("threshold", [0.015, 0.24])  # with regions, and without any
    def test_the_question_before_a_new_run_names_who_has_signed(self, reviewed, threshold):
        import qt

        desktop, session = reviewed
        session.setDoubt(threshold, 20.0)
        for region in session.review.regions:
            session.decide(region.region_id, "accept")
        session.sign("Dr. Åse Müller")
        desktop.answer(qt.QMessageBox.Cancel)
        desktop.ui.applyButton.click()
        (dialog,) = desktop.dialogs
        assert f"signed off by Dr. Åse Müller, {session.review.signature.time:%Y-%m-%d %H:%M}." in dialog.text
        touched = len(session.review.regions)
        assert bool(touched) == (threshold < 0.1) == (f"comment: {touched}." in dialog.text)
        assert session.review.signature


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

    def test_nodes_are_named_in_the_users_language(self, desktop, monkeypatch):
        from MoBUncertaintyLib.app import maps, surface

        for room in (maps, surface):
            monkeypatch.setattr(room, "_", str.upper)
        ct = add_ct(desktop)
        apply(desktop)
        desktop.ui.mapSelector.currentIndex = 1
        found = {
            role: desktop.logic.session(ct).results.node(role).GetName() for role in ("variance", "map", "surface")
        }
        assert found == {
            "variance": "CT PREDICTIVE VARIANCE",
            "map": "CT UNCERTAINTY MAP",
            "surface": "CT UNCERTAINTY SURFACE",
        }


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

    def test_progress_and_cancel_are_where_the_export_was_started(self, reviewed, tmp_path):
        desktop, _ = reviewed
        ui = desktop.ui
        ui.runCollapsibleButton.collapsed, ui.exportCollapsibleButton.collapsed = True, False
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        ui.exportButton.click()
        assert (ui.exportButton.text, ui.exportButton.enabled) == ("Cancel", True)
        assert (ui.applyButton.text, ui.applyButton.enabled) == ("Apply", False)
        assert ui.applyButton.toolTip == "Wait for the export to finish."
        assert not ui.exportProgressBar.isHidden()
        assert ui.exportStatusLabel.text == "Handing over the review..."
        said = []
        ui.exportProgressBar.valueChanged.connect(lambda _: said.append(ui.exportStatusLabel.text))
        desktop.process(until=lambda: said)
        ui.exportButton.click()
        assert (ui.exportButton.text, ui.exportButton.enabled) == ("Export", True)
        assert ui.exportProgressBar.isHidden()
        assert ui.exportStatusLabel.text == "Cancelled; nothing was written."
        assert ui.applyButton.enabled
        assert ui.statusLabel.text.startswith("Done")  # of the run
        ui.runCollapsibleButton.collapsed = False

    def test_a_folder_that_is_there_is_not_written_to_again(self, tmp_path):
        from MoBUncertaintyLib.app.panel import newFolder

        assert newFolder(tmp_path, "CT: 1/2").name == "CT_ 1_2"
        for expected in ("CT", "CT (2)", "CT (3)"):
            assert newFolder(tmp_path, "CT") == tmp_path / expected
            (tmp_path / expected).mkdir()

    def test_what_was_written_can_be_opened_by_a_click(self, reviewed, tmp_path, monkeypatch):
        import qt

        desktop, _ = reviewed
        ui, opened = desktop.ui, []
        monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
        ui.exportDirectoryEdit.currentPath = str(tmp_path)
        ui.exportButton.click()
        desktop.process(until=lambda: ui.exportButton.text == "Export", seconds=60)
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
