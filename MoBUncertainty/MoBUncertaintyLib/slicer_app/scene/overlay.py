"""What lies over a CT: a map of its prediction, its legend, and the organs' surface in the map's colours."""

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
from MoBUncertaintyLib.slicer_app.scene.nodes import REFERENCE_ROLE, CtNodes, SceneState, ijkToRas, nodesByClass
from MoBUncertaintyLib.slicer_app.scene.segments import CLOSED_SURFACE, LabelSegmentation, segmentId

USUAL_THRESHOLD = RegionSettings().variance_threshold
DEFAULTS = {"kind": MapKind.VARIANCE, "label": None, "opacity": 0.75, "surface": False}
VALUES, LABEL, COLOURS = "Uncertainty", "Label", "Colour"
"""Arrays at the surface's points: the map's value, the label's colour, and the colour that is shown."""


class Overlay:
    """What is shown of the maps of one CT, as its reader has chosen; a document holds the choices."""

    def __init__(self, nodes: CtNodes, organs: LabelSegmentation, documents: SceneState):
        self._nodes, self._organs, self._documents = nodes, organs, documents
        self.maps, self.surface = UncertaintyMaps(nodes), UncertaintySurface(nodes)

    @property
    def kinds(self) -> list[MapKind]:
        """The maps that the model has."""
        without = self._choices.get("varianceThreshold", USUAL_THRESHOLD) is None
        return [kind for kind in MapKind if not (without and kind in OF_VARIANCE)]

    @property
    def values(self) -> dict[str, Any]:
        """What `DEFAULTS` names, and `threshold` and `window` of the kind."""
        choices = self._choices
        values = DEFAULTS | {name: choices[name] for name in DEFAULTS if name in choices}
        kind = values["kind"] = self._kind(values["kind"])
        style = mapStyle(kind, choices.get("varianceThreshold") or USUAL_THRESHOLD)
        threshold = choices.get("kinds", {}).get(kind, {}).get("threshold", style.threshold)
        return values | {"threshold": threshold, "window": style.window}

    def setMaps(
        self,
        probability: dict[int, np.ndarray],
        variance: dict[int, np.ndarray],
        varianceThreshold: float | None = USUAL_THRESHOLD,
    ):
        """Put the maps into volumes (float32, one copy); `show` shows one, and anew what was shown of earlier ones.

        Args:
            varianceThreshold: From which on the model's variance counts; at first, maps are drawn accordingly.
                None: the model has no variance, and none is shown.
        """
        self.maps.set(probability, variance)
        choices = self._choices
        if choices.get("varianceThreshold", USUAL_THRESHOLD) != varianceThreshold:
            # What the reader has set suits the variance of another model.
            kinds = {kind: each for kind, each in choices.get("kinds", {}).items() if kind not in OF_VARIANCE}
            self._documents.set("overlay", choices | {"kinds": kinds, "varianceThreshold": varianceThreshold})

    def show(self, kind: MapKind, label: int | None = None):
        """Show a map over the CT in all slice views, and on the surface if that is shown.

        Args:
            kind: What to show; the entropy in place of what the model does not have. Its threshold is the one
                last used for this kind.
            label: Its value; None, or a label without maps: all labels (see `UncertaintyMaps.volumeFor`).

        Returns:
            The vtkMRMLScalarVolumeNode shown, or None without maps.
        """
        kind, label = self._available(kind, label)
        volume = self.maps.volumeFor(kind, label)
        if kind != self.values["kind"]:  # what is shown for want of a variance is not what the reader has chosen
            self._remember(kind=kind)
        self._remember(label=label)
        ct = self._nodes.ctNode
        ct.SetNodeReferenceID(REFERENCE_ROLE.format("shown"), volume.GetID() if volume else None)
        if volume:
            self.style()
            views.showVolumes(self._nodes.scene, ct, volume, self.values["opacity"])
            self.updateSurface()
        return volume

    def showInSteps(self, kind: MapKind, label: int | None = None) -> Iterator[None]:
        """As `show`, in steps; the scene changes in the last one, unless the CT has been removed from it."""
        yield from self.maps.deriveInSteps(*self._available(kind, label))
        if self._nodes.ctNode.GetScene() is not None:
            self.show(kind, label)

    def prepare(self) -> Iterator[None]:
        """Get ready, in steps, for the first `update`: without, it takes as long as the CT is big."""
        kind, label = self._available(self.values["kind"], self.values["label"])
        yield from self.maps.deriveInSteps(kind, label, always=True)

    def update(self, box: Box):
        """Show what has changed in a box of the maps, as a click does; in a few ms, whatever the size of the CT."""
        shown, values = self._nodes.node("shown"), self.values
        if shown is None:
            return
        kind, label = self._available(values["kind"], values["label"])
        if self.maps.update(kind, label, box) is not shown:
            self.show(kind, label)

    def change(self, **changes: Any):
        """Change how things are shown.

        Args:
            changes: `opacity` over the CT, 0 to 1; `threshold`, below which nothing is drawn, of the kind of map that
                is shown; `surface`, whether 3D shows the organs coloured by the map.
        """
        self._remember(**changes)
        shown, values = self._nodes.node("shown"), self.values
        if shown:
            self.style()
            for composite in nodesByClass(self._nodes.scene, "vtkMRMLSliceCompositeNode"):
                if composite.GetForegroundVolumeID() == shown.GetID():
                    composite.SetForegroundOpacity(values["opacity"])
        if "surface" in changes:
            self._showSurface()
        else:
            self.surface.setColours(values["window"], values["threshold"])

    def updateSurface(self):
        """Make the coloured surface anew, if it is shown."""
        if self.values["surface"]:
            self._showSurface()

    def _showSurface(self):
        """Show the organs in 3D coloured by the map, in place of their plain surfaces; or hide them."""
        organs, shown, values = self._organs, self._nodes.node("shown"), self.values
        if not (values["surface"] and organs.node and shown):
            self.surface.hide()
        else:
            labels = organs.values() if values["label"] is None else [values["label"]]
            labels = [] if organs.isEmpty() else labels
            self.surface.show(organs.node, labels, shown, values["window"], values["threshold"])
        if organs.node:
            organs.node.GetDisplayNode().SetVisibility3D(False)  # never shown beside or in place of the coloured one

    def style(self):
        """Draw the map that is shown, and its legend, as chosen."""
        shown, values = self._nodes.node("shown"), self.values
        if shown is None:
            return
        drawInInferno(self._nodes, shown, values["window"], values["threshold"])
        isLong = values["kind"] is MapKind.STANDARD_DEVIATION  # for the edge of a view
        title = _("Std. dev.") if isLong else mapName(values["kind"])
        segment = self._organs.segment(values["label"])
        if segment and len(self._organs.values()) > 1:
            title += f"\n{segment.GetName()}"
        views.setLegend(shown, title)
        views.followViews(self._nodes.scene)

    def _available(self, kind: MapKind, label: int | None) -> tuple[MapKind, int | None]:
        """Choose what to show in place of a kind or a label that has no map."""
        label = label if label in self.maps.volumes("variance") else None
        return self._kind(kind), label

    def _kind(self, kind: MapKind | str) -> MapKind:
        """Return a kind, or the entropy in place of one that the model does not have."""
        return MapKind(kind) if kind in self.kinds else MapKind.ENTROPY

    def _remember(self, **changes: Any):
        choices = self._choices
        if "threshold" in changes:
            kinds = choices.get("kinds", {})
            changes["kinds"] = kinds | {self.values["kind"]: {"threshold": changes.pop("threshold")}}
        self._documents.set("overlay", choices | changes)

    @property
    def _choices(self) -> dict[str, Any]:
        return self._documents.get("overlay") or {}


class UncertaintySurface:
    """The organs' surface in 3D: in the map's colours where the slices show it, else in the label's own.

    Where nothing is uncertain the map's first colour, black, would hide the shape.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes

    @property
    def node(self):
        """The vtkMRMLModelNode, or None."""
        return self._nodes.node("surface")

    def show(self, segmentationNode, values: list[int], mapNode, window: tuple[float, float], threshold: float):
        """Make the surface anew and show it."""
        if values:
            segmentationNode.CreateClosedSurfaceRepresentation()
        together = vtk.vtkAppendPolyData()
        for value in values:
            segment = segmentationNode.GetSegmentation().GetSegment(segmentId(value))
            surface = segment.GetRepresentation(CLOSED_SURFACE) if segment else None
            if surface and surface.GetNumberOfPoints():
                together.AddInputData(withValues(surface, mapNode, segment.GetColor()))
        mesh = vtk.vtkPolyData()
        if together.GetNumberOfInputConnections(0):
            together.Update()
            mesh = together.GetOutput()
        _colour(mesh, window, threshold)  # before it is seen
        node = self._nodes.getOrCreate("surface", "vtkMRMLModelNode", _("uncertainty surface"))
        node.SetAndObservePolyData(mesh)
        display = node.GetDisplayNode()
        display.SetActiveScalar(COLOURS, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetScalarRangeFlag(display.UseDirectMapping)
        display.SetScalarVisibility(True)
        display.SetVisibility2D(False)  # the outline is the segmentation's own
        # Hidden with the organs while the views show another CT: a change may be drawn late.
        display.SetVisibility(segmentationNode.GetDisplayNode().GetVisibility())

    def setColours(self, window: tuple[float, float], threshold: float):
        """Colour the surface anew, if there is one.

        Args:
            window: The values of the map's first and last colour.
            threshold: Below this the label's own colour is shown.
        """
        if self.node:
            _colour(self.node.GetPolyData(), window, threshold)

    def hide(self):
        """Hide the surface, if there is one."""
        if self.node:
            self.node.GetDisplayNode().SetVisibility(False)


def _colour(mesh: vtk.vtkPolyData, window: tuple[float, float], threshold: float) -> None:
    """Set the colour of each point of a surface that was made here."""
    data = mesh.GetPointData()
    if not (data.HasArray(VALUES) and data.HasArray(LABEL)):  # an empty one, or a file's, changed by hand
        return
    values, plain = (vtk_to_numpy(data.GetArray(name)) for name in (VALUES, LABEL))
    low, high = window
    index = np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(int)
    colours = np.where((values >= threshold)[:, None], np.round(infernoColours() * 255)[index], plain)
    data.AddArray(_array(COLOURS, colours.astype(np.uint8)))  # in place of the earlier ones
    mesh.Modified()


def withValues(surface: vtk.vtkPolyData, volumeNode, colour: tuple[float, float, float]) -> vtk.vtkPolyData:
    """Make a surface with a colour and the interpolated values of a volume at its points.

    Args:
        surface: In the volume's own coordinates, RAS mm.
        colour: Of the label, each part 0 to 1.

    Returns:
        A copy that shares the surface's points and cells.
    """
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    toIjk = np.linalg.inv(ijkToRas(volumeNode))
    ijk = points @ toIjk[:3, :3].T + toIjk[:3, 3]
    values = ndimage.map_coordinates(slicer.util.arrayFromVolume(volumeNode), ijk.T[::-1], order=1)
    result = vtk.vtkPolyData()
    result.ShallowCopy(surface)
    result.GetPointData().AddArray(_array(VALUES, values.astype(np.float32)))
    plain = np.round(np.multiply(colour, 255)).astype(np.uint8)
    result.GetPointData().AddArray(_array(LABEL, np.tile(plain, (len(points), 1))))
    return result


def _array(name: str, values: np.ndarray) -> vtk.vtkDataArray:
    array = numpy_to_vtk(values, deep=True)
    array.SetName(name)
    return array
