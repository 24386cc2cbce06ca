"""CTK's widgets as far as panels use them: the same properties and signals, drawn plainly."""

from collections import deque
from dataclasses import dataclass

import qt
from PySide6.QtCore import Property, Signal


class ctkCollapsibleButton(qt.QAbstractButton):
    """A titled part of a panel that folds. Qt's own group box cannot."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._wanted: dict[qt.QWidget, bool] = {}  # whether a child is to be seen when unfolded
        self._folding = False
        self.clicked.connect(lambda: self.setCollapsed(not self._collapsed))
        self.setSizePolicy(qt.QSizePolicy.Minimum, qt.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._titleHeight(), 0, 0)

    def _titleHeight(self) -> int:
        return self.fontMetrics().height() + 10

    def isCollapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._watch()
        for child, wanted in self._wanted.items():
            self._show(child, wanted and not collapsed)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def sizeHint(self):
        inside = self.layout().totalSizeHint() if self.layout() and not self._collapsed else qt.QSize(80, 0)
        return qt.QSize(inside.width(), max(inside.height(), self._titleHeight()))

    minimumSizeHint = sizeHint

    def childEvent(self, event):
        if event.added():  # a child that is still being made must not be looked at
            qt.QTimer.singleShot(0, self._watch)
        super().childEvent(event)

    def _watch(self) -> None:
        """Get to know new children, and fold them if need be."""
        for child in self.children():
            if isinstance(child, qt.QWidget) and child not in self._wanted:
                hidden = child.testAttribute(qt.Qt.WA_WState_ExplicitShowHide) and child.isHidden()
                self._wanted[child] = not hidden
                child.installEventFilter(self)
                self._show(child, not hidden and not self._collapsed)

    def _show(self, child: qt.QWidget, visible: bool) -> None:
        self._folding = True
        child.setVisible(visible)
        child.setAttribute(qt.Qt.WA_WState_ExplicitShowHide, not self._wanted.get(child, True))  # as CTK does
        self._folding = False

    def eventFilter(self, child, event):
        """What is shown or hidden while it is folded is so when it is unfolded."""
        if event.type() in (qt.QEvent.ShowToParent, qt.QEvent.HideToParent) and not self._folding:
            self._wanted[child] = event.type() == qt.QEvent.ShowToParent
            if self._collapsed and self._wanted[child]:
                self._show(child, False)
        return False

    def paintEvent(self, event):
        painter = qt.QPainter(self)
        title = qt.QRect(0, 0, self.width, self._titleHeight() - 2)
        painter.fillRect(title, self.palette.button())
        painter.setPen(self.palette.mid().color())
        painter.drawRect(title.adjusted(0, 0, -1, -1))
        arrow = qt.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = qt.QRect(6, title.height() // 2 - 5, 10, 10)
        shape = qt.QStyle.PE_IndicatorArrowRight if self._collapsed else qt.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(shape, arrow, painter, self)
        painter.setPen(self.palette.buttonText().color())
        painter.drawText(title.adjusted(22, 0, 0, 0), qt.Qt.AlignVCenter | qt.Qt.AlignLeft, self.text)

    collapsed = Property(bool, isCollapsed, setCollapsed)
    collapsedHeight = Property(int, lambda self: 0, lambda self, height: None)  # what is left open when folded


class ctkSliderWidget(qt.QWidget):
    """A slider of floats with its number beside it."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    STEPS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = qt.QSlider(qt.Qt.Horizontal)
        self._slider.setRange(0, self.STEPS)
        self._box = qt.QDoubleSpinBox()
        self._box.setRange(0, 99.99)
        self._tracking, self._pageStep = True, 1.0
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self._slider.valueChanged.connect(self._onSlider)
        self._box.valueChanged.connect(self._onBox)

    def _onSlider(self, position: int) -> None:
        self._box.setValue(self.minimum + (self.maximum - self.minimum) * position / self.STEPS)

    def _onBox(self, value: float) -> None:
        self._slider.blockSignals(True)
        self._slider.setValue(round(self.STEPS * (value - self.minimum) / max(self.maximum - self.minimum, 1e-12)))
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _setBox(self, name: str, value) -> None:
        getattr(self._box, name)(value)
        self._onBox(self._box.value) if name in ("setMinimum", "setMaximum") else None

    def setRange(self, minimum: float, maximum: float) -> None:
        self._box.setRange(minimum, maximum)

    def setValue(self, value: float) -> None:
        self.value = value

    value = Property(float, lambda self: self._box.value, lambda self, value: self._box.setValue(value))
    minimum = Property(float, lambda self: self._box.minimum, lambda self, value: self._box.setMinimum(value))
    maximum = Property(float, lambda self: self._box.maximum, lambda self, value: self._box.setMaximum(value))
    singleStep = Property(float, lambda self: self._box.singleStep, lambda self, value: self._box.setSingleStep(value))
    decimals = Property(int, lambda self: self._box.decimals, lambda self, value: self._box.setDecimals(value))
    suffix = Property(str, lambda self: self._box.suffix, lambda self, value: self._box.setSuffix(value))
    pageStep = Property(float, lambda self: self._pageStep, lambda self, value: setattr(self, "_pageStep", value))
    tracking = Property(bool, lambda self: self._tracking, lambda self, value: setattr(self, "_tracking", value))


class ctkPathLineEdit(qt.QWidget):
    """A path to type, or to choose with "..."."""

    currentPathChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit, self._button = qt.QLineEdit(), qt.QPushButton("…")
        self._button.setFixedWidth(28)
        self._settingKey = ""
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit, 1)
        row.addWidget(self._button)
        self._edit.textChanged.connect(self.currentPathChanged)

    def addCurrentPathToHistory(self) -> None:
        """The next session proposes it; the host has no next session."""

    currentPath = Property(str, lambda self: self._edit.text, lambda self, value: self._edit.setText(value))
    settingKey = Property(str, lambda self: self._settingKey, lambda self, value: setattr(self, "_settingKey", value))


@dataclass(frozen=True)
class Shown:
    """A dialog that the user has seen."""

    title: str
    text: str
    details: str


class ctkMessageBox(qt.QMessageBox):
    """What `slicer.util`'s dialogs are made of. Nobody is there to click: each is noted, and given its answer."""

    shown: list[Shown] = []  # noqa: RUF012 - one screen, one list
    answers: deque = deque()  # noqa: RUF012

    def exec_(self):
        self.shown.append(Shown(self.windowTitle.strip(), self.text, self.detailedText))
        if self.answers:
            return self.answers.popleft()
        if self.standardButtons in (qt.QMessageBox.Ok, qt.QMessageBox.NoButton):
            return qt.QMessageBox.Ok
        raise AssertionError(f"Nobody has prepared an answer to: {self.text}")


class FileDialog(qt.QFileDialog):
    """Nobody is there to look for a file: the prepared one is chosen; without one the user cancels."""

    chosen: deque = deque()  # noqa: RUF012

    def exec_(self) -> bool:
        self._files = [str(self.chosen.popleft())] if self.chosen else []
        return bool(self._files)

    def selectedFiles(self) -> list[str]:
        return self._files


qt.QFileDialog = FileDialog


def unused(name: str) -> type:
    """A class that Slicer's `parameterNodeWrapper` names, and no panel here uses."""
    return type(name, (qt.QWidget,), {})


ctkCheckBox, ctkComboBox, ctkCheckablePushButton, ctkColorPickerButton = map(
    unused, ("ctkCheckBox", "ctkComboBox", "ctkCheckablePushButton", "ctkColorPickerButton")
)
ctkDirectoryButton, ctkDoubleRangeSlider, ctkDoubleSlider, ctkDoubleSpinBox = map(
    unused, ("ctkDirectoryButton", "ctkDoubleRangeSlider", "ctkDoubleSlider", "ctkDoubleSpinBox")
)
