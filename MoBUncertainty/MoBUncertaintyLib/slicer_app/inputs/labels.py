"""Which of a model's labels are wanted: a line that says so, and a check list that can be searched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.panel.section import shown, write

ROWS = 8
"""Labels that the list shows at once, if there are as many."""


class LabelChooser:
    """A check list of the labels of a model that has several; with none checked, all of them are wanted.

    Args:
        place: The widget that holds it; hidden for a model of one label.
        onChosen: Called with the names of the labels that the user has checked.
    """

    def __init__(self, place, onChosen: Callable[[list[str]], None]) -> None:
        self._place = place
        self._onChosen = onChosen
        self._names: tuple[str, ...] = ()
        self.summary = qt.QLabel()
        self.summary.wordWrap = True
        self.summary.textFormat = qt.Qt.PlainText  # names of labels are others' text
        self.button = qt.QPushButton(_("Choose labels"))
        self.button.checkable = True
        self.button.toolTip = _("Predict, show and review some of the labels alone: faster, and with less memory.")
        self.search = qt.QLineEdit()
        self.search.placeholderText = _("Search")
        self.search.clearButtonEnabled = True
        self.everything = qt.QPushButton(_("All"))
        self.everything.toolTip = _("Uncheck every label: then all of them are predicted.")
        self.list = qt.QListWidget()
        self._opened = qt.QWidget()
        self._lay()
        self.button.toggled.connect(lambda opened: self._opened.setVisible(opened))
        self.search.textChanged.connect(shown(self._onSearch))
        self.list.itemChanged.connect(shown(self._onChecked))
        self.everything.clicked.connect(shown(lambda *_args: self._onChosen([])))

    def offer(self, names: Sequence[str], wanted: Collection[str], enabled: bool) -> None:
        """Show the labels of a model, and which are wanted; none: all."""
        if tuple(names) != self._names:
            self._fill(names)
        blocked = self.list.blockSignals(True)
        for row, name in enumerate(self._names):
            self.list.item(row).setCheckState(qt.Qt.Checked if name in wanted else qt.Qt.Unchecked)
        self.list.blockSignals(blocked)
        for widget in (self.list, self.everything, self.button):
            widget.enabled = enabled
        self._place.visible = len(names) > 1
        write(self.summary, self._says([name for name in names if name in wanted]))

    def _says(self, wanted: Sequence[str]) -> str:
        if not wanted:
            return _("Labels: all {n}.").format(n=len(self._names))
        text = _("Labels: {k} of {n}, {names}.")
        return text.format(k=len(wanted), n=len(self._names), names=fewLabels(wanted))

    def _lay(self) -> None:
        top, searching = qt.QHBoxLayout(), qt.QHBoxLayout()
        top.addWidget(self.summary, 1)
        top.addWidget(self.button)
        searching.addWidget(self.search, 1)
        searching.addWidget(self.everything)
        inside = qt.QVBoxLayout(self._opened)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addLayout(searching)
        inside.addWidget(self.list)
        self._place.layout().addLayout(top)
        self._place.layout().addWidget(self._opened)
        self._opened.visible = False

    def _fill(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        for name in names:
            item = qt.QListWidgetItem(readable(name))
            item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
            self.list.addItem(item)
        self.list.setFixedHeight(min(len(names), ROWS) * self.list.sizeHintForRow(0) + 2 * self.list.frameWidth)
        self.list.blockSignals(blocked)
        self.search.text = ""

    def _onSearch(self, typed: str) -> None:
        """Show the labels that have every word that is typed."""
        words = readable(typed.casefold()).split()
        for row in range(self.list.count):
            item = self.list.item(row)
            item.setHidden(not all(word in item.text().casefold() for word in words))

    def _onChecked(self, *_args) -> None:
        rows = [row for row in range(self.list.count) if self.list.item(row).checkState() == qt.Qt.Checked]
        self._onChosen([self._names[row] for row in rows])


def fewLabels(names: Sequence[str], most: int = 4) -> str:
    """Name labels in one line, and count those that are too many for it."""
    named = ", ".join(map(readable, names[:most])) or _("not known")
    return named if len(names) <= most else _("{names} and {n} more").format(names=named, n=len(names) - most)
