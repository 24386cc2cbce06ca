"""How much room the panel takes, and that all it holds can be seen: on a laptop too, whatever things are called."""

from itertools import combinations

import pytest

from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from support.late import qt, slicer_app
from support.small_panel import add_ct, apply, with_regions

pytestmark = pytest.mark.own_process

WIDEST = 420  # pixels of Slicer's window
LAPTOP = (1366, 730)
WITHIN = ("models", "advanced", "listing", "clicks")
"""Sections that are within others, folded at first."""
FIRST_SIGHT = 8
"""Controls that a first-time user sees at most, besides the headings of sections."""
LONG_NAME = "Thorax and abdomen, portal venous phase, 1.0 mm, soft kernel, second of three series, moved"


def parts(ui) -> list:
    return [part for name, part in vars(ui).items() if name.endswith("CollapsibleButton")]


def needed(desktop) -> int:
    """Pixels that what is shown needs at least."""
    desktop.process()
    return desktop.ui.inputsCollapsibleButton.parentWidget().layout().totalMinimumSize().width()


def controls(ui) -> list[str]:
    """Names of the visible widgets that do something."""
    kinds = ("Button", "Selector", "Edit", "CheckBox", "Slider", "Table", "List")
    shown = [name for name, widget in vars(ui).items() if name.endswith(kinds) and widget.visible]
    return [name for name in shown if not name.endswith("CollapsibleButton")]


def test_a_first_time_user_sees_few_controls_and_an_expert_all(desktop, ui):
    desktop.process()
    assert {"ctSelector", "modelSelector", "applyButton"} <= set(controls(ui))
    assert len(controls(ui)) <= FIRST_SIGHT, controls(ui)
    add_ct(desktop)
    desktop.process()
    assert len(controls(ui)) <= FIRST_SIGHT, controls(ui)
    for part in (ui.modelsCollapsibleButton, ui.advancedCollapsibleButton):
        part.collapsed = False
    desktop.process()
    assert {"findModelsButton", "addModelButton", "recalibrateButton", "deviceSelector"} <= set(controls(ui))
    for part in (ui.modelsCollapsibleButton, ui.advancedCollapsibleButton):
        part.collapsed = True


def test_the_panel_keeps_its_width(desktop):
    ui, scroll = desktop.ui, desktop.scroll
    before = scroll.width
    assert before <= WIDEST
    width = ui.inputsCollapsibleButton.parentWidget().width
    need = {"empty": needed(desktop)}
    add_ct(desktop, LONG_NAME)
    desktop.widget.panel.run.work.say(f"Saved /home/reader/{LONG_NAME.replace(' ', '_')}/segmentation.nii.gz.")
    need["ready"] = needed(desktop)
    apply(desktop)
    need["review"] = needed(desktop)
    ui.editButton.click()
    need["edit"] = needed(desktop)
    ui.discardEditButton.click()
    for part in parts(ui):
        part.collapsed = False
    ui.labelSelector.addItem(LONG_NAME)
    need["all open"] = needed(desktop)
    for part in (getattr(ui, f"{name}CollapsibleButton") for name in WITHIN):
        part.collapsed = True
    assert max(need.values()) <= width, need
    assert scroll.width == before


def test_a_label_is_as_high_as_what_it_says_now(ui):
    heights = []
    for text in ("one", "one\ntwo\nthree", "one"):
        slicer_app.widgets.section.write(ui.reviewProgressLabel, text)
        heights.append(ui.reviewProgressLabel.height)
    assert heights[0] == heights[2] < heights[1]


def test_nothing_in_the_list_of_regions_is_cut(desktop, monkeypatch):
    """Each column is as wide as its longest text: the widest place, verdict and numbers there can be."""
    monkeypatch.setattr(slicer_app.sections.regions.RegionTable, "place", lambda *_region: "superior posterior right")
    monkeypatch.setattr(slicer_app.sections.regions, "statusText", lambda *_status: "To review")
    add_ct(desktop)
    apply(desktop)
    desktop.process()
    table = desktop.ui.regionsTable
    table.item(0, 3).setText("12,345")
    table.item(0, 4).setText("123,456")
    table.setVerticalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOn)
    desktop.process()
    table.setVerticalScrollBarPolicy(qt.Qt.ScrollBarAsNeeded)
    cut = {
        table.horizontalHeaderItem(column).text(): (table.columnWidth(column), table.sizeHintForColumn(column))
        for column in range(table.columnCount)
        if table.columnWidth(column) < table.sizeHintForColumn(column)
    }
    assert not cut
    assert table.horizontalScrollBar().maximum == 0


def test_verdicts_and_brush_are_in_view_on_a_laptop(desktop, ui):
    """Of 768 pixels Slicer's menu, tool bars, module selector and help leave some 440, its Data Probe, grown, 330."""
    desktop.window.resize(*LAPTOP)
    session = with_regions(desktop, 20)
    session.review.prediction.warnings.append("The image holds voxels that are no numbers; they count as air. " * 3)
    found = Suitability().worsened(
        Level.NOT_USABLE, "62 % of the segmented volume is expected to be wrong, and 8 to 26"
    )
    vars(session.review.prediction)["suitability"] = found
    desktop.widget.panel.update()
    desktop.process()

    def bottom(widget) -> int:
        return widget.mapTo(desktop.panel, widget.rect.bottomLeft()).y()

    assert [part.objectName for part in parts(ui) if not part.collapsed] == ["reviewCollapsibleButton"]
    assert max(map(bottom, (ui.nextButton, ui.undoButton, ui.acceptButton, ui.editButton))) < 290
    assert max(map(bottom, (ui.organHereButton, ui.clicksOffButton))) < 330
    ui.editButton.click()
    desktop.process()
    assert not ui.regionsTable.visible
    assert max(map(bottom, (ui.editButton, ui.discardEditButton))) < 250  # the brush's own tools follow
    ui.discardEditButton.click()
    desktop.process()
    assert ui.regionsTable.visible


def test_tools_stay_where_they_are_while_the_data_probe_grows_and_the_list_gives_way(desktop, ui):
    with_regions(desktop, 20)
    tools = (ui.nextButton, ui.undoButton, ui.acceptButton, ui.includeButton, ui.excludeButton, ui.editButton)

    def look(height: int) -> tuple[int, list[int]]:
        desktop.window.resize(LAPTOP[0], height)
        desktop.process()
        line = ui.regionsTable.verticalHeader().defaultSectionSize
        rows = (
            ui.regionsTable.height - ui.regionsTable.horizontalHeader().height - 2 * ui.regionsTable.frameWidth
        ) / line
        return round(rows), [tool.mapTo(desktop.scroll.viewport(), tool.rect.topLeft()).y() for tool in tools]

    before = [look(height) for height in (300, 440, 640, 720, 1100)]
    rows, places = zip(*before, strict=True)
    assert len(set(map(tuple, places))) == 1
    assert list(rows) == sorted(rows) and (rows[0], rows[-1]) == (3, 20)
    assert 3 < rows[2] < rows[3] < 20


@pytest.mark.parametrize("height", [800, 1000])
def test_list_comment_reader_and_sign_off_are_in_one_view(desktop, ui, height):
    desktop.window.resize(LAPTOP[0], height)
    with_regions(desktop, 50)
    desktop.process()
    ui.clicksCollapsibleButton.collapsed = False
    desktop.process()
    top = ui.reviewCollapsibleButton.mapTo(desktop.panel, ui.reviewCollapsibleButton.rect.topLeft()).y()
    bottom = ui.signOffButton.mapTo(desktop.panel, ui.signOffButton.rect.bottomLeft()).y()
    ui.clicksCollapsibleButton.collapsed = True
    assert bottom - top <= desktop.scroll.viewport().height


def test_no_text_that_wraps_takes_height_from_the_widgets_around_it(desktop):
    """Each has one height, whatever the width that Qt's layouts ask about, and enough for its text."""

    def texts() -> set[str]:
        desktop.process()
        labels = [part for part in vars(desktop.ui).values() if hasattr(part, "wordWrap") and hasattr(part, "buddy")]
        labels = [label for label in labels if label.visible and label.wordWrap and label.text]
        for label in labels:
            assert label.minimumHeight == label.maximumHeight >= label.heightForWidth(label.width), label.text
        return {label.objectName for label in labels}

    assert texts() >= {"sampleLabel", "modelInfoLabel"}
    with_regions(desktop, 3)
    assert texts() >= {"clickStatusLabel", "reviewProgressLabel"}


def test_large_letters_cut_nothing_of_the_export(desktop, ui):
    with_regions(desktop, 3)
    ui.exportCollapsibleButton.collapsed = False
    usual = desktop.app.font()
    try:
        desktop.app.setFont(qt.QFont(usual.family(), 16))
        desktop.process()
        desktop.process()  # with the new heights
        boxes = [part for name, part in vars(ui).items() if name.endswith("CheckBox") and part.visible]
        boxes = [part for part in boxes if ui.exportCollapsibleButton.isAncestorOf(part)]
        assert len(boxes) == 10
        assert not [
            box.text for box in boxes if box.width < box.sizeHint.width() or box.height < box.minimumSizeHint.height()
        ]
    finally:
        desktop.app.setFont(usual)
        desktop.process()


def test_the_signs_of_the_list_have_the_colour_of_its_text_in_any_palette(desktop):
    with_regions(desktop, 2)
    desktop.ui.acceptButton.click()
    items = [desktop.ui.regionsTable.item(row, 1) for row in range(2)]
    assert [item.text() for item in items] == ["✓ Accepted", "⚑ To review"]
    assert all(item.icon().isNull() for item in items)  # a dark picture is not seen on a dark ground


def test_nothing_covers_anything(desktop, ui):
    """With all parts open the list keeps its height, that of its three rows, and buttons lie below it."""
    desktop.window.resize(*LAPTOP)
    add_ct(desktop)
    apply(desktop)
    for part in parts(ui):
        part.collapsed = False
    desktop.process()
    last = ui.regionsTable.visualItemRect(ui.regionsTable.item(2, 0))
    assert 0 <= ui.regionsTable.viewport().height - last.bottom() < last.height()
    for part in parts(ui):
        inside = [child for child in part.children() if isinstance(child, qt.QWidget) and child.visible]
        for one, other in combinations(inside, 2):
            assert not one.geometry.intersects(other.geometry), (one.objectName, other.objectName)
    for part in (getattr(ui, f"{name}CollapsibleButton") for name in WITHIN):
        part.collapsed = True


def test_what_is_unfolded_is_scrolled_to_and_what_a_button_says_below_it(desktop, tmp_path):
    ui, scroll = desktop.ui, desktop.scroll
    add_ct(desktop)
    apply(desktop)
    desktop.window.resize(1366, 500)
    ui.exportCollapsibleButton.collapsed = True
    desktop.process()
    scroll.verticalScrollBar().value = 0
    ui.exportCollapsibleButton.click()
    desktop.process(until=lambda: scroll.verticalScrollBar().value > 0)

    def top(widget) -> int:
        return widget.mapTo(scroll.viewport(), widget.rect.topLeft()).y()

    assert (
        top(ui.exportCollapsibleButton) >= 0
        and top(ui.exportButton) + ui.exportButton.height <= scroll.viewport().height
    )
    ui.exportDirectoryEdit.currentPath = str(tmp_path)
    ui.exportButton.click()  # what it says lies below it
    desktop.process()
    assert top(ui.exportStatusLabel) + ui.exportStatusLabel.height <= scroll.viewport().height
    ui.exportButton.click()
    before = scroll.verticalScrollBar().value
    ui.exportCollapsibleButton.click()  # folds it
    desktop.process()
    assert scroll.verticalScrollBar().value <= before
