"""Slicer's widgets that hold MRML nodes, bound to the real scene."""

import sys

import ctk
import qt
import slicer
from PySide6.QtCore import Property, Signal

SCENE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndBatchProcessEvent", "EndImportEvent", "EndCloseEvent")


class qMRMLWidget(qt.QWidget):
    """Passes the scene on to the widgets that the .ui file connects to it."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """What holds the panel of a scripted module: `slicer.util.getModuleWidget` asks it for the Python object."""

    isEntered = False
    python = None

    def self(self):
        return self.python

    def reload(self) -> None:
        """Make the Python object anew, of the code that the module has now."""
        name = type(self.python).__name__
        self.python = getattr(sys.modules[type(self.python).__module__], name)(self)
        setattr(slicer.modules, name, self.python)
        self.python.setup()


def _option(name: str, kind: type) -> Property:
    return Property(kind, lambda self: self._options[name], lambda self, value: self._setOption(name, value))


class qMRMLSortFilterProxyModel(qt.QObject):
    """What a combo box offers of the scene."""

    def __init__(self, box):
        super().__init__(box)
        self._box, self._hidden = box, []

    def _hide(self, nodeIds) -> None:
        self._hidden = list(nodeIds)
        self._box.refresh()

    hiddenNodeIDs = Property(list, lambda self: self._hidden, _hide)


class qMRMLNodeComboBox(qt.QWidget):
    """The nodes of some classes in the scene, to choose one from."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUserAction = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._nodeId, self._nodeTypes = None, "", []
        self._filter = qMRMLSortFilterProxyModel(self)
        self._options = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False}
        self._options |= {"editEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._options |= {
            "selectNodeUponCreation": True,
            "noneDisplay": "None",
            "baseName": "",
            "hideChildNodeTypes": [],
        }
        self._box = qt.QComboBox()
        self._box.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._box.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Expanding)
        self.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Fixed)
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.activated.connect(self._onActivated)

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        for event in SCENE_EVENTS:
            scene.AddObserver(getattr(scene, event), lambda *_: self._refresh())
        self._refresh()

    def mrmlScene(self):
        return self._scene

    def sortFilterProxyModel(self):
        return self._filter

    def refresh(self) -> None:
        if self._scene:
            self._refresh()

    def nodes(self) -> list:
        """Those to choose from."""
        found = {}
        for className in self._nodeTypes if self._scene else ():
            collection = self._scene.GetNodesByClass(className)
            collection.UnRegister(None)
            for index in range(collection.GetNumberOfItems()):
                node = collection.GetItemAsObject(index)
                exact = self._options["showChildNodeTypes"] or node.GetClassName() == className
                shown = not any(node.IsA(hidden) for hidden in self._options["hideChildNodeTypes"])
                shown = shown and node.GetID() not in self._filter.hiddenNodeIDs
                if exact and shown and (self._options["showHidden"] or not node.GetHideFromEditors()):
                    found[node.GetID()] = node
        return list(found.values())

    def currentNode(self):
        return self._scene.GetNodeByID(self._nodeId) if self._scene and self._nodeId else None

    def setCurrentNode(self, node) -> None:
        self.setCurrentNodeID(node.GetID() if node else "")

    def setCurrentNodeID(self, nodeId: str | None) -> None:
        if (nodeId or "") == self._nodeId:
            return
        self._nodeId = nodeId or ""
        self._refresh(choose=False)
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(self._nodeId)

    def addNode(self):
        """Make a node and select it; by code or, through "Create new ..." in the list, by the user."""
        node = self._scene.CreateNodeByClass(self._nodeTypes[0])
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self._options["baseName"] or node.GetNodeTagName()))
        self._scene.AddNode(node)
        node.CreateDefaultDisplayNodes() if hasattr(node, "CreateDefaultDisplayNodes") else None
        if self._options["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        return node

    def _refresh(self, choose: bool = True) -> None:
        if self._scene.IsBatchProcessing():
            return
        nodes = self.nodes()
        self._box.clear()
        if self._options["noneEnabled"] or not nodes:
            self._box.addItem(self._options["noneDisplay"] if self._options["noneEnabled"] else "Select a node", "")
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        if self._options["addEnabled"]:
            self._box.addItem(f"Create new {self._options['baseName'] or 'node'}", "add")
        if choose and self._nodeId not in [node.GetID() for node in nodes]:
            gone = self._nodeId
            if nodes and not self._options["noneEnabled"]:
                self.setCurrentNode(nodes[0])
            elif gone:
                self.setCurrentNode(None)
        self._box.currentIndex = max(0, self._box.findData(self._nodeId))

    def _onActivated(self, index: int) -> None:
        chosen = self._box.itemData(index)
        if chosen == "add":
            self.nodeAddedByUserAction.emit(self.addNode())
        else:
            self.setCurrentNodeID(chosen)

    def _setNodeTypes(self, types) -> None:
        self._nodeTypes = list(types)
        if self._scene:
            self._refresh()

    def _setOption(self, name: str, value) -> None:
        self._options[name] = value
        if self._scene:
            self._refresh()

    nodeTypes = Property(list, lambda self: self._nodeTypes, _setNodeTypes)
    currentNodeID = Property(str, lambda self: self._nodeId, setCurrentNodeID)
    noneEnabled, addEnabled, removeEnabled, renameEnabled, editEnabled, showHidden = (
        _option(name, bool)
        for name in ("noneEnabled", "addEnabled", "removeEnabled", "renameEnabled", "editEnabled", "showHidden")
    )
    showChildNodeTypes, selectNodeUponCreation = (
        _option(name, bool) for name in ("showChildNodeTypes", "selectNodeUponCreation")
    )
    hideChildNodeTypes = _option("hideChildNodeTypes", list)
    noneDisplay, baseName = _option("noneDisplay", str), _option("baseName", str)


class _SegmentsTableView(qt.QWidget):
    """The editor's list of segments."""

    def setHideSegments(self, segmentIds) -> None:
        self.hidden = list(segmentIds)


class qMRMLSegmentEditorWidget(qt.QWidget):
    """Holds what the Segment Editor would show; a test paints through the segmentation node.

    Attributes:
        history: What Undo leads back to; a test adds to it as it paints.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = self._editorNode = None
        self._effect, self._shortcut = "", None
        self.history: list = []
        column = qt.QVBoxLayout(self)
        for name, text in (
            ("EffectsGroupBox", "Paint Draw Erase"),
            ("UndoRedoGroupBox", "Undo"),
            ("EffectHelpBrowser", ""),
        ):
            label = qt.QLabel(text)
            label.setObjectName(name)
            column.addWidget(label)
        frame = qt.QFrame()
        frame.setObjectName("SegmentsTableResizableFrame")
        table = _SegmentsTableView()
        table.setObjectName("SegmentsTableView")
        qt.QVBoxLayout(frame).addWidget(table)
        column.addWidget(frame)
        for option in ("Sphere brush", "Edit in 3D views", "Color smudge"):
            column.addWidget(qt.QCheckBox(option))

    def setMRMLScene(self, scene) -> None:
        self._scene = scene

    def mrmlScene(self):
        return self._scene

    def setMRMLSegmentEditorNode(self, node) -> None:
        self._editorNode = node

    def setEffectNameOrder(self, names) -> None:
        self._order = names

    def setupViewObservations(self) -> None:
        self._observes = True

    def removeViewObservations(self) -> None:
        self._observes = False

    def installKeyboardShortcuts(self) -> None:
        """Of Slicer's many, the one that the review's own keys meet."""
        self.uninstallKeyboardShortcuts()
        self._shortcut = qt.QShortcut(qt.QKeySequence("I"), slicer.util.mainWindow())
        self._shortcut.activated.connect(self._toggleIntensityMask)

    def uninstallKeyboardShortcuts(self) -> None:
        if self._shortcut:
            self._shortcut.setParent(None)
            self._shortcut = None

    def _toggleIntensityMask(self) -> None:
        self._editorNode.SetSourceVolumeIntensityMask(not self._editorNode.GetSourceVolumeIntensityMask())

    def _setUndoEnabled(self, enabled: bool) -> None:
        if enabled:
            self.history.clear()

    def _setMaskingSectionVisible(self, visible: bool) -> None:
        assert self._editorNode, "Invalid segment editor parameter set node"  # Slicer's complains in the console

    maskingSectionVisible = property(lambda self: True, _setMaskingSectionVisible)
    undoEnabled = property(lambda self: True, _setUndoEnabled)

    def setActiveEffectByName(self, name: str) -> None:
        self._effect = name
        if self._editorNode:
            self._editorNode.SetActiveEffectName(name)


def classes() -> dict[str, type]:
    """All fakes that a .ui file may name."""
    here = {name: member for name, member in globals().items() if name.startswith("qMRML")}
    return here | {name: member for name, member in vars(ctk).items() if name.startswith("ctk")}


slicer.qMRMLWidget, slicer.qMRMLNodeComboBox = qMRMLWidget, qMRMLNodeComboBox
slicer.qMRMLSegmentEditorWidget = qMRMLSegmentEditorWidget
slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
# Slicer's parameterNodeWrapper names these; no panel here uses them.
for _name in ("qMRMLSliderWidget", "qMRMLSpinBox", "qMRMLRangeWidget"):
    setattr(slicer, _name, ctk.unused(_name))
