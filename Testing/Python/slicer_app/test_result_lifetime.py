"""What becomes of a `ResultScene`'s nodes: removed by the user, under a transform, saved and opened again."""

import itertools

import numpy as np
import pytest

from support.late import slicer_app
from support.result_scenes import (
    MATRIX,
    SHAPE,
    arrays,
    fill,
    legends,
    region_status,
)
from support.standalone import transform

pytestmark = pytest.mark.own_process


ROLES = ("segmentation", "probability", "variance", "map", "surface", "regions")


@pytest.mark.parametrize("role", [*ROLES, "state.predicted", "inferno", "state.overlay"])
def test_what_the_user_removes_is_made_anew(results, world, role):
    results.overlay.show(world.MapKind.ENTROPY)
    results.overlay.change(surface=True)
    removed = results.node(role)
    world.scene.RemoveNode(removed)
    assert results.node(role) is not removed
    fill(world, results)
    results.overlay.show(world.MapKind.ENTROPY)
    results.overlay.change(surface=True)
    assert results.node(role) is not None
    assert list(results.overlay.maps.arrays("variance")) == list(results.overlay.maps.arrays("probability")) == [1, 2]
    assert np.array_equal(results.organs.array(), results.predicted())
    assert results.node("shown").GetDisplayNode().GetColorNode() is results.node("inferno")
    hierarchy = world.nodes.subjectHierarchy(world.scene)
    items = [hierarchy.GetItemByDataNode(node) for node in (results.ctNode, *map(results.node, ROLES))]
    assert len({hierarchy.GetItemParent(item) for item in items}) == 1


def test_nothing_is_changed_by_looking(world):
    ct = world.standalone.add_volume(world.scene, np.zeros(SHAPE, np.int16), MATRIX, "CT")
    before = world.scene.GetNumberOfNodes()
    found = world.rooms.ResultScene(ct)
    assert (found.documents.get("review"), found.node("segmentation")) == (None, None)
    assert found.overlay.maps.arrays("variance") == {}
    assert found.overlay.values["kind"] == "variance"
    assert world.scene.GetNumberOfNodes() == before
    assert world.rooms.findResults(world.scene) == []


def test_a_copy_of_the_ct_has_results_of_its_own(results, world):
    copy = world.scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    copy.UnRegister(None)
    copy.Copy(results.ctNode)  # with its references, as Slicer's Clone does
    world.scene.AddNode(copy)
    assert world.rooms.findResults(world.scene) == [results.ctNode]
    other = world.rooms.ResultScene(copy)
    fill(world, other, organs=(1,))
    assert list(results.overlay.maps.arrays("variance")) == [1, 2]
    assert list(other.overlay.maps.arrays("variance")) == [1]
    assert other.node("segmentation") is not results.node("segmentation")


def test_an_organ_less_takes_its_volumes_with_it(results, world):
    results.overlay.show(world.MapKind.VARIANCE, 2)
    fill(world, results, organs=(1,))
    assert list(results.overlay.maps.arrays("variance")) == list(results.overlay.maps.arrays("probability")) == [1]
    assert results.overlay.values["label"] is None
    assert results.node("shown") is results.node("map")


def test_ct_in_a_study_stays_there_with_its_results_in_a_folder_beside_it(world):
    ct = world.standalone.add_volume(world.scene, np.zeros(SHAPE, np.int16), MATRIX, "CT")
    hierarchy = world.nodes.subjectHierarchy(world.scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    item = hierarchy.GetItemByDataNode(ct) or hierarchy.CreateItem(study, ct, "Volumes")
    hierarchy.SetItemParent(item, study)
    found = world.rooms.ResultScene(ct)
    fill(world, found)
    assert hierarchy.GetItemParent(item) == study
    folders = {
        hierarchy.GetItemParent(hierarchy.GetItemByDataNode(found.node(role)))
        for role in ("segmentation", "variance", "probability", "regions")
    }
    (folder,) = folders
    assert hierarchy.GetItemParent(folder) == study


class TestTransform:
    @pytest.fixture
    def moved(self, results, world):
        """The CT's transform, put on after the results were made."""
        matrix = np.array([[0.0, -1, 0, 40], [1, 0, 0, -10], [0, 0, 1, 25], [0, 0, 0, 1]])
        return transform(results.ctNode, matrix), matrix

    def test_all_nodes_follow(self, results, world, moved):
        results.overlay.show(world.MapKind.ENTROPY)
        results.overlay.change(surface=True)
        results.showInViews()
        for role in ROLES:
            assert results.node(role).GetParentTransformNode() is moved[0], role

    def test_views_go_to_the_place_in_the_world(self, results, world, moved):
        position = (MATRIX @ (7, 9, 6, 1))[:3]
        results.jumpTo(position, 20.0)
        expected = (moved[1] @ (*position, 1))[:3]
        bounds = np.zeros(6)
        results.ctNode.GetRASBounds(bounds)
        extent = np.ptp(bounds.reshape(3, 2), axis=1).max()
        assert extent < 80  # mm: an image that is cut around the organ fills the views
        views = world.nodes.nodesByClass(world.scene, "vtkMRMLSliceNode")
        assert len(views) == 3
        for view in views:
            matrix = world.slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
            assert matrix[:3, 2] @ (expected - matrix[:3, 3]) == pytest.approx(0, abs=1e-3)
            assert np.allclose(matrix[:3, 3], expected, atol=1e-3)
            assert min(view.GetFieldOfView()[:2]) == pytest.approx(extent)

    def test_arrays_are_the_cts_own(self, results, moved):
        labels = arrays()[2]
        box = (slice(1, 6), slice(0, 15), slice(2, 22))
        labels[box] = 2
        results.organs.update(box, labels[box])
        assert np.array_equal(results.organs.array(), labels)


class TestState:
    def test_documents_come_back(self, results):
        awkward = {"text": "Hübner \"q\" 'a' <&>\n;:%20", "numbers": [1, 2.5, None, True], "deep": {"": []}}
        results.documents.set("review", awkward)
        results.documents.set("prediction", {"a": 1})
        assert results.documents.get("review") == awkward
        assert results.documents.get("prediction") == {"a": 1}
        assert results.documents.get("nothing") is None

    @pytest.mark.parametrize("wrong", [float("nan"), np.float32(1)])
    def test_what_is_not_json_is_refused_and_nothing_is_lost(self, results, wrong):
        results.documents.set("review", {"a": 1})
        with pytest.raises((TypeError, ValueError)):
            results.documents.set("review", {"a": wrong})
        assert results.documents.get("review") == {"a": 1}

    def test_a_text_spoilt_by_hand_counts_as_none(self, results):
        results.node("state.overlay").SetText("{spoilt")
        assert results.documents.get("overlay") is None
        assert results.overlay.values["threshold"] == 0.015


class TestReopened:
    @pytest.fixture(params=["right-handed", "left-handed"])
    def reopened(self, world, request, tmp_path):
        """Results saved with everything changed, and the same opened in another scene."""
        matrix = MATRIX @ np.diag([1, 1, -1 if request.param == "left-handed" else 1, 1.0])
        ct = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        saved = world.rooms.ResultScene(world.standalone.add_volume(world.scene, ct, matrix, "Hübner CT"))
        fill(world, saved)
        logic = world.slicer.vtkSlicerSegmentationsModuleLogic
        slicer_app.scene.segments.describe(saved.regions, {}, {2: logic.Completed})
        saved.overlay.show(world.MapKind.ENTROPY)
        saved.overlay.change(opacity=0.4, threshold=0.3, surface=True)
        saved.organs.update((slice(0, 3), slice(1, 4), slice(2, 5)), np.full((3, 3, 3), 2, np.uint8))
        saved.documents.set("review", {"name": "Hübner", "decisions": [1, None]})
        path = str(tmp_path / "scene.mrb")
        assert world.scene.WriteToMRB(path)
        again, logics = world.standalone.make_scene()
        manager = world.slicer.vtkDataIOManager()
        manager.SetCacheManager(world.slicer.vtkCacheManager())
        manager.GetCacheManager().SetRemoteCacheDirectory(str(tmp_path))
        again.SetDataIOManager(manager)
        assert again.ReadFromMRB(path, True)
        (node,) = world.rooms.findResults(again)
        return saved, world.rooms.ResultScene(node), logics

    def test_everything_is_found_again(self, reopened, world):
        saved, found, _ = reopened
        assert found.overlay.values == saved.overlay.values
        set_ = {"kind": "entropy", "label": None, "opacity": 0.4, "surface": True, "threshold": 0.3}
        assert found.overlay.values == set_ | {"window": slicer_app.scene.maps.mapStyle("entropy").window}
        assert found.documents.get("review") == {"name": "Hübner", "decisions": [1, None]}
        assert [region_status(found, n) for n in (1, 2)] == [region_status(saved, n) for n in (1, 2)]
        assert legends(world, found) == ["Entropy (nats)"]
        display = found.node("shown").GetDisplayNode()
        assert display.GetLowerThreshold() == pytest.approx(0.3)
        assert display.GetColorNode() is found.node("inferno")
        assert found.node("surface").GetDisplayNode().GetVisibility()
        assert found.node("surface").GetPolyData().GetPointData().GetArray("Uncertainty").GetRange()[1] > 0.3
        assert not found.node("segmentation").GetDisplayNode().GetVisibility3D()

    def test_the_window_is_as_exact_as_it_was(self, reopened):
        """A scene's file holds window and level to six digits: the legend would begin at -0.00."""
        _, found, _ = reopened
        found.node("shown").GetDisplayNode().SetWindowLevelMinMax(-5e-7, 0.7)  # as read from a file
        found.showInViews()
        assert found.node("shown").GetDisplayNode().GetWindowLevelMin() >= 0

    def test_arrays_lie_on_the_same_voxels_of_the_ct(self, reopened, world):
        saved, found, _ = reopened
        before, after = (world.slicer.util.arrayFromVolume(each.ctNode).ravel() for each in (saved, found))
        order = np.argsort(after)  # Slicer turns left-handed volumes when it reads them
        assert np.array_equal(after[order], before)
        parts = ([each.predicted(), each.organs.array(), each.regions.array()] for each in (saved, found))
        for was, is_now in zip(*parts, strict=True):
            assert np.array_equal(is_now.ravel()[order], was.ravel())
        for organ, name in itertools.product((1, 2), ("variance", "probability")):
            maps = [each.overlay.maps.arrays(name)[organ].ravel() for each in (found, saved)]
            assert np.array_equal(maps[0][order], maps[1])

    def test_it_can_be_changed_on(self, reopened):
        _, found, _ = reopened
        expected = found.organs.array()
        box = (slice(8, 14), slice(5, 20), slice(0, 9))
        expected[box] = 1
        found.organs.update(box, expected[box])
        assert np.array_equal(found.organs.array(), expected)
        assert not np.array_equal(found.organs.array(), found.predicted())

    def test_another_run_reuses_the_nodes(self, reopened, world):
        _, found, _ = reopened
        before = found.scene.GetNumberOfNodes()
        fill(world, found)
        assert found.scene.GetNumberOfNodes() == before
