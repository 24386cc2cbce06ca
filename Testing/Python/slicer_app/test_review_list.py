"""What the panel lists of a case: how its regions are called, hundreds of them, and whether the model suits it."""

from dataclasses import replace

import numpy as np
import pytest

from MoBUncertaintyLib.model.fingerprint import Level, Suitability
from MoBUncertaintyLib.regions.description import organ_of
from support.fake_worker import fake_prediction
from support.late import slicer_app
from support.small_panel import (
    MATRIX,
    SHAPE,
    accept_all,
    add_ct,
    column,
    decide,
    show_result,
    statuses,
    two_labels,
    with_regions,
)

pytestmark = pytest.mark.own_process

COUNT = 200
EVENTS = 20  # of a node or a table in one step; one for each region would be far more
REASON = "62 % of the segmented volume is expected to be wrong"
COLOURS = {Level.ORDINARY: None, Level.UNUSUAL: "#ffc107", Level.NOT_USABLE: "#b71c1c"}


def places(desktop) -> list[str]:
    return column(desktop, 2)


def test_regions_of_one_place_are_counted(desktop):
    session = with_regions(desktop, 4)
    assert sorted(places(desktop)) == ["left 1", "left 2", "left 3", "left 4"]
    segmentation = session.results.node("regions").GetSegmentation()
    titles = {segmentation.GetNthSegment(index).GetName().partition(",")[0] for index in range(4)}
    assert titles == {f"{rank}: {place}" for rank, place in enumerate(places(desktop), start=1)}


def test_a_place_that_is_the_only_one_has_no_number(desktop, session):
    assert places(desktop) == ["left", "anterior", "superior"]
    assert desktop.ui.regionsTable.horizontalHeaderItem(2).text() == "Where"


def test_with_several_organs_each_place_names_its_organ(desktop):
    prediction, regions = two_labels()
    first, second = prediction.labels
    labels = (replace(first, name="anterior"), replace(second, name="posterior"))
    show_result(desktop, replace(prediction, labels=labels), regions)
    assert desktop.ui.regionsTable.horizontalHeaderItem(2).text() == "Organ, place"
    assert places(desktop) == ["anterior, left", "anterior, anterior part", "posterior, superior"]


def test_a_region_without_a_labelled_voxel_belongs_to_the_nearest_organ():
    frames = {1: (np.zeros(3), np.ones(3)), 2: (np.full(3, 10.0), np.ones(3))}
    assert organ_of(np.full(3, 9.0), np.zeros(4, np.uint8), frames) == 2
    assert organ_of(np.full(3, 9.0), np.array([0, 1, 1, 2], np.uint8), frames) == 1
    assert organ_of(np.full(3, 9.0), np.zeros(4, np.uint8), {}) == 0


def test_no_step_takes_time_with_the_number_of_regions(desktop):
    session, ui, seen = with_regions(desktop, COUNT), desktop.ui, []
    decide(ui.excludeButton)
    desktop.process()
    results = session.results
    for node in (results.node("regions"), results.node("regions").GetDisplayNode(), results.node("segmentation")):
        node.AddObserver("AnyEvent", lambda caller, event: seen.append(event))
    ui.regionsTable.model().dataChanged.connect(lambda *_: seen.append("dataChanged"))
    for step in (
        ui.nextButton.click,
        lambda: decide(ui.includeButton),
        ui.undoButton.click,
        lambda: (session.regions.show(), slicer_app.scene.segments.highlight(results.regions, 3)),
    ):
        seen.clear()
        step()
        assert 0 < len(seen) < EVENTS


def test_fifty_are_listed_until_they_are_decided_or_another_is_selected(desktop):
    session, ui, table = with_regions(desktop, COUNT), desktop.ui, desktop.widget.panel.review._table
    assert statuses(desktop) == ["To review"] * 50
    assert ui.reviewProgressLabel.text.startswith("0 of 200 reviewed; 150 more")
    ui.previousButton.click()
    assert table.selected.region.rank == 1  # there is none before the first
    for region in session.review.regions[:49]:
        session.review.decide(region.region_id, "accept")
    desktop.widget.panel.update()
    assert ui.regionsTable.rowCount == 50
    ui.regionsTable.selectRow(49)
    ui.acceptButton.click()
    assert ui.regionsTable.rowCount == 100
    ui.nextButton.click()
    assert table.selected.region.rank > 50
    table.select(session.review.regions[120].region_id)
    assert table.selected.region.rank == 121
    assert ui.regionsTable.rowCount == 150


def suited(desktop, level: Level):
    """The session of a case of that suitability."""
    found = Suitability() if level is Level.ORDINARY else Suitability().worsened(level, REASON)
    return show_result(desktop, *fake_prediction(SHAPE, MATRIX, {"suitability": found.to_dict()}))


def boxes(desktop) -> list:
    ui = desktop.ui
    return [ui.reviewSuitabilityLabel, ui.signOffSuitabilityLabel, ui.exportSuitabilityLabel]


@pytest.mark.parametrize("level", list(Level))
def test_suitability_is_a_box_in_the_colour_of_its_level_and_repeated_unless_ordinary(desktop, level):
    suited(desktop, level)
    desktop.ui.exportCollapsibleButton.collapsed = False
    desktop.process()
    shown = [box for box in boxes(desktop) if box.visible]
    assert shown == boxes(desktop)[: 1 if level is Level.ORDINARY else 3]
    for box in shown:
        assert (REASON in box.text) == (level is not Level.ORDINARY)
        assert level.value in box.text
        middle = box.grab().toImage().pixelColor(box.width - 4, 4)  # beside the text
        expected = COLOURS[level] or box.palette.window().color().name()
        assert middle.name() == expected
    assert REASON not in desktop.ui.statusLabel.text  # as plain text under "Done in 60 s"


def test_without_a_case_or_where_suitability_is_not_known_there_is_no_box(desktop):
    add_ct(desktop)
    assert not any(box.visible for box in boxes(desktop))
    with_regions(desktop, 3)
    desktop.ui.exportCollapsibleButton.collapsed = False
    assert not any(box.visible for box in boxes(desktop))


@pytest.mark.parametrize("goes_on", [True, False])
def test_to_sign_off_a_case_that_is_not_usable_is_asked(desktop, goes_on):
    session = suited(desktop, Level.NOT_USABLE)
    accept_all(desktop)
    desktop.ui.readerEdit.text = "Dr. A. Reader"
    desktop.answer("Ok" if goes_on else "Cancel")
    desktop.ui.signOffButton.click()
    (dialog,) = desktop.dialogs
    assert REASON in dialog.text
    assert bool(session.review.signature) == goes_on
