"""The table of doubtful regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.slicer_app.panel.section import nameColumns
from MoBUncertaintyLib.slicer_app.region_names import OrganNames, placeTexts

RANK, STATUS, PLACE, ERROR, VOLUME, COMMENT = range(6)
DECIDED, UNDECIDED = "✓", "⚑"  # characters, unlike pictures, are seen in dark palettes, too

PAGE = 50
"""Regions that are listed at first, and that are added once these are decided: nobody reads a list of a thousand."""


class RegionTable:
    """One row per region, in order of rank; see `PAGE`.

    Args:
        table: The QTableWidget.
        onSelected: Called when another region is selected, by whatever means.
    """

    def __init__(self, table, onSelected: Callable[[], None]) -> None:
        self._table = table
        self._onSelected = onSelected
        self._all: tuple[ReviewRegion, ...] = ()
        self._regions: tuple[ReviewRegion, ...] = ()  # those that are listed
        self._rows: list[tuple] = []  # texts and tooltip of each
        self._organs = OrganNames(None)
        self._places: dict[int, str] = {}  # of all, by their numbers
        self._setUpHeader()
        table.itemSelectionChanged.connect(self._onRow)
        self._selectedId: str | None = None
        self._stood = 0  # the row in which the selected region was when it was selected

    @property
    def selected(self) -> ReviewRegion | None:
        """The selected region, as it was last shown."""
        return next((each for each in self._regions if each.region_id == self._selectedId), None)

    @property
    def unlisted(self) -> int:
        """How many regions come after those that are listed."""
        return len(self._all) - len(self._regions)

    def clear(self, prediction: Prediction | None) -> None:
        """Remove all regions, and the selection; regions of this prediction follow, if there is one."""
        self._selectedId = None
        self._organs = OrganNames(prediction)
        several = prediction is not None and len(prediction.labels) > 1
        self._table.horizontalHeaderItem(PLACE).setText(_("Where (organ)") if several else _("Where"))
        self.show(())

    def place(self, region: ReviewRegion) -> str:
        """Say where a region lies, and in which organ if there are several."""
        place, organ = self._places[region.number], self._organs.of(region)
        return _("{place} ({organ})").format(place=place, organ=organ) if organ else place

    def show(self, regions: Sequence[ReviewRegion]) -> None:
        """List the regions; the selected one stays selected while it exists."""
        table = self._table
        self._all = tuple(regions)
        self._places = placeTexts(each.region for each in self._all)
        self._regions = self._all[: self._count()]
        blocked = table.blockSignals(True)
        table.setRowCount(len(self._regions))
        del self._rows[len(self._regions) :]
        for row, region in enumerate(self._regions):
            self._fill(row, region)
        if self.selected is None:
            self._selectedId = None
            table.clearSelection()
        else:
            table.selectRow(self._row(self._selectedId))
        table.blockSignals(blocked)

    def select(self, regionId: str, quietly: bool = False) -> None:
        """Select a region, and list it if it is not listed yet.

        Args:
            regionId: The region.
            quietly: Nobody is told.
        """
        if regionId not in [each.region_id for each in self._all]:
            return
        self._selectedId = regionId
        if self._row(regionId) is None:
            self.show(self._all)
        self._stood = self._row(regionId)
        self._selectRow(self._stood)
        if not quietly:
            self._onSelected()

    def step(self, by: int) -> None:
        """Select the next (1) or previous (-1) region of the list, if there is one; without a selection the first."""
        if self._regions:
            row = self._row(self._selectedId)
            row = 0 if row is None else min(max(row + by, 0), len(self._regions) - 1)
            self.select(self._regions[row].region_id)

    def following(self) -> str | None:
        """Return the id of the undecided region to go to: down the list, then from its top; None if all are decided.

        It begins where the selected region stood when it was selected: a click may have moved it down the list since.
        """
        left = {row: each.region_id for row, each in enumerate(self._all) if not each.decided}
        others = {row: each for row, each in left.items() if each != self._selectedId} or left
        return next((each for row, each in others.items() if row >= self._stood), next(iter(others.values()), None))

    def _count(self) -> int:
        """Count the regions of the pages that are needed for the selected region and one to decide."""
        needed = [row for row, each in enumerate(self._all) if each.region_id == self._selectedId]
        needed.append(next((row for row, each in enumerate(self._all) if not each.decided), len(self._all)))
        return (max(needed) // PAGE + 1) * PAGE

    def _fill(self, row: int, region: ReviewRegion) -> None:
        """Fill a row where it differs, since the table signals every change of an item."""
        place = self.place(region)
        texts, tip = _texts(region, place), _tip(region, place)
        content = (*texts, tip)
        if row < len(self._rows) and self._rows[row] == content:
            return
        self._rows[row : row + 1] = [content]
        for column, text in enumerate(texts):
            item = self._table.item(row, column)
            if item is None:
                item = qt.QTableWidgetItem()
                if column not in (STATUS, PLACE):
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self._table.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(tip)

    def _row(self, regionId: str | None) -> int | None:
        ids = [each.region_id for each in self._regions]
        return ids.index(regionId) if regionId in ids else None

    def _onRow(self) -> None:
        rows = self._table.selectionModel().selectedRows()
        if rows:
            self._stood = rows[0].row()
            self._selectedId = self._regions[self._stood].region_id
            self._onSelected()
        elif self.selected:  # a click may take the selection away, but what is reviewed stays the same
            self._selectRow(self._row(self._selectedId))

    def _selectRow(self, row: int) -> None:
        blocked = self._table.blockSignals(True)
        self._table.selectRow(row)
        self._table.blockSignals(blocked)

    def _setUpHeader(self) -> None:
        titles = {
            RANK: ("#", _("Rank: the region where most error is expected comes first.")),
            STATUS: (_("Status"), _("Your verdict; Resolved: your clicks have left little error to expect here.")),
            PLACE: (_("Where"), _("Where the region lies in the organ, from the patient's point of view.")),
            ERROR: (
                _("Error\nmm³"),
                _("Expected error: the volume that is labelled wrongly here if the model's probabilities are right."),
            ),
            VOLUME: (_("Size\nmm³"), _("Volume of the region.")),
            COMMENT: ("✎", _("A mark where you left a comment.")),
        }
        nameColumns(self._table, titles, PLACE)


def statusText(verdict: Verdict, resolved: bool = False) -> str:
    """Name a verdict in the reader's words, or what clicks have done without one."""
    if resolved:
        return _("Resolved")
    return {
        Verdict.PENDING: _("To review"),
        Verdict.ACCEPT: _("Accepted"),
        Verdict.INCLUDE: _("Included"),
        Verdict.EXCLUDE: _("Excluded"),
        Verdict.EDIT: _("Edited"),
    }[verdict]


def _texts(each: ReviewRegion, place: str) -> tuple[str, ...]:
    region = each.region
    return (
        str(region.rank),
        f"{DECIDED if each.decided else UNDECIDED} {statusText(each.verdict, each.resolved)}",
        place,
        f"{region.expected_error_mm3:,.0f}",
        f"{region.volume_mm3:,.0f}",
        "✎" if each.comment else "",
    )


def _tip(each: ReviewRegion, place: str) -> str:
    """Describe a region beyond what the columns hold; HTML, so that the reader's comment is escaped."""
    region = each.region
    variance = _("Predictive variance {mean} on average and {peak} at most (0.25 is the largest there can be).")
    variance = variance.format(mean=f"{region.mean_variance:.3f}", peak=f"{region.max_variance:.3f}")
    lines = [f"{region.rank}: {place}", variance, each.comment]
    return f"<p>{'<br>'.join(escape(line) for line in lines if line)}</p>"
