"""The panel while scenes are loaded and closed, images are moved or removed, models change, clicks come too fast."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.review.review import Review
from support.late import ctk, qt, slicer, slicer_app, vtk
from support.sessions import draw, reopened, sign, stored
from support.small_panel import MATRIX, SHAPE, add_ct, apply, decide, foregrounds, reopen, shown, statuses, use_worker
from support.standalone import add_volume, shift, transform

pytestmark = pytest.mark.own_process


@pytest.fixture
def damaged(desktop, session, tmp_path) -> tuple:
    """The panel, and a scene file whose review is damaged."""
    session.results.documents.set("review", {"schema": "another"})
    path = str(tmp_path / "scene.mrb")
    assert desktop.scene.WriteToMRB(path)
    desktop.scene.Clear(0)
    desktop.process()
    return desktop, path


class TestLoading:
    def test_no_dialog_opens_while_a_scene_is_loaded_and_each_time_it_is_one(self, damaged):
        desktop, path = damaged
        scene, seen = desktop.scene, []
        for event in ("NodeAddedEvent", "EndImportEvent"):
            scene.AddObserver(getattr(scene, event), lambda *_: seen.append(len(desktop.dialogs)))
        for times in (1, 2):
            desktop.answer("Cancel")
            scene.Clear(0)
            seen.clear()
            assert scene.ReadFromMRB(path, True)
            assert len(desktop.dialogs) == times - 1
            desktop.process(until=lambda times=times: len(desktop.dialogs) == times)
            assert set(seen) == {times - 1}
        first, second = desktop.dialogs
        assert first.text == second.text and "review" in first.text

    def test_a_review_that_cannot_be_read_can_be_begun_anew(self, damaged):
        desktop, path = damaged
        desktop.answer("Ok")
        assert desktop.scene.ReadFromMRB(path, True)
        desktop.process(until=lambda: desktop.ui.regionsTable.rowCount)
        (dialog,) = desktop.dialogs
        assert "stays in the scene" in dialog.text
        assert statuses(desktop) == ["To review"] * 3
        session = desktop.widget.panel.review.session
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)

    def test_the_panel_is_whole_behind_the_dialog(self, damaged, monkeypatch):
        desktop, path = damaged
        said = []
        monkeypatch.setattr(desktop.widget.panel.shown, "_refuse", lambda *_: said.append(desktop.ui.statusLabel.text))
        assert desktop.scene.ReadFromMRB(path, True)
        desktop.process(until=lambda: said)
        assert said == [""]  # no "Select an image first."
        assert desktop.ui.applyButton.enabled

    def test_what_was_odd_about_the_prediction_is_said_again(self, desktop, session, tmp_path):
        reopen(desktop, tmp_path)
        desktop.process(until=lambda: desktop.ui.regionsTable.rowCount)
        assert desktop.ui.reviewWarningsLabel.text == "This result is fake."
        assert desktop.ui.reviewWarningsLabel.visible
        add_ct(desktop, "Other")
        assert desktop.ui.reviewWarningsLabel.text == ""

    def test_a_stroke_in_any_segmentation_costs_no_verdict(self, desktop, session, tmp_path):
        """As the Segment Editor may draw: one voxel more in the first segment of each."""
        decide(desktop.ui.includeButton)
        predicted, drawn = session.review.prediction.segmentation.copy(), []
        for node in slicer_app.scene.nodes.nodesByClass(desktop.scene, "vtkMRMLSegmentationNode"):
            segment = node.GetSegmentation().GetNthSegment(0)
            scalars = segment.GetRepresentation("Binary labelmap").GetPointData().GetScalars()
            voxels = vtk.util.numpy_support.vtk_to_numpy(scalars)
            voxels[np.flatnonzero(voxels == 0)[0]] = segment.GetLabelValue()
            drawn.append(node.GetName())
        assert drawn == ["CT segmentation", "CT doubtful regions"]
        reopen(desktop, tmp_path)
        assert desktop.dialogs == []
        assert statuses(desktop) == ["Included", "To review", "To review"]
        again = desktop.widget.panel.review.session
        assert np.array_equal(again.review.prediction.segmentation, predicted)
        assert again.segmentation.strayEdits() == 1

    def test_a_damaged_copy_of_the_prediction_is_one_sentence(self, desktop, session):
        session.results.documents.set("predicted", {"voxels": "none"})
        desktop.logic.sessions.forget()
        desktop.widget.panel.review.setSession(None)
        desktop.widget.panel.refresh()
        desktop.process(until=lambda: desktop.dialogs)
        (dialog,) = desktop.dialogs
        assert "SHA-256" in dialog.text

    def test_half_a_scene_is_not_looked_at(self, desktop, session):
        desktop.answer("Cancel")
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

    def test_the_next_scene_has_the_model_of_the_last_and_nothing_that_was_said(self, desktop):
        add_ct(desktop)
        apply(desktop)
        assert desktop.ui.statusLabel.text.startswith("Done in")
        desktop.ui.modelSelector.currentText = "HippocampusAnterior"
        desktop.scene.Clear(0)
        desktop.process()
        assert desktop.ui.statusLabel.text == "Select an image first."
        assert desktop.ui.modelSelector.currentText == "HippocampusAnterior"
        assert desktop.widget.panel.parameters.model == "HippocampusAnterior"


class TestRemoved:
    @pytest.mark.parametrize("first", ["scene", "tree"])
    def test_with_an_image_its_results_go_but_not_a_copy_of_theirs_nor_those_of_others(self, desktop, session, first):
        """Slicer's Data module removes the image from its tree before it removes it from the scene."""
        scene, ct, made = desktop.scene, session.results.ctNode, session.results.nodes.all()
        add_ct(desktop, "other")
        apply(desktop)
        other = desktop.widget.panel.review.session
        desktop.ui.ctSelector.setCurrentNode(ct)
        desktop.process()
        copy = scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
        copy.UnRegister(None)
        copy.Copy(session.results.node("variance"))  # as Slicer's Clone does
        scene.AddNode(copy)
        hierarchy = slicer_app.scene.nodes.subjectHierarchy(scene)
        if first == "tree":
            hierarchy.RemoveItem(hierarchy.GetItemByDataNode(ct), False)
        scene.RemoveNode(ct)
        desktop.process(until=lambda: "CT was removed" in desktop.ui.statusLabel.text)
        assert {node.GetScene() for node in made} == {None}
        assert copy.GetScene() is scene
        assert hierarchy.GetItemByName("CT with uncertainty") == 0
        assert other.isComplete()

    def test_with_a_segmentation_maps_and_surface_go_and_a_sentence_says_so(self, desktop, session):
        ct, ui, results = session.results.ctNode, desktop.ui, session.results
        drawn = [results.node(role) for role in ("shown", "probability", "variance", "surface", "regions")]
        ui.acceptButton.click()
        desktop.scene.RemoveNode(results.node("segmentation"))
        desktop.process(until=lambda: "removed" in ui.statusLabel.text)
        assert {node.GetScene() for node in drawn} == {None}
        assert foregrounds(desktop) == {None}
        assert ct.GetName() in ui.statusLabel.text
        assert ui.statusLabel.visible and ui.applyButton.visible and not ui.reviewCollapsibleButton.visible
        desktop.answer("Cancel")
        ui.applyButton.click()  # asks before the stored review is lost
        assert len(desktop.dialogs) == 1 and results.node("state.review") is not None

    def test_another_part_ends_the_review_and_leaves_the_segmentation(self, desktop, session):
        segmentation = session.results.node("segmentation")
        desktop.scene.RemoveNode(session.results.node("regions"))
        desktop.process(until=lambda: "removed" in desktop.ui.statusLabel.text)
        assert segmentation.GetScene() is desktop.scene
        assert desktop.ui.statusLabel.text.startswith("A part of the results of CT was removed")


def test_the_3d_view_is_centred_on_each_case_before_and_after_apply(desktop):
    nodes = slicer_app.scene.nodes.nodesByClass

    def looked_at() -> np.ndarray:
        (camera,) = nodes(desktop.scene, "vtkMRMLCameraNode")
        return np.array(camera.GetFocalPoint())

    boxes = []  # Slicer draws the box anew with this event
    (view,) = nodes(desktop.scene, "vtkMRMLViewNode")
    view.AddObserver(view.ResetFocalPointRequestedEvent, lambda *_event: boxes.append(looked_at()))
    half = (np.array(SHAPE[::-1]) - 1) / 2 * MATRIX.diagonal()[:3]
    for mm in (0.0, 300.0):
        ct = add_volume(desktop.scene, np.zeros(SHAPE, np.int16), shift(mm, mm, mm) @ MATRIX, "case")
        desktop.ui.ctSelector.setCurrentNode(ct)
        desktop.process()
        assert looked_at() == pytest.approx(half + mm, abs=1)
        drawn = len(boxes)
        apply(desktop)
        assert len(boxes) > drawn > 0
        assert looked_at() == pytest.approx(half + mm, abs=10)
        desktop.scene.RemoveNode(ct)
        desktop.process()


class TestClicks:
    def test_a_double_click_on_apply_is_one_click(self, desktop, monkeypatch):
        add_ct(desktop)
        use_worker(desktop, "slow")
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
    def test_what_made_the_results_is_said_and_the_choice_stays(self, desktop, ui, session):
        title = ui.reviewCollapsibleButton
        ui.modelSelector.currentText = "HippocampusAnterior"
        assert "PhantomPancreas" in title.toolTip
        add_ct(desktop, "other")
        assert title.text == "Review"
        apply(desktop)
        assert title.text.startswith("Review: other (") and "HippocampusAnterior" in title.toolTip
        ui.ctSelector.setCurrentNode(session.results.ctNode)
        assert "PhantomPancreas" in title.toolTip
        assert ui.modelSelector.currentText == desktop.widget.panel.parameters.model == "HippocampusAnterior"

    def test_a_licence_that_is_not_permissive_is_agreed_to_once(self, desktop, ui, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        ct = add_ct(desktop)
        ui.modelSelector.currentText = "HippocampusAnterior"
        desktop.answer("Cancel")
        apply(desktop)
        assert "CC-BY-SA 4.0" in desktop.dialogs[-1].text
        assert ui.statusLabel.text.startswith("Nothing was computed")
        assert desktop.logic.sessions.get(ct) is None and not (tmp_path / "data").exists()
        desktop.answer("Ok")
        apply(desktop)
        assert desktop.logic.sessions.get(ct)
        apply(desktop)
        assert len(desktop.dialogs) == 2

    def test_models_of_one_name_are_told_apart(self):
        shortened = slicer_app.widgets.section.shortened
        configurations = ("Dataset004_Hippocampus/T__P__2d", "Dataset004_Hippocampus/T__P__3d_fullres")
        places = ("a/liver", "b/liver", "spleen", "Models/PhantomPancreas", "twin/1/PhantomPancreas", *configurations)
        names = ("Liver", "Liver", "Spleen", "PhantomPancreas", "PhantomPancreas", "Hippocampus", "Hippocampus")
        models = [SimpleNamespace(name=n, path=Path("/models") / place) for n, place in zip(names, places, strict=True)]
        titles = slicer_app.sections.inputs.modelTitles(models)
        assert titles[:3] == ["Liver (a)", "Liver (b)", "Spleen"]
        assert titles[3:5] == ["PhantomPancreas (Models)", "PhantomPancreas (1)"]
        assert titles[5:] == ["Hippocampus (T__P__2d)", "Hippocampus (T__P__3d_fullres)"]
        assert len(set(map(shortened, titles))) == len(titles)
        assert shortened("A model with a very long name, version 2") == "A model with a …name, version 2"


class TestFailures:
    def test_a_worker_that_is_killed_leaves_details_and_a_title(self, desktop):
        add_ct(desktop)
        code = "import os; os.kill(os.getpid(), 9)"
        desktop.logic.client.close()
        desktop.logic.client = slicer_app.worker.client.WorkerClient(sys.executable, dict(os.environ), ("-c", code))
        apply(desktop)
        (dialog,) = desktop.dialogs
        assert dialog.title == "MoB Uncertainty"
        assert "see the details" in dialog.text
        assert "signal 9" in dialog.details
        assert "It has printed nothing." in dialog.details

    def test_a_signed_review_is_not_lost_by_pressing_enter(self, desktop, session, monkeypatch):
        sign(session)
        seen, press = [], ctk.ctkMessageBox.exec_
        note = lambda box: seen.append(box.standardButton(box.defaultButton()))  # noqa: E731
        monkeypatch.setattr(ctk.ctkMessageBox, "exec_", lambda box: (note(box), press(box))[1])
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        assert seen == [qt.QMessageBox.Cancel]
        assert session.review.signature


def test_an_edit_without_a_stroke_leaves_the_verdict(desktop, ui, session):
    decide(ui.includeButton)
    ui.editButton.click()
    session.results.organs.update(np.s_[0:1, 0:1, 0:1], np.ones((1, 1, 1), np.uint8))  # outside of the region
    ui.editButton.click()
    assert session.review.regions[0].verdict == "include"
    assert session.segmentation.strayEdits() == 0


def harden(millimetres, *nodes):
    """Move nodes as the Data module does, first by a transform."""
    made = transform(nodes[0], shift(millimetres))
    for node in nodes:
        node.SetAndObserveTransformNodeID(made.GetID())
        node.HardenTransform()
    return made


class TestMovedReview:
    """The CT is no longer what was segmented."""

    ALL = ("segmentation", "probability", "variance", "regions")

    @pytest.mark.parametrize("roles", [(), ALL, ("segmentation",)])
    def test_every_step_is_refused_until_it_is_back(self, session, roles):
        region = session.review.regions[0].region_id
        session.step(Review.decide, region, "include")
        said = session.review.to_dict()
        nodes = (session.results.ctNode, *map(session.results.node, roles))
        harden(15, *nodes)
        assert session.isComplete()
        steps = (
            lambda: session.step(Review.decide, region, "exclude"),
            lambda: session.regions.find(0.02, 50.0),
            lambda: session.regions.jumpTo(session.review.regions[0]),
            lambda: session.drawing.begin(region),
            lambda: session.step(Review.sign, "Dr. Ada Review"),
            lambda: session.step(Review.undo),
            session.segmentation.strayEdits,
            lambda: reopened(session),
        )
        for step in steps:
            with pytest.raises(ReviewError):
                step()
        assert session.review.to_dict() == seal(said)
        harden(-15, *nodes)
        assert session.segmentation.strayEdits() == 0
        session.step(Review.decide, region, "exclude")
        assert np.array_equal(session.results.organs.array(), session.review.corrected())

    def test_other_voxels_are_noticed(self, session):
        slicer.util.updateVolumeFromArray(session.results.ctNode, np.zeros((4, 5, 6), np.int16))
        with pytest.raises(ReviewError):
            session.step(Review.decide, session.review.regions[0].region_id, "include")
        session.results.ctNode.SetAndObserveImageData(None)
        assert not session.fits()

    def test_under_a_transform_that_bends_it_sizes_are_said_to_be_doubtful(self, session):
        before = session.warnings
        transform(session.results.ctNode)
        assert session.warnings == before
        transform(session.results.ctNode, kind="Grid")
        (said,) = [each for each in session.warnings if each not in before]
        assert "sizes may be wrong" in said

    def test_a_remark_can_be_kept_all_the_same(self, session):
        session.results.ctNode.SetOrigin(1, 2, 3)
        session.comment(session.review.regions[0].region_id, "vessel")
        assert stored(session)["regions"][0]["comment"] == "vessel"

    def test_what_rounding_moves_has_not_moved(self, session):
        origin = np.array(session.results.ctNode.GetOrigin())
        session.results.ctNode.SetOrigin(*(origin + 1e-4))
        assert session.fits()


class TestMovedImage:
    def test_a_ct_that_is_hardened_alone_takes_its_results_out_of_the_views_until_it_is_back(self, desktop, session):
        """The maps would lie beside the anatomy: they are not taken from under the transform, and not shown."""
        ui, results = desktop.ui, session.results
        decide(ui.includeButton)
        said = session.review.to_dict()
        ui.commentEdit.text = "Vessel"
        made = harden(15, session.results.ctNode)
        desktop.process(until=lambda: desktop.dialogs)
        (dialog,) = desktop.dialogs
        assert dialog.text.startswith("CT was moved or changed after it was segmented")
        assert results.node("variance").GetTransformNodeID() == made.GetID()
        assert ui.regionsTable.rowCount == 0
        assert not any(widget.enabled for widget in (ui.includeButton, ui.nextButton, ui.exportButton, ui.mapSelector))
        assert not results.node("segmentation").GetDisplayNode().GetVisibility()
        assert foregrounds(desktop) == {None}

        harden(-15, session.results.ctNode)
        desktop.process(until=lambda: desktop.dialogs)
        assert len(desktop.dialogs) == 1
        assert desktop.logic.sessions.get(session.results.ctNode) is session
        assert results.node("variance").GetTransformNodeID() is None
        assert shown(desktop) == [session.results.ctNode]
        assert statuses(desktop)[0] == "Included"
        assert session.review.regions[0].comment == "Vessel"
        said["regions"][0]["comment"] = "Vessel"
        assert session.review.to_dict() == seal(said)

    @pytest.mark.parametrize("drawn", [True, False])
    def test_a_ct_that_is_moved_amid_an_edit_loses_nothing_of_it(self, desktop, session, drawn):
        region = session.review.regions[0]
        desktop.ui.editButton.click()
        if drawn:
            draw(session, region)
        origin = session.results.ctNode.GetOrigin()
        session.results.ctNode.SetOrigin(100, 0, 0)
        desktop.process(until=lambda: desktop.dialogs)
        assert len(desktop.dialogs) == 1
        assert desktop.ui.segmentEditorPlace.isHidden()
        session.results.ctNode.SetOrigin(origin)
        desktop.process()
        assert session.drawing.regionId is None
        assert desktop.ui.editButton.text == "Edit"
        assert statuses(desktop)[0] == ("Edited" if drawn else "To review")
        assert list(session.results.node("segmentation").GetSegmentation().GetSegmentIDs()) == ["Segment_1"]

    def test_a_ct_with_other_voxels_can_be_segmented_again_after_a_question(self, desktop, session):
        decide(desktop.ui.includeButton)
        ct = session.results.ctNode
        slicer.util.updateVolumeFromArray(ct, np.zeros([size + 2 for size in SHAPE], np.int16))
        ct.SetOrigin(100, 0, 0)
        desktop.process(until=lambda: desktop.dialogs)
        desktop.answer("Cancel")
        desktop.ui.applyButton.click()
        moved, question = desktop.dialogs
        assert "moved or changed" in moved.text
        assert "cannot be shown" in question.text
        assert stored(session)["regions"][0]["verdict"] == "include"
        desktop.answer("Ok")
        apply(desktop)
        again = desktop.logic.sessions.get(ct)
        assert again is not session
        assert again.review.prediction.segmentation.shape == tuple(size + 2 for size in SHAPE)
        assert np.array_equal(again.results.organs.array(), again.review.prediction.segmentation)
        assert statuses(desktop) == ["To review"] * 3
        assert shown(desktop) == [ct]
