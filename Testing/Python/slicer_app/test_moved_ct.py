"""A CT that is moved or changed under its results: said in one sentence, nothing lost, and it may come back."""

import numpy as np
import pytest

from MoBUncertaintyLib.base.integrity import seal
from MoBUncertaintyLib.review.review import Review
from support.small_panel import SHAPE, apply, decide, shown, statuses

pytestmark = pytest.mark.own_process


@pytest.fixture
def session(reviewed):
    """The review alone."""
    return reviewed[1]


def composites(desktop) -> list:
    """What the slice views show."""
    from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass

    return nodesByClass(desktop.scene, "vtkMRMLSliceCompositeNode")


class TestSession:
    """The CT is no longer what was segmented."""

    @staticmethod
    def harden(session, millimetres, roles=()):
        """As the Data module does with a folder or a node."""
        import slicer.util

        transform = session.results.ctNode.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[0, 3] = millimetres
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        for node in (session.results.ctNode, *map(session.results.node, roles)):
            node.SetAndObserveTransformNodeID(transform.GetID())
            node.HardenTransform()

    ALL = ("segmentation", "probability", "variance", "regions")

    @pytest.mark.parametrize("roles", [(), ALL, ("segmentation",)])
    def test_every_step_is_refused_until_it_is_back(self, session, roles):
        from MoBUncertaintyLib.base.errors import ReviewError
        from MoBUncertaintyLib.slicer_app.review_session import ReviewSession

        region = session.review.regions[0].region_id
        session.step(Review.decide, region, "include")
        said = session.review.to_dict()
        self.harden(session, 15, roles)
        assert session.isComplete()
        steps = (
            lambda: session.step(Review.decide, region, "exclude"),
            lambda: session.regions.find(0.02, 50.0),
            lambda: session.regions.jumpTo(session.review.regions[0]),
            lambda: session.drawing.begin(region),
            lambda: session.step(Review.sign, "Dr. Ada Review"),
            lambda: session.step(Review.undo),
            session.segmentation.strayEdits,
            lambda: ReviewSession.open(session.results),
        )
        for step in steps:
            with pytest.raises(ReviewError):
                step()
        assert session.review.to_dict() == seal(said)
        self.harden(session, -15, roles)
        assert session.segmentation.strayEdits() == 0
        session.step(Review.decide, region, "exclude")
        assert np.array_equal(session.results.organs.array(), session.review.corrected())

    def test_other_voxels_are_noticed(self, session):
        import slicer.util

        from MoBUncertaintyLib.base.errors import ReviewError

        slicer.util.updateVolumeFromArray(session.results.ctNode, np.zeros((4, 5, 6), np.int16))
        with pytest.raises(ReviewError):
            session.step(Review.decide, session.review.regions[0].region_id, "include")
        session.results.ctNode.SetAndObserveImageData(None)
        assert not session.fits()

    def test_under_a_transform_that_bends_it_sizes_are_said_to_be_doubtful(self, session):
        scene, before = session.results.ctNode.GetScene(), session.warnings
        straight, bent = (scene.AddNewNodeByClass(f"vtkMRML{kind}TransformNode") for kind in ("Linear", "Grid"))
        session.results.ctNode.SetAndObserveTransformNodeID(straight.GetID())
        assert session.warnings == before
        session.results.ctNode.SetAndObserveTransformNodeID(bent.GetID())
        (said,) = [each for each in session.warnings if each not in before]
        assert said.endswith("as unevenly spaced DICOM slices do: sizes may be wrong.")

    def test_a_remark_can_be_kept_all_the_same(self, session):
        session.results.ctNode.SetOrigin(1, 2, 3)
        session.comment(session.review.regions[0].region_id, "vessel")
        assert session.results.documents.get("review")["regions"][0]["comment"] == "vessel"

    def test_what_rounding_moves_has_not_moved(self, session):
        origin = np.array(session.results.ctNode.GetOrigin())
        session.results.ctNode.SetOrigin(*(origin + 1e-4))
        assert session.fits()


class TestPanel:
    def test_a_ct_that_is_hardened_alone_takes_its_results_out_of_the_views_until_it_is_back(self, reviewed):
        """The maps would lie beside the anatomy: they are not taken from under the transform, and not shown."""
        import slicer.util

        desktop, session = reviewed
        ui, results = desktop.ui, session.results
        decide(ui.includeButton)
        said = session.review.to_dict()
        ui.commentEdit.text = "Vessel"
        transform = desktop.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[:3, 3] = 15, 0, 0
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        session.results.ctNode.SetAndObserveTransformNodeID(transform.GetID())
        session.results.ctNode.HardenTransform()
        desktop.process(until=lambda: desktop.dialogs)
        (dialog,) = desktop.dialogs
        assert dialog.text.startswith("CT was moved or changed after it was segmented")
        assert results.node("variance").GetTransformNodeID() == transform.GetID()
        assert ui.regionsTable.rowCount == 0
        assert not any(widget.enabled for widget in (ui.includeButton, ui.nextButton, ui.exportButton, ui.mapSelector))
        assert not results.node("segmentation").GetDisplayNode().GetVisibility()
        assert not any(view.GetForegroundVolumeID() for view in composites(desktop))

        matrix[:3, 3] *= -1
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        session.results.ctNode.SetAndObserveTransformNodeID(transform.GetID())
        session.results.ctNode.HardenTransform()
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
    def test_a_ct_that_is_moved_amid_an_edit_loses_nothing_of_it(self, reviewed, drawn):
        desktop, session = reviewed
        region = session.review.regions[0]
        desktop.ui.editButton.click()
        if drawn:
            session.results.updateSegmentation(region.box, np.ones(region.mask.shape, np.uint8))
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

    def test_a_ct_with_other_voxels_can_be_segmented_again_after_a_question(self, reviewed):
        import qt
        import slicer.util

        desktop, session = reviewed
        decide(desktop.ui.includeButton)
        ct = session.results.ctNode
        slicer.util.updateVolumeFromArray(ct, np.zeros([size + 2 for size in SHAPE], np.int16))
        ct.SetOrigin(100, 0, 0)
        desktop.process(until=lambda: desktop.dialogs)
        desktop.answer(qt.QMessageBox.Cancel)
        desktop.ui.applyButton.click()
        moved, question = desktop.dialogs
        assert "moved or changed" in moved.text
        assert "cannot be shown" in question.text
        assert session.results.documents.get("review")["regions"][0]["verdict"] == "include"
        desktop.answer(qt.QMessageBox.Ok)
        apply(desktop)
        again = desktop.logic.sessions.get(ct)
        assert again is not session
        assert again.review.prediction.segmentation.shape == tuple(size + 2 for size in SHAPE)
        assert np.array_equal(again.results.organs.array(), again.review.prediction.segmentation)
        assert statuses(desktop) == ["To review"] * 3
        assert shown(desktop) == [ct]
