"""A prediction in a Slicer scene: segmentation, maps over the image, coloured surface, doubtful regions, their state.

`ResultScene` is what the rest of the application knows of nodes; the rooms beside this one do the work. Arrays are
(z, y, x) of the image's shape, positions are RAS mm of its own coordinates (without the transform that it may be
under), colours are 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer.util
import vtk
from scipy import ndimage
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.output.label_record import pack_labels, unpack_labels
from MoBUncertaintyLib.slicer_app.scene import views
from MoBUncertaintyLib.slicer_app.scene.maps import (
    OF_VARIANCE,
    MapKind,
    UncertaintyMaps,
    drawInInferno,
    infernoColours,
    mapName,
    mapStyle,
)
from MoBUncertaintyLib.slicer_app.scene.nodes import (
    REFERENCE_ROLE,
    CtNodes,
    SceneState,
    ijkToRas,
    nodesByClass,
    shape,
    toWorld,
)
from MoBUncertaintyLib.slicer_app.scene.segments import (
    CLOSED_SURFACE,
    LabelSegmentation,
    SegmentSpec,
    highlight,
    segmentId,
)

USUAL_THRESHOLD = RegionSettings().variance_threshold
DEFAULTS = {"kind": MapKind.VARIANCE, "label": None, "opacity": 0.75, "surface": False}
VALUES, COLOURS = "Uncertainty", "Colour"
"""Arrays at the surface's points: the map's value, and the colour that is shown."""


class ResultScene:
    """All that is shown of one image's prediction: `organs`, `regions`, `overlay`; `documents` say what nodes cannot.

    Each `set...` method makes its nodes or, where an earlier run has made them, fills them anew. All nodes lie in one
    subject-hierarchy folder and follow the image's transform. Nothing is kept here that the scene does not hold: a
    `ResultScene` of a scene that has been saved and opened again is the same.
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
        """Remove all nodes made for this image; it leaves their folder, which goes too if it was made for them."""
        self.nodes.leftovers().remove()

    def removeShown(self):
        """Remove what can be seen of the results; a review stays in the scene, unread."""
        if self.node("shown"):
            views.takeOut(self.node("shown"))  # else Slicer shows another volume in its place
        leftovers = self.nodes.leftovers()
        leftovers.nodes = [node for node in leftovers.nodes if node.IsA("vtkMRMLDisplayableNode")]
        leftovers.remove()

    def node(self, role: str):
        """Return the first node made for this image in that role, or None.

        Roles: `segmentation`, `probability`, `variance`, `map` (derived), `shown` (the map over the image),
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

        Raises `ValueError` if it is damaged, or belongs to an image that lies elsewhere; a phrase.
        """
        return unpack_labels(self.documents.get("predicted") or {}, ijkToRas(self.ctNode), shape(self.ctNode))

    # Regions

    def setRegions(self, regionMap: np.ndarray, segments: list[SegmentSpec], box: Box | None = None):
        """Show the doubtful regions, in a box of the image's array or all of it, as outlines, each a segment."""
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
        """Put image and map into all slice views, zoomed to organs and regions, and point the 3D view there."""
        self.nodes.followTransform()
        middle, size = self.pointCameras()
        self.overlay.style()  # a scene's file holds the ends of the window to six digits: -0.00 instead of 0.00
        views.giveWindow(self.ctNode)
        views.showVolumes(self.scene, self.ctNode, self.node("shown"), self.overlay.values["opacity"])
        views.look(self.ctNode, middle, max(views.MARGIN * size, views.SMALLEST_VIEW_MM))

    def pointCameras(self) -> tuple[np.ndarray, float]:
        """Point the 3D view at organs and regions or, without any, at the image; return their middle and size."""
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
    """List the image nodes of a scene that have results, in the scene's order."""
    volumes = nodesByClass(scene, "vtkMRMLScalarVolumeNode")
    return [node for node in volumes if CtNodes(node).node("segmentation")]


class Overlay:
    """What is shown of the maps of one image, as its reader has chosen; a document holds the choices."""

    def __init__(self, nodes: CtNodes, organs: LabelSegmentation, documents: SceneState):
        self._nodes, self._organs, self._documents = nodes, organs, documents
        self.maps = UncertaintyMaps(nodes)

    @property
    def kinds(self) -> list[MapKind]:
        """The maps that the model has."""
        without = self._choices["varianceThreshold"] is None
        return [kind for kind in MapKind if not (without and kind in OF_VARIANCE)]

    @property
    def values(self) -> dict[str, Any]:
        """What `DEFAULTS` names, and `threshold` and `window` of the kind, the entropy in place of a missing one."""
        choices = self._choices
        kind = MapKind(choices["kind"]) if choices["kind"] in self.kinds else MapKind.ENTROPY
        style = mapStyle(kind, choices["varianceThreshold"] or USUAL_THRESHOLD)
        threshold = choices["kinds"].get(kind, {}).get("threshold", style.threshold)
        chosen = {name: choices[name] for name in DEFAULTS}
        return chosen | {"kind": kind, "threshold": threshold, "window": style.window}

    def setMaps(
        self,
        probability: dict[int, np.ndarray],
        variance: dict[int, np.ndarray],
        varianceThreshold: float | None = USUAL_THRESHOLD,
    ):
        """Put the maps into volumes (float32, one copy); `show` shows one, and anew what was shown of earlier ones.

        At first, maps are drawn by the variance from which on it counts; a model without a variance, of which none is
        shown, has None.
        """
        self.maps.set(probability, variance)
        choices = self._choices
        if choices["varianceThreshold"] != varianceThreshold:
            # What the reader has set suits the variance of another model.
            kinds = {kind: style for kind, style in choices["kinds"].items() if kind not in OF_VARIANCE}
            self._documents.change("overlay", kinds=kinds, varianceThreshold=varianceThreshold)

    def show(self, kind: MapKind, label: int | None = None):
        """Show a map over the image at once; arguments as for `showInSteps`."""
        for _step in self.showInSteps(kind, label):
            pass
        return self._nodes.node("shown")

    def showInSteps(self, kind: MapKind, label: int | None = None) -> Iterator[None]:
        """Show a map over the image in all slice views, and on the surface if that is shown.

        The scene changes in the last step, unless the image has been removed from it. In place of a kind that the model
        does not have the entropy is shown; the threshold is the one last used for the kind. Default, as for a label
        without maps: all labels (see `UncertaintyMaps.derive`).
        """
        if kind not in self.kinds:
            kind = MapKind.ENTROPY
        volume = yield from self.maps.derive(kind, label)
        ct = self._nodes.ctNode
        if ct.GetScene() is None:
            return
        if kind != self.values["kind"]:  # what is shown for want of a variance is not what the reader has chosen
            self._documents.change("overlay", kind=kind)
        self._documents.change("overlay", label=label if label in self.maps.volumes("variance") else None)
        ct.SetNodeReferenceID(REFERENCE_ROLE.format("shown"), volume.GetID() if volume else None)
        if volume:
            self.style()
            views.showVolumes(self._nodes.scene, ct, volume, self.values["opacity"])
            self.updateSurface()

    def prepare(self) -> Iterator[None]:
        """Get ready, in steps, for the first `update` in a scene that was opened: else it takes as long as `show`."""
        values = self.values
        if not self.maps.holds(values["kind"], values["label"]):
            yield from self.showInSteps(values["kind"], values["label"])

    def update(self, box: Box):
        """Show what has changed in a box of the maps, as a click does; in a few ms, whatever the size of the image."""
        shown, values = self._nodes.node("shown"), self.values
        if shown and not self.maps.update(values["kind"], values["label"], box):
            self.show(values["kind"], values["label"])

    def change(self, **changes: Any):
        """Change how things are shown.

        That is the `opacity` over the image, 0 to 1; the `threshold`, below which nothing is drawn, of the map that is
        shown; and `surface`, whether 3D shows the organs coloured by the map.
        """
        if "threshold" in changes:
            style = {self.values["kind"]: {"threshold": changes.pop("threshold")}}
            changes["kinds"] = self._choices["kinds"] | style
        self._documents.change("overlay", **changes)
        shown = self._nodes.node("shown")
        if shown:
            self.style()
            for composite in nodesByClass(self._nodes.scene, "vtkMRMLSliceCompositeNode"):
                if composite.GetForegroundVolumeID() == shown.GetID():
                    composite.SetForegroundOpacity(self.values["opacity"])
        if changes.get("surface") is False:
            if surface := self._nodes.node("surface"):
                surface.GetDisplayNode().SetVisibility(False)
            if self._organs.node:
                self._organs.node.GetDisplayNode().SetVisibility3D(False)  # off is off: no plain organ in its place
        elif changes.keys() - {"opacity"}:
            self.updateSurface()

    def updateSurface(self):
        """Show the organs in 3D coloured by the map, in place of their plain surfaces, if that is chosen."""
        organs, shown, values = self._organs, self._nodes.node("shown"), self.values
        if not (values["surface"] and organs.node and shown):
            return
        if not organs.isEmpty():
            organs.node.CreateClosedSurfaceRepresentation()
        labels = list(organs.segments()) if values["label"] is None else [values["label"]]
        mesh = _surface(organs.node, labels, shown, values["window"], values["threshold"])
        surface = self._nodes.getOrCreate("surface", "vtkMRMLModelNode", _("uncertainty surface"))
        surface.SetAndObservePolyData(mesh)
        display = surface.GetDisplayNode()
        display.SetActiveScalar(COLOURS, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetScalarRangeFlag(display.UseDirectMapping)
        display.SetScalarVisibility(True)
        display.SetVisibility2D(False)  # the outline is the segmentation's own
        # Hidden with the organs while the views show another image: a change may be drawn late.
        display.SetVisibility(organs.node.GetDisplayNode().GetVisibility())
        organs.node.GetDisplayNode().SetVisibility3D(False)

    def style(self):
        """Draw the map that is shown, and its legend, as chosen."""
        shown, values = self._nodes.node("shown"), self.values
        if shown is None:
            return
        drawInInferno(self._nodes, shown, values["window"], values["threshold"])
        isLong = values["kind"] is MapKind.STANDARD_DEVIATION  # for the edge of a view
        title = _("Std. dev.") if isLong else mapName(values["kind"])
        segments = self._organs.segments()
        if values["label"] in segments and len(segments) > 1:
            title += f"\n{segments[values['label']].GetName()}"
        views.setLegend(shown, title)

    @property
    def _choices(self) -> dict[str, Any]:
        usual = DEFAULTS | {"varianceThreshold": USUAL_THRESHOLD, "kinds": {}}
        return usual | (self._documents.get("overlay") or {})


def _surface(segmentationNode, values: list[int], mapNode, window: tuple[float, float], threshold: float):
    """Make the surface of some segments: in the map's colours where the slices show it, else in the segment's own.

    Where nothing is uncertain the map's first colour, black, would hide the shape.
    """
    together = vtk.vtkAppendPolyData()
    for segment in (segmentationNode.GetSegmentation().GetSegment(segmentId(value)) for value in values):
        surface = segment and segment.GetRepresentation(CLOSED_SURFACE)
        if surface and surface.GetNumberOfPoints():
            together.AddInputData(_coloured(surface, mapNode, segment.GetColor(), window, threshold))
    if not together.GetNumberOfInputConnections(0):
        return vtk.vtkPolyData()
    together.Update()
    return together.GetOutput()


def _coloured(surface, volumeNode, plain: tuple[float, float, float], window: tuple[float, float], threshold: float):
    """Copy a surface, in the volume's own RAS mm, with the volume's interpolated values and their colours.

    The plain colour, which stands below the threshold, has parts from 0 to 1.
    """
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    toIjk = np.linalg.inv(ijkToRas(volumeNode))
    ijk = points @ toIjk[:3, :3].T + toIjk[:3, 3]
    values = ndimage.map_coordinates(slicer.util.arrayFromVolume(volumeNode), ijk.T[::-1], order=1)
    low, high = window
    index = np.clip((values - low) / (high - low) * 255, 0, 255).astype(int)
    colours = 255 * np.where((values >= threshold)[:, None], infernoColours()[index], plain)
    result = vtk.vtkPolyData()
    result.ShallowCopy(surface)
    for name, array in ((VALUES, values.astype(np.float32)), (COLOURS, np.round(colours).astype(np.uint8))):
        data = numpy_to_vtk(array, deep=True)
        data.SetName(name)
        result.GetPointData().AddArray(data)
    return result
