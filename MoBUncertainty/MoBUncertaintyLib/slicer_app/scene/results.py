"""A prediction in a Slicer scene: segmentation, maps over the CT, coloured surface, doubtful regions, and their state.

`ResultScene` is what the rest of the application knows of nodes; the rooms beside this one do the work. Arrays are
(z, y, x) of the CT's shape, positions are RAS mm of the CT's own coordinates (without the transform that the CT may be
under), colours are 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.output.label_record import pack_labels, unpack_labels
from MoBUncertaintyLib.slicer_app.scene import views
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, SceneState, ijkToRas, nodesByClass, shape, toWorld
from MoBUncertaintyLib.slicer_app.scene.overlay import Overlay
from MoBUncertaintyLib.slicer_app.scene.segments import LabelSegmentation, SegmentSpec, highlight


class ResultScene:
    """All that is shown of one CT's prediction.

    Each `set...` method makes its nodes or, where an earlier run has made them, fills them anew. All nodes lie in one
    subject-hierarchy folder and follow the CT's transform. Nothing is kept here that the scene does not hold: a
    `ResultScene` of a scene that has been saved and opened again is the same.

    Attributes:
        documents: What the nodes cannot say, as JSON.
        organs, regions: Their segmentations, as they are shown.
    """

    def __init__(self, ctNode):
        self.ctNode = ctNode
        self.scene = ctNode.GetScene()
        self.nodes = CtNodes(ctNode)
        self.documents = SceneState(self.nodes)
        self.organs = LabelSegmentation(self.nodes, "segmentation", _("segmentation"), np.uint8)
        self.regions = LabelSegmentation(self.nodes, "regions", _("doubtful regions"), np.uint16)
        self.overlay = Overlay(self.nodes, self.organs, self.documents)

    def remove(self):
        """Remove all nodes made for this CT; it leaves their folder, which goes too if it was made for them."""
        self.nodes.leftovers().remove()

    def removeShown(self):
        """Remove what can be seen of the results; a review stays in the scene, unread."""
        if self.node("shown"):
            views.takeOut(self.node("shown"))  # else Slicer shows another volume in its place
        leftovers = self.nodes.leftovers()
        leftovers.nodes = [node for node in leftovers.nodes if node.IsA("vtkMRMLDisplayableNode")]
        leftovers.remove()

    def node(self, role: str):
        """Return the first node made for this CT in that role, or None.

        Roles: `segmentation`, `probability`, `variance`, `map` (derived), `shown` (the map over the CT),
        `surface`, `regions`, `inferno`, and `state.` with the name of each document.
        """
        return self.nodes.node(role)

    # Segmentation

    def setSegmentation(self, labels: np.ndarray, segments: list[SegmentSpec]) -> Iterator[None]:
        """Show the organs, in steps: outlines in the slices, surfaces in 3D. A copy is kept as predicted."""
        self.documents.set("predicted", pack_labels(labels, ijkToRas(self.ctNode)))
        node = self.organs.fill(labels, segments)
        display = node.GetDisplayNode()
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(2)
        display.SetOpacity2DFill(0.0)  # a fill would tint the heat map
        yield
        if not self.organs.isEmpty():
            node.CreateClosedSurfaceRepresentation()
        self.overlay.updateSurface()

    def updateSurfaces(self):
        """Make the organs' surfaces anew after changes, if they are shown; takes as long as the organs are big."""
        surface, display = self.node("surface"), self.organs.node.GetDisplayNode()
        plain = display.GetVisibility() and display.GetVisibility3D()
        self.organs.updateSurfaces(bool(plain or (surface and surface.GetDisplayNode().GetVisibility())))
        self.overlay.updateSurface()

    def predicted(self) -> np.ndarray:
        """Copy the label map as predicted, uint8.

        Raises:
            ValueError: It is damaged, or belongs to a CT that lies elsewhere; a phrase.
        """
        return unpack_labels(self.documents.get("predicted") or {}, ijkToRas(self.ctNode), shape(self.ctNode))

    # Regions

    def setRegions(self, regionMap: np.ndarray, segments: list[SegmentSpec], box: Box | None = None):
        """Show the doubtful regions as outlines, each a segment of its own.

        Args:
            box: Where in the CT's array `regionMap` lies; None: it is all of the CT.
        """
        display = self.regions.fill(regionMap, segments, box).GetDisplayNode()
        display.SetOpacity2DFill(0.0)
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(4)  # wider than an organ's, with which Include makes them coincide
        display.SetVisibility3D(False)
        highlight(self.regions, None)

    # Views

    def setVisible(self, visible: bool):
        """Show or hide organs, regions and surface, as a whole; what each of them shows when visible is kept.

        Marks of clicks are hidden with them, and shown by the review that they belong to.
        """
        for role in ("segmentation", "regions", "surface"):
            node = self.node(role)
            if node:
                node.GetDisplayNode().SetVisibility(visible and self.overlay.values.get(role, True))
        for node in () if visible else self.nodes.all():
            if node.IsA("vtkMRMLMarkupsNode"):
                node.GetDisplayNode().SetVisibility(False)

    def showInViews(self):
        """Put CT and map into all slice views, zoomed to organs and regions, and point the 3D view there."""
        self.nodes.followTransform()
        middle, size = self.pointCameras()
        self.overlay.style()  # a scene's file holds the ends of the window to six digits: -0.00 instead of 0.00
        views.giveWindow(self.ctNode)
        views.showVolumes(self.scene, self.ctNode, self.node("shown"), self.overlay.values["opacity"])
        views.look(self.ctNode, middle, max(views.MARGIN * size, views.SMALLEST_VIEW_MM))

    def pointCameras(self) -> tuple[np.ndarray, float]:
        """Point the 3D view at organs and regions or, without any, at the CT; return their middle and size."""
        bounds = views.boundsOfInterest(self.nodes)
        middle, size = bounds.mean(axis=1), float(np.ptp(bounds, axis=1).max())
        views.pointCameras(self.scene, middle, size)
        return middle, size

    def jumpTo(self, position, extentMm: float):
        """Centre all slice views on a place and zoom to it."""
        self.nodes.followTransform()
        width = max(views.CLOSE_MARGIN * extentMm, views.SMALLEST_CLOSE_VIEW_MM)
        views.look(self.ctNode, toWorld(self.ctNode, position), width)


def findResults(scene) -> list:
    """List the CT nodes of a scene that have results, in the scene's order."""
    volumes = nodesByClass(scene, "vtkMRMLScalarVolumeNode")
    return [node for node in volumes if CtNodes(node).node("segmentation")]
