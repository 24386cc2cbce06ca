"""The colour legend in real slice views: whose it is, how large its letters are, and where it stands."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from support.marks import needs_mesa, needs_slicer, needs_views

pytestmark = [pytest.mark.own_process, needs_slicer, needs_views, needs_mesa]

SHAPE = (10, 30, 30)
MATRIX = np.diag([-2.0, -2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def window():
    """Two slice views, one of them on its side."""
    import slicer
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import NoScheduleRendering, SliceView

    app = SlicerApp()
    slicer.mrmlScene = app.scene
    app.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    views = {
        name: SliceView(app.scene, app.app_logic, name, scheduled_render_strategy=NoScheduleRendering())
        for name in ("Red", "Green")
    }
    return SimpleNamespace(app=app, scene=app.scene, views=views, slicer=slicer)


@pytest.fixture
def two(window):
    """Results of two CTs whose variances differ fivefold, the first one shown."""
    from MoBUncertaintyLib.slicer_app import sessions
    from MoBUncertaintyLib.slicer_app.scene.results import ResultScene, findResults

    for ct in findResults(window.scene):
        ResultScene(ct).remove()
        window.scene.RemoveNode(ct)
    resize(window, 320, 300)
    window.first, window.second = add_results(window, "first", 0.015), add_results(window, "second", 0.003)
    window.showAlone = sessions.showAlone
    window.showAlone(window.first.ctNode)
    return window


def add_results(window, name: str, threshold: float):
    from MoBUncertaintyLib.slicer_app.scene.maps import MapKind
    from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
    from MoBUncertaintyLib.slicer_app.scene.segments import SegmentSpec
    from support.standalone import add_volume

    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 13:17, 13:17] = 1
    results = ResultScene(add_volume(window.scene, np.zeros(SHAPE, np.int16), MATRIX, name))
    results.overlay.setMaps({1: labels.astype(np.float32)}, {1: 0 * labels.astype(np.float32)}, threshold)
    list(results.setSegmentation(labels, [SegmentSpec(1, "organ", (255, 120, 0))]))
    results.setRegions(np.zeros(SHAPE, np.uint16), [])
    results.overlay.show(MapKind.VARIANCE)
    return results


def resize(window, width: int, height: int) -> None:
    for view in window.views.values():
        view.render_window().SetSize(width, height)
        view._logic.ResizeSliceNode(width, height)


def drawn(window, name: str = "Red") -> np.ndarray:
    """(y, x, 3), 0 to 255, from the top."""
    from vtk import vtkWindowToImageFilter
    from vtk.util.numpy_support import vtk_to_numpy

    view = window.views[name]
    view.render_window().Render()
    shot = vtkWindowToImageFilter()
    shot.SetInput(view.render_window())
    shot.ReadFrontBufferOff()
    shot.Update()
    values = vtk_to_numpy(shot.GetOutput().GetPointData().GetScalars())
    width, height = view.render_window().GetSize()
    return values.reshape(height, width, -1)[::-1, :, :3].astype(int)


def coloured(image: np.ndarray) -> int:
    """Pixels in colour at the right edge, where only the legend has any."""
    return int((np.ptp(image[:, -60:], axis=-1) > 60).sum())


def lettering(image: np.ndarray) -> np.ndarray:
    """Where white letters are."""
    return image.min(axis=-1) > 140


def runs(used: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], used, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True))


def test_the_legend_is_that_of_the_ct_in_the_views(two):
    first = drawn(two)
    two.showAlone(two.second.ctNode)
    second = drawn(two)
    assert (first != second)[:, -80:].any()  # 0.08 and 0.016 at the top
    two.showAlone(two.first.ctNode)
    assert np.array_equal(drawn(two), first)
    two.showAlone(two.second.ctNode)
    assert np.array_equal(drawn(two), second)


def test_a_legend_that_is_switched_off_leaves_none_of_another_ct(two):
    two.first.overlay.change(legend=False)
    assert coloured(drawn(two)) == 0
    two.showAlone(two.second.ctNode)
    assert coloured(drawn(two)) > 100
    two.showAlone(two.first.ctNode)
    assert coloured(drawn(two)) == 0


def test_without_a_map_there_is_no_legend(two):
    from MoBUncertaintyLib.slicer_app.sessions import hideMisplaced

    assert coloured(drawn(two)) > 100
    two.first.ctNode.SetOrigin(100, 0, 0)  # as if a transform were hardened
    hideMisplaced(two.first.ctNode)
    assert coloured(drawn(two)) == 0


@pytest.mark.parametrize("threshold", [0.015, 0.003])  # "0.08" and "0.016"
@pytest.mark.parametrize("size", [(260, 220), (420, 400), (1100, 800)])
def test_letters_are_small_and_do_not_touch(two, size, threshold):
    resize(two, *size)
    two.showAlone((two.first if threshold == 0.015 else two.second).ctNode)
    white = lettering(drawn(two))
    lines = runs(white[:, -60:].any(axis=1))
    numbers = lines[-5:]
    heights = [last - first + 1 for first, last in numbers]
    assert 8 <= min(heights) <= max(heights) <= 12, lines
    assert min(after[0] - before[1] for before, after in itertools.pairwise(numbers)) >= 4
    columns = np.flatnonzero(white.any(axis=0))
    assert columns.min() > size[0] - 90  # the title, too, keeps to the edge
    assert columns.max() < size[0] - 2


def test_one_view_has_the_legend(two):
    assert [coloured(drawn(two, name)) > 100 for name in two.views] == [True, False]


def test_the_legend_follows_what_others_do_with_the_views(two):
    """Code of another module puts the map away, the window becomes larger."""
    from MoBUncertaintyLib.slicer_app.scene.legend import LegendFollower

    todo = []
    follower = LegendFollower(two.scene, todo.append)
    legend = two.slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(two.first.node("shown"))
    before = legend.GetSize()[0]
    resize(two, 640, 600)
    assert len(todo) == 1
    todo.pop()()
    assert legend.GetSize()[0] == pytest.approx(before / 2)
    for composite in two.slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetForegroundVolumeID(None)
    todo.pop()()
    assert coloured(drawn(two)) == 0
    follower.stop()
    resize(two, 320, 300)
    assert todo == []
