"""What a step changes in the segmentation, or would change: voxels, their volume, and both over the slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import slicer.util

from MoBUncertaintyLib.geometry import Box
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.nodes import ROLE_ATTRIBUTE, nodesByClass, subjectHierarchy
from MoBUncertaintyLib.slicer_app.scene.segments import BINARY_LABELMAP, orientedImage

ADDED, REMOVED, RENAMED = 1, 2, 3
COLOURS = {ADDED: (0.2, 1.0, 0.3), REMOVED: (1.0, 0.25, 0.3), RENAMED: (0.3, 0.6, 1.0)}
FILL_OPACITY = 0.5
ROLE = "change"


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the segmentation in a box.

    Attributes:
        box: In the CT's array.
        before: Labels that were there.
        after: Labels that are there now, or would be.
        voxel_mm3: Volume of a voxel.
    """

    box: Box
    before: np.ndarray
    after: np.ndarray
    voxel_mm3: float

    @property
    def added_ml(self) -> float:
        """What has become organ."""
        return self._ml((self.before == 0) & (self.after > 0))

    @property
    def removed_ml(self) -> float:
        """What is organ no more."""
        return self._ml((self.before > 0) & (self.after == 0))

    @property
    def kinds(self) -> np.ndarray:
        """ADDED, REMOVED or RENAMED (from one organ to another) in each voxel, uint8; 0 where nothing changes."""
        kinds = np.zeros(self.before.shape, np.uint8)
        kinds[(self.before != self.after) & (self.before > 0) & (self.after > 0)] = RENAMED
        kinds[(self.before == 0) & (self.after > 0)] = ADDED
        kinds[(self.before > 0) & (self.after == 0)] = REMOVED
        return kinds

    @property
    def isEmpty(self) -> bool:
        """Whether nothing changes."""
        return bool(np.array_equal(self.before, self.after))

    def _ml(self, mask: np.ndarray) -> float:
        return float(np.count_nonzero(mask) * self.voxel_mm3 / 1000)


class ChangeOverlay:
    """Shows a change as coloured voxels over the slices, by one node of the scene that is not saved with it.

    Args:
        ctNode: Whose voxels they are.
    """

    def __init__(self, ctNode) -> None:
        self._ctNode = ctNode

    @property
    def node(self):
        """The vtkMRMLSegmentationNode, or None."""
        scene = self._ctNode.GetScene()
        nodes = nodesByClass(scene, "vtkMRMLSegmentationNode") if scene else []
        return next((node for node in nodes if node.GetAttribute(ROLE_ATTRIBUTE) == ROLE), None)

    def show(self, change: Change) -> None:
        """Show a change, in place of an earlier one."""
        node = self.node or self._make()
        node.SetAndObserveTransformNodeID(self._ctNode.GetTransformNodeID())
        image = orientedImage(self._ctNode, change.box, change.kinds)
        with slicer.util.NodeModify(node):
            for kind in COLOURS:
                node.GetSegmentation().GetSegment(str(kind)).AddRepresentation(BINARY_LABELMAP, image)
        self.setOpacity(1.0)

    def setOpacity(self, opacity: float) -> None:
        """Let it fade; 0: it is gone."""
        node = self.node
        if node is not None:
            display = node.GetDisplayNode()
            with slicer.util.NodeModify(display):
                display.SetOpacity(opacity)
                display.SetVisibility(opacity > 0)

    def _make(self):
        scene = self._ctNode.GetScene()
        node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
        node.UnRegister(None)
        node.SetName(_("change of the segmentation"))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAttribute(ROLE_ATTRIBUTE, ROLE)  # hidden where its CT is removed
        scene.AddNode(node)
        hierarchy = subjectHierarchy(scene)  # Slicer's Segmentations plugin complains of a node without an item
        hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node, "Segmentations")
        node.CreateDefaultDisplayNodes()
        node.GetSegmentation().SetSourceRepresentationName(BINARY_LABELMAP)
        for kind, colour in COLOURS.items():
            segment = slicer.vtkSegment()
            segment.SetColor(*colour)
            segment.SetLabelValue(kind)
            node.GetSegmentation().AddSegment(segment, str(kind))
        display = node.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetOpacity2DFill(FILL_OPACITY)
        display.SetOpacity2DOutline(1.0)
        display.SetVisibility3D(False)
        return node


def millilitres(value: float, signed: bool = True) -> str:
    """Write a volume as a reader would: +0.8 ml, −0.03 ml."""
    digits = 1 if abs(value) >= 0.1 else 2
    text = f"{abs(value):.{digits}f}"
    sign = "" if not float(text) or not signed else "+" if value > 0 else "−"
    return _("{volume} ml").format(volume=sign + text)
