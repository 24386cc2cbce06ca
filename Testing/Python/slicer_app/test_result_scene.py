"""What a `ResultScene` shows: maps, segmentation, surface, regions, on Slicer's own core."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from MoBUncertaintyLib.model.region_settings import DEFAULT_THRESHOLD, Measure
from support.late import slicer_app, vtk
from support.result_scenes import (
    MATRIX,
    SHAPE,
    arrays,
    legends,
    surface_points,
)

pytestmark = pytest.mark.own_process


class TestMaps:
    def test_volumes_hold_the_arrays_as_float32_on_the_cts_grid(self, results, world):
        probability, variance, _ = arrays()
        arrays_of = results.overlay.maps.arrays
        for held, expected in ((arrays_of("probability"), probability), (arrays_of("variance"), variance)):
            assert list(held) == [1, 2]
            for organ, array in held.items():
                assert array.dtype == np.float32
                assert np.array_equal(array, expected[organ])
        assert np.allclose(world.nodes.ijkToRas(results.node("variance")), MATRIX)

    def test_pushing_makes_no_second_copy(self, world):
        shape = (60, 128, 128)
        ct = world.standalone.add_volume(world.scene, np.zeros(shape, np.int16), MATRIX, "CT")
        found = world.rooms.ResultScene(ct)
        probability = np.zeros(shape, np.float32)
        probability[20:40, 40:80, 40:80] = 0.5
        labels = (probability > 0).astype(np.uint8)
        tracemalloc.start()
        found.overlay.setMaps({1: probability}, {1: probability})
        list(found.setSegmentation(labels, [world.rooms.SegmentSpec(1, "organ", (200, 90, 0))]))
        found.overlay.show(world.MapKind.ENTROPY)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < probability.nbytes / 2
        assert results_type(found) == {"float"}

    @pytest.mark.parametrize("organ", [None, 2])
    def test_derived_maps_are_what_their_names_say_where_they_are(self, results, world, organ):
        probability, variance, _ = arrays()
        chosen = [1, 2] if organ is None else [organ]
        p, v = np.stack([probability[o] for o in chosen]), np.stack([variance[o] for o in chosen])
        classes = np.concatenate([1 - p.sum(0, keepdims=True), p]).clip(1e-12, 1)
        expected = {
            "variance": v.max(0),
            "standard deviation": np.sqrt(v.max(0)),
            "probability": p.sum(0),
            "entropy": -(classes * np.log(classes)).sum(0),
        }
        for kind in world.MapKind:
            node = results.overlay.show(kind, organ)
            whole = np.zeros(SHAPE)
            shown = world.slicer.util.arrayFromVolume(node)
            start = np.linalg.solve(MATRIX, world.nodes.ijkToRas(node)[:, 3])[2::-1].round().astype(int)
            whole[tuple(slice(s, s + n) for s, n in zip(start, shown.shape, strict=True))] = shown
            assert shown.dtype == np.float32
            assert np.allclose(whole, expected[kind], atol=1e-5), kind

    def test_a_trained_models_variance_fills_the_window(self, world):
        largest = 0.3 * 0.25  # of 0.3 p (1 - p)
        assert 0.8 < largest / slicer_app.scene.maps.mapStyle(world.MapKind.VARIANCE).window[1] <= 1
        assert 0.8 < np.sqrt(largest) / slicer_app.scene.maps.mapStyle(world.MapKind.STANDARD_DEVIATION).window[1] <= 1

    def test_threshold_is_the_one_that_regions_are_found_with(self, world):
        assert slicer_app.scene.maps.mapStyle(world.MapKind.VARIANCE).threshold == DEFAULT_THRESHOLD[Measure.VARIANCE]
        assert slicer_app.scene.maps.mapStyle(world.MapKind.ENTROPY).threshold == DEFAULT_THRESHOLD[Measure.ENTROPY]

    def test_maps_of_a_model_with_less_variance_are_as_bright(self, results, world):
        """What the reader has set for the variance of one model does not hold for that of another."""
        kinds = world.MapKind
        results.overlay.change(threshold=0.03)
        results.overlay.show(kinds.ENTROPY)
        results.overlay.change(threshold=0.3)
        results.overlay.setMaps(*map(results.overlay.maps.arrays, ("probability", "variance")), 0.003)
        assert results.overlay.values["threshold"] == 0.3
        results.overlay.show(kinds.VARIANCE)
        assert results.overlay.values["threshold"] == 0.003
        assert results.overlay.values["window"] == pytest.approx((0, 0.016))
        (legend,) = [
            each
            for each in world.nodes.nodesByClass(world.scene, "vtkMRMLColorLegendDisplayNode")
            if each.GetVisibility()
        ]
        assert legend.GetLabelFormat() == "%.3f"
        results.overlay.show(kinds.STANDARD_DEVIATION)
        assert results.overlay.values["threshold"] == pytest.approx(0.003**0.5)
        results.overlay.change(threshold=0.1)
        results.overlay.setMaps(*map(results.overlay.maps.arrays, ("probability", "variance")), 0.003)
        assert results.overlay.values["threshold"] == 0.1

    def test_maps_are_not_copied(self, results, world):
        variance = np.full(results.overlay.maps.arrays("variance")[1].shape, 0.04, np.float32)
        results.overlay.setMaps({1: 5 * variance}, {1: variance})
        assert np.shares_memory(results.overlay.maps.arrays("variance")[1], variance)

    def test_switching_while_the_maps_are_set_anew_shows_the_new_ones(self, results, world):
        steps = results.overlay.showInSteps(world.MapKind.STANDARD_DEVIATION, 2)
        next(steps)
        variance = np.full(results.overlay.maps.arrays("variance")[1].shape, 0.04, np.float32)
        world.rooms.ResultScene(results.ctNode).overlay.setMaps({1: 5 * variance}, {1: variance})
        assert list(steps)
        assert results.overlay.values["label"] is None
        assert world.slicer.util.arrayFromVolume(results.node("shown")) == pytest.approx(0.2)

    def test_only_the_map_shown_has_a_legend_that_names_it(self, results, world):
        assert legends(world, results) == ["Variance"]
        results.overlay.show(world.MapKind.STANDARD_DEVIATION)
        assert legends(world, results) == ["Std. dev."]
        results.overlay.show(world.MapKind.PROBABILITY, 2)
        assert legends(world, results) == ["Probability\norgan 2"]

    def test_without_maps_nothing_is_shown(self, world):
        ct = world.standalone.add_volume(world.scene, np.zeros(SHAPE, np.int16), MATRIX, "CT")
        assert world.rooms.ResultScene(ct).overlay.show(world.MapKind.VARIANCE) is None


def results_type(found) -> set:
    volumes = [node for role in ("variance", "probability", "map") for node in found.nodes.nodes(role)]
    return {volume.GetImageData().GetScalarTypeAsString() for volume in volumes}


class TestSegmentation:
    def test_changes_in_boxes_anywhere_are_exact_and_leave_the_prediction(self, results):
        expected = arrays()[2].copy()
        rng = np.random.default_rng(1)
        for _ in range(40):
            start = [rng.integers(0, n) for n in SHAPE]
            box = tuple(slice(int(s), int(rng.integers(s + 1, n + 1))) for s, n in zip(start, SHAPE, strict=True))
            expected[box] = rng.integers(0, 3, expected[box].shape)
            results.organs.update(box, expected[box])
            assert np.array_equal(results.organs.array(), expected)
        assert np.array_equal(results.predicted(), arrays()[2])

    def test_a_label_without_a_segment_is_refused_and_nothing_changes(self, results):
        with pytest.raises(ValueError, match=r"no segment for the labels \[7\]"):
            results.organs.update((slice(0, 2),) * 3, np.full((2, 2, 2), 7, np.uint8))
        assert np.array_equal(results.organs.array(), arrays()[2])

    def test_segments_that_overlap_and_segments_of_others_are_left_as_they_are(self, results, world):
        segmentation = results.node("segmentation").GetSegmentation()
        segmentation.SeparateSegmentLabelmap("Segment_2")  # as the Segment Editor does where segments overlap
        image = world.slicer.vtkOrientedImageData()
        image.DeepCopy(segmentation.GetSegment("Segment_1").GetRepresentation("Binary labelmap"))
        mine = world.slicer.vtkSegment()
        mine.SetName("mine")
        mine.AddRepresentation("Binary labelmap", image)
        segmentation.AddSegment(mine, "mine")
        before = (image.GetExtent(), image.GetPointData().GetScalars().GetMTime())
        expected = arrays()[2].copy()
        box = (slice(2, 12), slice(3, 18), slice(0, 24))
        expected[box] = np.random.default_rng(2).integers(0, 3, expected[box].shape)
        results.organs.update(box, expected[box])
        assert np.array_equal(results.organs.array(), expected)
        assert before == (image.GetExtent(), image.GetPointData().GetScalars().GetMTime())

    def test_slicer_hears_of_a_change(self, results, world):
        heard = []
        node = results.node("segmentation")
        node.AddObserver(world.slicer.vtkSegmentation.RepresentationModified, lambda *_: heard.append(True))
        results.organs.update((slice(0, 3),) * 3, np.ones((3, 3, 3), np.uint8))
        assert heard

    def test_only_the_changed_organs_surface_is_made_anew(self, results):
        first, second = surface_points(results, 1), surface_points(results, 2)
        labels = arrays()[2]
        box = (slice(4, 9), slice(6, 12), slice(3, 7))
        results.organs.update(box, np.zeros_like(labels[box]))
        assert surface_points(results, 1) == first
        results.updateSurfaces()
        assert surface_points(results, 1) != first
        assert surface_points(results, 2) == second

    def test_no_surface_is_made_while_the_organs_are_not_shown_in_3d(self, results):
        results.node("segmentation").GetDisplayNode().SetVisibility3D(False)
        results.organs.update((slice(0, 3),) * 3, np.ones((3, 3, 3), np.uint8))
        results.updateSurfaces()
        assert surface_points(results, 1) is None

    def test_a_region_is_seen_beside_the_outline_of_an_organ_that_has_become_the_same(self, results):
        """Outlines are drawn inwards, and that of the organ may lie on top."""
        organ, region = (results.node(role).GetDisplayNode() for role in ("segmentation", "regions"))
        assert region.GetSliceIntersectionThickness() >= organ.GetSliceIntersectionThickness() + 2

    def test_no_editor_offers_the_copy_of_the_prediction(self, results, world):
        found = list(world.nodes.nodesByClass(world.scene, "vtkMRMLSegmentationNode"))
        assert sorted(node.GetName() for node in found) == ["CT doubtful regions", "CT segmentation"]
        assert results.node("state.predicted").GetHideFromEditors()


def at_points(results, name: str) -> np.ndarray:
    """An array of the surface, with a value for each of its points."""
    return vtk.util.numpy_support.vtk_to_numpy(results.node("surface").GetPolyData().GetPointData().GetArray(name))


def surface_colours(results) -> np.ndarray:
    """The colour shown at each point of the surface, 0 to 255."""
    return at_points(results, results.node("surface").GetDisplayNode().GetActiveScalarName())


class TestSurface:
    def test_points_have_the_maps_value_there(self, results, world):
        results.overlay.change(surface=True)
        points = vtk.util.numpy_support.vtk_to_numpy(results.node("surface").GetPolyData().GetPoints().GetData())
        index = np.linalg.solve(MATRIX, np.c_[points, np.ones(len(points))].T)[2::-1]
        expected = ndimage.map_coordinates(
            np.maximum(*results.overlay.maps.arrays("variance").values()), index, order=1
        )
        values = at_points(results, "Uncertainty")
        assert len(points) > 100
        assert np.allclose(values, expected, atol=1e-4)
        assert values.max() > 0.05

    def test_it_takes_the_place_of_the_plain_surface_on_the_maps_own_scale(self, results):
        plain = results.node("segmentation").GetDisplayNode()
        assert plain.GetVisibility3D()
        results.overlay.change(surface=True)
        display = results.node("surface").GetDisplayNode()
        assert display.GetVisibility()
        assert not plain.GetVisibility3D()
        assert display.GetScalarRangeFlag() == display.UseDirectMapping
        results.overlay.change(surface=False)
        assert not display.GetVisibility()
        assert not plain.GetVisibility3D()  # off is off: no plain organ in its place

    def test_a_late_change_does_not_show_it_while_another_ct_is_shown(self, results):
        results.overlay.change(surface=True)
        results.setVisible(False)
        results.updateSurfaces()
        display = results.node("surface").GetDisplayNode()
        assert not display.GetVisibility()
        results.setVisible(True)
        assert display.GetVisibility()

    def test_where_the_map_is_hidden_it_has_the_organs_colour(self, results):
        """Else what a reader includes, where the model had no doubt at all, would be a black lump."""
        results.overlay.change(threshold=0.02)
        results.overlay.change(surface=True)
        values = at_points(results, "Uncertainty")
        segmentation = results.node("segmentation").GetSegmentation()
        segments = (segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments()))
        organs = {tuple(round(255 * part) for part in segment.GetColor()) for segment in segments}
        colours = [tuple(colour) for colour in surface_colours(results).tolist()]
        assert {colour for colour, value in zip(colours, values, strict=True) if value < 0.02} <= organs
        assert not {colour for colour, value in zip(colours, values, strict=True) if value >= 0.02} & organs
        results.overlay.change(threshold=1.0)
        assert set(map(tuple, surface_colours(results).tolist())) == organs

    def test_it_is_of_the_organ_whose_map_is_shown(self, results, world):
        results.overlay.change(surface=True)
        both = results.node("surface").GetPolyData().GetNumberOfPoints()
        results.overlay.show(world.MapKind.VARIANCE, 2)
        assert 0 < results.node("surface").GetPolyData().GetNumberOfPoints() < both

    def test_it_follows_a_change_of_the_segmentation(self, results):
        results.overlay.change(surface=True)
        node, seen = results.node("surface"), []
        before = node.GetPolyData().GetBounds()
        node.AddObserver("ModifiedEvent", lambda *_: seen.append(surface_colours(results)))
        labels = arrays()[2]
        labels[labels == 2] = 0
        results.organs.update((slice(0, 14), slice(0, 20), slice(0, 24)), labels)
        results.updateSurfaces()
        assert node.GetPolyData().GetBounds() != before
        assert len(seen[0]) == node.GetPolyData().GetNumberOfPoints(), "in its colours whenever a view can draw it"

    def test_without_any_organ_it_is_empty(self, results):
        results.overlay.change(surface=True)
        results.organs.update(tuple(slice(0, n) for n in SHAPE), np.zeros(SHAPE, np.uint8))
        results.updateSurfaces()
        assert results.node("surface").GetPolyData().GetNumberOfPoints() == 0


class TestRegions:
    def test_more_of_them_than_a_byte_can_count(self, results, world):
        labels = np.zeros(SHAPE, np.uint16)
        labels.ravel()[:300] = range(1, 301)
        results.setRegions(labels, [world.rooms.SegmentSpec(n, str(n), (0, 220, 255)) for n in range(1, 301)])
        assert np.array_equal(results.regions.array(), labels)
