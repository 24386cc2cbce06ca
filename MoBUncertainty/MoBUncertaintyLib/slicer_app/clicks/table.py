"""The table of clicks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.clicks.changes import millilitres
from MoBUncertaintyLib.slicer_app.panel.section import fitRows, nameColumns

LABEL, PLACE, VOLUME, MARK = range(4)
ROWS = 4  # that are seen at once


class ClickTable:
    """One row per click, the earliest first.

    Args:
        table: The QTableWidget.
        onSelected: Called when the reader selects a click.
    """

    def __init__(self, table, onSelected: Callable[[], None]) -> None:
        self._table = table
        self._onSelected = onSelected
        self._ids: list[str] = []
        self._content: list[tuple] = []
        self._setUpHeader()
        fitRows(table, ROWS)
        table.itemSelectionChanged.connect(lambda: self._onSelected())

    @property
    def selected(self) -> str | None:
        """The id of the selected click."""
        rows = self._table.selectionModel().selectedRows()
        return self._ids[rows[0].row()] if rows and rows[0].row() < len(self._ids) else None

    def select(self, clickId: str) -> None:
        """Select a click; nobody is told."""
        if clickId in self._ids:
            blocked = self._table.blockSignals(True)
            self._table.selectRow(self._ids.index(clickId))
            self._table.blockSignals(blocked)

    def show(
        self, clicks: Sequence, names: Mapping[int, str], conflicts: Collection[str], volumes: Mapping[str, float]
    ) -> None:
        """List the clicks; the selected one stays selected while it exists.

        Args:
            clicks: `Click`s, the earliest first.
            names: What labels are called, by value.
            conflicts: Ids of those that the others contradict.
            volumes: Signed ml that each has changed, by id, where that is known.
        """
        table, chosen = self._table, self.selected
        rows = [
            (
                each.click_id,
                names.get(each.label, ""),
                _place(each.points_ras),
                millilitres(volumes[each.click_id]) if each.click_id in volumes else "",
                "⚠" if each.click_id in conflicts else "",
            )
            for each in clicks
        ]
        if rows == self._content:
            return
        blocked = table.blockSignals(True)
        table.setRowCount(len(rows))
        fitRows(table, ROWS)
        for index, row in enumerate(rows):
            if index >= len(self._content) or self._content[index] != row:
                self._fill(index, row[1:])
        self._ids, self._content = [row[0] for row in rows], rows
        table.clearSelection()
        if chosen in self._ids:
            table.selectRow(self._ids.index(chosen))
        table.blockSignals(blocked)

    def _fill(self, row: int, texts: Sequence[str]) -> None:
        tip = _("The other clicks contradict this one: remove one of them, or click more beside it.")
        for column, text in enumerate(texts):
            item = self._table.item(row, column)
            if item is None:
                item = qt.QTableWidgetItem()
                if column == VOLUME:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self._table.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(tip if texts[MARK] else "")

    def _setUpHeader(self) -> None:
        titles = {
            LABEL: (_("Click"), _("What you said is there.")),
            PLACE: (_("Place (mm)"), _("Right or left, anterior or posterior, superior or inferior.")),
            VOLUME: (_("Change"), _("What it adds to the segmentation or takes from it, beside all other clicks.")),
            MARK: ("⚠", _("Marks a click that the other clicks contradict.")),
        }
        nameColumns(self._table, titles, PLACE)


def _place(points: Sequence[tuple[float, float, float]]) -> str:
    """Write a position as Slicer's data probe does; of a stroke, where it begins, and how many points it has."""
    letters = ("RL", "AP", "SI")
    text = " ".join(f"{pair[value < 0]} {abs(value):.1f}" for pair, value in zip(letters, points[0], strict=True))
    return text if len(points) == 1 else _("{place}, stroke").format(place=text)
