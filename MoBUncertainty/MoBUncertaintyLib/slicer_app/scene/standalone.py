"""Writes a scene file without a running Slicer, as a request on stdin asks for: `python -m ...scene.standalone`.

The command line runs this in a process of its own: VTK and torch stay apart, and what Slicer's core prints does not
reach the user's terminal. Positions are RAS mm.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.files.names import label_file_names
from MoBUncertaintyLib.geometry import Grid
from MoBUncertaintyLib.images.memory import lazy_zeros
from MoBUncertaintyLib.output.exchange import HEADER_SIZE, KEPT, read_prediction, read_regions
from MoBUncertaintyLib.regions.settings import Measure
from MoBUncertaintyLib.slicer_app.scene.maps import MapKind
from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs, regionSpecs


def addCt(scene, array: np.ndarray, ijkToRas: np.ndarray, name: str, displayRange=(-160.0, 240.0)):
    """Add a CT.

    Args:
        scene: Where to add it.
        array: Hounsfield units, (z, y, x); the node shares its memory.
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
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(array.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=False))
    node.SetAndObserveImageData(image)
    return node


def createStandAloneScene():
    """Make a scene with what a running Slicer would hold: node classes, four-up layout, slice and 3D views, camera.

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
    for view in nodesByClass(scene, "vtkMRMLSliceNode"):
        _addForView(scene, "vtkMRMLSliceCompositeNode", view.GetLayoutName())
    for view in nodesByClass(scene, "vtkMRMLViewNode"):
        _addForView(scene, "vtkMRMLCameraNode", view.GetLayoutName())
    return scene, logics


def writeScene(scene, path: str | Path, names: Mapping[str, str] | None = None):
    """Write the scene and all its data into one .mrb file.

    Args:
        scene: The scene.
        path: The file.
        names: What the data files of some nodes are called, without their ending, by the nodes' IDs.

    Raises:
        OSError: It could not be written; with the core's own messages.
    """
    for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode"):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetCompressionParameter("gzip_fastest")
    for node in nodesByClass(scene, "vtkMRMLSegmentationNode"):
        node.AddDefaultStorageNode()
        # Most of a CT is in no segment. The core cannot read what it has cropped to nothing.
        node.GetStorageNode().SetCropToMinimumExtent(_hasVoxels(node.GetSegmentation()))
    _nameFiles(scene, names or {})
    messages = slicer.vtkMRMLMessageCollection()
    if not scene.WriteToMRB(os.fspath(path), None, messages):
        raise OSError(messages.GetAllMessagesAsString() or f"Slicer's core could not write {path}.")


def _hasVoxels(segmentation) -> bool:
    """Tell whether anything is in a segment."""
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segments = map(segmentation.GetNthSegment, range(segmentation.GetNumberOfSegments()))
    images = [segment.GetRepresentation(name) for segment in segments]
    scalars = [image.GetPointData().GetScalars() for image in images if image and image.GetNumberOfPoints()]
    return any(vtk_to_numpy(each).max() > 0 for each in scalars)  # VTK's own range takes many times as long


def _nameFiles(scene, names: Mapping[str, str]):
    """Name the data files: called like its nodes, with an ampersand, say, the core cannot read the scene again."""
    nodes = [node for node in nodesByClass(scene, "vtkMRMLStorableNode") if node.GetSaveWithScene()]
    for node in nodes:
        node.AddDefaultStorageNode()
    stored = [node for node in nodes if node.GetStorageNode()]
    for node, name in zip(stored, label_file_names([node.GetName() for node in stored]), strict=True):
        storage = node.GetStorageNode()
        storage.SetFileName(f"{names.get(node.GetID(), name)}.{storage.GetDefaultWriteFileExtension()}")


def writeRequestedScene(request: dict):
    """Build and write the scene that a request describes.

    The voxels of CT and maps are large, and packed elsewhere: here `ct.nrrd`, `probability_1.nrrd`, `variance_1.nrrd`
    and so on, by the label's value, get a header and a few voxels, and who has asked puts their own there.

    Args:
        request: `output` (.mrb); `ct`: `voxels` and what else `addCt` takes; `prediction`: see `output.exchange`. In
            the place of an array there are its `shape`, its `dtype`, and the `file` (.npy) of what lies in a `box`, the
            only part that matters here.
    """

    def load(part: dict) -> np.ndarray:
        array = lazy_zeros(part["shape"], part["dtype"])
        if "file" in part:  # all else is 0, or does not matter here
            array[tuple(slice(*ends) for ends in part["box"])] = np.load(part["file"])
        return array

    scene, _logics = createStandAloneScene()
    ct, fields = request["ct"], request["prediction"]
    prediction = read_prediction(fields, Grid.from_matrix(ct["ijk_to_ras"]), load)
    regions = read_regions(fields, load(fields["region_map"]))
    ctNode = addCt(scene, load(ct["voxels"]), ct["ijk_to_ras"], ct["name"], ct["display_range"])
    results = ResultScene(ctNode)
    results.setPrediction(prediction, regions.settings)
    results.setSegmentation(prediction.segmentation, labelSpecs(prediction.labels))
    results.setRegions(regions.map, regionSpecs(regions.ranked, prediction.labels, flagged=True))
    results.showMap(MapKind(results.overlay["kind"]))
    if prediction.has_variance:
        results.setOverlay(threshold=regions.settings.level_of(Measure.VARIANCE))
    results.showSurface(True)
    results.setState("prediction", {name: fields[name] for name in KEPT})
    results.showInViews(regions.ranked[0].centroid_ras if regions.ranked else None)
    large = {"ct": ctNode} | results.mapNodes()
    for node in large.values():
        _keepOnlyHeader(node)
    writeScene(scene, request["output"], {node.GetID(): key for key, node in large.items()})


def _keepOnlyHeader(node):
    """Leave a volume so few voxels that its file is little more than the header."""
    image = vtk.vtkImageData()
    image.SetDimensions(*HEADER_SIZE)
    image.AllocateScalars(node.GetImageData().GetScalarType(), 1)
    image.GetPointData().GetScalars().Fill(0)
    node.SetAndObserveImageData(image)


def _addForView(scene, className: str, layoutName: str):
    """Return the only node of a class that belongs to a view, as its widget would make it."""
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetSingletonTag(layoutName)
    node.SetLayoutName(layoutName)
    scene.AddNode(node)


if __name__ == "__main__":
    asked = sys.stdin.buffer.read()
    if asked:  # else nobody wants a scene any more
        writeRequestedScene(json.loads(asked))
