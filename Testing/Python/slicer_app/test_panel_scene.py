"""The panel while scenes are loaded and closed, CTs and models change, and clicks come too fast."""

import os
import sys
import time

import numpy as np
import pytest

from MoBUncertaintyLib.review.review import Review
from support import small_panel
from support.small_panel import add_ct, apply, decide

pytestmark = pytest.mark.own_process


@pytest.fixture
def damaged(reviewed, tmp_path) -> tuple:
    """The panel, and a scene file whose review is damaged."""
    desktop, session = reviewed
    session.results.documents.set("review", {"schema": "another"})
    path = str(tmp_path / "scene.mrb")
    assert desktop.scene.WriteToMRB(path)
    desktop.scene.Clear(0)
    desktop.process()
    return desktop, path


class TestLoading:
    def test_no_dialog_opens_while_a_scene_is_loaded(self, damaged):
        import qt

        desktop, path = damaged
        desktop.answer(qt.QMessageBox.Cancel)
        scene, seen = desktop.scene, []
        for event in ("NodeAddedEvent", "EndImportEvent"):
            scene.AddObserver(getattr(scene, event), lambda *_: seen.append(len(desktop.dialogs)))
        assert scene.ReadFromMRB(path, True)
        assert desktop.dialogs == []
        desktop.process(until=lambda: desktop.dialogs)
        assert "review" in desktop.dialogs[0].text
        assert len(desktop.dialogs) == 1
        assert set(seen) == {0}

    def test_a_review_that_cannot_be_read_can_be_begun_anew(self, damaged):
        import qt

        desktop, path = damaged
        desktop.answer(qt.QMessageBox.Ok)
        assert desktop.scene.ReadFromMRB(path, True)
        desktop.process(until=lambda: desktop.ui.regionsTable.rowCount)
        (dialog,) = desktop.dialogs
        assert dialog.text.endswith("Cancel keeps the stored one in the scene, unread.")
        assert small_panel.statuses(desktop) == ["To review"] * 3
        session = desktop.widget.panel.review.session
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)

    def test_the_reason_is_given_again_when_the_scene_is_opened_again(self, damaged):
        import qt

        desktop, path = damaged
        for times in (1, 2):
            desktop.answer(qt.QMessageBox.Cancel)
            desktop.scene.Clear(0)
            assert desktop.scene.ReadFromMRB(path, True)
            desktop.process(until=lambda times=times: len(desktop.dialogs) == times)
        first, second = desktop.dialogs
        assert first.text == second.text

    def test_the_panel_is_whole_behind_the_dialog(self, damaged, monkeypatch):
        desktop, path = damaged
        said = []
        monkeypatch.setattr(desktop.widget.panel.shown, "_refuse", lambda *_: said.append(desktop.ui.statusLabel.text))
        assert desktop.scene.ReadFromMRB(path, True)
        desktop.process(until=lambda: said)
        assert said == [""]  # no "Select an image first."
        assert desktop.ui.applyButton.enabled

    def test_what_was_odd_about_the_prediction_is_said_again(self, reviewed, tmp_path):
        desktop, _session = reviewed
        path = str(tmp_path / "scene.mrb")
        assert desktop.scene.WriteToMRB(path)
        desktop.scene.Clear(0)
        assert desktop.scene.ReadFromMRB(path, True)
        desktop.process(until=lambda: desktop.ui.regionsTable.rowCount)
        assert desktop.ui.reviewWarningsLabel.text == "This result is fake."
        assert desktop.ui.reviewWarningsLabel.visible
        add_ct(desktop, "Other")
        assert desktop.ui.reviewWarningsLabel.text == ""

    def test_half_a_scene_is_not_looked_at(self, reviewed):
        import qt

        desktop, session = reviewed
        desktop.answer(qt.QMessageBox.Cancel)
        scene = desktop.scene
        scene.StartState(scene.BatchProcessState)
        session.results.documents.set("review", {})
        desktop.logic.sessions.forget()
        desktop.widget.panel.refresh()
        desktop.process()
        assert desktop.dialogs == []
        scene.EndState(scene.BatchProcessState)
        desktop.process(until=lambda: desktop.dialogs)

    def test_results_that_a_script_has_asked_for_are_shown(self, desktop):
        ct = add_ct(desktop)
        job = desktop.logic.run(ct, ["PhantomPancreas"], desktop.widget.panel.settings)
        desktop.process(until=lambda: desktop.ui.regionsTable.rowCount)
        assert desktop.widget.panel.review.session.results.ctNode is ct and job

    def test_the_next_scene_has_the_model_of_the_last(self, reviewed):
        desktop, _session = reviewed
        desktop.ui.modelSelector.currentText = "HippocampusAnterior"
        desktop.scene.Clear(0)
        desktop.process()
        assert desktop.ui.modelSelector.currentText == "HippocampusAnterior"
        assert desktop.widget.panel.parameters.model == "HippocampusAnterior"

    def test_nothing_of_the_last_scene_is_said_in_the_next(self, reviewed):
        desktop, _session = reviewed
        assert desktop.ui.statusLabel.text.startswith("Done in")
        desktop.scene.Clear(0)
        desktop.process()
        assert desktop.ui.statusLabel.text == "Select an image first."


class TestRemovedCt:
    def test_its_results_and_their_folder_go_but_not_a_copy_of_theirs(self, reviewed):
        from MoBUncertaintyLib.slicer_app.scene.nodes import subjectHierarchy

        desktop, session = reviewed
        scene = desktop.scene
        made = session.results.nodes.all()
        copy = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
        copy.UnRegister(None)
        copy.Copy(session.results.node("variance"))  # as Slicer's Clone does
        scene.AddNode(copy)
        scene.RemoveNode(session.results.ctNode)
        desktop.process()
        assert {node.GetScene() for node in made} == {None}
        assert copy.GetScene() is scene
        hierarchy = subjectHierarchy(scene)
        assert hierarchy.GetItemByName("CT with uncertainty") == 0

    def test_their_folder_goes_although_the_ct_has_left_it_before(self, reviewed):
        """Slicer's Data module removes the CT from its tree before it removes it from the scene."""
        from MoBUncertaintyLib.slicer_app.scene.nodes import subjectHierarchy

        desktop, session = reviewed
        hierarchy = subjectHierarchy(desktop.scene)
        hierarchy.RemoveItem(hierarchy.GetItemByDataNode(session.results.ctNode), False)
        desktop.scene.RemoveNode(session.results.ctNode)
        desktop.process()
        assert hierarchy.GetItemByName("CT with uncertainty") == 0

    def test_other_results_stay(self, reviewed):
        desktop, session = reviewed
        other = add_ct(desktop, "other")
        apply(desktop)
        desktop.scene.RemoveNode(other)
        desktop.process()
        assert session.isComplete()


class TestRemovedSegmentation:
    def test_maps_and_surface_go_with_it_and_a_sentence_says_so(self, reviewed):
        desktop, session = reviewed
        ct, scene, results = session.results.ctNode, desktop.scene, session.results
        drawn = [results.node(role) for role in ("shown", "probability", "variance", "surface", "regions")]
        desktop.ui.acceptButton.click()
        scene.RemoveNode(results.node("segmentation"))
        desktop.process(until=lambda: "removed" in desktop.ui.statusLabel.text)
        assert {node.GetScene() for node in drawn} == {None}
        composites = scene.GetNodesByClass("vtkMRMLSliceCompositeNode")
        views = [composites.GetItemAsObject(index) for index in range(composites.GetNumberOfItems())]
        assert all(view.GetForegroundVolumeID() is None for view in views)
        ui = desktop.ui
        assert ct.GetName() in ui.statusLabel.text
        assert ui.statusLabel.visible and ui.applyButton.visible and not ui.reviewCollapsibleButton.visible
        assert results.node("state.review") is not None  # Apply asks before it is lost
        import qt

        desktop.answer(qt.QMessageBox.Cancel)
        ui.applyButton.click()
        assert "a review of this image that cannot be shown now" in desktop.dialogs[-1].text

    def test_another_part_ends_the_review_and_leaves_the_segmentation(self, reviewed):
        desktop, session = reviewed
        segmentation = session.results.node("segmentation")
        desktop.scene.RemoveNode(session.results.node("regions"))
        desktop.process(until=lambda: "removed" in desktop.ui.statusLabel.text)
        assert segmentation.GetScene() is desktop.scene
        assert desktop.ui.statusLabel.text.startswith(
            f"A part of the results of {session.results.ctNode.GetName()} was removed"
        )

    def test_an_image_that_is_removed_is_named(self, reviewed):
        desktop, session = reviewed
        name = session.results.ctNode.GetName()
        desktop.scene.RemoveNode(session.results.ctNode)
        desktop.process(until=lambda: "removed" in desktop.ui.statusLabel.text)
        assert desktop.ui.statusLabel.text.startswith(f"{name} was removed, and its results with it.")


def test_a_ct_without_results_is_not_seen_under_those_of_another(reviewed):
    desktop, session = reviewed
    composites = desktop.scene.GetNodesByClass("vtkMRMLSliceCompositeNode")
    other = add_ct(desktop, "Other")
    shown = [session.results.node(role).GetDisplayNode() for role in ("segmentation", "regions", "surface")]
    assert not any(display.GetVisibility() for display in shown)
    for index in range(composites.GetNumberOfItems()):
        composite = composites.GetItemAsObject(index)
        assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()) == (other.GetID(), None)
    desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
    desktop.process()
    assert all(display.GetVisibility() for display in shown)


def test_the_3d_view_is_centred_on_each_case_before_and_after_apply(desktop):
    from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass
    from support.standalone import add_volume

    def looked_at() -> np.ndarray:
        (camera,) = nodesByClass(desktop.scene, "vtkMRMLCameraNode")
        return np.array(camera.GetFocalPoint())

    boxes = []  # Slicer draws the box anew with this event
    (view,) = nodesByClass(desktop.scene, "vtkMRMLViewNode")
    view.AddObserver(view.ResetFocalPointRequestedEvent, lambda *_event: boxes.append(looked_at()))
    half = (np.array(small_panel.SHAPE[::-1]) - 1) / 2 * small_panel.MATRIX.diagonal()[:3]
    for number, shift in enumerate((0.0, 300.0)):
        matrix = small_panel.MATRIX.copy()
        matrix[:3, 3] = shift
        ct = add_volume(desktop.scene, np.zeros(small_panel.SHAPE, np.int16), matrix, f"case {number}")
        desktop.ui.ctSelector.setCurrentNode(ct)
        desktop.process()
        assert looked_at() == pytest.approx(half + shift, abs=1)
        drawn = len(boxes)
        apply(desktop)
        assert len(boxes) > drawn > 0
        assert looked_at() == pytest.approx(half + shift, abs=10)
        desktop.scene.RemoveNode(ct)
        desktop.process()


class TestClicks:
    def test_a_double_click_on_apply_is_one_click(self, desktop, monkeypatch):
        add_ct(desktop)
        small_panel.use_worker(desktop, "slow")
        started = desktop.logic.run
        monkeypatch.setattr(desktop.logic, "run", lambda *given: time.sleep(0.4) or started(*given))  # a slow start
        button = desktop.ui.applyButton
        button.click()  # the interval is 0 here, so that what an earlier test has clicked does not count
        desktop.app.setDoubleClickInterval(5000)  # a busy machine is slow between the clicks, too
        button.click()
        desktop.app.setDoubleClickInterval(0)  # as if time had passed
        assert button.text == "Cancel"
        assert desktop.logic.client.busy
        button.click()
        assert not desktop.logic.client.busy

    def test_why_apply_cannot_be_pressed_is_said_beside_it(self, desktop):
        ui = desktop.ui
        assert (ui.applyButton.enabled, ui.statusLabel.text) == (False, "Select an image first.")
        assert not ui.statusLabel.isHidden()
        add_ct(desktop)
        assert ui.applyButton.enabled
        assert ui.statusLabel.isHidden()


class TestRegionOfInterest:
    def test_it_is_hidden_as_long_as_findings_are_looked_at(self, desktop):
        ct = add_ct(desktop)
        roi = desktop.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        desktop.ui.roiSelector.setCurrentNode(roi)
        desktop.widget.panel.run._onRoiAdded(roi)
        display = roi.GetDisplayNode()
        assert display.GetVisibility()
        apply(desktop)
        assert desktop.logic.sessions.get(ct)
        assert not display.GetVisibility()
        desktop.ui.runCollapsibleButton.collapsed = True
        desktop.ui.runCollapsibleButton.collapsed = False
        assert display.GetVisibility()


class TestModels:
    def test_what_made_the_results_is_said_and_chosen_with_their_ct(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        first, title = ui.modelSelector.currentText, ui.reviewCollapsibleButton
        assert "PhantomPancreas" in title.toolTip
        ui.modelSelector.currentText = "HippocampusAnterior"
        assert "PhantomPancreas" in title.toolTip
        add_ct(desktop, "other")
        assert title.text == "Review"
        apply(desktop)
        assert title.text.startswith("Review: other (")
        assert "HippocampusAnterior" in title.toolTip
        ui.ctSelector.setCurrentNode(session.results.ctNode)
        assert ui.modelSelector.currentText == first
        assert desktop.widget.panel.parameters.model == first
        add_ct(desktop, "not segmented yet")  # by what the user has chosen, not by what has made the last results
        assert ui.modelSelector.currentText == "HippocampusAnterior"
        assert desktop.widget.panel.parameters.model == "HippocampusAnterior"

    def test_models_of_one_name_are_told_apart(self):
        from pathlib import Path
        from types import SimpleNamespace

        from MoBUncertaintyLib.slicer_app.panel.inputs import modelTitles
        from MoBUncertaintyLib.slicer_app.widgets.section import shortened

        named = [
            SimpleNamespace(name=name, path=Path("/models") / folder)
            for name, folder in (
                *(("Liver", "a/liver"), ("Liver", "b/liver"), ("Spleen", "spleen")),
                *(("PhantomPancreas", "Models/PhantomPancreas"), ("PhantomPancreas", "twin/1/PhantomPancreas")),
            )
        ]
        assert modelTitles(named) == [
            *("Liver (a)", "Liver (b)", "Spleen"),
            *("PhantomPancreas (Models)", "PhantomPancreas (1)"),
        ]
        assert len({shortened(title) for title in modelTitles(named)}) == len(named)
        assert shortened("A model with a very long name, version 2") == "A model with a …name, version 2"
        assert shortened("PhantomPancreas") == "PhantomPancreas"


def test_a_low_priority_is_said_under_advanced(desktop, monkeypatch):
    label = desktop.ui.priorityLabel
    add_ct(desktop)
    apply(desktop)
    assert label.isHidden()
    monkeypatch.setattr(desktop.logic.client, "niceness", 19)
    apply(desktop)
    assert label.text.startswith("Computed at a low priority (nice 19)")
    assert "SLICER_BACKGROUND_THREAD_PRIORITY=0" in label.text  # what Slicer reads
    desktop.ui.advancedCollapsibleButton.collapsed = False
    assert not label.isHidden()


class TestFailures:
    def test_a_worker_that_is_killed_leaves_details_and_a_title(self, desktop):
        from MoBUncertaintyLib.slicer_app.worker.client import WorkerClient

        add_ct(desktop)
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        desktop.logic.client.close()
        desktop.logic.client = WorkerClient(sys.executable, dict(os.environ), ("-c", code))
        apply(desktop)
        (dialog,) = desktop.dialogs
        assert dialog.title == "MoB Uncertainty"
        assert "see the details" in dialog.text
        assert "signal 9" in dialog.details
        assert "It has printed nothing." in dialog.details

    def test_a_signed_review_is_not_lost_by_pressing_enter(self, reviewed, monkeypatch):
        import ctk
        import qt

        desktop, session = reviewed
        for region in session.review.regions:
            session.step(Review.decide, region.region_id, "accept")
        session.step(Review.sign, "A. Reader")
        seen = []
        press = ctk.ctkMessageBox.exec_
        monkeypatch.setattr(
            ctk.ctkMessageBox,
            "exec_",
            lambda box: (seen.append(box.standardButton(box.defaultButton())), press(box))[1],
        )
        desktop.answer(qt.QMessageBox.Cancel)
        desktop.ui.applyButton.click()
        assert seen == [qt.QMessageBox.Cancel]
        assert session.review.signature


def test_an_edit_without_a_stroke_leaves_the_verdict(reviewed):
    desktop, session = reviewed
    ui = desktop.ui
    decide(ui.includeButton)
    ui.editButton.click()
    session.results.updateSegmentation(np.s_[0:1, 0:1, 0:1], np.ones((1, 1, 1), np.uint8))  # outside of the region
    ui.editButton.click()
    assert session.review.regions[0].verdict == "include"
    assert session.segmentation.strayEdits() == 0
