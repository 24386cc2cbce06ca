"""The modules `qt` and `ctk` as Slicer's Python has them, made of PySide6."""

import sys
import types
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets


class QtProperty:
    """A property of a Qt class as an attribute (`label.text = "x"`), the way PythonQt has it; `setText` stays.

    PySide6's own feature for it (`true_property`) takes the setters away, which Slicer's files and modules call too.
    """

    def __init__(self, qt_class: type, name: str):
        self.name = name
        self.method = vars(qt_class).get(name)  # the getter; for QTimer.singleShot something else of that name
        self.is_getter = self.method is not None and not isinstance(self.method, staticmethod) and name != "singleShot"

    def __get__(self, instance, owner):
        if instance is None:
            return self if self.method is None else self.method.__get__(None, owner)
        return self.method(instance) if self.is_getter else QtCore.QObject.property(instance, self.name)

    def __set__(self, instance, value):
        if not QtCore.QObject.setProperty(instance, self.name, value):
            raise TypeError(f"{self.name} of {type(instance).__name__} cannot be {value!r}")


def connect(self: QtCore.QObject, signal: str, slot) -> None:
    """`app.connect("startupCompleted()", f)`, PythonQt's older way, which Slicer's own files use with two objects."""
    getattr(self, signal.split("(")[0]).connect(slot)


def disconnect(self: QtCore.QObject, signal: str, slot) -> None:
    getattr(self, signal.split("(")[0]).disconnect(slot)


class UiLoader(QtUiTools.QUiLoader):
    """Knows the fakes of Slicer's and CTK's widgets, and connects signals and slots that were written in Python."""

    def __init__(self, classes: dict[str, type]):
        super().__init__()
        self.classes = classes
        self.unknown: list[str] = []

    def createWidget(self, class_name: str, parent=None, name: str = ""):
        if class_name in self.classes:
            widget = self.classes[class_name](parent)
            widget.setObjectName(name)
            return widget
        if class_name not in self.availableWidgets():
            self.unknown.append(class_name)
        return super().createWidget(class_name, parent, name)

    def load(self, file: QtCore.QFile, parent=None):
        tree = ElementTree.fromstring(bytes(file.readAll()))
        connections = tree.find("connections")
        if connections is not None:
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        widget = super().load(buffer, parent)
        if widget is None or self.unknown:
            raise RuntimeError(f"The host cannot load this .ui file: {self.errorString() or self.unknown}")
        for connection in connections if connections is not None else ():
            sender, signal, receiver, slot = (
                connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot")
            )
            slot = getattr(named(widget, receiver), slot.split("(")[0])
            getattr(named(widget, sender), signal.split("(")[0]).connect(slot)
        return widget


def named(widget: QtWidgets.QWidget, name: str) -> QtCore.QObject:
    found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
    if found is None:
        raise RuntimeError(f"The .ui file connects {name!r}, which it does not have")
    return found


def install() -> types.ModuleType:
    """Make `import qt` possible; returns it."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    qt = types.ModuleType("qt", "QtCore, QtGui and QtWidgets in one namespace.")
    for module in (QtCore, QtGui, QtWidgets):
        vars(qt).update({name: getattr(module, name) for name in dir(module) if not name.startswith("_")})
    for qt_class in {member for member in vars(qt).values() if isinstance(member, type)}:
        meta = getattr(qt_class, "staticMetaObject", None)
        for index in range(meta.propertyCount()) if meta else ():
            name = meta.property(index).name()
            if index >= meta.propertyOffset() or callable(vars(qt_class).get(name)):  # own, or with a getter of its own
                setattr(qt_class, name, QtProperty(qt_class, name))
    QtCore.QObject.name = vars(QtCore.QObject)["objectName"]
    QtCore.QObject.className = lambda self: self.metaObject().className()
    sys.modules["qt"] = qt
    return qt
