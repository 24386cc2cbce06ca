"""`slicer.app`, `slicer.modules` and the views of a Slicer window, on the real Slicer core."""

from __future__ import annotations

import sys
import tempfile
import types

import numpy as np
import qt
import slicer
from PySide6.QtCore import Signal
from trame_slicer.core import SlicerApp
from trame_slicer.views import SliceView, ThreeDView
from trame_slicer.views.render_scheduler import NoScheduleRendering
from vtkmodules.vtkCommonCore import vtkObject

from slicer_host.files import IOManager
from slicer_host.qt_namespace import connect, disconnect
from support.slice_views import picture

SLICE_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
VERSION = (5, 13)


class Application(qt.QApplication):
    """`slicer.app`."""

    startupCompleted = Signal()
    connect, disconnect = connect, disconnect

    applicationName = "Slicer"
    applicationVersion = f"{VERSION[0]}.{VERSION[1]}.0"
    majorVersion, minorVersion = VERSION

    def __init__(self, folder: str):
        super().__init__([])
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, folder)
        self.setStyle("Fusion")
        self.setFont(qt.QFont("DejaVu Sans", 9))
        self.setDoubleClickInterval(0)  # tests click faster than people
        self.temporaryPath = folder
        self.core = SlicerApp()
        self._moduleManager, self._layoutManager = ModuleManager(), LayoutManager(self.core)

    def mrmlScene(self):
        return self.core.scene

    def applicationLogic(self):
        return self.core.app_logic

    def layoutManager(self):
        return self._layoutManager

    def coreIOManager(self):
        return IOManager(self.core)

    def moduleManager(self):
        return self._moduleManager

    def settings(self):
        return qt.QSettings()

    userSettings = settings

    def testingEnabled(self) -> bool:
        return False  # dialogs are shown, and noted by ctkMessageBox

    def translate(self, _context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"https://slicer.readthedocs.io/{name}"


class ModuleManager(qt.QObject):
    moduleAboutToBeUnloaded = Signal(str)
    connect, disconnect = connect, disconnect

    def module(self, name: str) -> Module | None:
        return getattr(slicer.modules, name.lower(), None)


class LayoutManager(qt.QObject):
    """Three slice views and a 3D view. Nothing is drawn before somebody asks for a picture."""

    layoutChanged = Signal(int)

    def __init__(self, core: SlicerApp):
        super().__init__()
        self._logic = core.app_logic
        vtkObject.GlobalWarningDisplayOff()  # VTK warns of the missing display, which is not needed
        self._slices = {name: View(SliceView, core, name) for name in SLICE_VIEWS}
        for name, orientation in SLICE_VIEWS.items():
            self._slices[name].mrmlSliceNode().SetOrientation(orientation)
        self._threeD = View(ThreeDView, core, "1")
        vtkObject.GlobalWarningDisplayOn()

    def sliceViewNames(self) -> list[str]:
        return list(self._slices)

    def sliceWidget(self, name: str) -> View:
        return self._slices[name]

    @property
    def threeDViewCount(self) -> int:
        return 1

    def threeDWidget(self, _index: int) -> View:
        return self._threeD

    def mrmlSliceLogics(self):
        return self._logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        for view in self._slices.values():
            view.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        self._threeD.view.reset_focal_point()


class View(qt.QLabel):
    """One view: rendered off screen by the real displayable managers, shown as a picture."""

    def __init__(self, kind: type, core: SlicerApp, name: str):
        super().__init__()
        self.view = kind(core.scene, core.app_logic, name, scheduled_render_strategy=NoScheduleRendering())
        self.setMinimumSize(100, 100)

    def sliceLogic(self):
        return self.view._logic

    def sliceView(self) -> View:
        return self

    def interactor(self):
        return self.view.interactor()

    def setViewCursor(self, cursor) -> None:
        self.setCursor(cursor)

    def unsetViewCursor(self) -> None:
        self.unsetCursor()

    def mrmlSliceNode(self):
        return self.view._logic.GetSliceNode()

    def resizeEvent(self, event):
        self.view.render_window().SetSize(self.width, self.height)
        if isinstance(self.view, SliceView):
            self.view._logic.ResizeSliceNode(self.width, self.height)
        super().resizeEvent(event)

    def draw(self) -> None:
        pixels = np.ascontiguousarray(picture(self.view), np.uint8)
        height, width, _ = pixels.shape
        self.setPixmap(qt.QPixmap.fromImage(qt.QImage(pixels.data, width, height, 3 * width, qt.QImage.Format_RGB888)))


class Module:
    """`slicer.modules.<name>`: has a logic, and for scripted modules a path."""

    def __init__(self, logic=None, path: str = ""):
        self._logic, self.path = logic, path
        self.title, self.icon = "", qt.QIcon()
        self.widget = None

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return self.widget


class MainWindow(qt.QMainWindow):
    """Shows one module, which is entered all the time."""

    def __init__(self):
        super().__init__()
        self.objectName, self.windowTitle = "qSlicerMainWindow", "3D Slicer"

    def moduleSelector(self) -> MainWindow:
        return self

    def selectModule(self, name: str) -> None:
        assert slicer.app.moduleManager().module(name).widget.isEntered


def start() -> Application:
    """Set `slicer.app`, `slicer.mrmlScene` and `slicer.modules`, once."""
    if hasattr(slicer, "app"):
        return slicer.app
    folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
    slicer.app = app = Application(folder.name)
    app.folder = folder  # lives as long as the application
    core = app.core
    slicer.mrmlScene = core.scene
    core.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    slicer.modules = sys.modules["slicer.modules"] = types.ModuleType("slicer.modules")
    vars(slicer.modules).update(
        colors=Module(slicer.vtkSlicerColorLogic()),
        markups=Module(core.markups_logic._logic),
        segmentations=Module(core.segmentations_logic),
        subjecthierarchy=Module(core.subject_hierarchy_logic),
        terminologies=Module(core.terminologies_logic),
        volumes=Module(core.volumes_logic),
    )
    slicer.modules.colors.logic().SetMRMLApplicationLogic(core.app_logic)
    return app
