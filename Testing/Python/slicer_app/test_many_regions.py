"""Hundreds of doubtful regions: listed in pages, and no step takes time with the square of their number."""

import pytest

from MoBUncertaintyLib.review.review import Review
from support import small_panel
from support.small_panel import decide, statuses

pytestmark = pytest.mark.own_process

COUNT = 300
EVENTS = 20  # of a node or a table in one step; one for each region would be far more


@pytest.fixture
def crowded(desktop):
    """The panel with many regions, and its session."""
    return desktop, small_panel.with_regions(desktop, COUNT)


class TestSteps:
    @pytest.mark.parametrize("step", ["nextButton", "includeButton", "undoButton"])
    def test_a_step_announces_few_changes(self, crowded, step):
        desktop, session = crowded
        decide(desktop.ui.excludeButton)
        desktop.process()
        seen = []
        results = session.results
        for node in (results.node("regions"), results.node("regions").GetDisplayNode(), results.node("segmentation")):
            node.AddObserver("AnyEvent", lambda caller, event: seen.append(event))
        desktop.ui.regionsTable.model().dataChanged.connect(lambda *_: seen.append("dataChanged"))
        decide(getattr(desktop.ui, step)) if step == "includeButton" else getattr(desktop.ui, step).click()
        assert 0 < len(seen) < EVENTS

    def test_showing_them_announces_few_changes(self, crowded):
        _desktop, session = crowded
        seen = []
        node = session.results.node("regions")
        for each in (node, node.GetDisplayNode()):
            each.AddObserver("AnyEvent", lambda caller, event: seen.append(event))
        session.regions.show()
        session.results.highlightRegion(3)
        assert 0 < len(seen) < EVENTS


class TestPages:
    def test_the_first_fifty_are_listed_and_the_rest_counted(self, crowded):
        desktop, _session = crowded
        table = desktop.widget.panel.review._table
        assert statuses(desktop) == ["To review"] * 50
        assert desktop.ui.reviewProgressLabel.text.startswith("0 of 300 reviewed; 250 more")
        desktop.ui.previousButton.click()
        assert table.selected.region.rank == 1  # there is none before the first

    def test_the_next_fifty_come_once_these_are_decided(self, crowded):
        desktop, session = crowded
        for region in session.review.regions[:49]:
            session.step(Review.decide, region.region_id, "accept")
        desktop.widget.panel.update()
        assert desktop.ui.regionsTable.rowCount == 50
        desktop.ui.regionsTable.selectRow(49)
        desktop.ui.acceptButton.click()
        assert desktop.ui.regionsTable.rowCount == 100
        desktop.ui.nextButton.click()
        assert desktop.widget.panel.review._table.selected.region.rank > 50

    def test_one_that_is_not_listed_can_be_selected(self, crowded):
        desktop, session = crowded
        table = desktop.widget.panel.review._table
        table.select(session.review.regions[120].region_id)
        assert table.selected.region.rank == 121
        assert desktop.ui.regionsTable.rowCount == 150
