"""Opens a scripted module in a Slicer-like window: its panel on the left, views on the right."""

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from PySide6.QtTest import QTest

from slicer_host import qt_namespace

qt = qt_namespace.install()
sys.modules["ctk"] = ctk = importlib.import_module("slicer_host.ctk_widgets")

import slicer  # noqa: E402
import slicer.util  # noqa: E402, F401 - part of what every module finds loaded

from slicer_host import application, files, mrml_widgets  # noqa: E402

sys.modules["SampleData"] = files
qt.QUiLoader = lambda: qt_namespace.UiLoader(mrml_widgets.classes())

FAKES = Path(__file__).with_name("fakes")
TURN_SECONDS = 0.002  # between two looks at what a test waits for


class ModulePanel(qt.QScrollArea):
    """As Slicer's qSlicerModulePanel: never scrolled sideways, as wide as the module needs, and never narrower again.

    Attributes:
        widths: All that it has had.
    """

    def __init__(self, panel):
        super().__init__()
        self.widths: list[int] = []
        self.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        self.setFrameShape(qt.QFrame.NoFrame)
        self.setWidget(panel)
        self.setWidgetResizable(True)

    def follow(self) -> None:
        """Be as wide as the module needs now."""
        width = self.widget().minimumSizeHint.width() + self.horizontalScrollBar().sizeHint.width()
        if not self.widths or width > self.widths[-1]:
            self.widths.append(width)
            self.setFixedWidth(width)


class Desktop:
    """A running application with one scripted module open.

    Attributes:
        scene: The vtkMRMLScene.
        widget: The module's widget; `ui` its named parts, `logic` its logic.
        window: The main window.
        dialogs: All that were shown (`title`, `text`, `details`).
        errors: Tracebacks of what was raised in slots, which Qt only prints.
        turns: Seconds that this thread has computed in each turn of the event loop.
    """

    def __init__(self, name: str, folder: Path):
        self.app = application.start()
        self.scene = slicer.mrmlScene
        self.dialogs = ctk.ctkMessageBox.shown
        self.errors: list[str] = []
        self.turns: list[float] = []
        sys.excepthook = self._onError
        self.window = application.MainWindow()
        self.module, self.widget = self._open(name, folder)
        self.ui, self.logic = self.widget.ui, self.widget.logic
        self._arrange()

    def _open(self, name: str, folder: Path):
        sys.path.insert(0, str(folder))
        code = importlib.import_module(name)
        parent = application.Module(path=str(folder / f"{name}.py"))
        setattr(slicer.modules, name.lower(), parent)
        module = getattr(code, name)(parent)
        setattr(slicer.modules, f"{name}Instance", module)
        self.app.startupCompleted.emit()
        self.panel = parent.widget = mrml_widgets.qSlicerScriptedLoadableModuleWidget()
        self.panel.isEntered = True
        self.panel.setLayout(qt.QVBoxLayout())
        self.panel.layout().setContentsMargins(0, 0, 0, 0)
        self.panel.setMRMLScene(self.scene)
        widget = getattr(code, f"{name}Widget")(self.panel)
        setattr(slicer.modules, f"{name}Widget", widget)
        self.panel.python = widget
        widget.setup()
        widget.enter()
        return module, widget

    def _arrange(self) -> None:
        views, grid = qt.QWidget(), qt.QGridLayout()
        views.setLayout(grid)
        manager = self.app.layoutManager()
        self.views = [manager.sliceWidget("Red"), manager.threeDWidget(0)]
        self.views += [manager.sliceWidget("Green"), manager.sliceWidget("Yellow")]
        for index, view in enumerate(self.views):
            grid.addWidget(view, index // 2, index % 2)
        scroll = ModulePanel(self.panel)
        middle, row = qt.QWidget(), qt.QHBoxLayout()
        middle.setLayout(row)
        row.addWidget(scroll)
        row.addWidget(views, 1)
        self.scroll = scroll
        self.window.setCentralWidget(middle)
        self.window.resize(1280, 860)
        self.window.show()
        self.process()

    def process(self, until: Callable[[], object] = lambda: True, seconds: float = 120.0) -> None:
        """Let the event loop run until something is true.

        Raises:
            AssertionError: It does not come true in time, or a slot has raised something.
        """
        end = time.monotonic() + seconds
        self._turn()
        while not until():
            assert time.monotonic() < end, (
                f"Not so after {seconds} s. Dialogs: {[shown.text for shown in self.dialogs]}"
            )
            time.sleep(TURN_SECONDS)
            self._turn()

    def _onError(self, *error) -> None:
        self.errors.append("".join(traceback.format_exception(*error))[-4000:])
        sys.__excepthook__(*error)

    def _turn(self) -> None:
        began = time.thread_time()
        self.app.processEvents()
        self.scroll.follow()
        self.turns.append(time.thread_time() - began)
        assert not self.errors, self.errors[0]

    def answer(self, *buttons: str) -> None:
        """What the user will answer to the next dialogs, such as "Yes"."""
        ctk.ctkMessageBox.answers.extend(getattr(qt.QMessageBox, button) for button in buttons)

    def press(self, *keys: str, on=None) -> None:
        """Press keys, such as "I" or "Ctrl+Z", on a widget; on the window if none is given."""
        for key in keys:
            QTest.keySequence(on or self.window, qt.QKeySequence(key))
        self.process()

    def choose(self, *paths) -> None:
        """What the user will choose in the next file dialogs."""
        ctk.FileDialog.chosen.extend(paths)

    def screenshot(self, path: Path) -> None:
        """The whole window as a picture."""
        self.process()
        for view in self.views:
            view.draw()
        self.process()
        assert self.window.grab().save(str(path))

    def close(self) -> None:
        """What Slicer does with the module when it ends."""
        self.widget.exit()
        self.app.moduleManager().moduleAboutToBeUnloaded.emit(self.module.moduleName)
        self.window.close()
        self.process()


def open_module(name: str, folder: Path) -> Desktop:
    """Open the scripted module `name` of `folder`. One for each process."""
    sources = os.environ.get("SLICER_SOURCE")
    sys.modules.pop("slicer.i18n", None)  # of `support`
    slicer.__path__.append(str(Path(sources) / "Base" / "Python" / "slicer" if sources else FAKES))
    return Desktop(name, Path(folder))
