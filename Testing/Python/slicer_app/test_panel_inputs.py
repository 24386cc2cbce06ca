"""The panel's inputs through their widgets: what can be chosen, and what says why it cannot."""

import json
import shutil

import numpy as np
import pytest

from support import MODULE_FOLDER
from support.small_panel import add_ct

pytestmark = pytest.mark.own_process

DEMO_MODEL = MODULE_FOLDER / "Resources" / "Models" / "PhantomPancreas"


class TestInputs:
    def test_apply_says_what_is_missing(self, desktop):
        ui = desktop.ui
        assert (ui.applyButton.enabled, ui.applyButton.toolTip) == (False, "Select an image first.")
        add_ct(desktop)
        assert ui.applyButton.enabled

    def test_a_volume_that_is_loaded_is_chosen_if_none_is(self, desktop):
        import slicer.util

        first, second = (slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name=name) for name in "ab")
        desktop.process(until=lambda: desktop.ui.ctSelector.currentNode() is first)
        slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="c")
        desktop.process()
        assert desktop.ui.ctSelector.currentNode() is first
        desktop.scene.RemoveNode(first)
        desktop.process()
        assert desktop.ui.ctSelector.currentNode() is None and second.GetScene()

    def test_a_ct_with_an_automatic_window_is_shown_in_that_of_the_abdomen(self, desktop):
        import slicer.util

        ct = slicer.util.addVolumeFromArray(np.linspace(-1000, 3000, 4**3).reshape(4, 4, 4), name="own")
        desktop.ui.ctSelector.setCurrentNode(ct)
        display = ct.GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-160, 240)
        display.SetWindowLevelMinMax(-1000, 400)
        add_ct(desktop, "other")
        desktop.ui.ctSelector.setCurrentNode(ct)
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-1000, 400)

    def test_maps_are_not_offered_as_cts(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        assert session.results.node("variance")
        assert ui.ctSelector.nodes() == [session.results.ctNode]
        ui.mapSelector.currentText = "Entropy (nats)"
        desktop.process(until=lambda: session.results.node("map"))
        assert session.results.node("map")
        assert ui.ctSelector.nodes() == [session.results.ctNode]
        assert ui.ctSelector.currentNode() is session.results.ctNode

    def test_a_new_region_of_interest_holds_the_ct(self, desktop):
        import qt

        from MoBUncertaintyLib.slicer_app.scene.roi import roiBounds

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
        from MoBUncertaintyLib.slicer_app.models import listModels

        folder = tmp_path / "Modèle à moi"
        shutil.copytree(DEMO_MODEL, folder)
        ui = desktop.ui
        before = ui.modelSelector.count
        desktop.choose(folder / "model.json")
        ui.addModelButton.click()
        assert ui.modelSelector.count == before + 1
        assert desktop.widget.panel.inputs.selector.model.path == folder
        assert "Apache" in ui.modelInfoLabel.text
        assert str(folder) in listModels()
        assert desktop.widget.panel.parameters.model == str(folder)
        ui.modelSelector.currentIndex = 0
        assert desktop.widget.panel.inputs.selector.model.path == DEMO_MODEL
        assert desktop.widget.panel.parameters.model == DEMO_MODEL.name
        assert not ui.removeModelButton.enabled
        assert "comes with the extension" in ui.removeModelButton.toolTip
        ui.modelSelector.currentIndex = before
        ui.removeModelButton.click()
        assert ui.modelSelector.count == before
        assert str(folder) not in listModels()
        assert folder.is_dir()

    def test_the_demo_ct_is_offered_for_models_that_may_take_it(self, desktop):
        ui = desktop.ui
        for name, offered in (("HippocampusAnterior", False), ("PhantomPancreas", True)):
            ui.modelSelector.currentText = name
            desktop.process()
            assert ui.sampleLabel.visible is offered

    def test_a_model_of_two_channels_asks_for_a_volume_of_the_second(self, desktop, tmp_path):
        from MoBUncertaintyLib.slicer_app.requests import predictRequest

        folder, ui = tmp_path / "brain", desktop.ui
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text("{}")
        (folder / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "FLAIR"}}')
        flair, t1 = add_ct(desktop, "flair"), add_ct(desktop, "t1")
        assert not ui.channelsPlace.visible
        desktop.choose(folder / "plans.json")
        ui.addModelButton.click()
        desktop.process()
        assert ui.applyButton.toolTip == "Select a volume for FLAIR first."
        assert ui.ctSelectorCaption.text == "T1:"
        (selector,) = desktop.widget.panel.inputs._channels.selectors.values()
        selector.setCurrentNode(flair)
        assert ui.applyButton.enabled
        request = predictRequest(t1, [str(folder)], {})
        assert {name: volume["name"] for name, volume in request["channels"].items()} == {"FLAIR": "flair"}
        ui.ctSelector.setCurrentNode(flair)
        desktop.process()
        assert selector.currentNode() is None, "each case has its own"
        ui.ctSelector.setCurrentNode(t1)
        desktop.process()
        assert selector.currentNode() is flair
        ui.modelSelector.currentIndex = 0
        assert ui.applyButton.enabled
        assert not desktop.widget.panel.inputs._channels.selectors
        ui.modelSelector.currentIndex = ui.modelSelector.count - 1
        desktop.scene.RemoveNode(flair)
        desktop.process()
        assert ui.applyButton.toolTip == "Select a volume for FLAIR first."
        ui.removeModelButton.click()

    def test_some_of_many_labels_are_chosen_by_search(self, desktop, tmp_path):
        import qt

        folder, ui = tmp_path / "Dataset007_Organs" / "nnUNetTrainer__nnUNetPlans__3d_fullres", desktop.ui
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text("{}")
        names = ["spleen", "kidney_left", "kidney_right", "pancreas", "liver", "stomach"]
        values = {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
        (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": values}))
        add_ct(desktop)
        ui.inputsCollapsibleButton.collapsed = False
        assert not ui.labelsPlace.visible, "one label is not chosen from"
        desktop.choose(folder / "plans.json")
        ui.addModelButton.click()
        desktop.process()
        panel = desktop.widget.panel
        chooser, settings = panel.inputs._chooser, panel.inputs
        assert "labels: spleen, kidney left, kidney right, pancreas and 2 more" in ui.modelInfoLabel.text
        assert ui.modelSelector.currentText == "Organs"
        assert ui.labelsPlace.visible
        assert not chooser.list.visible
        assert chooser.summary.text == "Labels: all 6."
        chooser.button.click()
        assert chooser.list.visible
        last = chooser.list.visualItemRect(chooser.list.item(5))
        assert 0 <= chooser.list.viewport().height - last.bottom() < last.height(), "as high as the labels it has"
        chooser.search.text = "kidney ri"
        rows = [chooser.list.item(row) for row in range(chooser.list.count)]
        assert [row.text() for row in rows if not row.isHidden()] == ["kidney right"]
        rows[2].setCheckState(qt.Qt.Checked)
        chooser.search.text = ""
        rows[3].setCheckState(qt.Qt.Checked)
        assert chooser.summary.text == "Labels: 2 of 6, kidney right, pancreas."
        assert panel.parameters.labels == settings.labels == ["kidney_right", "pancreas"]
        ui.modelSelector.currentIndex = 0
        assert settings.labels == ["pancreas"], "the other model has one of them"
        ui.modelSelector.currentIndex = ui.modelSelector.count - 1
        assert settings.labels == ["kidney_right", "pancreas"], "and keeps them"
        asked = []
        desktop.logic.run = lambda _ct, _model, asked_for: asked.append(asked_for["labels"])
        ui.applyButton.click()
        assert asked == [["kidney_right", "pancreas"]]
        chooser.none.click()
        assert chooser.summary.text == "Labels: all 6."
        ui.applyButton.click()
        assert asked[1:] == [None]
        del desktop.logic.run
        ui.removeModelButton.click()

    def test_a_folder_is_chosen_as_such_and_a_file_among_all_that_name_a_model(self, desktop, tmp_path, monkeypatch):
        import qt

        folder, ui, asked = tmp_path / "Dataset008_Colon" / "nnUNetTrainer__nnUNetPlans__3d_fullres", desktop.ui, []
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text("{}")
        (folder / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "colon": 1}}')
        given = qt.QFileDialog.exec_
        monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: asked.append(dialog) or given(dialog))
        desktop.choose(folder.parent)
        ui.addFolderButton.click()
        desktop.process()
        assert ui.modelSelector.currentText == "Colon"
        ui.removeModelButton.click()
        desktop.choose(folder / "plans.json")
        ui.addModelButton.click()
        desktop.process()
        assert ui.modelSelector.currentText == "Colon"
        ui.removeModelButton.click()
        of_folder, of_file = asked
        assert of_folder.fileMode == qt.QFileDialog.Directory
        (pattern,) = of_file.nameFilters()
        assert all(name in pattern for name in ("*.zip", "model.json", "plans.json", "checkpoint_*.pth"))

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
        assert parameters.model == DEMO_MODEL.name
        assert ui.applyButton.enabled

    def test_a_model_that_a_scene_names_is_used_where_it_is(self, desktop, tmp_path):
        add_ct(desktop)
        desktop.widget.panel.parameters.model = str(shutil.copytree(DEMO_MODEL, tmp_path / "network drive"))
        desktop.widget.exit()
        desktop.widget.enter()
        assert desktop.widget.panel.inputs.selector.model.path == tmp_path / "network drive"
        assert desktop.ui.applyButton.enabled

    def test_messages_of_models_are_in_the_users_language(self, monkeypatch):
        from MoBUncertaintyLib.slicer_app import models

        monkeypatch.setattr(models, "_", lambda text: "«" + text.replace("There is no model", "Es gibt kein Modell"))
        assert models.findModel("Liver").problem.startswith("«Es gibt kein Modell Liver")

    def test_each_inference_is_explained_by_its_name(self, desktop):
        from MoBUncertaintyLib.slicer_app.choices import Method

        lines = desktop.ui.methodSelector.toolTip.splitlines()[1:]
        assert [line.split(":")[0] for line in lines] == [method.label() for method in Method]

    def test_only_monte_carlo_asks_for_the_number_of_samples(self, desktop):
        from MoBUncertaintyLib.slicer_app.choices import Method

        desktop.ui.advancedCollapsibleButton.collapsed = False
        for method in (Method.MONTE_CARLO, Method.EXACT):
            desktop.widget.panel.parameters.method = method
            assert desktop.ui.samplesSpinBox.isHidden() == (method is Method.EXACT)

    def test_mirroring_is_offered_only_to_models_trained_with_it(self, desktop):
        assert not desktop.ui.mixturePlace.visible, "the shipped models are of one fold, and were trained without"

    def test_declining_the_installation_changes_nothing(self, desktop):
        from MoBUncertaintyLib.base.errors import Cancelled

        def decline(*_formats):
            raise Cancelled("Nothing was installed.")

        add_ct(desktop)
        before = desktop.scene.GetNumberOfNodes()
        desktop.widget.panel.ensureReady = decline
        desktop.ui.applyButton.click()
        assert desktop.ui.statusLabel.text == "Nothing was installed."
        assert desktop.ui.applyButton.text == "Apply"
        assert desktop.scene.GetNumberOfNodes() == before
        assert desktop.dialogs == []
