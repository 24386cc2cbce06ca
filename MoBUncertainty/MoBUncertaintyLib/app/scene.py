"""A prediction as a Slicer scene, ready to be looked at: CT, segmentation, heat map of the variance, flagged regions.

Imports only `slicer`, `vtk` and `numpy`, and runs in 3D Slicer as well as on the Slicer core from PyPI (`slicer-core`).
Arrays are (z, y, x), matrices map voxel indices (i, j, k) to RAS mm, positions are RAS mm, colours are 0 to 255.

The command line writes its scene in a process of its own (`python -m MoBUncertaintyLib.app.scene request.json`): VTK
and torch stay apart, and what Slicer's core prints does not reach the user's terminal.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk

CT_RANGE = (-160.0, 240.0)  # HU, black and white: the window of the abdomen (400 wide, level 40)
VARIANCE_RANGE = (0.0, 0.25)  # 0.25 is the largest variance a probability can have: one scale for every case
HEAT_MAP_OPACITY = 0.75
MARGIN = 1.4  # the field of view against the size of the organ
SMALLEST_VIEW_MM = 100.0

REFERENCE_ROLE = "MoBUncertainty.{}"  # from the CT to each node made for it: a second run finds and reuses them

# Every fifth of matplotlib's 256 Inferno colours; straight lines between them are true to 2/255.
_INFERNO = (
    "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e61136e69166e71196e781c6d"
    "801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711f"
    "f47918f78212f98b0bfa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
)


@dataclass(frozen=True)
class SegmentSpec:
    """What is shown of one value of a label map.

    Attributes:
        value: In the label map; above 0.
        name: As the user reads it.
        colour: Red, green, blue; 0 to 255.
        terminology: `category`, `type` and `modifier` (or None), each (scheme, code, meaning); None: left to Slicer.
        flagged: The segment gets Slicer's status Flagged: somebody should look at it.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    terminology: dict | None = None
    flagged: bool = False


class ResultScene:
    """All that is shown of one CT's prediction.

    Each `set...` method makes its node or, where an earlier run has made it, fills it anew. All nodes lie in one
    subject-hierarchy folder with the CT and follow the CT's transform.

    Args:
        ctNode: The CT, in a scene.
    """

    def __init__(self, ctNode):
        self.ctNode = ctNode
        self.scene = ctNode.GetScene()
        self._placeInFolder(ctNode, "Volumes")

    def node(self, role: str):
        """The node made for this CT in that role (`segmentation`, `variance`, `regions`, `inferno`), or None."""
        return self.ctNode.GetNodeReference(REFERENCE_ROLE.format(role))

    def setSegmentation(self, labels: np.ndarray, segments: list[SegmentSpec]):
        """Show the organs: outlines in the slices, surfaces in 3D.

        Args:
            labels: Label map of the CT's shape.
            segments: One for each value.

        Returns:
            The vtkMRMLSegmentationNode.
        """
        node = self._getOrCreate("segmentation", "vtkMRMLSegmentationNode", "segmentation")
        self._fillSegmentation(node, labels, segments)
        node.CreateClosedSurfaceRepresentation()
        display = node.GetDisplayNode()
        display.SetOpacity2DFill(0.0)  # a fill would tint the heat map
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(2)
        display.SetOpacity3D(0.6)
        return node

    def setVariance(self, array: np.ndarray, threshold: float):
        """Show the predictive variance as a heat map: Inferno with a legend, clear below the threshold.

        Args:
            array: Variance, of the CT's shape; float32.
            threshold: Below this nothing is drawn.

        Returns:
            The vtkMRMLScalarVolumeNode.
        """
        node = self._getOrCreate("variance", "vtkMRMLScalarVolumeNode", "predictive variance")
        matrix = vtk.vtkMatrix4x4()
        self.ctNode.GetIJKToRASMatrix(matrix)
        node.SetIJKToRASMatrix(matrix)
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(self._infernoNode().GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(*VARIANCE_RANGE)
        display.AutoThresholdOff()
        display.SetThreshold(threshold, max(1.0, threshold))
        display.ApplyThresholdOn()
        slicer.util.updateVolumeFromArray(node, array)  # last: with automatic levels it would take a histogram
        self._showLegend(node, "Variance")
        return node

    def setRegions(self, labels: np.ndarray, segments: list[SegmentSpec]):
        """Show the doubtful regions as outlines, each a segment of its own.

        Args:
            labels: Label map of the CT's shape.
            segments: One for each region, in order of rank.

        Returns:
            The vtkMRMLSegmentationNode.
        """
        node = self._getOrCreate("regions", "vtkMRMLSegmentationNode", "doubtful regions")
        self._fillSegmentation(node, labels, segments)
        display = node.GetDisplayNode()
        display.SetOpacity2DFill(0.0)
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(3)
        display.SetVisibility3D(False)
        return node

    def showInViews(self, position=None):
        """Put CT and heat map into all slice views, zoomed to organ and regions, and point the 3D view there.

        Args:
            position: The slices go through it, RAS mm; None: through the middle of what is shown.
        """
        bounds = self._boundsOfInterest()
        middle = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
        size = max(bounds[2 * axis + 1] - bounds[2 * axis] for axis in range(3))
        width = max(MARGIN * size, SMALLEST_VIEW_MM)
        variance = self.node("variance")
        for composite in _nodes(self.scene, "vtkMRMLSliceCompositeNode"):
            composite.SetBackgroundVolumeID(self.ctNode.GetID())
            composite.SetForegroundVolumeID(variance.GetID() if variance else None)
            composite.SetForegroundOpacity(HEAT_MAP_OPACITY)
        for view in _nodes(self.scene, "vtkMRMLSliceNode"):
            pixels = view.GetDimensions()
            scale = width / max(1, min(pixels[0], pixels[1]))
            view.SetFieldOfView(pixels[0] * scale, pixels[1] * scale, view.GetFieldOfView()[2])
            view.JumpSliceByCentering(*middle)
            if position:
                view.JumpSliceByOffsetting(*position)
        for camera in _nodes(self.scene, "vtkMRMLCameraNode"):
            camera.SetFocalPoint(*middle)
            camera.SetPosition(middle[0], middle[1] + 3 * size, middle[2])  # from the front
            camera.SetViewUp(0, 0, 1)
            camera.ResetClippingRange()

    def _getOrCreate(self, role: str, className: str, name: str):
        node = self.node(role)
        if node is None:
            node = self.scene.AddNewNodeByClass(className, f"{self.ctNode.GetName()} {name}")
            self.ctNode.SetNodeReferenceID(REFERENCE_ROLE.format(role), node.GetID())
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
            node.SetAndObserveTransformNodeID(self.ctNode.GetTransformNodeID())
            self._placeInFolder(node, "Segmentations" if node.IsA("vtkMRMLSegmentationNode") else "Volumes")
        return node

    def _placeInFolder(self, node, plugin: str):
        """Beside the CT. In a running Slicer the hierarchy has the node already; the bare core has to be told."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node, plugin)
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(self.ctNode))
        if folder == hierarchy.GetSceneItemID():
            folder = hierarchy.CreateFolderItem(folder, f"{self.ctNode.GetName()} with uncertainty")
            hierarchy.SetItemOwnerPluginName(folder, "Folder")
        hierarchy.SetItemParent(item, folder)

    def _fillSegmentation(self, node, labels: np.ndarray, segments: list[SegmentSpec]):
        """All segments share one label map that is cut to what it holds: one copy, whatever their number."""
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.ctNode)
        segmentation = node.GetSegmentation()
        segmentation.RemoveAllSegments()
        segmentation.SetSourceRepresentationName(_binaryLabelmap())
        labelmap = self._orientedImage(labels)
        for spec in segments:
            segment = slicer.vtkSegment()
            segment.SetName(spec.name)
            segment.SetColor(*(channel / 255 for channel in spec.colour))
            segment.SetLabelValue(spec.value)
            if spec.terminology:
                segment.SetTerminology(_terminologyEntry(spec.terminology))
            if spec.flagged:
                logic = slicer.vtkSlicerSegmentationsModuleLogic
                logic.SetSegmentStatus(segment, logic.Flagged)
            segment.AddRepresentation(_binaryLabelmap(), labelmap)
            segmentation.AddSegment(segment, f"Segment_{spec.value}")
        self._listSegments(node)

    def _orientedImage(self, labels: np.ndarray):
        box = _occupied(labels)
        image = slicer.vtkOrientedImageData()
        image.SetExtent(*(edge for axis in reversed(box) for edge in (axis.start, axis.stop - 1)))
        values = np.ascontiguousarray(labels[box]).astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
        image.GetPointData().SetScalars(numpy_to_vtk(values.ravel(), deep=True))
        matrix = vtk.vtkMatrix4x4()
        self.ctNode.GetIJKToRASMatrix(matrix)
        image.SetGeometryFromImageToWorldMatrix(matrix)
        return image

    def _listSegments(self, node):
        """Slicer's own segments in the subject hierarchy; a running Slicer has made them by now."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        parent = hierarchy.GetItemByDataNode(node)
        attribute = node.GetSegmentIDAttributeName()
        hierarchy.SetItemAttribute(
            parent, slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyVirtualBranchAttributeName(), "1"
        )
        children = vtk.vtkIdList()
        hierarchy.GetItemChildren(parent, children)
        items = [children.GetId(index) for index in range(children.GetNumberOfIds())]
        listed = {hierarchy.GetItemAttribute(item, attribute): item for item in items}
        segmentIds = list(node.GetSegmentation().GetSegmentIDs())
        for gone in set(listed) - set(segmentIds):
            hierarchy.RemoveItem(listed[gone])
        for segmentId in segmentIds:
            name = node.GetSegmentation().GetSegment(segmentId).GetName()
            item = listed.get(segmentId) or hierarchy.CreateHierarchyItem(parent, name, "Subseries")
            hierarchy.SetItemName(item, name)
            hierarchy.SetItemAttribute(item, attribute, segmentId)
            hierarchy.SetItemOwnerPluginName(item, "Segments")

    def _infernoNode(self):
        """A colour table of our own, saved with the scene: the Slicer core knows no Inferno."""
        node = self._getOrCreate("inferno", "vtkMRMLColorTableNode", "Inferno")
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        for index, (red, green, blue) in enumerate(infernoColours()):
            node.SetColor(index, f"{index / 255:.3f}", red, green, blue)
        return node

    def _showLegend(self, node, title: str):
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
        legend.SetTitleText(title)
        legend.SetLabelFormat("%.2f")
        legend.SetNumberOfLabels(6)
        legend.SetVisibility(True)
        legend.GetTitleTextProperty().SetFontSize(12)
        legend.GetLabelTextProperty().SetFontSize(10)
        legend.SetSize(0.12, 0.5)

    def _boundsOfInterest(self) -> list[float]:
        """(R-, R+, A-, A+, S-, S+) in mm of segmentation and regions together; of the CT if there are none."""
        box = vtk.vtkBoundingBox()
        for node in (self.node("segmentation"), self.node("regions")):
            bounds = [0.0, -1.0, 0.0, -1.0, 0.0, -1.0]  # not valid: stays so where there is no segment
            if node is not None:
                node.GetRASBounds(bounds)
            if vtk.vtkMath.AreBoundsInitialized(bounds):
                box.AddBounds(bounds)
        bounds = [0.0] * 6
        if box.IsValid():
            box.GetBounds(bounds)
        else:
            self.ctNode.GetRASBounds(bounds)
        return bounds


def infernoColours() -> np.ndarray:
    """Matplotlib's Inferno to 2/255: (256, 3), 0 to 1."""
    stops = np.frombuffer(bytes.fromhex(_INFERNO), np.uint8).reshape(-1, 3) / 255
    return np.stack([np.interp(np.arange(256), np.arange(0, 256, 5), channel) for channel in stops.T], axis=1)


def addCt(scene, array: np.ndarray, ijkToRas: np.ndarray, name: str, displayRange=CT_RANGE):
    """Add a CT.

    Args:
        scene: Where to add it.
        array: Hounsfield units, (z, y, x).
        ijkToRas: 4 x 4.
        name: As the user knows it.
        displayRange: Values shown as black and as white.

    Returns:
        The vtkMRMLScalarVolumeNode.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijkToRas, float)))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*displayRange)
    slicer.util.updateVolumeFromArray(node, array)
    return node


def createStandAloneScene():
    """A scene with what a running Slicer would hold: node classes, four-up layout, slice views, 3D view and camera.

    Returns:
        The vtkMRMLScene and the logics that keep it in order; hold on to both.
    """
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = [application]
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    for logicClass in (slicer.vtkSlicerSegmentationsModuleLogic, slicer.vtkSlicerSubjectHierarchyModuleLogic):
        logic = logicClass()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        logics.append(logic)

    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    layoutLogic = slicer.vtkMRMLLayoutLogic()  # makes the nodes of the views
    layoutLogic.SetMRMLScene(scene)
    layoutLogic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    logics.append(layoutLogic)
    for view in _nodes(scene, "vtkMRMLSliceNode"):
        _addForView(scene, "vtkMRMLSliceCompositeNode", view.GetLayoutName())
    for view in _nodes(scene, "vtkMRMLViewNode"):
        _addForView(scene, "vtkMRMLCameraNode", view.GetLayoutName())
    return scene, logics


def writeScene(scene, path: str | Path):
    """Write the scene and all its data into one .mrb file.

    Raises:
        OSError: It could not be written; with the core's own messages.
    """
    for node in _nodes(scene, "vtkMRMLScalarVolumeNode"):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetCompressionParameter("gzip_fastest")
    messages = slicer.vtkMRMLMessageCollection()
    if not scene.WriteToMRB(os.fspath(path), None, messages):
        raise OSError(messages.GetAllMessagesAsString() or f"Slicer's core could not write {path}.")


def writeRequestedScene(request: dict):
    """Build and write the scene that a request describes.

    Args:
        request: `output` (.mrb); `ct`: `array` (a .npy file) and what else `addCt` takes; `variance`: `array` and
            `threshold`; `segmentation` and `regions`: `array` and `segments` (`SegmentSpec`s); `position`: as for
            `ResultScene.showInViews`.
    """
    scene, _logics = createStandAloneScene()
    for key in ("ct", "variance", "segmentation", "regions"):
        request[key]["array"] = np.load(request[key]["array"], mmap_mode="r")
    results = ResultScene(addCt(scene, **request["ct"]))
    results.setVariance(**request["variance"])
    for key, show in (("segmentation", results.setSegmentation), ("regions", results.setRegions)):
        show(request[key]["array"], [SegmentSpec(**segment) for segment in request[key]["segments"]])
    results.showInViews(request["position"])
    writeScene(scene, request["output"])


def _nodes(scene, className: str) -> list:
    """`slicer.util.getNodesByClass` asks the application's scene, whatever scene it is given."""
    nodes = scene.GetNodesByClass(className)
    nodes.UnRegister(None)
    return [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]


def _addForView(scene, className: str, layoutName: str):
    """The one node of a class that belongs to a view, as its widget would make it."""
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetSingletonTag(layoutName)
    node.SetLayoutName(layoutName)
    scene.AddNode(node)


def _binaryLabelmap() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _terminologyEntry(terminology: dict) -> str:
    def code(key: str) -> tuple[str, str, str]:
        scheme, value, meaning = terminology.get(key) or ("", "", "")
        return value, scheme, meaning

    return slicer.vtkSlicerTerminologiesModuleLogic.SerializeTerminologyEntry(
        "Segmentation category and type - 3D Slicer General Anatomy list",
        *code("category"),
        *code("type"),
        *code("modifier"),
        "Anatomic codes - DICOM master list",
        *("",) * 6,
    )


def _occupied(labels: np.ndarray) -> tuple[slice, slice, slice]:
    """The box of what is not background; one voxel where all is."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(used[0], used[-1] + 1) if len(used) else slice(0, 1))
    return tuple(box)


if __name__ == "__main__":
    writeRequestedScene(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
