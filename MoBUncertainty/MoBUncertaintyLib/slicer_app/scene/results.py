"""A prediction in a Slicer scene: segmentation, maps over the CT, coloured surface, doubtful regions, and their state.

`ResultScene` is what the rest of the application knows of nodes; the rooms beside this one do the work. Arrays are
(z, y, x) of the CT's shape, positions are RAS mm of the CT's own coordinates (without the transform that the CT may be
under), colours are 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.output.label_record import pack_labels, unpack_labels
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene import views
from MoBUncertaintyLib.slicer_app.scene.legend import followViews, legendTitle, setLegend
from MoBUncertaintyLib.slicer_app.scene.maps import CurrentMaps, MapKind, UncertaintyMaps
from MoBUncertaintyLib.slicer_app.scene.nodes import REFERENCE_ROLE, CtNodes, ijkToRas, nodesByClass, shape
from MoBUncertaintyLib.slicer_app.scene.segments import LabelSegmentation, SegmentSpec
from MoBUncertaintyLib.slicer_app.scene.state import USUAL_THRESHOLD, OverlayRecord, SceneState
from MoBUncertaintyLib.slicer_app.scene.surface import UncertaintySurface

FILL_OPACITY = 0.35
OTHER_REGIONS_OPACITY = 0.35  # of the outlines, while one region is highlighted


class ResultScene:
    """All that is shown of one CT's prediction.

    Each `set...` method makes its nodes or, where an earlier run has made them, fills them anew. All nodes lie in one
    subject-hierarchy folder and follow the CT's transform. Nothing is kept here that the scene does not hold: a
    `ResultScene` of a scene that has been saved and opened again is the same.

    Args:
        ctNode: The CT, in a scene. Nothing is changed before the first `set...`.
    """

    def __init__(self, ctNode):
        self.ctNode = ctNode
        self.scene = ctNode.GetScene()
        self._nodes = CtNodes(ctNode)
        self._segmentation = LabelSegmentation(self._nodes, "segmentation", _("segmentation"))
        self._regions = LabelSegmentation(self._nodes, "regions", _("doubtful regions"))
        self._maps = UncertaintyMaps(self._nodes)
        self._surface = UncertaintySurface(self._nodes)
        self._state = SceneState(self._nodes)
        self._overlay = OverlayRecord(self._state)

    def remove(self):
        """Remove all nodes made for this CT, and the folder in which they lay."""
        self._nodes.removeAll()

    def removeShown(self):
        """Remove what can be seen of the results; a review stays in the scene, unread."""
        if self.node("shown"):
            views.takeOut(self.node("shown"))  # else Slicer shows another volume in its place
        self._nodes.removeShown()

    def node(self, role: str):
        """Return the first node made for this CT in that role, or None.

        Roles: `segmentation`, `probability`, `variance`, `map` (derived), `shown` (the map over the CT),
        `surface`, `regions`, `inferno`, and `state.` with the name of each document.
        """
        return self._nodes.node(role)

    # Segmentation

    def setSegmentation(self, labels: np.ndarray, segments: list[SegmentSpec]):
        """Show the organs: outlines in the slices, surfaces in 3D. A copy is kept as predicted.

        Args:
            labels: Label map.
            segments: One for each value.

        Returns:
            The vtkMRMLSegmentationNode.
        """
        for _step in self.setSegmentationInSteps(labels, segments):
            pass
        return self.node("segmentation")

    def setSegmentationInSteps(self, labels: np.ndarray, segments: list[SegmentSpec]) -> Iterator[None]:
        """As `setSegmentation`, in steps."""
        self._state.set("predicted", pack_labels(labels, ijkToRas(self.ctNode)))
        node = self._segmentation.fill(labels, segments)
        display = node.GetDisplayNode()
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(2)
        self.setSegmentationFill(self.overlay["fill"])
        yield
        if not self._segmentation.isEmpty():
            node.CreateClosedSurfaceRepresentation()
        if self.overlay["surface"]:
            self.showSurface(True)

    def updateSegmentation(self, box: Box, labels: np.ndarray, surfaces: bool = True):
        """Change the segmentation in a box, as a verdict does; in a few ms, whatever the size of the CT.

        Args:
            box: In the CT's array.
            labels: All there is in it.
            surfaces: If organs are shown in 3D, make their surfaces anew at once, which takes as long as the organs are
                big; without, call `updateSurfaces` later.

        Raises:
            ValueError: A value has no segment.
        """
        self._segmentation.update(box, labels)
        if not self._shownIn3d():
            self._segmentation.dropSurfaces()  # made anew when they are shown
        elif surfaces:
            self.updateSurfaces()

    def restoreSegments(self, labels: np.ndarray, segments: list[SegmentSpec]) -> bool:
        """Bring back segments that somebody has deleted; says whether there were any.

        Args:
            labels: What they are to hold at first.
            segments: All of them.
        """
        return self._segmentation.restore(labels, segments)

    def followTransform(self):
        """Put all nodes under the transform that the CT is under."""
        self._nodes.followTransform()

    def updateSurfaces(self):
        """Make the organs' surfaces anew after `updateSegmentation(..., surfaces=False)`."""
        self._segmentation.updateSurfaces()
        if self.overlay["surface"]:
            self.showSurface(True)

    def setSegmentationFill(self, fill: bool):
        """Fill the organs in the slices, or (the default, since a fill tints the heat map) show outlines alone."""
        self._overlay.remember(fill=bool(fill))
        node = self.node("segmentation")
        if node:
            node.GetDisplayNode().SetOpacity2DFill(FILL_OPACITY if fill else 0.0)

    def segmentBoxes(self) -> list[Box]:
        """All that is not 0 in `corrected` lies in one of these."""
        return self._segmentation.boxes()

    def predicted(self) -> np.ndarray:
        """Copy the label map as predicted, uint8.

        Raises:
            ValueError: It is damaged, or belongs to a CT that lies elsewhere; a phrase.
        """
        return unpack_labels(self._state.get("predicted") or {}, ijkToRas(self.ctNode), shape(self.ctNode))

    def corrected(self, box: Box | None = None) -> np.ndarray:
        """Copy the label map as it is shown, uint8; all of it, or what lies in a box."""
        return self._segmentation.array(np.uint8) if box is None else self._segmentation.arrayIn(box, np.uint8)

    # Maps

    def setMaps(
        self,
        probability: dict[int, np.ndarray],
        variance: dict[int, np.ndarray],
        varianceThreshold: float | None = USUAL_THRESHOLD,
    ):
        """Put the maps into volumes (float32, one copy); `showMap` shows one, and anew what was shown of earlier ones.

        Args:
            probability: By label.
            variance: For the same labels.
            varianceThreshold: From which on the model's variance counts; at first, maps are drawn accordingly.
                None: the model has no variance, and none is shown.
        """
        self._maps.set(probability, variance)
        self._overlay.setVarianceThreshold(varianceThreshold)

    def setPrediction(self, prediction: Prediction, settings: RegionSettings):
        """Put the maps of a prediction into volumes, see `setMaps`.

        Args:
            prediction: Of the CT.
            settings: What counts as a doubtful region.
        """
        values = [label.value for label in prediction.labels]
        maps = [dict(zip(values, each, strict=True)) for each in (prediction.probability, prediction.variance)]
        self.setMaps(*maps, settings.variance_threshold if prediction.has_variance else None)

    def showMap(self, kind: MapKind, label: int | None = None):
        """Show a map over the CT in all slice views, and on the surface if that is shown.

        Args:
            kind: What to show; the entropy in place of what the model does not have. Threshold and window are those
                last used for this kind.
            label: Its value; None, or a label without maps: all labels (see `UncertaintyMaps.volumeFor`).

        Returns:
            The vtkMRMLScalarVolumeNode shown, or None without maps.
        """
        kind, label = self._available(kind, label)
        volume = self._maps.volumeFor(kind, label)
        if kind != self.overlay["kind"]:  # what is shown for want of a variance is not what the reader has chosen
            self._overlay.remember(kind=kind.value)
        self._overlay.remember(label=label)
        self.ctNode.SetNodeReferenceID(REFERENCE_ROLE.format("shown"), volume.GetID() if volume else None)
        if volume:
            self._styleShown()
            views.showVolumes(self.scene, self.ctNode, volume, self.overlay["opacity"])
            if self.overlay["surface"]:
                self.showSurface(True)
        return volume

    def followMaps(self, current: CurrentMaps):
        """Let what is shown be the maps as they are now; `updateMap` has to follow each change of them."""
        self._maps.current = current

    def prepareMap(self) -> Iterator[None]:
        """Get ready, in steps, for the first `updateMap`: without, it takes as long as the CT is big."""
        kind, label = self._available(MapKind(self.overlay["kind"]), self.overlay["label"])
        yield from self._maps.deriveInSteps(kind, label, always=True)

    def updateMap(self, box: Box):
        """Show what has changed in a box of the maps, as a click does; in a few ms, whatever the size of the CT.

        Args:
            box: In the CT's array.
        """
        shown = self.node("shown")
        if shown is None:
            return
        overlay = self.overlay
        kind, label = self._available(MapKind(overlay["kind"]), overlay["label"])
        if self._maps.update(kind, label, box) is not shown:
            self.showMap(kind, label)

    def showMapInSteps(self, kind: MapKind, label: int | None = None) -> Iterator[None]:
        """As `showMap`, in steps; the scene changes in the last one, unless the CT has been removed from it."""
        yield from self._maps.deriveInSteps(*self._available(kind, label))
        if self.ctNode.GetScene() is not None:
            self.showMap(kind, label)

    def setOverlay(
        self,
        opacity: float | None = None,
        threshold: float | None = None,
        window: tuple[float, float] | None = None,
        legend: bool | None = None,
    ):
        """Change how the map is shown; what is None stays as it is. Threshold and window belong to the kind shown.

        Args:
            opacity: Over the CT, 0 to 1.
            threshold: Below this nothing is drawn; in the map's unit.
            window: The values drawn in the first and the last colour.
            legend: Whether there is one in the views.
        """
        given = {"opacity": opacity, "threshold": threshold, "window": window, "legend": legend}
        self._overlay.remember(**{name: value for name, value in given.items() if value is not None})
        shown = self.node("shown")
        if shown:
            self._styleShown()
            for composite in nodesByClass(self.scene, "vtkMRMLSliceCompositeNode"):
                if composite.GetForegroundVolumeID() == shown.GetID():
                    composite.SetForegroundOpacity(self.overlay["opacity"])
        self._surface.setColours(self.overlay["window"], self.overlay["threshold"])

    @property
    def kinds(self) -> list[MapKind]:
        """The maps that the model has."""
        return self._overlay.kinds

    @property
    def overlay(self) -> dict[str, Any]:
        """How things are shown, see `OverlayRecord.values`."""
        return self._overlay.values

    def probability(self) -> dict[int, np.ndarray]:
        """Return the probability of each label, by its value, as the nodes' own voxels."""
        return self._maps.arrays("probability")

    def variance(self) -> dict[int, np.ndarray]:
        """Return the predictive variance of each label, by its value, as the nodes' own voxels."""
        return self._maps.arrays("variance")

    def mapNodes(self) -> dict[str, object]:
        """Return the volumes of probability and variance, by names such as `variance_1`: that of the label 1."""
        roles = ("probability", "variance")
        return {f"{role}_{label}": node for role in roles for label, node in self._maps.volumes(role).items()}

    def showSurface(self, show: bool):
        """Show the organs in 3D coloured by the map, in place of their plain surfaces."""
        self._overlay.remember(surface=bool(show))
        node, volume = self.node("segmentation"), self.node("shown")
        if not (show and node and volume):
            self._surface.hide()
        else:
            label = self.overlay["label"]
            values = self._segmentation.values() if label is None else [label]
            values = [] if self._segmentation.isEmpty() else values
            self._surface.show(node, values, volume, self.overlay["window"], self.overlay["threshold"])
        if node:
            node.GetDisplayNode().SetVisibility3D(False)  # its plain surface is never shown beside or in place of it

    # Regions

    def setRegions(self, regionMap: np.ndarray, segments: list[SegmentSpec], box: Box | None = None):
        """Show the doubtful regions as outlines, each a segment of its own.

        Args:
            regionMap: Number of each voxel's region.
            segments: One for each region, in order of rank.
            box: Where in the CT's array `regionMap` lies; None: it is all of the CT.

        Returns:
            The vtkMRMLSegmentationNode.
        """
        node = self._regions.fill(regionMap, segments, box)
        display = node.GetDisplayNode()
        display.SetOpacity2DFill(0.0)
        display.SetOpacity2DOutline(1.0)
        display.SetSliceIntersectionThickness(4)  # wider than an organ's, with which Include makes them coincide
        display.SetVisibility3D(False)
        self.highlightRegion(None)
        return node

    def updateRegions(self, box: Box, regionMap: np.ndarray, segments: list[SegmentSpec]):
        """Change the outlines of the regions in a box, and what regions are called, where all have a segment.

        Args:
            box: In the CT's array.
            regionMap: All there is in it.
            segments: One for each region.
        """
        self._regions.update(box, regionMap)
        self._regions.rename({each.value: each.name for each in segments})

    def setRegionStatuses(self, statuses: Mapping[int, int]):
        """Give regions Slicer's own segment statuses, `vtkSlicerSegmentationsModuleLogic.Flagged` say, by number."""
        self._regions.setStatuses(statuses)

    def highlightRegion(self, number: int | None):
        """Let one region stand out from the others; None: none."""
        values = self._regions.values()
        self._regions.setOutlines({each: 1.0 if number in (None, each) else OTHER_REGIONS_OPACITY for each in values})

    def listedRegions(self) -> set[int]:
        """Return the numbers of the regions that have a segment."""
        return set(self._regions.values())

    def regionMap(self) -> np.ndarray:
        """Return the number of each voxel's region, uint16; a copy."""
        return self._regions.array(np.uint16)

    # Views

    def setVisible(self, visible: bool):
        """Show or hide organs, regions and surface, as a whole; what each of them shows when visible is kept.

        Marks of clicks are hidden with them, and shown by the review that they belong to.
        """
        for role in ("segmentation", "regions", "surface"):
            node = self.node(role)
            if node:
                node.GetDisplayNode().SetVisibility(visible and self.overlay.get(role, True))
        for node in () if visible else self._nodes.all():
            if node.IsA("vtkMRMLMarkupsNode"):
                node.GetDisplayNode().SetVisibility(False)

    def showInViews(self, position=None):
        """Put CT and map into all slice views, zoomed to organs and regions, and point the 3D view there.

        Args:
            position: The slices go through it; None: through the middle of what is shown.
        """
        self._nodes.followTransform()
        middle, size = self.pointCameras()
        if self.node("shown"):
            self._styleShown()  # a scene's file holds the ends of the window to six digits: -0.00 instead of 0.00
        views.giveWindow(self.ctNode)
        views.showVolumes(self.scene, self.ctNode, self.node("shown"), self.overlay["opacity"])
        views.look(self.ctNode, middle, max(views.MARGIN * size, views.SMALLEST_VIEW_MM))
        if position is not None:
            views.sliceThrough(self.scene, self._nodes.toWorld(position))

    def pointCameras(self) -> tuple[np.ndarray, float]:
        """Point the 3D view at organs and regions or, without any, at the CT; return their middle and size."""
        bounds = views.boundsOfInterest(self._nodes)
        middle, size = bounds.mean(axis=1), float(np.ptp(bounds, axis=1).max())
        views.pointCameras(self.scene, middle, size)
        return middle, size

    def jumpTo(self, position, extentMm: float):
        """Centre all slice views on a place and zoom to it.

        Args:
            position: Its middle.
            extentMm: Its largest diameter.
        """
        self._nodes.followTransform()
        width = max(views.CLOSE_MARGIN * extentMm, views.SMALLEST_CLOSE_VIEW_MM)
        views.look(self.ctNode, self._nodes.toWorld(position), width)

    # State

    def setState(self, name: str, data: dict):
        """Keep a JSON document with the CT, in the scene.

        Raises:
            TypeError, ValueError: `data` is not plain JSON.
        """
        self._state.set(name, data)

    def state(self, name: str) -> dict | None:
        """Return the document of that name, or None."""
        return self._state.get(name)

    def _available(self, kind: MapKind, label: int | None) -> tuple[MapKind, int | None]:
        """Choose what to show in place of a kind or a label that has no map."""
        label = label if label in self._maps.volumes("variance") else None
        return self._overlay.available(kind), label

    def _styleShown(self):
        shown, overlay = self.node("shown"), self.overlay
        self._maps.style(shown, overlay["window"], overlay["threshold"])
        title = legendTitle(MapKind(overlay["kind"]))
        segment = self._segmentation.segment(overlay["label"])
        if segment and len(self._segmentation.values()) > 1:
            title += f"\n{segment.GetName()}"
        setLegend(shown, title)
        followViews(self.scene)

    def _shownIn3d(self) -> bool:
        surface, display = self._surface.node, self.node("segmentation").GetDisplayNode()
        plain = display.GetVisibility() and display.GetVisibility3D()
        return bool(plain or (surface and surface.GetDisplayNode().GetVisibility()))


def findResults(scene) -> list:
    """List the CT nodes of a scene that have results, in the scene's order."""
    volumes = nodesByClass(scene, "vtkMRMLScalarVolumeNode")
    return [node for node in volumes if CtNodes(node).node("segmentation")]
