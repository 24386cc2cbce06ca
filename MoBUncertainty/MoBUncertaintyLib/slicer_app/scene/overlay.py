"""What lies over a CT: a map of its prediction, its legend, and the organs' surface in the map's colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.slicer_app.scene import views
from MoBUncertaintyLib.slicer_app.scene.legend import followViews, legendTitle, setLegend
from MoBUncertaintyLib.slicer_app.scene.maps import MapKind, UncertaintyMaps
from MoBUncertaintyLib.slicer_app.scene.nodes import REFERENCE_ROLE, CtNodes, nodesByClass
from MoBUncertaintyLib.slicer_app.scene.segments import LabelSegmentation
from MoBUncertaintyLib.slicer_app.scene.state import USUAL_THRESHOLD, OverlayRecord, SceneState
from MoBUncertaintyLib.slicer_app.scene.surface import UncertaintySurface

FILL_OPACITY = 0.35


class Overlay:
    """What is shown of the maps of one CT, as its reader has chosen.

    Args:
        nodes: Of the CT.
        organs: The organs' segmentation.
        documents: Of the CT; one holds the reader's choices.

    Attributes:
        maps: The volumes.
        surface: In the colours of the map that is shown.
    """

    def __init__(self, nodes: CtNodes, organs: LabelSegmentation, documents: SceneState):
        self._nodes, self._organs, self._record = nodes, organs, OverlayRecord(documents)
        self.maps, self.surface = UncertaintyMaps(nodes), UncertaintySurface(nodes)

    @property
    def kinds(self) -> list[MapKind]:
        """The maps that the model has."""
        return self._record.kinds

    @property
    def values(self) -> dict[str, Any]:
        """How things are shown, see `OverlayRecord.values`."""
        return self._record.values

    def setMaps(
        self,
        probability: dict[int, Any],
        variance: dict[int, Any],
        varianceThreshold: float | None = USUAL_THRESHOLD,
    ):
        """Put the maps into volumes (float32, one copy); `show` shows one, and anew what was shown of earlier ones.

        Args:
            probability: Arrays by label.
            variance: Likewise, for the same labels.
            varianceThreshold: From which on the model's variance counts; at first, maps are drawn accordingly.
                None: the model has no variance, and none is shown.
        """
        self.maps.set(probability, variance)
        self._record.setVarianceThreshold(varianceThreshold)

    def show(self, kind: MapKind, label: int | None = None):
        """Show a map over the CT in all slice views, and on the surface if that is shown.

        Args:
            kind: What to show; the entropy in place of what the model does not have. Threshold and window are those
                last used for this kind.
            label: Its value; None, or a label without maps: all labels (see `UncertaintyMaps.volumeFor`).

        Returns:
            The vtkMRMLScalarVolumeNode shown, or None without maps.
        """
        kind, label = self._available(kind, label)
        volume = self.maps.volumeFor(kind, label)
        if kind != self.values["kind"]:  # what is shown for want of a variance is not what the reader has chosen
            self._record.remember(kind=kind.value)
        self._record.remember(label=label)
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
        kind, label = self._available(MapKind(self.values["kind"]), self.values["label"])
        yield from self.maps.deriveInSteps(kind, label, always=True)

    def update(self, box: Box):
        """Show what has changed in a box of the maps, as a click does; in a few ms, whatever the size of the CT.

        Args:
            box: In the CT's array.
        """
        shown, values = self._nodes.node("shown"), self.values
        if shown is None:
            return
        kind, label = self._available(MapKind(values["kind"]), values["label"])
        if self.maps.update(kind, label, box) is not shown:
            self.show(kind, label)

    def change(self, **changes: Any):
        """Change how things are shown; threshold and window belong to the kind of map that is shown.

        Args:
            changes: `opacity` over the CT, 0 to 1; `threshold`, below which nothing is drawn; `window`, the values of
                the first and the last colour; `legend`, whether there is one; `fill`, whether organs are filled in the
                slices (a fill tints the heat map); `surface`, whether 3D shows the organs coloured by the map.
        """
        self._record.remember(**changes)
        shown, values = self._nodes.node("shown"), self.values
        if shown:
            self.style()
            for composite in nodesByClass(self._nodes.scene, "vtkMRMLSliceCompositeNode"):
                if composite.GetForegroundVolumeID() == shown.GetID():
                    composite.SetForegroundOpacity(values["opacity"])
        if self._organs.node:
            self._organs.node.GetDisplayNode().SetOpacity2DFill(FILL_OPACITY if values["fill"] else 0.0)
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
        self.maps.style(shown, values["window"], values["threshold"])
        title = legendTitle(MapKind(values["kind"]))
        segment = self._organs.segment(values["label"])
        if segment and len(self._organs.values()) > 1:
            title += f"\n{segment.GetName()}"
        setLegend(shown, title)
        followViews(self._nodes.scene)

    def _available(self, kind: MapKind, label: int | None) -> tuple[MapKind, int | None]:
        """Choose what to show in place of a kind or a label that has no map."""
        label = label if label in self.maps.volumes("variance") else None
        return self._record.available(kind), label
