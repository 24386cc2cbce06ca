"""A table of rows of text, and the height that it has in its section."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import qt

from MoBUncertaintyLib.slicer_app.widgets.section import scrollAreaOf, signalsBlocked


class Row(NamedTuple):
    """A row of a table: text and tooltip of each cell."""

    cells: Sequence[tuple[str, str]]
    isBold: bool = False


class Table:
    """Rows in a QTableWidget, by their keys; that of the `selected` one stays selected while it is there.

    The columns of `numbers` stand at the right; the `wide` one takes what room there is, the others what they need.
    """

    def __init__(self, widget, numbers: Collection[int], wide: int, onSelected: Callable[[], None]) -> None:
        self.widget, self._numbers, self._onSelected = widget, numbers, onSelected
        self.selected: str | None = None
        self._rows: dict[str, Row] = {}
        header = widget.horizontalHeader()
        for column in range(widget.columnCount):
            mode = qt.QHeaderView.Stretch if column == wide else qt.QHeaderView.ResizeToContents
            header.setSectionResizeMode(column, mode)
        widget.verticalHeader().visible = False
        widget.verticalHeader().setDefaultSectionSize(widget.fontMetrics().height() + 8)
        widget.itemSelectionChanged.connect(self._onRow)

    def show(self, rows: Mapping[str, Row]) -> None:
        """Show some rows; cells are changed where they differ, since the widget signals every change of an item."""
        before, self._rows = list(self._rows.values()), dict(rows)
        with signalsBlocked(self.widget):
            self.widget.setRowCount(len(rows))
            for index, row in enumerate(rows.values()):
                if index >= len(before) or before[index] != row:
                    self._fill(index, row)
        self.select(self.selected)

    def select(self, key: str | None) -> None:
        """Select a row, if it is there; nobody is told."""
        self.selected = key if key in self._rows else None
        with signalsBlocked(self.widget):
            if self.selected is None:
                self.widget.clearSelection()
            else:
                self.widget.selectRow(self.rowOf(self.selected))

    def rowOf(self, key: str | None) -> int | None:
        """Return the number of a row; None where there is none of this key."""
        return list(self._rows).index(key) if key in self._rows else None

    def _fill(self, index: int, row: Row) -> None:
        for column, (text, toolTip) in enumerate(row.cells):
            item = self.widget.item(index, column)
            if item is None:
                item = qt.QTableWidgetItem()
                if column in self._numbers:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self.widget.setItem(index, column, item)
            item.setText(text)
            item.setToolTip(toolTip)
            font = item.font()
            font.setBold(row.isBold)
            item.setFont(font)

    def _onRow(self) -> None:
        rows = self.widget.selectionModel().selectedRows()
        if rows:
            self.selected = list(self._rows)[rows[0].row()]
            self._onSelected()
        else:  # a click may take the selection away, but what is looked at stays the same
            self.select(self.selected)


def fitRows(table, most: int) -> None:
    """Make a QTableWidget as high as its rows, up to so many; more are reached by its scroll bar."""
    rows = min(max(table.rowCount, 1), most) * table.verticalHeader().defaultSectionSize
    table.setFixedHeight(table.horizontalHeader().sizeHint.height() + rows + 2 * table.frameWidth)


class TableRoom(qt.QObject):
    """Makes a table as high as the window has room for beside all else of its section.

    What lies above the table in the section stays where it is, however high the window is.
    """

    def __init__(self, table, section, fewest: int) -> None:
        qt.QObject.__init__(self)
        self._table, self._section, self._fewest = table, section, fewest
        self._viewport = None
        self._closed = False

    def update(self) -> None:
        """Fit the table, once its rows or what lies around it have changed."""
        fitRows(self._table, self._fewest)
        area = scrollAreaOf(self._table)
        if area is None or self._closed:
            return
        if self._viewport is None:
            self._viewport = area.viewport()
            self._viewport.installEventFilter(self)
        more = self._viewport.height - self._section.layout().totalSizeHint().height()
        fitRows(self._table, self._fewest + max(0, more // self._table.verticalHeader().defaultSectionSize))
        self._section.layout().activate()  # Qt may have dropped the request while the section was not seen

    def eventFilter(self, _watched, event) -> bool:
        """Follow the window, which Slicer's Data Probe makes lower while the mouse is in a slice view."""
        if event.type() == qt.QEvent.Resize:
            self.update()
        return False

    def close(self) -> None:
        """Let go of the window, for good."""
        self._closed = True
        if self._viewport is not None:
            self._viewport.removeEventFilter(self)
            self._viewport = None
