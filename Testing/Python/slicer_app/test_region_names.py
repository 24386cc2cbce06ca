"""No two regions are called alike, and an organ is not taken for a place."""

from dataclasses import replace

import numpy as np
import pytest

from support import small_panel
from support.marks import needs_slicer
from support.sessions import as_answer
from support.small_panel import add_ct

pytestmark = [pytest.mark.own_process, needs_slicer]


@pytest.fixture(scope="module")
def opened():
    yield from small_panel.opened()


@pytest.fixture
def desktop(opened):
    yield from small_panel.emptied(opened)


def places(desktop) -> list[str]:
    table = desktop.ui.regionsTable
    return [table.item(row, 2).text() for row in range(table.rowCount)]


def test_regions_of_one_place_are_counted(desktop):
    session = small_panel.with_regions(desktop, 4)
    assert sorted(places(desktop)) == ["left 1", "left 2", "left 3", "left 4"]
    segmentation = session.results.node("regions").GetSegmentation()
    titles = {segmentation.GetNthSegment(index).GetName().partition(",")[0] for index in range(4)}
    assert titles == {f"{rank}: {place}" for rank, place in enumerate(places(desktop), start=1)}


def test_a_place_that_is_the_only_one_has_no_number(desktop):
    add_ct(desktop)
    small_panel.apply(desktop)
    assert places(desktop) == ["left", "anterior", "superior"]
    assert desktop.ui.regionsTable.horizontalHeaderItem(2).text() == "Where"


def test_with_several_organs_each_place_names_its_organ(desktop):
    prediction, regions = small_panel.two_labels()
    first, second = prediction.labels
    labels = (replace(first, name="anterior"), replace(second, name="posterior"))
    small_panel.show_result(desktop, add_ct(desktop), as_answer(replace(prediction, labels=labels), regions))
    assert desktop.ui.regionsTable.horizontalHeaderItem(2).text() == "Where (organ)"
    assert places(desktop) == ["left (anterior)", "anterior part (anterior)", "superior (posterior)"]


def test_a_region_without_a_labelled_voxel_belongs_to_the_nearest_organ():
    from MoBUncertaintyLib.regions.location import organ_of

    frames = {1: (np.zeros(3), np.ones(3)), 2: (np.full(3, 10.0), np.ones(3))}
    assert organ_of(np.full(3, 9.0), np.zeros(4, np.uint8), frames) == 2
    assert organ_of(np.full(3, 9.0), np.array([0, 1, 1, 2], np.uint8), frames) == 1
    assert organ_of(np.full(3, 9.0), np.zeros(4, np.uint8), {}) == 0
