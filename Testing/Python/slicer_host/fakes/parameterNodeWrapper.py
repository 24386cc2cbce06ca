"""Stands in for `slicer.parameterNodeWrapper`: typed parameters, bound to widgets by `SlicerParameterName`."""

import enum
import json
import typing
from dataclasses import dataclass

import qt
import slicer
import vtk

__all__ = ["WithinRange", "parameterNodeWrapper"]


@dataclass
class WithinRange:
    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


class Parameter:
    """A descriptor: the value is text in the node, or a reference to another node."""

    def __init__(self, name, annotation, default):
        self.name, self.default = name, default
        self.kind, *self.annotations = (
            typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
        )
        self.kind = typing.get_origin(self.kind) or self.kind  # a list of text is a list

    @property
    def isNode(self):
        return issubclass(self.kind, vtk.vtkObject)

    def __get__(self, instance, owner):
        if instance is None:
            return self
        node = instance.parameterNode
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if not node.HasParameter(self.name):
            return self.default if self.default is not None else self.kind()
        if self.kind is bool:
            return text == "True"
        if self.kind is list:
            return json.loads(text)
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return self.kind(text)

    def __set__(self, instance, value):
        node = instance.parameterNode
        if self.isNode:
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        if not isinstance(value, (int, float) if self.kind is float else self.kind):
            raise TypeError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
        for annotation in self.annotations:
            annotation.validate(value)
        text = json.dumps(value) if self.kind is list else str(value)
        node.SetParameter(self.name, value.name if issubclass(self.kind, enum.Enum) else text)

    def bind(self, widget):
        """The widget's signal, how to read it and how to write it."""
        for annotation in self.annotations:
            if isinstance(annotation, WithinRange):
                widget.setRange(annotation.minimum, annotation.maximum)
        if isinstance(widget, slicer.qMRMLNodeComboBox):
            return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
        if isinstance(widget, qt.QComboBox):
            choices = list(self.kind)
            widget.clear()
            widget.addItems([getattr(self.kind, "label", lambda choice: choice.name)(choice) for choice in choices])
            return (
                widget.currentIndexChanged,
                lambda: choices[widget.currentIndex],
                lambda value: widget.setCurrentIndex(choices.index(value)),
            )
        signal, name = ("toggled", "checked") if self.kind is bool else ("valueChanged", "value")
        return (
            getattr(widget, signal),
            lambda: self.kind(getattr(widget, name)),
            lambda value: setattr(widget, name, value) if getattr(widget, name) != value else None,
        )


def parameterNodeWrapper(cls):
    parameters = {
        name: Parameter(name, annotation, getattr(cls, name, None))
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name, parameter in parameters.items():
        setattr(cls, name, parameter)

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._connections = {}

    def connectGui(self, gui):
        bound = {
            name: parameters[name].bind(widget)
            for widget in vars(gui).values()
            if (name := widget.property("SlicerParameterName"))
        }
        busy = []

        def update(*_):
            if not busy:
                busy.append(True)
                for name, (_signal, _read, write) in bound.items():
                    write(getattr(self, name))
                busy.clear()

        def listener(name, read):
            return lambda *_: None if busy else setattr(self, name, read())

        update()
        slots = []
        for name, (signal, read, _write) in bound.items():
            slots.append((signal, listener(name, read)))
            signal.connect(slots[-1][1])
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, update)
        self._connections[tag] = slots
        return tag

    def disconnectGui(self, tag):
        for signal, slot in self._connections.pop(tag, ()):
            signal.disconnect(slot)
        self.RemoveObserver(tag)

    cls.__init__, cls.connectGui, cls.disconnectGui = __init__, connectGui, disconnectGui
    cls.AddObserver = lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(
        event, callback, priority
    )
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    cls.StartModify = lambda self: self.parameterNode.StartModify()
    cls.EndModify = lambda self, wasModified: self.parameterNode.EndModify(wasModified)
    cls.Modified = lambda self: self.parameterNode.Modified()
    return cls
