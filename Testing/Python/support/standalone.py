"""A scene in Slicer's core without a running Slicer. Positions are RAS mm."""

import numpy as np

from support.late import slicer, slicer_app, vtk


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
    image.GetPointData().SetScalars(
        vtk.util.numpy_support.numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=False)
    )
    node.SetAndObserveImageData(image)
    return node


def transform(node, matrix: np.ndarray | None = None, kind: str = "Linear"):
    """Put a node under a new transform, 4 x 4; returns the transform."""
    made = node.GetScene().AddNewNodeByClass(f"vtkMRML{kind}TransformNode")
    if matrix is not None:
        made.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, float)))
    node.SetAndObserveTransformNodeID(made.GetID())
    return made


def shift(*millimetres: float) -> np.ndarray:
    """The matrix that moves along the axes."""
    matrix = np.eye(4)
    matrix[: len(millimetres), 3] = millimetres
    return matrix


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
    for view in slicer_app.scene.nodes.nodesByClass(scene, "vtkMRMLSliceNode"):
        _add_for_view(scene, "vtkMRMLSliceCompositeNode", view.GetLayoutName())
    for view in slicer_app.scene.nodes.nodesByClass(scene, "vtkMRMLViewNode"):
        _add_for_view(scene, "vtkMRMLCameraNode", view.GetLayoutName())
    return scene, logics


def _add_for_view(scene, class_name: str, layout_name: str):
    """Return the only node of a class that belongs to a view, as its widget would make it."""
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)
    node.SetSingletonTag(layout_name)
    node.SetLayoutName(layout_name)
    scene.AddNode(node)
