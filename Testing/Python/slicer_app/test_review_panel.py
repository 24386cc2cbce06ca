"""The review in the panel, with the fake worker: keys, comments, sign-off, slider, drawing, CTs and organs."""

import numpy as np
import pytest

from MoBUncertaintyLib.review.review import Review
from support import small_panel
from support.sessions import as_answer
from support.small_panel import add_ct, apply, decide, shown, statuses

pytestmark = pytest.mark.own_process


class TestReview:
    def test_keys_act_while_the_module_is_shown(self, reviewed):
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        desktop, _ = reviewed
        desktop.window.activateWindow()

        def press(*keys):
            for key in keys:
                QTest.keyClick(desktop.window, key)
            desktop.process()

        press(Qt.Key_I, Qt.Key_I, Qt.Key_N, Qt.Key_X, Qt.Key_X, Qt.Key_N, Qt.Key_A, Qt.Key_P)
        assert statuses(desktop) == ["Included", "Excluded", "Accepted"]
        assert desktop.ui.regionsTable.selectionModel().selectedRows()[0].row() == 1
        QTest.keyClick(desktop.window, Qt.Key_Z, Qt.ControlModifier)
        assert statuses(desktop)[2] == "To review"
        QTest.keyClick(desktop.window, Qt.Key_Z, Qt.ControlModifier | Qt.ShiftModifier)
        assert statuses(desktop)[2] == "Accepted"
        desktop.widget.exit()
        press(Qt.Key_I, Qt.Key_I)
        assert statuses(desktop) == ["Included", "Excluded", "Accepted"]
        desktop.widget.enter()
        press(Qt.Key_I, Qt.Key_I)
        assert "Accepted" not in statuses(desktop)

    def test_a_comment_belongs_to_its_region(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        ui.commentEdit.text = "Vessel"
        ui.commentEdit.editingFinished.emit()
        ui.nextButton.click()
        assert ui.commentEdit.text == ""
        ui.previousButton.click()
        assert ui.commentEdit.text == "Vessel"
        assert [region.comment for region in session.review.regions] == ["Vessel", "", ""]
        assert [ui.regionsTable.item(row, 5).text() for row in (0, 1)] == ["✎", ""]
        assert "Vessel" in ui.regionsTable.item(0, 5).toolTip()

    def test_sign_off_waits_for_every_verdict_and_a_name_then_locks(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        ui.readerEdit.text = ""
        assert ui.signOffButton.toolTip == "Still to decide: 3 of 3 regions."
        for _ in range(3):
            ui.acceptButton.click()
            ui.nextButton.click()
        assert not ui.signOffButton.enabled
        assert "name" in ui.signOffButton.toolTip
        ui.readerEdit.text = "Dr. Åse Müller"
        ui.signOffButton.click()
        assert session.review.signature.name == "Dr. Åse Müller"
        assert ui.reviewProgressLabel.text.startswith("Signed off by Dr. Åse Müller")
        locked = (ui.acceptButton, ui.includeButton, ui.excludeButton, ui.editButton, ui.commentEdit, ui.undoButton)
        assert not any(widget.enabled for widget in (*locked, ui.listingCollapsibleButton))
        assert "Reopen" in ui.includeButton.toolTip
        assert ui.clickStatusLabel.text == "Signed off: a click asks whether to withdraw the signature."
        assert ui.nextButton.enabled
        ui.signOffButton.click()
        assert session.review.signature is None
        assert all(widget.enabled for widget in locked)
        assert ui.reviewProgressLabel.text == "All 3 reviewed: sign off below."

    def test_next_leads_to_what_is_undecided_and_then_to_the_sign_off(self, reviewed):
        desktop, _session = reviewed
        ui = desktop.ui
        ui.readerEdit.text = ""

        def selected() -> int:
            return ui.regionsTable.selectionModel().selectedRows()[0].row()

        ui.regionsTable.selectRow(1)
        ui.acceptButton.click()
        for _ in range(4):
            ui.nextButton.click()
            assert selected() != 1
        decide(ui.excludeButton)
        ui.nextButton.click()
        ui.acceptButton.click()
        last = selected()
        ui.nextButton.click()
        assert selected() == last
        assert ui.reviewProgressLabel.text == "All 3 reviewed: enter your name below and sign off."
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
        assert selected() == 1  # what is locked is looked through

    def test_another_verdict_on_a_decided_region_is_said(self, reviewed):
        desktop, _session = reviewed
        ui = desktop.ui
        counter = ui.clickStatusLabel.text
        decide(ui.excludeButton)
        assert ui.clickStatusLabel.text == counter
        ui.acceptButton.click()
        assert ui.clickStatusLabel.text == "Region 1 was Excluded and is Accepted now; Undo takes that back."
        ui.acceptButton.click()
        assert ui.clickStatusLabel.text == counter  # which changed nothing
        assert statuses(desktop)[0] == "Accepted"

    @pytest.mark.parametrize("name", ["commentEdit", "readerEdit"])
    def test_return_gives_the_keys_back_to_the_review(self, reviewed, name):
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        desktop, session = reviewed
        edit = getattr(desktop.ui, name)
        desktop.window.activateWindow()
        edit.setText("")
        edit.setFocus()
        desktop.process()
        QTest.keyClicks(edit, "an ox is alone")
        assert statuses(desktop) == ["To review"] * 3
        QTest.keyClick(edit, Qt.Key_Return)
        desktop.process()
        assert desktop.ui.regionsTable.hasFocus()
        QTest.keyClick(desktop.app.focusWidget(), Qt.Key_A)
        assert statuses(desktop) == ["Accepted", "To review", "To review"]
        assert edit.text == "an ox is alone"
        assert session.review.regions[0].comment == ("an ox is alone" if name == "commentEdit" else "")

    def test_a_button_ends_a_comment_on_desktops_that_give_it_no_focus(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        desktop.window.activateWindow()
        ui.commentEdit.setFocus()
        ui.commentEdit.text = "Vessel"
        desktop.process()
        ui.nextButton.click()  # as on macOS
        assert not ui.commentEdit.hasFocus()
        assert [each.comment for each in session.review.regions] == ["Vessel", "", ""]

    def test_the_list_follows_the_slider_and_undo_leads_it_back(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
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

    def test_what_the_regions_leave_out_follows_the_slider(self, desktop):
        from MoBUncertaintyLib.model.region_settings import RegionSettings
        from MoBUncertaintyLib.output.results_folder import describe
        from MoBUncertaintyLib.regions.finder import find_regions
        from MoBUncertaintyLib.slicer_app.review_session import ReviewSession
        from support.fake_worker import fake_prediction

        prediction, _ = fake_prediction(small_panel.SHAPE, small_panel.MATRIX)
        said = {level: find_regions(prediction, RegionSettings(threshold=level)) for level in (0.07, 0.08, 0.02)}
        first, other, enough = (each.coverage.warning for each in said.values())
        odd = "The CT is odd."
        assert "45 %" in first and other not in (None, first) and enough is None
        prediction = describe(prediction, said[0.07])
        prediction.warnings[:] = [odd, first]
        session = small_panel.show_result(desktop, add_ct(desktop), as_answer(prediction, said[0.07]))
        ui = desktop.ui

        def move(level: float) -> str:
            ui.regionThresholdSlider.value = level
            desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(level))
            return ui.reviewWarningsLabel.text

        assert (ui.reviewWarningsLabel.text, ui.reviewWarningsLabel.visible) == (f"{first}\n{odd}", True)
        assert move(0.02) == odd
        assert move(0.08) == f"{other}\n{odd}"
        again = ReviewSession.open(session.results)
        assert (again.regions.warning, again.warnings) == (other, [odd])
        ui.undoButton.click()
        assert ui.reviewWarningsLabel.text == f"{first}\n{odd}"
        move(0.02)
        ui.regionsTable.selectRow(0)
        ui.acceptButton.click()  # what is decided stays on the list, and counts
        assert move(0.08) == odd and ui.regionsTable.rowCount == 1

    def test_another_measure_of_doubt_starts_at_its_usual_threshold(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        decide(ui.excludeButton)
        decided = session.review.regions[0].region_id
        assert [ui.measureSelector.itemText(n) for n in range(3)] == ["Variance", "p (1 - p)", "Entropy"]
        ui.regionThresholdSlider.value = 0.02
        desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(0.02))
        ui.measureSelector.currentIndex = 2
        assert (session.review.settings.measure, session.review.settings.threshold) == ("entropy", None)
        assert ui.regionThresholdSlider.value == pytest.approx(0.2)
        assert session.review.region(decided).verdict == "exclude"
        ui.undoButton.click()
        assert (session.review.settings.measure, ui.measureSelector.currentIndex) == ("variance", 0)
        assert session.review.settings.level == ui.regionThresholdSlider.value == pytest.approx(0.02)

    def test_a_model_without_variance_offers_none(self, reviewed):
        desktop, session = reviewed
        review, selector = desktop.widget.panel.review, desktop.ui.measureSelector

        from MoBUncertaintyLib.model.covariance import Covariance

        def offered() -> list[str]:
            review.setSession(None)
            review.setSession(session)
            return [selector.itemText(n) for n in range(selector.count)]

        vars(session.review.prediction)["covariance"] = Covariance.DETERMINISTIC
        assert offered() == ["Variance", "p (1 - p)", "Entropy"]  # it is in force
        selector.currentIndex = 1
        assert offered() == ["p (1 - p)", "Entropy"]
        assert selector.currentIndex == 0
        assert session.review.settings.measure == "bernoulli"

    def test_the_slider_rounds_no_threshold_that_a_model_states(self, reviewed):
        desktop, session = reviewed
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

    def test_a_low_threshold_can_be_typed(self, reviewed):
        import qt

        desktop, session = reviewed
        (box,) = desktop.ui.regionThresholdSlider.findChildren(qt.QDoubleSpinBox)
        box.lineEdit().setText("0.0005")
        box.interpretText()
        desktop.process(until=lambda: session.review.settings.threshold == pytest.approx(0.0005))

    def test_edit_offers_no_brush_that_paints_elsewhere(self, reviewed):
        import qt

        desktop, _session = reviewed
        desktop.ui.editButton.click()
        boxes = desktop.ui.segmentEditorPlace.findChildren(qt.QCheckBox)
        assert [box.text for box in boxes if not box.isHidden()] == ["Sphere brush"]

    def test_edit_draws_in_the_region_and_discard_forgets(self, reviewed):
        desktop, session = reviewed
        ui = desktop.ui
        ui.editButton.click()
        region = session.review.regions[0]
        assert ui.editButton.text == "Done"
        assert not ui.segmentEditorPlace.isHidden()
        assert not any(button.enabled for button in (ui.acceptButton, ui.nextButton, ui.undoButton, ui.regionsTable))
        ui.editButton.click()
        assert statuses(desktop)[0] == "To review"  # nothing was drawn
        ui.editButton.click()
        session.results.updateSegmentation(region.box, np.ones(region.mask.shape, np.uint8))
        ui.discardEditButton.click()
        assert statuses(desktop)[0] == "To review"
        assert np.array_equal(session.results.organs.array(), session.review.prediction.segmentation)
        ui.editButton.click()
        session.results.updateSegmentation(region.box, np.ones(region.mask.shape, np.uint8))
        ui.editButton.click()
        assert ui.segmentEditorPlace.isHidden()
        assert statuses(desktop)[0] == "Edited"
        assert (session.review.labels_in(region.box)[region.mask] == 1).all()

    @pytest.mark.parametrize("cancelled", [True, False])
    def test_edit_does_not_look_pressed_when_nothing_is_edited(self, reviewed, cancelled):
        import qt

        desktop, session = reviewed
        ui = desktop.ui
        if cancelled:
            session.results.updateSegmentation(np.s_[0:2, 0:2, 0:2], np.ones((2, 2, 2), np.uint8))
            desktop.answer(qt.QMessageBox.Cancel)
        ui.editButton.click()
        assert bool(session.drawing.regionId) is not cancelled
        ui.discardEditButton.click()
        assert not ui.editButton.isChecked()
        assert ui.editButton.text == "Edit"

    def test_a_region_without_a_selected_row_gets_no_verdict(self, reviewed):
        """Ctrl+click on the selected row would take the selection away, and the buttons would act on it still."""
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        desktop, _ = reviewed
        table = desktop.ui.regionsTable
        desktop.ui.nextButton.click()
        place = table.visualItemRect(table.item(1, 2)).center()
        QTest.mouseClick(table.viewport(), Qt.LeftButton, Qt.ControlModifier, place)
        desktop.process()
        assert [index.row() for index in table.selectionModel().selectedRows()] == [1]
        decide(desktop.ui.excludeButton)
        assert statuses(desktop) == ["To review", "Excluded", "To review"]

    def test_undo_in_the_editor_leads_back_to_the_start_of_the_edit_and_no_farther(self, reviewed):
        import slicer

        desktop, _ = reviewed
        ui = desktop.ui
        ui.editButton.click()
        editor = ui.segmentEditorPlace.findChild(slicer.qMRMLSegmentEditorWidget)
        editor.history.append("before the first stroke")
        ui.editButton.click()
        ui.nextButton.click()
        ui.editButton.click()
        assert editor.history == []
        ui.discardEditButton.click()

    def test_no_key_limits_drawing_to_some_grey_values(self, reviewed):
        """The panel hides the Segment Editor's intensity mask, whose key is that of Include."""
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        from MoBUncertaintyLib.slicer_app.drawing import EDITOR_TAG

        desktop, session = reviewed
        desktop.window.activateWindow()
        desktop.ui.editButton.click()
        editor = desktop.scene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        for _ in range(3):
            QTest.keyClick(desktop.window, Qt.Key_I)
            assert not editor.GetSourceVolumeIntensityMask()
        assert session.drawing.regionId
        desktop.ui.discardEditButton.click()
        QTest.keyClick(desktop.window, Qt.Key_I)
        QTest.keyClick(desktop.window, Qt.Key_I)
        assert statuses(desktop)[0] == "Included"

    def test_a_comment_stays_with_its_region_though_the_field_keeps_the_keyboard(self, reviewed, monkeypatch):
        desktop, session = reviewed
        ui = desktop.ui
        monkeypatch.setattr(type(ui.commentEdit), "hasFocus", lambda _self: True)
        first, second = (region.region_id for region in session.review.regions[:2])
        ui.commentEdit.text = "belongs to the first"
        ui.nextButton.click()
        assert ui.commentEdit.text == ""
        ui.commentEdit.editingFinished.emit()
        assert session.review.region(first).comment == "belongs to the first"
        assert session.review.region(second).comment == ""

    def test_results_follow_the_transform_that_the_ct_is_put_under(self, reviewed):
        desktop, session = reviewed
        transform = desktop.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        session.results.ctNode.SetAndObserveTransformNodeID(transform.GetID())
        for role in ("segmentation", "variance", "regions"):
            assert session.results.node(role).GetTransformNodeID() == transform.GetID()

    def test_results_of_a_ct_that_is_removed_are_not_shown_and_no_cts(self, reviewed):
        from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass

        desktop, session = reviewed
        left = [session.results.node(role) for role in ("segmentation", "regions", "surface")]
        desktop.scene.RemoveNode(session.results.ctNode)
        assert [node.GetDisplayVisibility() for node in left] == [0, 0, 0]
        desktop.process()
        assert [node.GetScene() for node in left] == [None] * 3
        assert desktop.ui.ctSelector.nodes() == []
        views = nodesByClass(desktop.scene, "vtkMRMLSliceCompositeNode")
        assert {view.GetForegroundVolumeID() for view in views} == {None}

    @pytest.mark.parametrize(("drawn", "status"), [(True, "Edited"), (False, "To review")])
    def test_leaving_the_module_keeps_what_is_being_drawn(self, reviewed, drawn, status):
        desktop, session = reviewed
        desktop.ui.editButton.click()
        if drawn:
            region = session.review.regions[0]
            session.results.updateSegmentation(region.box, np.ones(region.mask.shape, np.uint8))
        desktop.widget.exit()
        assert session.drawing.regionId is None
        assert statuses(desktop)[0] == status
        desktop.widget.enter()

    @pytest.mark.parametrize("button", ["signOffButton", "exportButton", "editButton"])
    def test_what_was_drawn_outside_of_the_review_is_asked_about(self, reviewed, button):
        import qt

        desktop, session = reviewed
        for region in session.review.regions:
            session.step(Review.decide, region.region_id, "accept")
        desktop.ui.readerEdit.text = "A. Reader"
        desktop.widget.panel.refresh()
        desktop.widget.panel.update()
        session.results.updateSegmentation(np.s_[0:2, 0:2, 0:2], np.ones((2, 2, 2), np.uint8))
        desktop.answer(qt.QMessageBox.Cancel)
        getattr(desktop.ui, button).click()
        (dialog,) = desktop.dialogs
        assert "8 voxels" in dialog.text
        assert session.segmentation.strayEdits() == 8
        assert session.review.signature is None
        assert session.drawing.regionId is None
        assert not desktop.logic.client.busy

    def test_each_ct_shows_its_own_results(self, reviewed):
        desktop, session = reviewed
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

    def test_segments_deleted_in_the_segment_editor_come_back_with_the_next_verdict(self, reviewed):
        desktop, session = reviewed
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
    def test_removed_nodes_end_the_review_without_a_crash(self, reviewed, role, editing):
        desktop, session = reviewed
        desktop.ui.commentEdit.text = "never stored"
        if editing:
            desktop.ui.editButton.click()
        desktop.scene.RemoveNode(session.results.ctNode if role == "ct" else session.results.node(role))
        desktop.process()
        assert desktop.ui.regionsTable.rowCount == 0
        assert not desktop.ui.exportButton.enabled
        assert desktop.ui.segmentEditorPlace.isHidden()

    def test_the_module_can_be_opened_anew(self, reviewed):
        """As Reload does: the old widget is cleaned up, and a new one finds all in the scene."""
        import qt

        import MoBUncertainty

        desktop, session = reviewed
        decide(desktop.ui.excludeButton)
        desktop.second = parent = type(desktop.panel)()  # kept: the host's node selectors observe the scene for ever
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(desktop.scene)
        parent.isEntered = True
        again = MoBUncertainty.MoBUncertaintyWidget(parent)
        again.setup()
        try:
            assert again.ui.regionsTable.item(0, 1).text() == "✓ Excluded"
            assert again.ui.ctSelector.currentNode() is session.results.ctNode
            assert all(shortcut.enabled for shortcut in again.panel.review._keys.made)
        finally:
            again.cleanup()
        desktop.scene.Clear(0)
        desktop.process()


def test_regions_of_a_large_ct_are_looked_for_in_steps(reviewed, monkeypatch):
    """The first move of a slider does not hold the application; what is moved meanwhile holds."""
    desktop, session = reviewed
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
    def organs(self, desktop):
        """A result of two organs, one above the other."""
        ct = add_ct(desktop)
        session = small_panel.show_result(desktop, ct, as_answer(*small_panel.two_labels()))
        desktop.ui.overlayCollapsibleButton.collapsed = False
        return desktop, session

    def test_the_map_of_one_organ_or_of_all_is_shown(self, organs):
        desktop, session = organs
        selector = desktop.ui.labelSelector
        assert not selector.isHidden()
        assert [selector.itemText(index) for index in range(3)] == ["All organs", "pancreas", "adrenal gland left"]
        selector.currentIndex = 2
        desktop.process(until=lambda: session.results.overlay.values["label"] == 2)
        selector.currentIndex = 0
        desktop.process(until=lambda: session.results.overlay.values["label"] is None)

    def test_include_asks_which_organ(self, organs):
        desktop, session = organs
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
