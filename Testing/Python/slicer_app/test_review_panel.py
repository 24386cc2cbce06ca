"""The review in the panel, with the fake worker: keys, comments, sign-off, slider, drawing, CTs and organs."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.results_folder import describe
from MoBUncertaintyLib.regions.finder import find_regions
from MoBUncertaintyLib.regions.region import Discrepancy
from support import sessions
from support.fake_worker import fake_prediction
from support.late import QtTest, qt, slicer, slicer_app
from support.small_panel import (
    MATRIX,
    SHAPE,
    accept_all,
    add_ct,
    apply,
    composites,
    decide,
    foregrounds,
    selected,
    show_result,
    shown,
    statuses,
    two_labels,
    with_regions,
)

pytestmark = pytest.mark.own_process


class TestReview:
    def test_keys_act_while_the_module_is_shown(self, desktop, session):
        desktop.window.activateWindow()
        desktop.press("I", "I", "N", "X", "X", "N", "A", "P")
        assert statuses(desktop) == ["Included", "Excluded", "Accepted"]
        assert selected(desktop) == 1
        desktop.press("Ctrl+Z")
        assert statuses(desktop)[2] == "To review"
        desktop.press("Ctrl+Shift+Z")
        assert statuses(desktop)[2] == "Accepted"
        desktop.widget.exit()
        desktop.press("I", "I")
        assert statuses(desktop) == ["Included", "Excluded", "Accepted"]
        desktop.widget.enter()
        desktop.press("I", "I")
        assert "Accepted" not in statuses(desktop)

    def test_a_comment_belongs_to_its_region(self, desktop, ui, session):
        ui.commentEdit.text = "Vessel"
        ui.commentEdit.editingFinished.emit()
        ui.nextButton.click()
        assert ui.commentEdit.text == ""
        ui.previousButton.click()
        assert ui.commentEdit.text == "Vessel"
        assert [region.comment for region in session.review.regions] == ["Vessel", "", ""]
        assert [ui.regionsTable.item(row, 5).text() for row in (0, 1)] == ["✎", ""]
        assert "Vessel" in ui.regionsTable.item(0, 5).toolTip()

    def test_sign_off_waits_for_every_verdict_and_a_name_then_locks(self, desktop, ui, session):
        ui.readerEdit.text = ""
        assert not ui.signOffButton.enabled and "3 of 3" in ui.signOffButton.toolTip
        accept_all(desktop)
        assert not ui.signOffButton.enabled and "name" in ui.signOffButton.toolTip
        ui.readerEdit.text = "Dr. Åse Müller"
        ui.signOffButton.click()
        assert session.review.signature.name == "Dr. Åse Müller"
        assert "Dr. Åse Müller" in ui.reviewProgressLabel.text
        locked = (ui.acceptButton, ui.includeButton, ui.excludeButton, ui.editButton, ui.commentEdit, ui.undoButton)
        assert not any(widget.enabled for widget in (*locked, ui.listingCollapsibleButton))
        assert "Reopen" in ui.includeButton.toolTip
        assert ui.nextButton.enabled
        ui.signOffButton.click()
        assert session.review.signature is None
        assert all(widget.enabled for widget in locked)

    def test_next_leads_to_what_is_undecided_and_then_to_the_sign_off(self, desktop, ui, session):
        ui.readerEdit.text = ""
        ui.regionsTable.selectRow(1)
        ui.acceptButton.click()
        for _ in range(4):
            ui.nextButton.click()
            assert selected(desktop) != 1
        decide(ui.excludeButton)
        ui.nextButton.click()
        ui.acceptButton.click()
        last = selected(desktop)
        ui.nextButton.click()
        assert selected(desktop) == last
        assert ui.readerEdit.hasFocus()
        ui.readerEdit.text = "Dr. Åse Müller"
        ui.readerEdit.returnPressed.emit()
        assert ui.signOffButton.hasFocus()
        ui.signOffButton.clearFocus()
        ui.nextButton.click()
        assert ui.signOffButton.hasFocus()
        ui.signOffButton.click()
        ui.regionsTable.selectRow(0)
        ui.nextButton.click()
        assert selected(desktop) == 1  # what is locked is looked through

    def test_another_verdict_on_a_decided_region_is_said(self, desktop, ui, session):
        counter = ui.clickStatusLabel.text
        decide(ui.excludeButton)
        assert ui.clickStatusLabel.text == counter
        ui.acceptButton.click()
        assert ui.clickStatusLabel.text == "Region 1 was Excluded and is now Accepted; Undo reverts this."
        ui.acceptButton.click()
        assert ui.clickStatusLabel.text == counter  # which changed nothing
        assert statuses(desktop)[0] == "Accepted"

    @pytest.mark.parametrize("name", ["commentEdit", "readerEdit"])
    def test_return_gives_the_keys_back_to_the_review(self, desktop, session, name):
        edit = getattr(desktop.ui, name)
        desktop.window.activateWindow()
        edit.setText("")
        edit.setFocus()
        desktop.process()
        QtTest.QTest.keyClicks(edit, "an ox is alone")
        assert statuses(desktop) == ["To review"] * 3
        desktop.press("Return", on=edit)
        assert desktop.ui.regionsTable.hasFocus()
        desktop.press("A", on=desktop.app.focusWidget())
        assert statuses(desktop) == ["Accepted", "To review", "To review"]
        assert edit.text == "an ox is alone"
        assert session.review.regions[0].comment == ("an ox is alone" if name == "commentEdit" else "")

    def test_a_button_ends_a_comment_on_desktops_that_give_it_no_focus(self, desktop, ui, session):
        desktop.window.activateWindow()
        ui.commentEdit.setFocus()
        ui.commentEdit.text = "Vessel"
        desktop.process()
        ui.nextButton.click()  # as on macOS
        assert not ui.commentEdit.hasFocus()
        assert [each.comment for each in session.review.regions] == ["Vessel", "", ""]

    def test_the_list_follows_the_slider_and_undo_leads_it_back(self, desktop, ui, session):
        ui.nextButton.click()
        decide(ui.excludeButton)
        decided = session.review.regions[1].region_id
        before = [region.region_id for region in session.review.regions]
        for value in np.linspace(0.02, 0.04, 30):  # a drag
            ui.regionThresholdSlider.value = value
        desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(0.04))
        assert session.review.region(decided).verdict == "exclude"
        assert ui.regionsTable.rowCount == len(session.review.regions)
        ui.undoButton.click()
        assert ui.regionThresholdSlider.value == pytest.approx(0.015)
        assert [region.region_id for region in session.review.regions] == before

    def test_what_the_regions_leave_out_follows_the_slider(self, desktop, ui):
        prediction, _ = fake_prediction(SHAPE, MATRIX)
        said = {level: find_regions(prediction, RegionSettings(threshold=level)) for level in (0.07, 0.08, 0.02)}
        first, other, enough = (each.coverage.warning for each in said.values())
        odd = "The CT is odd."
        assert "45 %" in first and other not in (None, first) and enough is None
        prediction = describe(prediction, said[0.07])
        prediction.warnings[:] = [odd, first]
        session = show_result(desktop, prediction, said[0.07])

        def move(level: float) -> str:
            ui.regionThresholdSlider.value = level
            desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(level))
            return ui.reviewWarningsLabel.text

        assert (ui.reviewWarningsLabel.text, ui.reviewWarningsLabel.visible) == (f"{first}\n{odd}", True)
        assert move(0.02) == odd
        assert move(0.08) == f"{other}\n{odd}"
        again = slicer_app.review_session.ReviewSession.open(session.results)
        assert (again.regions.warning, again.warnings) == (other, [odd])
        ui.undoButton.click()
        assert ui.reviewWarningsLabel.text == f"{first}\n{odd}"
        move(0.02)
        ui.regionsTable.selectRow(0)
        ui.acceptButton.click()  # what is decided stays on the list, and counts
        assert move(0.08) == odd and ui.regionsTable.rowCount == 1

    def test_another_measure_of_doubt_starts_at_its_usual_threshold(self, desktop, ui, session):
        decide(ui.excludeButton)
        decided = session.review.regions[0].region_id
        assert [ui.measureSelector.itemText(n) for n in range(3)] == ["Variance", "p (1 - p)", "Entropy"]
        ui.regionThresholdSlider.value = 0.02
        desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(0.02))
        ui.measureSelector.currentIndex = 2
        desktop.process(until=lambda: session.review.settings.measure == "entropy")
        assert session.review.settings.threshold is None
        assert ui.regionThresholdSlider.value == pytest.approx(0.2)
        assert session.review.region(decided).verdict == "exclude"
        ui.undoButton.click()
        assert (session.review.settings.measure, ui.measureSelector.currentIndex) == ("variance", 0)
        assert session.review.settings.level == ui.regionThresholdSlider.value == pytest.approx(0.02)

    def test_a_model_without_variance_offers_none(self, desktop, session):
        review, selector = desktop.widget.panel.review, desktop.ui.measureSelector

        def offered() -> list[str]:
            review.setSession(None)
            review.setSession(session)
            return [selector.itemText(n) for n in range(selector.count)]

        vars(session.review.prediction)["covariance"] = Covariance.DETERMINISTIC
        assert offered() == ["Variance", "p (1 - p)", "Entropy"]  # it is in force
        selector.currentIndex = 1
        desktop.process(until=lambda: session.review.settings.measure == "bernoulli")
        assert offered() == ["p (1 - p)", "Entropy"]
        assert selector.currentIndex == 0
        assert session.review.settings.measure == "bernoulli"

    def test_the_slider_rounds_no_threshold_that_a_model_states(self, desktop, session):
        ui, review = desktop.ui, desktop.widget.panel.review
        kept = session.results.documents.get("prediction")
        kept["provenance"]["regions"] = {"settings": {"variance_threshold": 0.00333}}
        session.results.documents.set("prediction", kept)
        region_map = session.review.listed().whole_map()
        scaled = type(session).start(session.results, session.review.prediction.segmentation, region_map)
        review.setSession(scaled)
        assert (ui.regionThresholdSlider.decimals, ui.regionThresholdSlider.value) == (5, 0.00333)
        assert ui.regionThresholdSlider.maximum == pytest.approx(0.0222, abs=1e-4)
        ui.smallestRegionSlider.value = 30
        desktop.process(until=lambda: scaled.review.settings.minimum_mm3 == 30)
        assert (scaled.review.settings.threshold, scaled.review.settings.level) == (None, 0.00333)
        ui.regionThresholdSlider.value = 0.004
        desktop.process(until=lambda: scaled.review.settings.threshold == 0.004)

    def test_a_low_threshold_can_be_typed(self, desktop, session):
        (box,) = desktop.ui.regionThresholdSlider.findChildren(qt.QDoubleSpinBox)
        box.lineEdit().setText("0.0005")
        box.interpretText()
        desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(0.0005))

    def test_edit_offers_no_brush_that_paints_elsewhere(self, desktop, session):
        desktop.ui.editButton.click()
        boxes = desktop.ui.segmentEditorPlace.findChildren(qt.QCheckBox)
        assert [box.text for box in boxes if not box.isHidden()] == ["Sphere brush"]

    def test_edit_draws_in_the_region_and_discard_forgets(self, desktop, session):
        ui, region = desktop.ui, session.review.regions[0]
        ui.editButton.click()
        assert ui.editButton.text == "Done"
        assert not ui.segmentEditorPlace.isHidden()
        assert not any(button.enabled for button in (ui.acceptButton, ui.nextButton, ui.undoButton, ui.regionsTable))
        ui.editButton.click()
        assert statuses(desktop)[0] == "To review"  # nothing was drawn
        for end, status in ((ui.discardEditButton, "To review"), (ui.editButton, "Edited")):
            ui.editButton.click()
            sessions.draw(session, region)
            end.click()
            assert ui.segmentEditorPlace.isHidden()
            assert statuses(desktop)[0] == status
            assert np.array_equal(session.results.organs.array(), session.review.corrected())
        assert (session.review.labels_in(region.box)[region.mask] == 1).all()

    @pytest.mark.parametrize("cancelled", [True, False])
    def test_edit_does_not_look_pressed_when_nothing_is_edited(self, desktop, ui, session, cancelled):
        if cancelled:
            sessions.stray(session)
            desktop.answer("Cancel")
        ui.editButton.click()
        assert bool(session.drawing.regionId) is not cancelled
        ui.discardEditButton.click()
        assert not ui.editButton.isChecked()
        assert ui.editButton.text == "Edit"

    def test_a_region_without_a_selected_row_gets_no_verdict(self, desktop, session):
        """Ctrl+click on the selected row would take the selection away, and the buttons would act on it still."""
        table = desktop.ui.regionsTable
        desktop.ui.nextButton.click()
        place = table.visualItemRect(table.item(1, 2)).center()
        QtTest.QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, qt.Qt.ControlModifier, place)
        desktop.process()
        assert selected(desktop) == 1
        decide(desktop.ui.excludeButton)
        assert statuses(desktop) == ["To review", "Excluded", "To review"]

    def test_undo_in_the_editor_leads_back_to_the_start_of_the_edit_and_no_farther(self, desktop, ui, session):
        ui.editButton.click()
        editor = ui.segmentEditorPlace.findChild(slicer.qMRMLSegmentEditorWidget)
        editor.history.append("before the first stroke")
        ui.editButton.click()
        ui.nextButton.click()
        ui.editButton.click()
        assert editor.history == []
        ui.discardEditButton.click()

    def test_no_key_limits_drawing_to_some_grey_values(self, desktop, session):
        """The panel hides the Segment Editor's intensity mask, whose key is that of Include."""
        desktop.window.activateWindow()
        desktop.ui.editButton.click()
        editor = desktop.scene.GetSingletonNode(slicer_app.drawing.EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        for _ in range(3):
            desktop.press("I")
            assert not editor.GetSourceVolumeIntensityMask()
        assert session.drawing.regionId
        desktop.ui.discardEditButton.click()
        desktop.press("I", "I")
        assert statuses(desktop)[0] == "Included"

    def test_a_comment_stays_with_its_region_though_the_field_keeps_the_keyboard(
        self, desktop, ui, session, monkeypatch
    ):
        monkeypatch.setattr(type(ui.commentEdit), "hasFocus", lambda _self: True)
        first, second = (region.region_id for region in session.review.regions[:2])
        ui.commentEdit.text = "belongs to the first"
        ui.nextButton.click()
        assert ui.commentEdit.text == ""
        ui.commentEdit.editingFinished.emit()
        assert session.review.region(first).comment == "belongs to the first"
        assert session.review.region(second).comment == ""

    @pytest.mark.parametrize(("drawn", "status"), [(True, "Edited"), (False, "To review")])
    def test_leaving_the_module_keeps_what_is_being_drawn(self, desktop, session, drawn, status):
        desktop.ui.editButton.click()
        if drawn:
            sessions.draw(session, session.review.regions[0])
        desktop.widget.exit()
        assert session.drawing.regionId is None
        assert statuses(desktop)[0] == status
        desktop.widget.enter()

    @pytest.mark.parametrize("button", ["signOffButton", "exportButton", "editButton", "applyButton"])
    def test_what_was_drawn_outside_of_the_review_is_asked_about(self, desktop, session, button):
        accept_all(desktop)
        desktop.ui.readerEdit.text = "A. Reader"
        desktop.ui.exportDirectoryEdit.currentPath = "/somewhere"
        sessions.stray(session)
        desktop.answer("Cancel")
        getattr(desktop.ui, button).click()
        (dialog,) = desktop.dialogs
        assert "8" in dialog.text
        assert session.segmentation.strayEdits() == 8
        assert session.review.signature is None
        assert session.drawing.regionId is None
        assert not desktop.logic.client.busy

    def test_each_ct_shows_its_own_results(self, desktop, session):
        decide(desktop.ui.includeButton)
        other = add_ct(desktop, "other")
        assert desktop.ui.regionsTable.rowCount == 0
        assert not desktop.ui.includeButton.enabled
        apply(desktop)
        assert statuses(desktop) == ["To review"] * 3
        desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
        assert statuses(desktop)[0] == "Included"
        assert shown(desktop) == [session.results.ctNode]
        desktop.ui.ctSelector.setCurrentNode(other)
        assert statuses(desktop)[0] == "To review"
        assert shown(desktop) == [other]

    def test_a_ct_without_results_is_not_seen_under_those_of_another(self, desktop, session):
        other = add_ct(desktop, "other")
        displays = [session.results.node(role).GetDisplayNode() for role in ("segmentation", "regions", "surface")]
        assert not any(display.GetVisibility() for display in displays)
        assert {view.GetBackgroundVolumeID() for view in composites(desktop)} == {other.GetID()}
        assert foregrounds(desktop) == {None}
        desktop.ui.ctSelector.setCurrentNode(session.results.ctNode)
        desktop.process()
        assert all(display.GetVisibility() for display in displays)

    def test_segments_deleted_in_the_segment_editor_come_back_with_the_next_verdict(self, desktop, session):
        results, ui = session.results, desktop.ui
        results.node("segmentation").GetSegmentation().RemoveSegment("Segment_1")
        results.node("regions").GetSegmentation().RemoveSegment("Segment_2")
        results.node("regions").GetSegmentation().GetSegment("Segment_3").SetName("renamed")
        decide(ui.excludeButton)
        assert desktop.dialogs == []
        assert np.array_equal(results.organs.array(), session.review.corrected())
        assert np.array_equal(results.regions.array(), session.review.listed().whole_map())
        assert results.node("segmentation").GetSegmentation().GetSegment("Segment_1").GetName() == "pancreas"

    @pytest.mark.parametrize("editing", [False, True])
    @pytest.mark.parametrize("role", ["segmentation", "variance", "ct"])
    def test_removed_nodes_end_the_review_without_a_crash(self, desktop, session, role, editing):
        desktop.ui.commentEdit.text = "never stored"
        if editing:
            desktop.ui.editButton.click()
        desktop.scene.RemoveNode(session.results.ctNode if role == "ct" else session.results.node(role))
        desktop.process()
        assert desktop.ui.regionsTable.rowCount == 0
        assert not desktop.ui.exportButton.enabled
        assert desktop.ui.segmentEditorPlace.isHidden()


def test_the_list_says_what_is_improbable_about_a_region_of_a_check(desktop):
    review = with_regions(desktop, 2).review
    table = slicer_app.sections.regions.RegionTable(desktop.ui.regionsTable, lambda: None)
    regions = []
    for region, missing in zip(review.regions, (True, False), strict=True):
        found = Discrepancy(**asdict(region.region), label="organ", missing=missing, discrepancy=42.0, false_alarms=0.1)
        regions.append(replace(region, region=found, found=replace(region.found, region=found)))
    table.clear(review.prediction)
    table.show(regions)
    items = [desktop.ui.regionsTable.item(row, 2) for row in range(2)]
    assert [item.text().rpartition(": ")[2] for item in items] == ["missing", "too much"]
    assert all("42 nats" in item.toolTip() and "0.1 on an ordinary contour" in item.toolTip() for item in items)


def test_regions_of_a_large_ct_are_looked_for_in_steps(desktop, session, monkeypatch):
    """The first move of a slider does not hold the application; what is moved meanwhile holds."""
    monkeypatch.setattr("MoBUncertaintyLib.slicer_app.widgets.section.AT_ONCE_S", 0.0)
    session.regions._finder, slider = None, desktop.ui.regionThresholdSlider
    prepared = []
    prepare = session.regions.prepare
    monkeypatch.setattr(session.regions, "prepare", lambda *measure: prepared.append(1) or prepare(*measure))
    slider.value = 0.02
    desktop.process(until=lambda: prepared)
    assert session.regions._finder is None
    slider.value = 0.03
    desktop.process(until=lambda: abs(session.review.settings.level - 0.03) < 1e-6)


class TestSeveralOrgans:
    @pytest.fixture
    def session(self, desktop):
        """A result of two organs, one above the other."""
        session = show_result(desktop, *two_labels())
        desktop.ui.overlayCollapsibleButton.collapsed = False
        return session

    def test_the_map_of_one_organ_or_of_all_is_shown(self, desktop, session):
        selector = desktop.ui.labelSelector
        assert not selector.isHidden()
        assert [selector.itemText(index) for index in range(3)] == ["All organs", "pancreas", "adrenal gland left"]
        selector.currentIndex = 2
        desktop.process(until=lambda: session.results.overlay.values["label"] == 2)
        selector.currentIndex = 0
        desktop.process(until=lambda: session.results.overlay.values["label"] is None)

    def test_include_asks_which_organ(self, desktop, session):
        actions = desktop.ui.includeButton.menu().actions()
        assert [action.text for action in actions] == ["pancreas", "adrenal gland left"]
        actions[1].hover()  # shows what would change
        actions[1].trigger()
        region = session.review.regions[0]
        assert (region.verdict, region.label) == ("include", 2)
        assert (session.results.organs.array()[session.review.listed().whole_map() == region.number] == 2).all()
        add_ct(desktop, "other")
        apply(desktop)  # a model of one organ
        assert desktop.ui.includeButton.menu() is None
        assert desktop.ui.labelSelector.isHidden()


# Of Slicer's own keys, as its sources of August 2026 have them, the module takes none.

MENUS = {"Ctrl+" + key for key in "0123456`CFHOSVWXYZ"} | {"Ctrl+Left", "Ctrl+Right", "Alt+Left", "Alt+Right"}
"""Of the main window: qSlicerMainWindow, qSlicerAppMainWindow, qSlicerModuleSelectorToolBar."""
MARKUPS = {"Ctrl+Shift+A", "Ctrl+Shift+T", "Ctrl+Shift+Space", "S", "Delete", "Shift+Delete", "Backspace"}
"""qMRMLMarkupsToolBar and vtkSlicerMarkupsWidget."""
SLICE_VIEWS = {"G", "T", "V", "Shift+V", "R", "F", "B", "[", "]", "{", "}", "Left", "Right", "Up", "Down"}
"""vtkMRMLSliceIntersectionWidget."""
VIEWS_3D = {"Ctrl+B", "R", "+", "-", "Left", "Right", "Up", "Down", "Home", "End", "PgDown", "Ins", "Clear", "Esc"}
"""vtkMRMLCameraWidget, and the widgets that Escape cancels."""
DIGITS = set("0123456789") | {f"Shift+{digit}" for digit in "0123456789"}
SEGMENT_EDITOR = DIGITS | {"Esc", "Space", "Z", "Y", "Ctrl+Z", "Ctrl+Y", "Q", "W", "/", "*", ",", ".", ">", "<", "I"}
"""qMRMLSegmentEditorWidget, while it is shown."""

ALWAYS = MENUS | MARKUPS | SLICE_VIEWS | VIEWS_3D
"""Those that act whatever module is shown."""

UNDO = {"Ctrl+Z"}  # Slicer's own is switched off unless somebody programs with the scene's undo
WHILE_DRAWING = {"E", "I"}  # I is taken on purpose: see ReviewSection
WHILE_PREVIEWING = {"Return", "Enter", "Esc"}  # only as long as there is something to decide or to leave
CLICKS = {
    "O": "organHereButton",
    "L": "notOrganHereButton",
    "K": "lassoButton",
    "J": "boxButton",
    "H": "hideClicksButton",
}


def keys(desktop, enabled_only: bool = True) -> set[str]:
    """The keys of all shortcuts of the window."""
    found = desktop.window.findChildren(qt.QShortcut)
    return {each.key.toString() for each in found if each.enabled or not enabled_only}


def test_none_is_slicers(desktop, session):
    ours = keys(desktop)
    assert {*CLICKS, "A", "I", "X", "N", "P", "E", "Ctrl+Z", "Ctrl+Shift+Z"} == ours
    assert ours & ALWAYS == UNDO
    assert keys(desktop, enabled_only=False) - ours == WHILE_PREVIEWING


def test_while_a_region_is_drawn_those_of_the_segment_editor_are_its_own(desktop, session):
    desktop.ui.editButton.click()
    assert keys(desktop) == WHILE_DRAWING
    assert keys(desktop) & (ALWAYS | SEGMENT_EDITOR) == {"I"}
    desktop.ui.discardEditButton.click()


def test_return_and_escape_are_taken_only_while_a_verdict_is_shown(desktop, session):
    desktop.ui.includeButton.click()
    assert keys(desktop) >= WHILE_PREVIEWING
    desktop.ui.includeButton.click()
    assert not WHILE_PREVIEWING & keys(desktop)


def test_buttons_show_their_keys(desktop, session):
    for key, name in CLICKS.items():
        assert getattr(desktop.ui, name).text.endswith(f"({key})")


def test_none_acts_while_another_module_is_shown(desktop, session):
    desktop.widget.exit()
    assert keys(desktop) == set()
    desktop.widget.enter()
