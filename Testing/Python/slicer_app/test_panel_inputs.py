"""The panel's inputs through their widgets: images, models and mixtures of them, and what says why Apply is grey."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.pipeline.demo import DEMO_MODEL
from support import PHANTOM_MODEL
from support.late import qt, slicer, slicer_app
from support.small_panel import add_ct, apply, load_demo

pytestmark = pytest.mark.own_process


@pytest.fixture
def add(desktop, tmp_path) -> Iterator:
    """Adds training folders of nnU-Net by the dialog, and removes them in the end."""
    added = []

    def add_folder(name: str, *labels: str, folds: int = 1, channels: tuple[str, ...] = ("CT",)) -> Path:
        folder = tmp_path / f"Dataset001_{name}" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        for fold in range(folds):
            (folder / f"fold_{fold}").mkdir(parents=True)
            (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
        (folder / "plans.json").write_text("{}")
        dataset = {"channel_names": {str(number): channel for number, channel in enumerate(channels)}}
        dataset |= {"labels": {"background": 0} | {label: value for value, label in enumerate(labels, start=1)}}
        (folder / "dataset.json").write_text(json.dumps(dataset))
        desktop.choose(folder / "plans.json")
        desktop.ui.addModelButton.click()
        desktop.process()
        added.append(folder)
        return folder

    yield add_folder
    for folder in added:
        slicer_app.models.removeModel(folder)
    desktop.widget.panel.inputs.close()
    desktop.widget.panel.inputs.selector.fill("")


@pytest.fixture
def asked(desktop, monkeypatch) -> list[tuple[list[Path], dict]]:
    """Models and settings of each press of Apply."""
    found: list[tuple[list[Path], dict]] = []
    monkeypatch.setattr(
        desktop.logic, "run", lambda _ct, models, settings, _segmentation: found.append((models, settings))
    )
    return found


class TestCheck:
    def test_any_segmentation_of_the_scene_is_handed_over(self, desktop, monkeypatch):
        """Drawn by hand, of segments that overlap; it stays as it is."""
        ct, segments = add_ct(desktop), slicer_app.scene.segments
        shape = slicer.util.arrayFromVolume(ct).shape
        node = desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
        drawn = {"liver": np.s_[2:9, 3:12, 4:13], "tumour": np.s_[5:12, 6:9, 10:20]}
        for name, place in drawn.items():
            segment = slicer.vtkSegment()
            segment.SetName(name)
            voxels = np.zeros(shape, np.uint8)
            voxels[place] = 1
            box = tuple(slice(0, size) for size in shape)
            segment.AddRepresentation(segments.BINARY_LABELMAP, segments.orientedImage(ct, box, voxels))
            node.GetSegmentation().AddSegment(segment)
        handed = []
        monkeypatch.setattr(desktop.logic, "run", lambda *arguments: handed.append(arguments[3]))
        desktop.ui.applyButton.click()
        desktop.ui.segmentationSelector.setCurrentNode(node)
        desktop.process()
        desktop.ui.applyButton.click()
        second = desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "second")
        desktop.ui.secondSegmentationSelector.setCurrentNode(second)
        desktop.process()
        desktop.ui.applyButton.click()
        assert handed == [[], [node], [node, second]]
        desktop.ui.segmentationSelector.setCurrentNode(None)
        desktop.process()
        assert not desktop.ui.secondSegmentationSelector.enabled
        sent = slicer_app.requests.predictRequest(ct, [str(PHANTOM_MODEL)], {}, segmentations=[node, node])
        request = sent["segmentation"]
        np.testing.assert_array_equal(sent["against"]["array"], request["array"])
        expected = np.zeros(shape, np.uint16)
        for value, place in enumerate(drawn.values(), start=1):
            expected[place] = value
        np.testing.assert_array_equal(request["array"], expected)
        assert [(each["value"], each["name"]) for each in request["structures"]] == [(1, "liver"), (2, "tumour")]
        assert request["name"] == "by hand"
        assert node.GetSegmentation().GetNumberOfSegments() == 2

    @pytest.mark.parametrize("before", [False, True])
    @pytest.mark.parametrize("now", [False, True])
    def test_what_counts_as_a_region_holds_on_only_for_regions_of_the_same_kind(self, desktop, before, now):
        """Those of a check have a measure that no other regions have."""
        ct = add_ct(desktop)
        node = desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
        settings = RegionSettings(measure=Measure.ERROR if before else Measure.ENTROPY)
        made = SimpleNamespace(provenance={"model": {"digest": "0" * 64}}, checked=before or None)
        earlier = SimpleNamespace(review=SimpleNamespace(prediction=made, settings=settings))
        drawn = [node] if now else []
        sent = slicer_app.requests.predictRequest(ct, [str(PHANTOM_MODEL)], {}, earlier, segmentations=drawn)
        assert sent["regions"].get("measure") == (settings.measure if before == now else None)

    def test_what_is_checked_is_hidden_under_its_copy_and_no_result_is_offered(self, desktop):
        add_ct(desktop)
        node = desktop.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
        node.CreateDefaultDisplayNodes()
        desktop.ui.segmentationSelector.setCurrentNode(node)
        apply(desktop)
        assert not node.GetDisplayVisibility()
        copy = desktop.widget.panel.review.session.results.node("segmentation")
        assert copy.GetDisplayVisibility()
        hidden = desktop.ui.segmentationSelector.sortFilterProxyModel().hiddenNodeIDs
        assert copy.GetID() in hidden
        assert node.GetID() not in hidden


class TestInputs:
    def test_apply_says_what_is_missing(self, desktop):
        button, label = desktop.ui.applyButton, desktop.ui.statusLabel
        assert (button.enabled, button.toolTip, label.text) == (False, *["Select an image first."] * 2)
        assert not label.isHidden()
        add_ct(desktop)
        assert button.enabled and label.isHidden()

    def test_a_volume_that_is_loaded_is_chosen_if_none_is(self, desktop):
        first, second = (slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name=name) for name in "ab")
        desktop.process(until=lambda: desktop.ui.ctSelector.currentNode() is first)
        slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="c")
        desktop.process()
        assert desktop.ui.ctSelector.currentNode() is first
        desktop.scene.RemoveNode(first)
        desktop.process()
        assert desktop.ui.ctSelector.currentNode() is None and second.GetScene()

    def test_a_ct_with_an_automatic_window_is_shown_in_that_of_the_abdomen(self, desktop):
        ct = slicer.util.addVolumeFromArray(np.linspace(-1000, 3000, 4**3).reshape(4, 4, 4), name="own")
        desktop.ui.ctSelector.setCurrentNode(ct)
        display = ct.GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-160, 240)
        display.SetWindowLevelMinMax(-1000, 400)
        add_ct(desktop, "other")
        desktop.ui.ctSelector.setCurrentNode(ct)
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-1000, 400)

    def test_maps_are_not_offered_as_cts(self, desktop, ui, session):
        assert session.results.node("variance")
        assert ui.ctSelector.nodes() == [session.results.ctNode]
        ui.mapSelector.currentText = "Entropy (nats)"
        desktop.process(until=lambda: session.results.node("map"))
        assert session.results.node("map")
        assert ui.ctSelector.nodes() == [session.results.ctNode]
        assert ui.ctSelector.currentNode() is session.results.ctNode

    def test_a_new_region_of_interest_holds_the_ct(self, desktop):
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
        assert slicer_app.scene.roi.roiBounds(roi, ct) == pytest.approx(bounds)
        assert bounds[1] > bounds[0]
        assert not roi.GetDisplayNode().GetFillVisibility()

    def test_a_volume_without_voxels_is_refused(self, desktop):
        desktop.ui.ctSelector.setCurrentNode(desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
        assert not desktop.ui.applyButton.enabled
        assert "no voxels" in desktop.ui.applyButton.toolTip

    def test_a_model_is_added_chosen_and_remembered(self, desktop, ui, tmp_path):
        folder = tmp_path / "Modèle à moi"
        shutil.copytree(PHANTOM_MODEL, folder)
        before = ui.modelSelector.count
        desktop.choose(folder / "model.json")
        ui.addModelButton.click()
        assert ui.modelSelector.count == before + 1
        assert desktop.widget.panel.inputs.selector.model.path == folder
        assert "Apache" in ui.modelInfoLabel.text
        assert str(folder) in slicer_app.models.listModels()
        assert desktop.widget.panel.parameters.model == str(folder)
        ui.modelSelector.currentIndex = list(slicer_app.models.listModels()).index(PHANTOM_MODEL.name)
        assert desktop.widget.panel.inputs.selector.model.path == PHANTOM_MODEL
        assert desktop.widget.panel.parameters.model == PHANTOM_MODEL.name
        assert not ui.removeModelButton.enabled
        assert "comes with the extension" in ui.removeModelButton.toolTip
        ui.modelSelector.currentIndex = before
        ui.removeModelButton.click()
        assert ui.modelSelector.count == before
        assert str(folder) not in slicer_app.models.listModels()
        assert folder.is_dir()

    def test_the_demo_ct_is_offered_for_models_that_may_take_it(self, desktop, ui):
        first, *_, last = list(slicer_app.models.listModels())
        assert (first, last) == (DEMO_MODEL, PHANTOM_MODEL.name)
        for name, offered in (("HippocampusAnterior", False), (DEMO_MODEL, True)):
            ui.modelSelector.currentText = name
            desktop.process()
            assert ui.sampleLabel.visible is offered
        assert load_demo(desktop).GetName() == "HeadNeckCT"

    def test_a_model_of_two_channels_asks_for_a_volume_of_the_second(self, desktop, ui, add):
        flair, t1 = add_ct(desktop, "flair"), add_ct(desktop, "t1")
        assert not ui.channelsPlace.visible
        folder = add("Brain", "tumour", channels=("T1", "FLAIR"))
        assert not ui.applyButton.enabled and "FLAIR" in ui.applyButton.toolTip
        assert ui.ctSelectorCaption.text == "T1:"
        (selector,) = desktop.widget.panel.inputs._channels.selectors.values()
        selector.setCurrentNode(flair)
        assert ui.applyButton.enabled
        request = slicer_app.requests.predictRequest(t1, [str(folder)], {})
        assert {name: volume["name"] for name, volume in request["channels"].items()} == {"FLAIR": "flair"}
        ui.ctSelector.setCurrentNode(flair)
        desktop.process()
        assert selector.currentNode() is None, "each case has its own"
        ui.ctSelector.setCurrentNode(t1)
        desktop.process()
        assert selector.currentNode() is flair
        ui.modelSelector.currentText = PHANTOM_MODEL.name
        assert ui.applyButton.enabled
        assert not desktop.widget.panel.inputs._channels.selectors
        ui.modelSelector.currentIndex = ui.modelSelector.count - 1
        desktop.scene.RemoveNode(flair)
        desktop.process()
        assert not ui.applyButton.enabled

    def test_some_of_many_labels_are_chosen_by_search(self, desktop, add, asked):
        ui, panel = desktop.ui, desktop.widget.panel
        settings = panel.inputs
        add_ct(desktop)
        ui.inputsCollapsibleButton.collapsed = False
        assert not ui.labelsPlace.visible, "one label is not chosen from"
        add("Organs", "spleen", "kidney_left", "kidney_right", "pancreas", "liver", "stomach")
        assert "labels: spleen, kidney left, kidney right, pancreas and 2 more" in ui.modelInfoLabel.text
        assert ui.modelSelector.currentText == "Organs"
        assert ui.labelsPlace.visible
        assert not ui.labelsList.visible
        assert ui.labelsSummaryLabel.text == "Labels: all 6."
        ui.chooseLabelsButton.click()
        assert ui.labelsList.visible
        last = ui.labelsList.visualItemRect(ui.labelsList.item(5))
        assert 0 <= ui.labelsList.viewport().height - last.bottom() < last.height(), "as high as the labels it has"
        ui.labelsSearchEdit.text = "kidney ri"
        rows = [ui.labelsList.item(row) for row in range(ui.labelsList.count)]
        assert [row.text() for row in rows if not row.isHidden()] == ["kidney right"]
        rows[2].setCheckState(qt.Qt.Checked)
        ui.labelsSearchEdit.text = ""
        rows[3].setCheckState(qt.Qt.Checked)
        assert ui.labelsSummaryLabel.text == "Labels: 2 of 6, kidney right, pancreas."
        assert panel.parameters.labels == settings.labels == ["kidney_right", "pancreas"]
        ui.modelSelector.currentText = PHANTOM_MODEL.name
        assert settings.labels == ["pancreas"], "the other model has one of them"
        ui.modelSelector.currentIndex = ui.modelSelector.count - 1
        assert settings.labels == ["kidney_right", "pancreas"], "and keeps them"
        ui.applyButton.click()
        ui.allLabelsButton.click()
        ui.applyButton.click()
        assert [settings["labels"] for _, settings in asked] == [["kidney_right", "pancreas"], None]

    def test_a_folder_is_chosen_as_such_and_a_file_among_all_that_name_a_model(self, desktop, add, monkeypatch):
        ui, asked, given = desktop.ui, [], qt.QFileDialog.exec_
        monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: asked.append(dialog) or given(dialog))
        folder = add("Colon", "colon")
        assert ui.modelSelector.currentText == "Colon"
        ui.removeModelButton.click()
        desktop.choose(folder.parent)
        ui.addFolderButton.click()
        desktop.process()
        assert ui.modelSelector.currentText == "Colon"
        ui.removeModelButton.click()
        of_file, of_folder = asked
        assert of_folder.fileMode == qt.QFileDialog.Directory
        (pattern,) = of_file.nameFilters()
        assert all(name in pattern for name in ("*.zip", "model.json", "plans.json", "checkpoint_*.pth"))

    def test_what_is_no_model_is_one_dialog(self, desktop, tmp_path):
        (tmp_path / "model.zip").write_bytes(b"PK, but no more")
        before = desktop.ui.modelSelector.count
        desktop.choose(tmp_path / "model.zip")
        desktop.ui.addModelButton.click()
        assert len(desktop.dialogs) == 1
        assert desktop.ui.modelSelector.count == before

    def test_a_model_that_has_gone_keeps_apply_from_being_pressed(self, desktop, tmp_path):
        folder = tmp_path / "gone"
        shutil.copytree(PHANTOM_MODEL, folder)
        add_ct(desktop)
        desktop.choose(folder / "model.json")
        desktop.ui.addModelButton.click()
        shutil.rmtree(folder)
        desktop.widget.panel.inputs.selector.fill(str(folder))
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
        assert parameters.model == DEMO_MODEL
        assert ui.applyButton.enabled

    def test_a_model_that_a_scene_names_is_used_where_it_is(self, desktop, tmp_path):
        add_ct(desktop)
        desktop.widget.panel.parameters.model = str(shutil.copytree(PHANTOM_MODEL, tmp_path / "network drive"))
        desktop.widget.exit()
        desktop.widget.enter()
        assert desktop.widget.panel.inputs.selector.model.path == tmp_path / "network drive"
        assert desktop.ui.applyButton.enabled

    def test_messages_of_models_are_in_the_users_language(self, monkeypatch):
        monkeypatch.setattr(
            slicer_app.models, "_", lambda text: "«" + text.replace("There is no model", "Es gibt kein Modell")
        )
        assert slicer_app.models.findModel("Liver").problem.startswith("«Es gibt kein Modell Liver")


def test_folds_and_mirrored_tiles_are_chosen_with_their_cost(desktop, ui, add, asked):
    add_ct(desktop)
    ui.inputsCollapsibleButton.collapsed = False
    assert not ui.mixturePlace.visible, "this model has a covariance and one fold, and cannot be mirrored"
    add("Organs", "spleen", folds=3)
    note = ui.mixtureNoteLabel
    assert ui.foldsCheckBox.text == "Average all folds, 3 times as long" and ui.foldsCheckBox.checked
    assert ui.mirrorCheckBox.text == "Average mirrored tiles, up to 8 times as long" and not ui.mirrorCheckBox.checked
    assert ui.mixturePlace.visible and note.visible
    for folds, mirror in ((True, False), (False, False), (False, True), (True, True)):
        ui.foldsCheckBox.checked, ui.mirrorCheckBox.checked = folds, mirror
        ui.applyButton.click()
    found = [(settings["folds"], settings["mirror"]) for _, settings in asked]
    assert found == [(None, False), ([0], False), ([0], True), (None, True)]
    add("One", "spleen")
    assert not ui.foldsCheckBox.visible and ui.mirrorCheckBox.visible
    ui.modelSelector.currentText = PHANTOM_MODEL.name
    ui.applyButton.click()
    assert (asked[-1][1]["folds"], asked[-1][1]["mirror"]) == (None, False)
    assert desktop.widget.panel.parameters.mirror, "kept for models that can"


def test_a_model_without_a_covariance_links_to_recalibration(desktop, add):
    add("Organs", "spleen")
    inputs = desktop.widget.panel.inputs
    desktop.ui.mixtureNoteLabel.linkActivated.emit("temperature")
    assert inputs.recalibrate.window.windowTitle == "Recalibrate nnUNetTrainer__nnUNetPlans__3d_fullres"
