"""What slice views and 3D view show, and where; and the legend of the map in one of them."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from MoBUncertaintyLib.images.modality import HOUNSFIELD_BELOW
from MoBUncertaintyLib.output.pictures.style import CT_RANGE
from MoBUncertaintyLib.slicer_app.scene.nodes import ROLE_ATTRIBUTE, CtNodes, nodesByClass

MARGIN = 1.4  # the field of view against the size of what is looked at
SMALLEST_VIEW_MM = 100.0
CLOSE_MARGIN = 2.5  # for one region: enough around it to know where one is
SMALLEST_CLOSE_VIEW_MM = 80.0

LEGEND_SIZE, LEGEND_PLACE = (0.08, 0.3), (0.97, 0.5)  # fractions of the view


def showVolumes(scene, background, foreground, opacity: float):
    """Put two volumes into all slice views; `foreground` may be None."""
    for composite in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
    _showLegend(scene, foreground)


def isBehind(volume) -> bool:
    """Whether a slice view shows a volume behind all others."""
    composites = nodesByClass(volume.GetScene(), "vtkMRMLSliceCompositeNode")
    return any(composite.GetBackgroundVolumeID() == volume.GetID() for composite in composites)


def takeOut(volume):
    """Take a volume off all others in the slice views."""
    for composite in nodesByClass(volume.GetScene(), "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() == volume.GetID():
            composite.SetForegroundVolumeID(None)
    if legend := slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume):
        legend.SetVisibility(False)


def giveWindow(ct):
    """Show a CT in the window of the abdomen, unless it has one of its own; other images stay as they are."""
    display = ct.GetDisplayNode()
    automatic = display and display.GetAutoWindowLevel() and ct.GetImageData()
    if automatic and ct.GetImageData().GetScalarRange()[0] < HOUNSFIELD_BELOW:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*CT_RANGE)


def look(ct, position, widthMm: float):
    """Centre all slice views on a position of the world (RAS mm), that many mm wide, or as wide as the whole image."""
    bounds = np.zeros(6)
    ct.GetRASBounds(bounds)
    widthMm = min(widthMm, float(np.ptp(bounds.reshape(3, 2), axis=1).max()))  # it may be cut around the organ
    for view in nodesByClass(ct.GetScene(), "vtkMRMLSliceNode"):
        pixels = view.GetDimensions()
        scale = widthMm / max(1, min(pixels[0], pixels[1]))
        view.SetFieldOfView(pixels[0] * scale, pixels[1] * scale, view.GetFieldOfView()[2])
        view.JumpSliceByCentering(*position)


def pointCameras(scene, position, sizeMm: float):
    """Look from the front at something of that size at a position of the world (RAS mm)."""
    for view in nodesByClass(scene, "vtkMRMLViewNode"):
        view.InvokeEvent(view.ResetFocalPointRequestedEvent)  # the box is drawn around what is seen now
    for camera in nodesByClass(scene, "vtkMRMLCameraNode"):
        camera.SetFocalPoint(*position)
        camera.SetPosition(position[0], position[1] + 3 * sizeMm, position[2])
        camera.SetViewUp(0, 0, 1)
        camera.ResetClippingRange()


def boundsOfInterest(nodes: CtNodes) -> np.ndarray:
    """((R-, R+), (A-, A+), (S-, S+)) in mm of the world: of organs and regions together, of the image without any."""
    box = vtk.vtkBoundingBox()
    for node in (nodes.node("segmentation"), nodes.node("regions")):
        bounds = [0.0, -1.0, 0.0, -1.0, 0.0, -1.0]  # not valid: stays so where there is no segment
        if node is not None:
            node.GetRASBounds(bounds)
        if vtk.vtkMath.AreBoundsInitialized(bounds):
            box.AddBounds(bounds)
    bounds = [0.0] * 6
    if box.IsValid():
        box.GetBounds(bounds)
    else:
        nodes.ctNode.GetRASBounds(bounds)
    return np.reshape(bounds, (3, 2))


def setLegend(volume, title: str):
    """Give a map a legend; `showVolumes` shows it."""
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(volume)
    legend.SetTitleText(title)
    low, high = volume.GetDisplayNode().GetWindowLevelMin(), volume.GetDisplayNode().GetWindowLevelMax()
    legend.SetLabelFormat("%.2f" if high - low >= 0.04 else "%.3f")
    legend.SetNumberOfLabels(5)
    legend.SetSize(*LEGEND_SIZE)
    legend.SetPosition(*LEGEND_PLACE)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
        text.SetShadow(True)  # white on bright bone would not be read


def _showLegend(scene, volume):
    """Show the legend of a map in the first slice view of the layout, and no other map's."""
    views = sorted(nodesByClass(scene, "vtkMRMLSliceNode"), key=lambda view: not view.IsMappedInLayout())
    for legend in nodesByClass(scene, "vtkMRMLColorLegendDisplayNode"):
        shown = legend.GetDisplayableNode()
        if shown is not None and shown.GetAttribute(ROLE_ATTRIBUTE):
            legend.SetViewNodeIDs([view.GetID() for view in views[:1]])
            legend.SetVisibility(shown is volume)
            legend.Modified()  # Slicer looks at the views then
