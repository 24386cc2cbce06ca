"""How much room the panel takes, and that all it holds can be seen: on a laptop too, whatever things are called."""

import pytest

from support import small_panel
from support.marks import needs_slicer
from support.small_panel import add_ct, apply

pytestmark = [pytest.mark.own_process, needs_slicer]

WIDEST = 420  # pixels of Slicer's window
LAPTOP = (1366, 730)
LONG_NAME = "Thorax and abdomen, portal venous phase, 1.0 mm, soft kernel, second of three series, moved"


@pytest.fixture(scope="module")
def opened():
    yield from small_panel.opened()


@pytest.fixture
def desktop(opened):
    yield from small_panel.emptied(opened)


def parts(ui) -> list:
    return [part for name, part in vars(ui).items() if name.endswith("CollapsibleButton")]


def needed(desktop) -> int:
    """Pixels that what is shown needs at least."""
    desktop.process()
    return desktop.ui.inputsCollapsibleButton.parentWidget().layout().totalMinimumSize().width()


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
    ui.methodSelector.currentIndex = 1
    need["all open"] = needed(desktop)
    ui.methodSelector.currentIndex = 0
    for part in (ui.advancedCollapsibleButton, ui.listingCollapsibleButton, ui.clicksCollapsibleButton):
        part.collapsed = True
    assert max(need.values()) <= width, need
    assert scroll.width == before


def test_nothing_in_the_list_of_regions_is_cut(desktop, monkeypatch):
    """Each column is as wide as its longest text: the widest place, verdict and numbers there can be."""
    import qt

    from MoBUncertaintyLib.slicer_app.panel import table as room

    monkeypatch.setattr(room, "placeText", lambda location: "superior posterior right")
    monkeypatch.setattr(room, "statusText", lambda *_status: "To review")
    add_ct(desktop)
    apply(desktop)
    desktop.process()
    table = desktop.ui.regionsTable
    table.item(0, room.ERROR).setText("12,345")
    table.item(0, room.VOLUME).setText("123,456")
    flag = qt.QPixmap(12, 12)
    for row in range(table.rowCount):  # which Slicer has, and this desktop has not
        table.item(row, room.STATUS).setIcon(qt.QIcon(flag))
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


def test_verdicts_and_brush_are_in_view_on_a_laptop(desktop, monkeypatch):
    """Of 730 pixels Slicer's menu, tool bars, module selector, help and data probe leave some 440."""
    ui = desktop.ui
    desktop.window.resize(*LAPTOP)
    monkeypatch.setattr("MoBUncertaintyLib.slicer_app.review_session.ReviewSession.warnings", [])
    small_panel.with_regions(desktop, 20)
    desktop.widget.panel._unfoldReview()
    desktop.process()

    def bottom(widget) -> int:
        return widget.mapTo(desktop.panel, widget.rect.bottomLeft()).y()

    assert [part.objectName for part in parts(ui) if not part.collapsed] == ["reviewCollapsibleButton"]
    assert max(map(bottom, (ui.acceptButton, ui.editButton))) < 440
    ui.editButton.click()
    desktop.process()
    assert not ui.regionsTable.visible
    assert max(map(bottom, (ui.editButton, ui.discardEditButton))) < 250  # the brush's own tools follow
    ui.discardEditButton.click()
    desktop.process()
    assert ui.regionsTable.visible


def test_warnings_of_a_run_stay_in_view(desktop):
    add_ct(desktop)
    desktop.ui.applyButton.click()
    desktop.process(until=lambda: desktop.ui.applyButton.text == "Apply")
    assert not desktop.ui.runCollapsibleButton.collapsed
    assert desktop.ui.statusLabel.text.endswith("This result is fake.")


def test_nothing_covers_anything(desktop):
    """With all parts open the list keeps its height, that of its three rows, and buttons lie below it."""
    from itertools import combinations

    import qt

    ui = desktop.ui
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
    for part in (ui.advancedCollapsibleButton, ui.listingCollapsibleButton, ui.clicksCollapsibleButton):
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
