"""A line that says what is chosen, and below it a check list that can be opened and searched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import qt
from slicer.i18n import tr as _

from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.slicer_app.widgets.section import shown, write

ROWS = 8
"""Rows that the list shows at once, if there are as many."""


class CheckList:
    """The list; its subclass says in words what is checked.

    Args:
        place: The widget that holds it; hidden while there is nothing to choose.
        onChosen: Called with the keys that the user has checked.
        open: Text and tooltip of the button that opens the list.
        none: Text and tooltip of the button that unchecks all.
    """

    def __init__(
        self, place, onChosen: Callable[[list[str]], None], open: tuple[str, str], none: tuple[str, str]
    ) -> None:
        self._place = place
        self._onChosen = onChosen
        self._titles: dict[str, str] = {}
        self.summary = qt.QLabel()
        self.summary.wordWrap = True
        self.summary.textFormat = qt.Qt.PlainText  # names of labels and models are others' text
        self.button = _button(*open)
        self.button.checkable = True
        self.search = qt.QLineEdit()
        self.search.placeholderText = _("Search")
        self.search.clearButtonEnabled = True
        self.none = _button(*none)
        self.list = qt.QListWidget()
        self._opened = qt.QWidget()
        self._lay()
        self.button.toggled.connect(lambda opened: self._opened.setVisible(opened))
        self.search.textChanged.connect(shown(self._onSearch))
        self.list.itemChanged.connect(shown(self._onChecked))
        self.none.clicked.connect(shown(lambda *_args: self._onChosen([])))

    def fill(
        self, titles: Mapping[str, str], checked: Collection[str], enabled: bool, whyNot: Mapping[str, str]
    ) -> None:
        """Show what there is to choose, and what is checked.

        Args:
            titles: What each is called, by its key.
            checked: Keys.
            enabled: Whether the user may choose now.
            whyNot: Why some, by their keys, cannot be checked.
        """
        if titles != self._titles:
            self._fill(titles)
        blocked = self.list.blockSignals(True)
        for row, key in enumerate(self._titles):
            item, reason = self.list.item(row), None if key in checked else whyNot.get(key)
            item.setCheckState(qt.Qt.Checked if key in checked else qt.Qt.Unchecked)
            item.setFlags(qt.Qt.ItemIsUserCheckable | (qt.Qt.NoItemFlags if reason else qt.Qt.ItemIsEnabled))
            item.setToolTip(reason or "")
        self.list.blockSignals(blocked)
        for widget in (self.list, self.none, self.button):
            widget.enabled = enabled

    def say(self, text: str) -> None:
        """Say what is chosen."""
        write(self.summary, text)

    def _lay(self) -> None:
        top, searching = qt.QHBoxLayout(), qt.QHBoxLayout()
        top.addWidget(self.summary, 1)
        top.addWidget(self.button)
        searching.addWidget(self.search, 1)
        searching.addWidget(self.none)
        inside = qt.QVBoxLayout(self._opened)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addLayout(searching)
        inside.addWidget(self.list)
        self._place.layout().addLayout(top)
        self._place.layout().addWidget(self._opened)
        self._opened.visible = False

    def _fill(self, titles: Mapping[str, str]) -> None:
        self._titles = dict(titles)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        for title in titles.values():
            self.list.addItem(qt.QListWidgetItem(title))
        self.list.setFixedHeight(min(len(titles), ROWS) * self.list.sizeHintForRow(0) + 2 * self.list.frameWidth)
        self.list.blockSignals(blocked)
        self.search.text = ""

    def _onSearch(self, typed: str) -> None:
        """Show what has every word that is typed."""
        words = readable(typed.casefold()).split()
        for row in range(self.list.count):
            item = self.list.item(row)
            item.setHidden(not all(word in item.text().casefold() for word in words))

    def _onChecked(self, *_args) -> None:
        rows = [row for row in range(self.list.count) if self.list.item(row).checkState() == qt.Qt.Checked]
        keys = list(self._titles)
        self._onChosen([keys[row] for row in rows])


def few(names: Sequence[str], most: int = 4) -> str:
    """Name some in one line, and count those that are too many for it."""
    named = ", ".join(names[:most]) or _("not known")
    return named if len(names) <= most else _("{names} and {n} more").format(names=named, n=len(names) - most)


def _button(text: str, toolTip: str):
    button = qt.QPushButton(text)
    button.toolTip = toolTip
    return button
