"""The prediction that a review belongs to is kept with the scene where no editor can reach it."""

import numpy as np
import pytest

from support.small_panel import MATRIX, SHAPE, decide

pytestmark = pytest.mark.own_process


def stroke(scene) -> list[str]:
    """One voxel more in the first segment of each segmentation, as the Segment Editor may draw; says in which."""
    from vtk.util.numpy_support import vtk_to_numpy

    from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass

    drawn = []
    for node in nodesByClass(scene, "vtkMRMLSegmentationNode"):
        segment = node.GetSegmentation().GetNthSegment(0)
        voxels = vtk_to_numpy(segment.GetRepresentation("Binary labelmap").GetPointData().GetScalars())
        voxels[np.flatnonzero(voxels == 0)[0]] = segment.GetLabelValue()
        drawn.append(node.GetName())
    return drawn


def test_a_stroke_in_any_segmentation_costs_no_verdict(reviewed, tmp_path):
    desktop, session = reviewed
    ui, path = desktop.ui, str(tmp_path / "scene.mrb")
    decide(ui.includeButton)
    predicted = session.review.prediction.segmentation.copy()
    assert stroke(desktop.scene) == ["CT segmentation", "CT doubtful regions"]
    assert desktop.scene.WriteToMRB(path)
    desktop.scene.Clear(0)
    assert desktop.scene.ReadFromMRB(path, True)
    desktop.process()
    assert desktop.dialogs == []
    assert [ui.regionsTable.item(row, 1).text()[2:] for row in range(3)] == ["Included", "To review", "To review"]
    again = desktop.widget.panel.review.session
    assert np.array_equal(again.review.prediction.segmentation, predicted)
    assert again.segmentation.strayEdits() == 1


class TestRecord:
    LABELS = np.zeros(SHAPE, np.uint8)
    LABELS[2:7, 3:5, 20:28] = np.arange(80).reshape(5, 2, 8)

    @pytest.fixture
    def record(self, panel):  # which brings Slicer
        from MoBUncertaintyLib.output.label_record import pack_labels

        return pack_labels(self.LABELS, MATRIX)

    def test_it_comes_back(self, record):
        from MoBUncertaintyLib.output.label_record import unpack_labels

        assert np.array_equal(unpack_labels(record, MATRIX, SHAPE), self.LABELS)

    @pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_it_comes_back_in_the_order_that_the_image_has_now(self, record, axes, order):
        from MoBUncertaintyLib.output.label_record import unpack_labels

        expected = np.flip(self.LABELS, axes).transpose(order)
        change = np.zeros((4, 4))  # from the indices of the reordered image to those of the stored one, (i, j, k)
        change[3, 3] = 1
        for new, old in enumerate(order):
            sign = -1 if old in axes else 1
            change[2 - old, 2 - new] = sign
            change[2 - old, 3] = SHAPE[old] - 1 if sign < 0 else 0
        assert np.array_equal(unpack_labels(record, MATRIX @ change, expected.shape), expected)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"voxels": "AAAA"}, "SHA-256"),
            ({"first_voxel": [0, 0, 0]}, "SHA-256"),
            ({"sha256": None}, "SHA-256"),
        ],
    )
    def test_a_changed_one_is_refused(self, record, change, reason):
        from MoBUncertaintyLib.output.label_record import unpack_labels

        with pytest.raises(ValueError, match=reason):
            unpack_labels(record | change, MATRIX, SHAPE)

    @pytest.mark.parametrize(("matrix", "shape"), [(MATRIX * 2, SHAPE), (MATRIX, (20, 24, 29))])
    def test_one_of_another_image_is_refused(self, record, matrix, shape):
        from MoBUncertaintyLib.output.label_record import ElsewhereError, unpack_labels

        with pytest.raises(ElsewhereError):
            unpack_labels(record, matrix, shape)


def test_a_damaged_copy_is_one_sentence(reviewed):
    desktop, session = reviewed
    session.results.documents.set("predicted", {"voxels": "none"})
    desktop.logic.sessions.forget()
    desktop.widget.panel.review.setSession(None)
    desktop.widget.panel.refresh()
    desktop.process(until=lambda: desktop.dialogs)
    (dialog,) = desktop.dialogs
    assert dialog.text.startswith("The scene's copy of the prediction of CT cannot be used (its SHA-256")
