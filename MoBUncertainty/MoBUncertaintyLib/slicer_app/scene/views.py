"""What slice views and 3D view show, and where; and the legend of the map in them: small, at the edge of one view.

Which legend is to be seen follows from the slice views alone (`followViews`). Slicer's own manager of legends looks at
the views only when a user chooses a volume there, not when code does.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from MoBUncertaintyLib.images.modality import HOUNSFIELD_BELOW
from MoBUncertaintyLib.output.pictures.style import CT_RANGE
from MoBUncertaintyLib.slicer_app.scene.nodes import ROLE_ATTRIBUTE, CtNodes, nodesByClass

MARGIN = 1.4  # the field of view against the size of what is looked at
SMALLEST_VIEW_MM = 100.0
CLOSE_MARGIN = 2.5  # for one region: enough around it to know where one is
SMALLEST_CLOSE_VIEW_MM = 80.0

MAP_ROLES = ("variance", "probability", "map")
FONT_PIXELS = 13
HEIGHT_PIXELS = 120
EDGE_PIXELS = 10  # to the edge of the view, of which the bar takes some
_GAP = 6  # pixels that vtkSlicerScalarBarActor leaves to the labels beyond their share
_LABELS_SHARE = 0.8  # of the legend's width; the rest is the bar's
_EM = {".": 0.3}  # widths of characters against the size of the font; of digits 0.57


def showVolumes(scene, background, foreground, opacity: float):
    """Put two volumes into all slice views; `foreground` may be None."""
    for composite in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
    followViews(scene)


def takeOut(volume):
    """Take a volume off all others in the slice views."""
    for composite in nodesByClass(volume.GetScene(), "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() == volume.GetID():
            composite.SetForegroundVolumeID(None)
    followViews(volume.GetScene())


def giveWindow(ct):
    """Show a CT in the window of the abdomen, unless it has one of its own; other images stay as they are."""
    display = ct.GetDisplayNode()
    automatic = display and display.GetAutoWindowLevel() and ct.GetImageData()
    if automatic and ct.GetImageData().GetScalarRange()[0] < HOUNSFIELD_BELOW:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*CT_RANGE)


def look(ct, position, widthMm: float):
    """Centre all slice views on a position of the world (RAS mm), that many mm wide, or as wide as the whole CT."""
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
    """((R-, R+), (A-, A+), (S-, S+)) in mm of the world: of organs and regions together, of the CT without any."""
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
    """Give a map a legend; `followViews` shows it."""
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(volume)
    legend.SetTitleText(title)
    low, high = volume.GetDisplayNode().GetWindowLevelMin(), volume.GetDisplayNode().GetWindowLevelMax()
    legend.SetLabelFormat("%.2f" if high - low >= 0.04 else "%.3f")
    legend.SetNumberOfLabels(5)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
        text.SetFontSize(FONT_PIXELS)  # not heeded: letters are as large as the legend's size permits
        text.SetShadow(True)  # white on bright bone would not be read


def followViews(scene):
    """Show the legend of the map that is in the slice views, and no other map's."""
    view, shown = _viewWithMap(scene)
    for volume in nodesByClass(scene, "vtkMRMLScalarVolumeNode"):
        if volume.GetAttribute(ROLE_ATTRIBUTE) not in MAP_ROLES:
            continue
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume)
        if legend is None:
            continue
        wasModifying = legend.StartModify()
        legend.SetVisibility(volume is shown)
        if volume is shown:
            legend.RemoveAllViewNodeIDs()
            legend.AddViewNodeID(view.GetID())
            _place(legend, view)
        legend.Modified()  # its manager looks at the views then
        legend.EndModify(wasModifying)


class LegendFollower(VTKObservationMixin):
    """Lets legends follow the slice views: what is in them, how large they are and which of them the layout has."""

    def __init__(self, scene, later):
        VTKObservationMixin.__init__(self)
        self._scene, self._later = scene, later
        self._seen: list | None = None
        self._waiting = False
        self.addObserver(scene, scene.NodeAddedEvent, self._onNodeAdded)
        for className in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            for node in nodesByClass(scene, className):
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified)

    def stop(self):
        """Let go of all nodes."""
        self.removeObservers()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, _caller, _event, node):
        if node.IsA("vtkMRMLSliceNode") or node.IsA("vtkMRMLSliceCompositeNode"):
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified)

    def _onModified(self, *_args):
        if not self._waiting:
            self._waiting = True
            self._later(self._follow)

    def _follow(self):
        self._waiting = False
        seen = [
            (view.GetID(), view.IsMappedInLayout(), tuple(view.GetDimensions()), _foreground(self._scene, view))
            for view in nodesByClass(self._scene, "vtkMRMLSliceNode")
        ]
        if self.Observations and seen != self._seen:  # a view is modified by every slice that is scrolled to
            self._seen = seen
            followViews(self._scene)


def _viewWithMap(scene) -> tuple:
    """Find the first slice view with a map, preferably one that the layout shows, and the map.

    The slice view is None, and the map too, where there is no map in any.
    """
    views = nodesByClass(scene, "vtkMRMLSliceNode")
    for view in sorted(views, key=lambda view: not view.IsMappedInLayout()):
        volume = scene.GetNodeByID(_foreground(scene, view) or "")
        if volume is not None and volume.GetAttribute(ROLE_ATTRIBUTE) in MAP_ROLES:
            return view, volume
    return None, None


def _foreground(scene, view) -> str | None:
    """Return the ID of what lies over the background of a slice view."""
    for composite in nodesByClass(scene, "vtkMRMLSliceCompositeNode"):
        if composite.GetLayoutName() == view.GetLayoutName():
            return composite.GetForegroundVolumeID()
    return None


def _place(legend, view):
    """Put a legend at the right edge of a view, of the size that gives its letters theirs."""
    low, high = legend.GetPrimaryDisplayNode().GetWindowLevelMin(), legend.GetPrimaryDisplayNode().GetWindowLevelMax()
    labels = [legend.GetLabelFormat() % value for value in (low, high)]
    widest = max(sum(_EM.get(character, 0.57) for character in label) for label in labels)
    ratio = _pixelRatio()
    width, height = (max(1.0, pixels / ratio) for pixels in view.GetDimensions()[:2])
    size = (widest * FONT_PIXELS - _GAP) / _LABELS_SHARE
    legend.SetSize(min(1.0, size / width), min(1.0, HEIGHT_PIXELS / height))
    legend.SetPosition(max(0.6, 1 - EDGE_PIXELS / max(1.0, width - size)), 0.5)  # of the room beside it


def _pixelRatio() -> float:
    """Pixels of the screen for each that a font's size counts."""
    ratio = getattr(getattr(slicer, "app", None), "devicePixelRatio", 1.0)
    return float(ratio() if callable(ratio) else ratio)
