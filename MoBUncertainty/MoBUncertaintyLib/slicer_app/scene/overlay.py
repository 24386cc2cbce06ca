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
VALUES, COLOURS = "Uncertainty", "Colour"
"""Arrays at the surface's points: the map's value, and the colour that is shown."""


class Overlay:
    """What is shown of the maps of one CT, as its reader has chosen; a document holds the choices."""

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

        Args:
            varianceThreshold: From which on the model's variance counts; at first, maps are drawn accordingly.
                None: the model has no variance, and none is shown.
        """
        self.maps.set(probability, variance)
        choices = self._choices
        if choices["varianceThreshold"] != varianceThreshold:
            # What the reader has set suits the variance of another model.
            kinds = {kind: style for kind, style in choices["kinds"].items() if kind not in OF_VARIANCE}
            self._remember(kinds=kinds, varianceThreshold=varianceThreshold)

    def show(self, kind: MapKind, label: int | None = None):
        """Show a map over the CT at once; arguments as for `showInSteps`."""
        for _step in self.showInSteps(kind, label):
            pass
        return self._nodes.node("shown")

    def showInSteps(self, kind: MapKind, label: int | None = None) -> Iterator[None]:
        """Show a map over the CT in all slice views, and on the surface if that is shown.

        The scene changes in the last step, unless the CT has been removed from it.

        Args:
            kind: What to show; the entropy in place of what the model does not have. Its threshold is the one
                last used for this kind.
            label: Its value; None, or a label without maps: all labels (see `UncertaintyMaps.derive`).
        """
        if kind not in self.kinds:
            kind = MapKind.ENTROPY
        volume = yield from self.maps.derive(kind, label)
        ct = self._nodes.ctNode
        if ct.GetScene() is None:
            return
        if kind != self.values["kind"]:  # what is shown for want of a variance is not what the reader has chosen
            self._remember(kind=kind)
        self._remember(label=label if label in self.maps.volumes("variance") else None)
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
        """Show what has changed in a box of the maps, as a click does; in a few ms, whatever the size of the CT."""
        values = self.values
        if not self._nodes.node("shown"):
            return
        if not self.maps.update(values["kind"], values["label"], box):
            self.show(values["kind"], values["label"])

    def change(self, **changes: Any):
        """Change how things are shown.

        Args:
            changes: `opacity` over the CT, 0 to 1; `threshold`, below which nothing is drawn, of the kind of map that
                is shown; `surface`, whether 3D shows the organs coloured by the map.
        """
        if "threshold" in changes:
            style = {self.values["kind"]: {"threshold": changes.pop("threshold")}}
            changes["kinds"] = self._choices["kinds"] | style
        self._remember(**changes)
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
        # Hidden with the organs while the views show another CT: a change may be drawn late.
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

    def _remember(self, **changes: Any):
        self._documents.set("overlay", (self._documents.get("overlay") or {}) | changes)

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

    Args:
        plain: The colour below the threshold, each part 0 to 1.
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
