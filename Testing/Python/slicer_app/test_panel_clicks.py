"""Clicks in the slice views, by real events of their interactors: which voxel they reach, and what all of it shows."""

import numpy as np
import pytest

from MoBUncertaintyLib.base.geometry import whole
from MoBUncertaintyLib.measurements.interval import volume_text
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.suggestion import suggest
from slicer_host.mouse import Mouse
from support import sessions
from support.clicked_cases import region_at
from support.late import QtTest, qt, slicer, slicer_app, vtk
from support.small_panel import (
    MATRIX,
    SHAPE,
    composites,
    decide,
    reopen,
    selected,
    show_result,
    statuses,
    two_labels,
)
from support.standalone import add_volume, transform

pytestmark = pytest.mark.own_process


@pytest.fixture
def mouse(session):
    """The mouse in the axial view."""
    return Mouse("Red")


def place(*index) -> np.ndarray:
    """RAS mm of a voxel (z, y, x)."""
    return (MATRIX @ [*reversed(index), 1])[:3]


def region_voxel(session, rank: int = 1, organ: bool | None = None) -> tuple[int, ...]:
    """A voxel well inside a listed region, one that is organ or not if that is said."""
    from scipy import ndimage

    region = session.review.regions[rank - 1]
    mask = region.mask.copy()
    if organ is not None:
        mask &= (session.review.prediction.segmentation[region.box] > 0) == organ
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    inside = np.unravel_index(depth.argmax(), mask.shape)
    return tuple(int(a) + part.start for a, part in zip(inside, region.box, strict=True))


def voxel_of(click) -> tuple[int, ...]:
    """The voxel (z, y, x) in which a click lies."""
    index = np.linalg.inv(MATRIX) @ [*click.points_ras[0], 1]
    return tuple(np.rint(index[2::-1]).astype(int).tolist())


def shown_map(session) -> np.ndarray:
    """What the map over the CT holds at each voxel of the CT; 0 outside of its volume."""
    node, whole = session.results.node("shown"), np.zeros(session.review.prediction.shape, np.float32)
    voxels = slicer.util.arrayFromVolume(node)
    to_ijk = np.linalg.inv(slicer_app.scene.nodes.ijkToRas(session.results.ctNode))
    start = np.rint((to_ijk @ [*slicer_app.scene.nodes.ijkToRas(node)[:3, 3], 1])[:3]).astype(int)[::-1]
    whole[tuple(slice(a, a + n) for a, n in zip(start, voxels.shape, strict=True))] = voxels
    return whole


def same(session) -> None:
    """The scene shows what the review says, with the map and the marks."""
    sessions.same(session)
    review, results = session.review, session.results
    variance = np.maximum.reduce(list(review.maps_in(whole(review.prediction.shape))[1]))
    map_shown = shown_map(session)
    where = (map_shown > 0) | (variance > 0.001)
    assert np.array_equal(map_shown[where], variance[where])
    expected = {}
    for click in review.clicks:
        role = "conflict" if click.click_id in review.conflicts else "organ" if click.label else "background"
        expected.setdefault(role, []).extend(tuple(np.round(point, 6).tolist()) for point in click.points_ras)
    for role in ("organ", "background", "conflict"):
        node = results.node(f"clicks.{role}")
        points = slicer.util.arrayFromMarkupsControlPoints(node).round(6).tolist() if node else []
        assert sorted(map(tuple, points)) == sorted(expected.get(role, []))


def click_on(desktop, mouse, voxel, label: int = 1, **modifiers: bool) -> None:
    """Click on a voxel in the mode of a label."""
    button = desktop.ui.organHereButton if label else desktop.ui.notOrganHereButton
    if not button.checked:
        button.click()
    mouse.click(place(*voxel), **modifiers)


class TestClick:
    def test_a_click_changes_all_that_is_shown_at_once(self, desktop, session, mouse):
        voxel = region_voxel(session, organ=True)
        before = session.review.expected_error_mm3[1]
        click_on(desktop, mouse, voxel, 0)
        (made,) = session.review.clicks
        assert (made.label, made.region_id) == (0, region_at(session.review, tuple(place(*voxel))).region_id)
        assert session.results.organs.array()[voxel] == 0
        assert session.review.expected_error_mm3[1] < before
        same(session)
        assert desktop.ui.clickStatusLabel.text.startswith("1 click")
        desktop.ui.undoButton.click()
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)
        same(session)
        desktop.ui.redoButton.click()
        assert session.review.clicks == (made,)
        same(session)

    def test_the_mouse_is_a_cross_while_there_is_a_mode(self, desktop, session, mouse):
        for button, shape in (("organHereButton", qt.Qt.CrossCursor), ("clicksOffButton", qt.Qt.ArrowCursor)):
            getattr(desktop.ui, button).click()
            assert mouse.widget.cursor.shape() == shape

    def test_the_mouse_is_slicers_without_a_mode_and_with_one_nobody_else_sees_it(self, desktop, session, mouse):
        seen = []
        for event in ("LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            mouse.interactor.AddObserver(event, lambda _caller, event: seen.append(event), 1.0)  # as Slicer's own
        mouse.click(place(*region_voxel(session)))
        assert len(seen) == 2 and session.review.clicks == ()
        click_on(desktop, mouse, region_voxel(session))
        assert len(seen) == 2 and len(session.review.clicks) == 1

    @pytest.mark.parametrize("what", ["shift", "control", "alt", "place"])
    def test_what_slicer_does_with_modifiers_and_markups_stays_slicers(self, desktop, session, mouse, what):
        interaction = desktop.app.applicationLogic().GetInteractionNode()
        if what == "place":
            interaction.SetCurrentInteractionMode(interaction.Place)
        click_on(desktop, mouse, region_voxel(session), **({} if what == "place" else {what: True}))
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        assert session.review.clicks == ()

    def test_the_users_own_list_stays_the_one_that_points_are_placed_into(self, desktop, session, mouse):
        """Slicer takes each new list of points for it."""
        selection = desktop.scene.GetFirstNodeByClass("vtkMRMLSelectionNode")

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def take(_scene, _event, node):
            if node.IsA("vtkMRMLMarkupsNode"):
                selection.SetReferenceActivePlaceNodeID(node.GetID())

        tag = desktop.scene.AddObserver(desktop.scene.NodeAddedEvent, take)
        try:
            own = desktop.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
            click_on(desktop, mouse, region_voxel(session))
        finally:
            desktop.scene.RemoveObserver(tag)
        assert len(session.review.clicks) == 1 and selection.GetActivePlaceNodeID() == own.GetID()

    def test_a_double_click_is_one_click_and_two_quick_ones_are_two(self, desktop, session, mouse):
        desktop.ui.organHereButton.click()
        one, other = place(*region_voxel(session)), place(*region_voxel(session, organ=False))
        mouse.click(one)
        mouse.send("LeftButtonDoubleClickEvent", mouse.pixel(one))
        mouse.send("LeftButtonReleaseEvent", mouse.pixel(one))
        assert len(session.review.clicks) == 1
        mouse.go(other)
        mouse.send("LeftButtonDoubleClickEvent", mouse.pixel(other))
        mouse.send("LeftButtonReleaseEvent", mouse.pixel(other))
        assert len(session.review.clicks) == 2

    def test_a_stroke_is_one_click_with_its_way(self, desktop, session, mouse):
        z, y, x = region_voxel(session)
        mouse.go(place(z, y, x))
        desktop.ui.organHereButton.click()
        mouse.stroke([place(z, y, x - 2), place(z, y, x), place(z, y, x + 2)])
        (click,) = session.review.clicks
        assert len(click.points_ras) == 3
        assert (session.results.organs.array()[z, y, x - 2 : x + 3] == 1).all()
        same(session)

    def test_a_lasso_gives_all_inside_it_one_label(self, desktop, session, mouse):
        z, y, x = region_voxel(session)
        mouse.go(place(z, y, x))
        desktop.ui.lassoButton.click()
        assert desktop.ui.organHereButton.checked
        corners = [(y - 2.5, x - 2.5), (y - 2.5, x + 2.5), (y + 2.5, x + 2.5), (y + 2.5, x - 2.5)]
        mouse.stroke([place(z, *corner) for corner in corners])
        (click,) = session.review.clicks
        assert (click.extent, len(click.points_ras)) == ("outline", 4)
        assert (session.results.organs.array()[z, y - 2 : y + 3, x - 2 : x + 3] == 1).all()
        marks = slicer.util.arrayFromMarkupsControlPoints(session.results.node("clicks.organ"))
        assert len(marks) == 20 and np.ptp(marks, axis=0).max() > 4
        desktop.ui.undoButton.click()
        same(session)
        assert session.review.clicks == ()
        desktop.ui.lassoButton.click()
        mouse.click(place(z, y, x))
        assert session.review.clicks[0].extent == "stroke"

    @pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
    def test_a_box_is_dragged_from_corner_to_corner(self, desktop, session, name):
        voxel, axis = np.array(region_voxel(session)), ("Red", "Green", "Yellow").index(name)
        desktop.ui.notOrganHereButton.click()
        desktop.ui.boxButton.click()
        assert desktop.ui.notOrganHereButton.checked
        reach = np.where(np.arange(3) == axis, 0, 1.5)
        mouse = Mouse(name)
        mouse.go(place(*voxel))
        mouse.stroke([place(*(voxel - reach)), place(*(voxel + 0.2 * reach)), place(*(voxel + reach))])
        (click,) = session.review.clicks
        assert (click.extent, click.label, len(click.points_ras)) == ("outline", 0, 4)
        inside = session.review.refiner.voxels_of(click)
        assert len(inside) == 9 and (np.abs(inside - voxel) <= reach).all()
        assert (session.results.organs.array()[tuple(inside.T)] == 0).all()

    def test_outside_of_what_was_predicted_it_is_refused_in_one_sentence(self, desktop, session, mouse):
        click_on(desktop, mouse, (10, 12, -3))
        assert session.review.clicks == () and desktop.dialogs == []
        assert "outside the image" in desktop.ui.clickStatusLabel.text
        desktop.process(until=lambda: qt.QToolTip.text() == desktop.ui.clickStatusLabel.text)
        click_on(desktop, mouse, region_voxel(session))
        assert desktop.ui.clickStatusLabel.text.startswith("1 click")

    def test_a_signed_review_asks_once(self, desktop, session, mouse):
        sessions.sign(session)
        desktop.widget.panel.update()
        click_on(desktop, mouse, (10, 12, -3))  # outside of the image: no reason to withdraw anything
        assert session.review.signature is not None and desktop.dialogs == []
        desktop.answer("Cancel")
        click_on(desktop, mouse, region_voxel(session))
        assert session.review.signature is not None and session.review.clicks == ()
        desktop.answer("Ok")
        click_on(desktop, mouse, region_voxel(session))
        assert ["A. Reader" in dialog.text for dialog in desktop.dialogs] == [True, True]
        assert session.review.signature is None and len(session.review.clicks) == 1
        click_on(desktop, mouse, region_voxel(session, 2))
        assert len(desktop.dialogs) == 2 and len(session.review.clicks) == 2
        same(session)


class TestAnotherImage:
    """Whoever clicks means the image that is seen, which may be another than that of the review."""

    @pytest.fixture
    def other(self, desktop, session):
        """Another volume behind the axial view."""
        return add_volume(desktop.scene, np.zeros(SHAPE, np.int16), MATRIX, "B")

    def show(self, mouse, volume) -> None:
        """Put a volume, or none, behind all others in the mouse's view."""
        composite = mouse.widget.sliceLogic().GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(volume.GetID() if volume else None)

    def test_a_click_in_it_is_refused_and_in_the_reviews_own_taken(self, desktop, session, mouse, other):
        ui, voxel = desktop.ui, region_voxel(session)
        ui.organHereButton.click()
        for volume, name in ((other, "B"), (None, "no image")):
            self.show(mouse, volume)
            mouse.click(place(*voxel))
            assert session.review.clicks == ()
            said = f"The view shows {name}, but the review is of CT: show CT in this view and click again."
            assert ui.clickStatusLabel.text == said
            desktop.process(until=lambda said=said: qt.QToolTip.text() == said)
        Mouse("Green").click(place(*voxel))  # which shows the review's image still
        assert len(session.review.clicks) == 1
        self.show(mouse, session.results.ctNode)
        mouse.click(place(*region_voxel(session, 2)))
        assert len(session.review.clicks) == 2
        same(session)

    def test_another_input_channel_of_the_model_is_the_reviews_own(self, desktop, session, mouse, other):
        slicer_app.scene.nodes.setChannelVolume(session.results.ctNode, "T2", other)
        self.show(mouse, other)
        click_on(desktop, mouse, region_voxel(session))
        assert session.review.clicks == ()  # it is a channel of another model
        session.review.prediction.provenance["channels"] = ["T1", "T2"]
        mouse.click(place(*region_voxel(session)))
        assert len(session.review.clicks) == 1

    def test_the_title_names_image_and_model(self, desktop, session):
        title = desktop.ui.reviewCollapsibleButton
        assert title.text == "Review: CT (PhantomPancreas)"
        session.results.ctNode.SetName("A very long name of an image, portal venous")
        desktop.widget.panel.refresh()
        assert title.text == "Review: A very lon…tal venous (PhantomPancreas)"
        assert title.toolTip.endswith("for A very long name of an image, portal venous.")


class TestPlace:
    """The voxel that is seen under the mouse is the one that is clicked."""

    @pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
    def test_in_each_view(self, desktop, session, name):
        voxel = region_voxel(session)
        click_on(desktop, Mouse(name), voxel)
        assert voxel_of(session.review.clicks[-1]) == voxel

    def test_in_an_oblique_view(self, desktop, session, mouse):
        voxel = region_voxel(session)
        turn = vtk.vtkTransform()
        turn.RotateX(31)
        turn.RotateY(-17)
        turn.Concatenate(mouse.node.GetSliceToRAS())
        mouse.node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        mouse.node.UpdateMatrices()
        click_on(desktop, mouse, voxel)
        assert voxel_of(session.review.clicks[-1]) == voxel
        mouse.node.SetOrientation("Axial")

    def test_under_a_transform(self, desktop, session, mouse):
        voxel = region_voxel(session)
        turn = vtk.vtkTransform()
        turn.Translate(11, -7, 5)
        turn.RotateZ(40)
        transform(session.results.ctNode, slicer.util.arrayFromVTKMatrix(turn.GetMatrix()))
        desktop.process()
        desktop.ui.organHereButton.click()
        world = turn.TransformPoint(place(*voxel).tolist())
        mouse.click(world)
        assert voxel_of(session.review.clicks[-1]) == voxel
        (mark,) = slicer.util.arrayFromMarkupsControlPoints(session.results.node("clicks.organ"), world=True)
        assert np.abs(mark - world).max() < 1.0

    def test_a_layout_that_comes_later_has_clicks_too(self, desktop, session):
        desktop.ui.organHereButton.click()
        desktop.app.layoutManager().layoutChanged.emit(3)
        green = Mouse("Green")
        assert green.widget.cursor.shape() == qt.Qt.CrossCursor
        green.click(place(*region_voxel(session)))
        assert len(session.review.clicks) == 1


class TestKeys:
    @pytest.fixture
    def keys(self, desktop, session):
        desktop.window.activateWindow()

        return lambda key: QtTest.QTest.keyClick(desktop.window, getattr(qt.Qt, f"Key_{key}"))

    def test_a_key_switches_on_and_off(self, desktop, ui, session, keys):
        def press(key):
            keys(key)
            return ui.organHereButton.checked, ui.notOrganHereButton.checked, ui.clicksOffButton.checked

        assert press("O") == (True, False, False)
        assert press("L") == (False, True, False)
        assert press("L") == (False, False, True)

    def test_marks_are_hidden_and_shown_with_one_key(self, desktop, session, mouse, keys):
        click_on(desktop, mouse, region_voxel(session))
        display = session.results.node("clicks.organ").GetDisplayNode()
        for visible in (0, 1, 0):
            keys("H")
            assert display.GetVisibility() == visible
        mouse.click(place(*region_voxel(session, 2)))
        assert display.GetVisibility() == 0
        desktop.ui.hideClicksButton.click()
        assert display.GetVisibility() == 1

    def test_they_are_text_where_text_is_typed(self, desktop, session):
        desktop.window.activateWindow()
        desktop.ui.commentEdit.setFocus()
        desktop.process()
        QtTest.QTest.keyClicks(desktop.ui.commentEdit, "hollow")
        assert desktop.ui.commentEdit.text == "hollow"
        assert desktop.ui.clicksOffButton.checked


class TestList:
    @pytest.fixture
    def clicked(self, desktop, session, mouse):
        """Two clicks, organ and not."""
        click_on(desktop, mouse, region_voxel(session))
        click_on(desktop, mouse, region_voxel(session, 2), 0)
        desktop.ui.clicksOffButton.click()
        desktop.ui.clicksCollapsibleButton.collapsed = False

    def rows(self, desktop) -> list[list[str]]:
        table = desktop.ui.clicksTable
        return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]

    def test_each_click_is_listed_with_what_it_changed(self, desktop, session, clicked):
        desktop.process(until=lambda: self.rows(desktop)[0][2])
        assert [row[0] for row in self.rows(desktop)] == ["pancreas", "not organ"]
        effects = [
            session.review.refiner.effect(click, session.review.clicks)[0] / 1000 for click in session.review.clicks
        ]
        for row, effect in zip(self.rows(desktop), effects, strict=True):
            assert float(row[2].removesuffix(" ml").replace("−", "-")) == pytest.approx(effect, abs=0.0051)
        assert desktop.ui.clicksCollapsibleButton.text == "Clicks (2)"

    def test_selecting_one_goes_there(self, desktop, session, clicked):
        desktop.ui.clicksTable.selectRow(0)
        matrix = desktop.app.layoutManager().sliceWidget("Green").mrmlSliceNode().GetSliceToRAS()
        there = [matrix.GetElement(row, 3) for row in range(3)]
        assert there == pytest.approx(session.review.clicks[0].points_ras[0], abs=1e-3)

    def test_one_can_be_removed(self, desktop, session, clicked):
        kept = session.review.clicks[1]
        desktop.ui.clicksTable.selectRow(0)
        desktop.ui.removeClickButton.click()
        assert session.review.clicks == (kept,)
        same(session)
        desktop.ui.undoButton.click()
        assert len(session.review.clicks) == 2
        same(session)


class TestSeveralLabels:
    def test_a_click_gives_the_label_that_is_chosen(self, desktop):
        session = show_result(desktop, *two_labels())
        selector, mouse = desktop.ui.clickLabelSelector, Mouse("Red")
        assert not selector.isHidden()
        assert [selector.itemText(index) for index in range(2)] == ["pancreas", "adrenal gland left"]
        selector.currentIndex = 1
        voxel, other = region_voxel(session, organ=False), region_voxel(session, 2, organ=True)
        click_on(desktop, mouse, voxel)
        assert session.review.clicks[0].label == session.results.organs.array()[voxel] == 2
        click_on(desktop, mouse, other, 0)
        assert (session.review.clicks[1].label, session.results.organs.array()[other]) == (0, 0)
        desktop.process(until=lambda: desktop.ui.clicksTable.rowCount == 2)
        assert [desktop.ui.clicksTable.item(row, 0).text() for row in (0, 1)] == ["adrenal gland left", "not organ"]

    def test_organ_here_means_the_organ_of_the_region_that_the_reader_goes_to(self, desktop):
        ui, session, mouse = desktop.ui, show_result(desktop, *two_labels()), Mouse("Red")
        predicted = session.review.prediction.segmentation
        organs = [np.bincount(predicted[each.box][each.mask])[1:].argmax() for each in session.review.regions]
        assert set(organs) == {0, 1} and ui.clickLabelSelector.currentIndex == organs[0]
        for step in (ui.nextButton, ui.nextButton, ui.previousButton):
            step.click()
            assert ui.clickLabelSelector.currentIndex == organs[selected(desktop)]
        ui.regionsTable.selectRow(organs.index(1))
        click_on(desktop, mouse, region_voxel(session, organs.index(1) + 1, organ=False))
        assert session.review.clicks[0].label == 2
        ui.clickLabelSelector.currentIndex = 0  # what the reader has chosen since holds, wherever they click
        click_on(desktop, mouse, region_voxel(session, organs.index(1) + 1, organ=True))
        assert session.review.clicks[1].label == 1 and ui.clickLabelSelector.currentIndex == 0

    def test_one_label_needs_no_list(self, desktop, session):
        assert desktop.ui.clickLabelSelector.isHidden() and desktop.ui.lockLabelButton.isHidden()

    def test_a_locked_label_stays_until_it_is_unlocked_or_undone(self, desktop):
        ui, session, mouse = desktop.ui, show_result(desktop, *two_labels()), Mouse("Red")
        voxel = region_voxel(session, organ=True)
        label = int(session.results.organs.array()[voxel])
        ui.clickLabelSelector.currentIndex = label - 1
        ui.lockLabelButton.click()
        assert ui.lockLabelButton.checked and "locked" in ui.clickLabelSelector.itemText(label - 1)
        ui.clickLabelSelector.currentIndex = 2 - label
        assert not ui.lockLabelButton.checked
        for given in (0, 1):
            click_on(desktop, mouse, voxel, given)
            assert "unlock it first" in ui.clickStatusLabel.text and desktop.dialogs == []
            assert session.review.drawn == () and session.results.organs.array()[voxel] == label
        assert [ui.clicksTable.item(0, column).text() for column in (0, 1)] == [
            ui.clickLabelSelector.itemText(label - 1).removesuffix(" (locked)"),
            "locked",
        ]
        ui.undoButton.click()
        assert not session.review.locks and "locked" not in ui.clickLabelSelector.itemText(label - 1)
        ui.redoButton.click()
        ui.clickLabelSelector.currentIndex = label - 1
        assert ui.lockLabelButton.checked
        ui.lockLabelButton.click()
        click_on(desktop, mouse, voxel, 0)
        assert session.results.organs.array()[voxel] == 0
        same(session)


class TestFlash:
    def test_what_a_click_changed_flashes_up_with_its_volume_beside_it(self, desktop, session, mouse):
        other = desktop.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        for view in composites(desktop):  # which the reader has chosen
            view.SetLabelVolumeID(other.GetID())
            view.SetLabelOpacity(0.25)
        click_on(desktop, mouse, region_voxel(session, organ=True), 0)
        marks, shown = session.results.node("clicks.background"), session.changes.node
        assert session.changes.holders()
        assert not shown.GetSaveWithScene()
        voxels = slicer.util.arrayFromVolume(shown)
        change = session.lastChange
        assert np.array_equal(voxels == slicer_app.clicks.changes.REMOVED, (change.before > 0) & (change.after == 0))
        label = marks.GetNthControlPointLabel(0)
        assert label == f"−{volume_text(change.removed_ml)}"
        desktop.process(until=lambda: not session.changes.holders())
        views = composites(desktop)
        assert {(view.GetLabelVolumeID(), view.GetLabelOpacity()) for view in views} == {(other.GetID(), 0.25)}
        desktop.process(until=lambda: not marks.GetNthControlPointLabel(0))


class TestPreview:
    def visible(self, desktop) -> bool:
        return bool(desktop.widget.panel.review.session.changes.holders())

    def test_the_first_press_shows_and_the_second_decides(self, desktop, ui, session):
        ui.includeButton.click()
        assert statuses(desktop)[0] == "To review"
        assert self.visible(desktop)
        assert ui.includeButton.checked and not ui.excludeButton.checked
        assert ui.clickStatusLabel.text.startswith("Include would add ")
        ui.excludeButton.click()
        assert statuses(desktop)[0] == "To review"
        assert ui.excludeButton.checked and not ui.includeButton.checked
        change = ui.clickStatusLabel.text
        ui.excludeButton.click()
        assert statuses(desktop)[0] == "Excluded"
        assert volume_text(session.lastChange.removed_ml) in change
        assert not ui.excludeButton.checked
        same(session)

    def test_the_mouse_over_the_button_shows_and_a_press_decides(self, desktop, session):
        button = desktop.ui.includeButton
        session.step(Review.click, [tuple(place(*region_voxel(session, 2)))], 1)
        desktop.widget.panel.update()
        desktop.process()
        before = button.mapToGlobal(qt.QPoint(0, 0))
        desktop.app.sendEvent(button, qt.QEvent(qt.QEvent.Enter))
        desktop.process()
        assert self.visible(desktop)
        assert button.mapToGlobal(qt.QPoint(0, 0)) == before  # it stays under the mouse
        desktop.app.sendEvent(button, qt.QEvent(qt.QEvent.Leave))
        assert not self.visible(desktop)
        desktop.app.sendEvent(button, qt.QEvent(qt.QEvent.Enter))
        button.click()
        assert statuses(desktop)[0] == "Included"

    @pytest.mark.parametrize("key", ["Return", "Enter", "Escape"])
    def test_return_decides_and_escape_leaves_it(self, desktop, session, key):
        desktop.window.activateWindow()
        desktop.ui.includeButton.click()
        desktop.press(key)
        assert statuses(desktop)[0] == ("To review" if key == "Escape" else "Included")
        assert key != "Escape" or not self.visible(desktop)

    def test_another_region_ends_it(self, desktop, session):
        desktop.ui.includeButton.click()
        desktop.ui.regionsTable.selectRow(1)
        assert not self.visible(desktop)
        desktop.ui.includeButton.click()
        assert statuses(desktop)[:2] == ["To review", "To review"]

    def test_what_changes_nothing_takes_no_view(self, desktop, session):
        """The first press decides then; a second one, too, leaves the reader's own label layer in the views."""
        for _ in range(3):
            desktop.ui.excludeButton.click()
        desktop.process(until=lambda: not self.visible(desktop))
        assert statuses(desktop)[0] == "Excluded"


class TestNext:
    def test_it_goes_down_the_list_and_marks_where_a_click_helps_most(self, desktop, session):
        desktop.ui.regionsTable.selectRow(2)
        desktop.ui.nextButton.click()
        assert selected(desktop) == 0
        suggestion = suggest(session.review, [session.review.regions[0].region_id])
        (mark,) = slicer.util.arrayFromMarkupsControlPoints(session.results.node("clicks.suggestion"))
        assert mark == pytest.approx(suggestion.point_ras)

    def test_a_region_that_is_passed_over_comes_again_after_all_others(self, desktop, session):
        seen = []
        for _ in range(6):
            desktop.ui.nextButton.click()
            seen.append(selected(desktop))
        assert seen == [1, 2, 0, 1, 2, 0]

    def test_after_a_click_that_moves_its_region_down_the_list_none_is_passed_over(self, desktop, session):
        table = desktop.ui.regionsTable
        first, second, _third = (each.region_id for each in session.review.regions)
        table.selectRow(0)
        session.step(Review.click, [session.review.regions[0].region.centroid_ras], 0)
        desktop.widget.panel.update()
        assert [each.region_id for each in session.review.regions][-1] == first
        desktop.ui.nextButton.click()
        row = selected(desktop)
        assert (row, session.review.regions[row].region_id) == (0, second)

    def test_a_click_removes_the_cross(self, desktop, session, mouse):
        desktop.ui.regionsTable.selectRow(2)
        desktop.ui.nextButton.click()
        click_on(desktop, mouse, region_voxel(session))
        assert session.results.node("clicks.suggestion").GetNumberOfControlPoints() == 0

    def test_marks_are_seen_over_their_own_ct_alone(self, desktop, session):
        desktop.ui.nextButton.click()
        session.step(Review.click, [session.review.regions[0].region.centroid_ras], 0)
        desktop.ui.nextButton.click()
        marks = [session.results.node(f"clicks.{role}").GetDisplayNode() for role in ("background", "suggestion")]
        assert [mark.GetVisibility() for mark in marks] == [1, 1]
        apart = show_result(desktop, *two_labels(), "other")
        assert [mark.GetVisibility() for mark in marks] == [0, 0]
        desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
        desktop.process()
        assert [mark.GetVisibility() for mark in marks] == [1, 1]
        assert apart.results.node("clicks.background") is None

    def test_a_verdict_removes_the_cross_and_a_comment_leaves_it(self, desktop, session):
        desktop.ui.nextButton.click()
        cross = session.results.node("clicks.suggestion")
        desktop.ui.commentEdit.text = "Vessel"
        desktop.ui.commentEdit.editingFinished.emit()
        assert [each.comment for each in session.review.regions].count("Vessel") == 1
        assert cross.GetNumberOfControlPoints() == 1
        desktop.ui.acceptButton.click()
        assert cross.GetNumberOfControlPoints() == 0
        desktop.ui.undoButton.click()
        assert statuses(desktop) == ["To review"] * 3
        assert cross.GetNumberOfControlPoints() == 0


class TestRegions:
    def test_a_click_in_a_decided_region_opens_it_again(self, desktop, session, mouse):
        voxel = region_voxel(session)
        decide(desktop.ui.excludeButton)
        assert statuses(desktop)[0] == "Excluded"
        click_on(desktop, mouse, voxel)
        region = region_at(session.review, tuple(place(*voxel)))
        assert region.verdict == "pending"
        assert session.results.organs.array()[voxel] == 1
        same(session)

    def test_the_region_that_is_clicked_in_is_selected_and_the_views_stay(self, desktop, session, mouse):
        voxel = region_voxel(session, 3)
        mouse.go(place(*voxel))
        before = mouse.pixel(place(*voxel))
        desktop.ui.organHereButton.click()
        mouse.stroke([place(*voxel)])
        selected = desktop.widget.panel.review._table.selected
        assert selected.region_id == session.review.clicks[0].region_id
        assert mouse.pixel(place(*voxel)) == before


def test_a_saved_scene_brings_back_clicks_and_what_they_changed(desktop, session, mouse, tmp_path):
    click_on(desktop, mouse, region_voxel(session, organ=False))
    click_on(desktop, mouse, region_voxel(session, 2, organ=True), 0)
    clicks = session.review.clicks
    session.results.node("clicks.organ").SetNthControlPointPosition(0, 0.0, 0.0, 0.0)  # somebody has moved a mark
    reopen(desktop, tmp_path)
    assert desktop.dialogs == []
    again = desktop.logic.sessions.get(desktop.ui.ctSelector.currentNode())
    assert again.review.clicks == clicks
    assert desktop.ui.clicksTable.rowCount == 2
    same(again)
    click_on(desktop, mouse, region_voxel(again, 3))
    assert len(again.review.clicks) == 3
    same(again)


def test_another_map_shows_the_clicks_too(desktop, session, mouse):
    desktop.ui.organHereButton.click()
    voxel = region_voxel(session, organ=False)
    mouse.click(place(*voxel))
    desktop.ui.overlayCollapsibleButton.collapsed = False
    desktop.ui.mapSelector.currentText = "Probability"
    desktop.process(until=lambda: session.results.overlay.values["kind"] == "probability")
    assert shown_map(session)[voxel] == 1
    assert (
        session.results.overlay.maps.arrays("probability")[1][voxel]
        == session.review.prediction.probability[0][voxel]
        < 1
    )
    mouse.click(place(*region_voxel(session, 2, organ=False)))
    assert shown_map(session)[region_voxel(session, 2, organ=False)] > 0.5
