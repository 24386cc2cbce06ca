"""A scene in Slicer's core without a running Slicer; it can be written to a file. Positions are RAS mm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.base.names import label_file_names
from MoBUncertaintyLib.slicer_app.scene.nodes import nodesByClass


def add_volume(scene, array: np.ndarray, ijk_to_ras: np.ndarray, name: str, display_range=(-160.0, 240.0)):
    """Add a CT.

    Args:
        scene: Where to add it.
        array: Hounsfield units, (z, y, x); the node shares its memory.
        ijk_to_ras: 4 x 4.
        name: As the user knows it.
        display_range: Values shown as black and as white.

    Returns:
        The vtkMRMLScalarVolumeNode.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijk_to_ras, float)))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(*display_range)
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(array.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=False))
    node.SetAndObserveImageData(image)
    return node


def make_scene():
    """Make a scene with what a running Slicer would hold: node classes, four-up layout, slice and 3D views, camera.

    Returns:
        The vtkMRMLScene and the logics that keep it in order; hold on to both.
    """
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = [application]
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    for logic_class in (slicer.vtkSlicerSegmentationsModuleLogic, slicer.vtkSlicerSubjectHierarchyModuleLogic):
        logic = logic_class()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        logics.append(logic)

    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    layout_logic = slicer.vtkMRMLLayoutLogic()  # makes the nodes of the views
    layout_logic.SetMRMLScene(scene)
    layout_logic.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    logics.append(layout_logic)
    for view in nodesByClass(scene, "vtkMRMLSliceNode"):
        _add_for_view(scene, "vtkMRMLSliceCompositeNode", view.GetLayoutName())
    for view in nodesByClass(scene, "vtkMRMLViewNode"):
        _add_for_view(scene, "vtkMRMLCameraNode", view.GetLayoutName())
    return scene, logics


def write_scene(scene, path: str | Path):
    """Write the scene and all its data into one .mrb file.

    Args:
        scene: The scene.
        path: The file.

    Raises:
        OSError: It could not be written; with the core's own messages.
    """
    for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode"):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetCompressionParameter("gzip_fastest")
    for node in nodesByClass(scene, "vtkMRMLSegmentationNode"):
        node.AddDefaultStorageNode()
        # Most of a CT is in no segment. The core cannot read what it has cropped to nothing.
        node.GetStorageNode().SetCropToMinimumExtent(_has_voxels(node.GetSegmentation()))
    _name_files(scene)
    messages = slicer.vtkMRMLMessageCollection()
    if not scene.WriteToMRB(os.fspath(path), None, messages):
        raise OSError(messages.GetAllMessagesAsString() or f"Slicer's core could not write {path}.")


def _has_voxels(segmentation) -> bool:
    """Tell whether anything is in a segment."""
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    segments = map(segmentation.GetNthSegment, range(segmentation.GetNumberOfSegments()))
    images = [segment.GetRepresentation(name) for segment in segments]
    scalars = [image.GetPointData().GetScalars() for image in images if image and image.GetNumberOfPoints()]
    return any(vtk_to_numpy(each).max() > 0 for each in scalars)  # VTK's own range takes many times as long


def _name_files(scene):
    """Name the data files: called like its nodes, with an ampersand, say, the core cannot read the scene again."""
    nodes = [node for node in nodesByClass(scene, "vtkMRMLStorableNode") if node.GetSaveWithScene()]
    for node in nodes:
        node.AddDefaultStorageNode()
    stored = [node for node in nodes if node.GetStorageNode()]
    for node, name in zip(stored, label_file_names([node.GetName() for node in stored]), strict=True):
        storage = node.GetStorageNode()
        storage.SetFileName(f"{name}.{storage.GetDefaultWriteFileExtension()}")


def _add_for_view(scene, class_name: str, layout_name: str):
    """Return the only node of a class that belongs to a view, as its widget would make it."""
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetSingletonTag(layout_name)
    node.SetLayoutName(layout_name)
    scene.AddNode(node)
