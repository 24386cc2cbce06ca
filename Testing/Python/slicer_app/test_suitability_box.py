"""Whether the model suits the case is seen in the panel: in colour, at the top, at Sign off and at Export."""

import pytest

from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from support import small_panel
from support.marks import needs_slicer
from support.sessions import as_answer
from support.small_panel import add_ct

pytestmark = [pytest.mark.own_process, needs_slicer]

REASON = "62 % of the segmented volume is expected to be wrong"
COLOURS = {Level.ORDINARY: None, Level.UNUSUAL: "#ffc107", Level.NOT_USABLE: "#b71c1c"}


@pytest.fixture(scope="module")
def opened():
    yield from small_panel.opened()


@pytest.fixture
def desktop(opened):
    yield from small_panel.emptied(opened)


def reviewed(desktop, level: Level):
    """The session of a case of that suitability."""
    from support.fake_worker import fake_prediction

    found = Suitability() if level is Level.ORDINARY else Suitability().worsened(level, REASON)
    answer = as_answer(*fake_prediction(small_panel.SHAPE, small_panel.MATRIX, {"suitability": found.to_dict()}))
    return small_panel.show_result(desktop, add_ct(desktop), answer)


def boxes(desktop) -> list:
    ui = desktop.ui
    return [ui.reviewSuitabilityLabel, ui.signOffSuitabilityLabel, ui.exportSuitabilityLabel]


@pytest.mark.parametrize("level", list(Level))
def test_it_is_a_box_in_the_colour_of_its_level_in_three_places(desktop, level):
    reviewed(desktop, level)
    desktop.ui.exportCollapsibleButton.collapsed = False
    desktop.process()
    for box in boxes(desktop):
        assert box.visible
        assert (REASON in box.text) == (level is not Level.ORDINARY)
        assert level.value in box.text
        middle = box.grab().toImage().pixelColor(box.width - 4, 4)  # beside the text
        expected = COLOURS[level] or box.palette.window().color().name()
        assert middle.name() == expected
    assert REASON not in desktop.ui.statusLabel.text  # as plain text under "Done in 60 s"


def test_without_a_case_or_where_it_is_not_known_there_is_none(desktop):
    add_ct(desktop)
    assert not any(box.visible for box in boxes(desktop))
    small_panel.with_regions(desktop, 3)
    desktop.ui.exportCollapsibleButton.collapsed = False
    assert not any(box.visible for box in boxes(desktop))


@pytest.mark.parametrize("goes_on", [True, False])
def test_to_sign_off_a_case_that_is_not_usable_is_asked(desktop, goes_on):
    import qt

    session, ui = reviewed(desktop, Level.NOT_USABLE), desktop.ui
    for row in range(ui.regionsTable.rowCount):
        ui.regionsTable.selectRow(row)
        ui.acceptButton.click()
    ui.readerEdit.text = "Dr. A. Reader"
    desktop.answer(qt.QMessageBox.Ok if goes_on else qt.QMessageBox.Cancel)
    ui.signOffButton.click()
    (dialog,) = desktop.dialogs
    assert REASON in dialog.text and dialog.text.endswith("Sign off nevertheless?")
    assert bool(session.review.signature) == goes_on
