"""What results look like in real slice views, drawn off screen: maps, outlines, and the colour legend."""

from types import SimpleNamespace

import numpy as np
import pytest

from MoBUncertaintyLib.output.pictures.style import CHANGE_COLOURS
from support.late import slicer, slicer_app
from support.marks import needs_mesa
from support.slice_views import application, picture, resize, slice_view
from support.standalone import add_volume

pytestmark = [pytest.mark.own_process, needs_mesa]

SIZE = 300  # pixels
SHAPE = (20, 60, 60)
ORGAN = (slice(5, 15), slice(20, 40), slice(20, 40))
DOUBT = (slice(5, 15), slice(25, 35), slice(34, 44))
MATRIX = np.diag([-2.0, -2.0, 2.0, 1.0])  # mm; as a CT on its back is stored
ORANGE, CYAN = (255, 120, 0), (0, 220, 255)


def add_results(scene, labels, variance, regions, name: str = "CT", threshold: float = 0.015):
    """An organ, and a region where its variance is."""
    spec = slicer_app.scene.segments.SegmentSpec
    results = slicer_app.scene.results.ResultScene(add_volume(scene, np.zeros(labels.shape, np.int16), MATRIX, name))
    results.overlay.setMaps({1: labels.astype(np.float32)}, {1: variance}, threshold)
    list(results.setSegmentation(labels, [spec(1, "organ", ORANGE)]))
    results.setRegions(regions, [spec(1, "1", CYAN)] * int(regions.any()))
    results.overlay.show(slicer_app.scene.maps.MapKind.VARIANCE)
    return results


@pytest.fixture
def axial():
    """An axial view through an organ with doubt at its border, and one region there."""
    app = application()
    view = slice_view(app)
    view.render_window().SetSize(SIZE, SIZE)
    labels, regions, variance = (np.zeros(SHAPE, dtype) for dtype in (np.uint8, np.uint16, np.float32))
    labels[ORGAN], regions[DOUBT], variance[DOUBT] = 1, 1, 0.06
    results = add_results(app.scene, labels, variance, regions)
    resize(view, SIZE, SIZE)
    results.showInViews()
    return SimpleNamespace(view=view, results=results, scene=app.scene, app=app)


def drawn(axial) -> np.ndarray:
    return picture(axial.view)


def pixel(axial, z: float, y: float, x: float) -> tuple[int, int]:
    """Row and column at which a voxel is drawn."""
    to_ras = slicer.util.arrayFromVTKMatrix(axial.scene.GetNodeByID("vtkMRMLSliceNodeRed").GetXYToRAS())
    column, row = np.linalg.solve(to_ras, MATRIX @ (x, y, z, 1))[:2]
    return SIZE - 1 - round(row), round(column)


def near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 60) -> np.ndarray:
    return np.abs(image - colour).max(axis=-1) < tolerance


def around(mask: np.ndarray, at: tuple[int, int], reach: int = 5) -> bool:
    row, column = at
    return bool(mask[row - reach : row + reach + 1, column - reach : column + reach + 1].any())


def test_heat_map_is_seen_where_the_doubt_is_and_nowhere_else(axial):
    image = drawn(axial)
    doubtful = image[pixel(axial, 10, 30, 37)]
    certain = image[pixel(axial, 10, 30, 25)]
    assert doubtful[0] > 150  # three quarters of Inferno's orange
    assert np.ptp(doubtful) > 80
    assert np.ptp(certain) < 10


def test_threshold_and_opacity_are_seen(axial):
    at = pixel(axial, 10, 30, 37)
    strong = np.ptp(drawn(axial)[at])
    axial.results.overlay.change(opacity=0.3)
    assert 10 < np.ptp(drawn(axial)[at]) < strong
    axial.results.overlay.change(threshold=0.1)
    assert np.ptp(drawn(axial)[at]) < 10


def test_outlines_lie_on_the_borders(axial):
    image = drawn(axial)
    assert around(near(image, ORANGE), pixel(axial, 10, 30, 19.5))
    assert around(near(image, CYAN), pixel(axial, 10, 30, 43.5))
    assert not near(image, ORANGE)[pixel(axial, 10, 30, 25)]


def test_outline_follows_a_change_at_once(axial):
    there = pixel(axial, 10, 30, 9.5)
    assert not around(near(drawn(axial), ORANGE), there)
    box = (slice(5, 15), slice(20, 40), slice(10, 40))
    axial.results.organs.update(box, np.ones((10, 20, 30), np.uint8))
    image = drawn(axial)
    assert around(near(image, ORANGE), there)
    assert not around(near(image, ORANGE), pixel(axial, 10, 30, 19.5))
    axial.results.organs.update(box, np.zeros((10, 20, 30), np.uint8))
    assert not around(near(drawn(axial), ORANGE), there)


def test_highlighted_region_is_the_brightest(axial):
    at = pixel(axial, 10, 30, 43.5)
    assert around(near(drawn(axial), CYAN), at)
    slicer_app.scene.segments.highlight(axial.results.regions, 7)  # another
    assert not around(near(drawn(axial), CYAN), at)
    slicer_app.scene.segments.highlight(axial.results.regions, 1)
    assert around(near(drawn(axial), CYAN), at)


def test_legend_comes_and_goes(axial):
    def coloured() -> int:
        return int((np.ptp(drawn(axial)[:, SIZE * 3 // 4 :], axis=-1) > 60).sum())

    assert coloured() > 300
    slicer_app.scene.views.takeOut(axial.results.node("shown"))
    assert coloured() == 0


def test_jump_fills_the_view_with_the_region(axial):
    position = (MATRIX @ (38.5, 29.5, 10, 1))[:3]
    axial.results.jumpTo(position, 30.0)
    row, column = pixel(axial, 10, 29.5, 38.5)
    assert abs(row - SIZE / 2) < 3
    assert abs(column - SIZE / 2) < 3
    assert near(drawn(axial), CYAN).any()


def test_a_ct_without_a_window_gets_that_of_the_abdomen(axial):
    """One that has its own, and images that are no CT, stay as they are."""
    windows = []
    for lowest, automatic in ((-1000, True), (-1000, False), (0, True)):
        array = np.full((3, 4, 5), lowest, np.int16)
        array[0] = 900
        display = add_volume(axial.scene, array, MATRIX, "CT", (-5.0, 5.0)).GetDisplayNode()
        display.SetAutoWindowLevel(automatic)
        slicer_app.scene.views.giveWindow(display.GetDisplayableNode())
        windows.append((display.GetWindowLevelMin(), display.GetWindowLevelMax()))
    assert windows[0] == (-160, 240)
    assert windows[1] == (-5, 5)
    assert windows[2] != (-160, 240)


COLOUR_BLIND = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
"""What those see who lack the cones for red, green and blue, in linear RGB (Machado et al., 2009)."""


def srgb_to_linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colour: np.ndarray) -> np.ndarray:
    colour = np.clip(colour, 0, 1)
    return np.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour ** (1 / 2.4) - 0.055)


def test_a_change_stands_out_from_the_heat_map_and_the_image_however_one_sees_colours():
    from skimage.color import rgb2lab

    below = np.concatenate([slicer_app.scene.maps.infernoColours(), np.linspace((0, 0, 0), (1, 1, 1), 50)])
    for vision in (np.eye(3), *COLOUR_BLIND):

        def seen(colours, vision=vision):
            return rgb2lab(linear_to_srgb(srgb_to_linear(np.asarray(colours)) @ vision.T))

        for colour in CHANGE_COLOURS:
            filled = (
                slicer_app.clicks.changes.FILL_OPACITY * np.array(colour) / 255
                + (1 - slicer_app.clicks.changes.FILL_OPACITY) * below
            )
            assert np.linalg.norm(seen(filled) - seen(below), axis=1).min() > 20


@pytest.fixture(scope="module")
def window():
    """Two slice views, one of them on its side."""
    app = application()
    return SimpleNamespace(app=app, scene=app.scene, views={name: slice_view(app, name) for name in ("Red", "Green")})


def resize_all(window, width: int, height: int) -> None:
    for view in window.views.values():
        resize(view, width, height)


@pytest.fixture
def two(window):
    """Results of two CTs whose variances differ fivefold, the first one shown."""
    for ct in slicer_app.scene.results.findResults(window.scene):
        slicer_app.scene.results.ResultScene(ct).remove()
        window.scene.RemoveNode(ct)
    resize_all(window, 320, 300)
    labels = np.zeros((10, 30, 30), np.uint8)
    labels[2:8, 13:17, 13:17] = 1
    nothing = 0 * labels.astype(np.float32), 0 * labels.astype(np.uint16)
    window.first = add_results(window.scene, labels, *nothing, "first")
    window.second = add_results(window.scene, labels, *nothing, "second", 0.003)
    show_alone(window.first)
    return window


def show_alone(results) -> None:
    slicer_app.sessions.showAlone(results.ctNode)


def coloured(image: np.ndarray) -> int:
    """Pixels in colour at the right edge, where only the legend has any."""
    return int((np.ptp(image[:, -60:], axis=-1) > 60).sum())


def test_the_legend_is_that_of_the_ct_in_the_views(two):
    first = picture(two.views["Red"])
    show_alone(two.second)
    second = picture(two.views["Red"])
    assert (first != second)[:, -80:].any()  # 0.08 and 0.016 at the top
    show_alone(two.first)
    assert np.array_equal(picture(two.views["Red"]), first)
    show_alone(two.second)
    assert np.array_equal(picture(two.views["Red"]), second)


def test_without_a_map_there_is_no_legend(two):
    assert coloured(picture(two.views["Red"])) > 100
    two.first.ctNode.SetOrigin(100, 0, 0)  # as if a transform were hardened
    slicer_app.sessions.hideMisplaced(two.first.ctNode)
    assert coloured(picture(two.views["Red"])) == 0


def test_one_view_has_the_legend(two):
    assert [coloured(picture(two.views[name])) > 100 for name in two.views] == [True, False]
