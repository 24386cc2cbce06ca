"""The table of a worklist's cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.output.cohort.readers import CaseState
from MoBUncertaintyLib.slicer_app.panel.section import nameColumns
from MoBUncertaintyLib.slicer_app.worklist.cases import WorklistCase

CASE, STATE, SUITABILITY, VOLUME, LEFT, DICE, DIFFERENT = range(7)


class CaseTable:
    """The cases in a QTableWidget, one row each.

    Args:
        table: The widget.
        onSelected: Called when another row is selected.
        onOpen: Called with a double click.
    """

    def __init__(self, table, onSelected: Callable[[], None], onOpen: Callable[[], None]) -> None:
        self._table = table
        self._names: list[str] = []
        nameColumns(
            table,
            {
                CASE: (_("Case"), _("File or folder of the image, or patient and series.")),
                STATE: (_("State"), _("For the reader named above; without a name, for all readers.")),
                SUITABILITY: (_("Suitability"), _("Whether the model suits the case, or why the case failed.")),
                VOLUME: (_("Volume (ml)"), _("As predicted; of several organs, in the model's order.")),
                LEFT: (_("Regions left"), _("Doubtful regions that the reader has to decide.")),
                DICE: (
                    _("Dice"),
                    _("Between the segmentations of readers who have signed; the mean of labels."),
                ),
                DIFFERENT: (_("Regions differ"), _("Regions that readers who have signed decided differently.")),
            },
            stretched=SUITABILITY,
        )
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.tabKeyNavigation = False
        table.itemSelectionChanged.connect(lambda: onSelected())
        table.cellDoubleClicked.connect(lambda *_cell: onOpen())

    @property
    def selected(self) -> str | None:
        """The name of the selected case."""
        rows = self._table.selectionModel().selectedRows()
        return self._names[rows[0].row()] if rows and rows[0].row() < len(self._names) else None

    def select(self, name: str) -> None:
        """Select a case."""
        if name in self._names:
            self._table.selectRow(self._names.index(name))

    def show(self, cases: Sequence[WorklistCase], reader: str, opened: str | None) -> None:
        """Show the cases as they are for a reader; that which is open stands out, and the selected one stays so."""
        table, selected = self._table, self.selected
        blocked = table.blockSignals(True)
        self._names = [case.name for case in cases]
        table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            for column, (text, tip) in enumerate(_cells(case, reader)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip)
                if case.name == opened:
                    font = item.font()
                    font.setBold(True)
                    item.setFont(font)
                if column in (VOLUME, LEFT, DICE, DIFFERENT):
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, item)
        table.clearSelection()
        if selected in self._names:
            table.selectRow(self._names.index(selected))
        table.blockSignals(blocked)


def _cells(case: WorklistCase, reader: str) -> list[tuple[str, str]]:
    """Make text and tooltip of each column."""
    row, state = case.row or {}, case.state(reader)
    readers = "\n".join(review.text for review in case.reviews)
    reason = row.get("reason", "")
    organs, left = row.get("organs", ()), case.regionsLeft(reader)
    agreement = row.get("agreement")
    volumes = " / ".join(f"{organ['volume_ml']:.1f}" for organ in organs)
    named = "\n".join(f"{readable(organ['name'])}: {organ['volume_ml']:.1f} ml" for organ in organs)
    dice = differently = compared = ""
    if agreement:
        dice = f"{sum(agreement['dice'].values()) / len(agreement['dice']):.3f}"
        differently = _("{n} of {count}").format(n=agreement["regions_different"], count=agreement["regions"])
        each = [f"{readable(name)}: {value:.3f}" for name, value in agreement["dice"].items()]
        compared = "\n".join([*agreement["readers"], *each])
    return [
        (case.name, str(case.folder)),
        (_stateText(state), readers),
        (reason or _suitabilityText(row), reason or "\n".join(row.get("warnings", ()))),
        (volumes, named),
        ("" if left is None else str(left), readers),
        (dice, compared),
        (differently, compared),
    ]


def _suitabilityText(row) -> str:
    found = row.get("suitability")
    if not found:
        return ""
    words = {"ordinary": _("ordinary"), "unusual": _("unusual"), "not usable": _("not usable")}
    if not found["judged"] and not found["reasons"]:
        return _("not compared")
    text = words[found["level"]]
    return f"{text}: {found['reasons'][0]}" if found["reasons"] else text


def _stateText(state: CaseState) -> str:
    words = {
        CaseState.NOT_RUN: _("Not run"),
        CaseState.FAILED: _("Failed"),
        CaseState.READY: _("Ready"),
        CaseState.IN_REVIEW: _("In review"),
        CaseState.SIGNED: _("Signed"),
    }
    return words[state]
