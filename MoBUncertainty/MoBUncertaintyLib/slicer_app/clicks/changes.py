"""What a step changes in the segmentation, or would change: voxels, their volume, and both over the slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.geometry import Box
from MoBUncertaintyLib.output.pictures.style import Palette
from MoBUncertaintyLib.slicer_app.scene.nodes import ROLE_ATTRIBUTE, ijkToRas, nodesByClass

ADDED, REMOVED, RENAMED = 1, 2, 3
FILL_OPACITY = 0.8
ROLE = "change"


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the segmentation in a box."""

    box: Box
    before: np.ndarray
    after: np.ndarray
    voxel_mm3: float
    palette: Palette

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
    """Shows a change as coloured voxels over the slices: in their label layer, which gets back what it held before.

    Its nodes are not saved with the scene, nor listed anywhere. (A segmentation would leave its segments' items behind
    in the subject hierarchy of a saved scene.)
    """

    def __init__(self, ctNode) -> None:
        self._ctNode, self._scene = ctNode, ctNode.GetScene()  # the CT may be removed meanwhile
        self._before: dict[str, tuple] = {}  # the label volume and its opacity of each slice view

    @property
    def node(self):
        """The vtkMRMLLabelMapVolumeNode, or None."""
        return self._find("vtkMRMLLabelMapVolumeNode")

    def show(self, change: Change) -> None:
        """Show a change, in place of an earlier one."""
        node = self.node or self._make()
        palette = change.palette
        table = node.GetDisplayNode().GetColorNode()
        for kind, colour in {ADDED: palette.added, REMOVED: palette.removed, RENAMED: palette.renamed}.items():
            table.SetColor(kind, str(kind), *(channel / 255 for channel in colour), 1)
        node.SetAndObserveTransformNodeID(self._ctNode.GetTransformNodeID())
        matrix = ijkToRas(self._ctNode)
        matrix[:3, 3] += matrix[:3, :3] @ [axis.start for axis in reversed(change.box)]
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        slicer.util.updateVolumeFromArray(node, change.kinds.astype(np.int16))
        for view in nodesByClass(self._scene, "vtkMRMLSliceCompositeNode"):
            if view.GetLabelVolumeID() != node.GetID():
                self._before[view.GetID()] = view.GetLabelVolumeID(), view.GetLabelOpacity()
                view.SetLabelVolumeID(node.GetID())
                view.SetLabelOpacity(FILL_OPACITY)

    def hide(self) -> None:
        """Show what the views held before."""
        for view in self.holders():
            volume, usual = self._before.pop(view.GetID(), (None, 1.0))
            view.SetLabelVolumeID(volume)
            view.SetLabelOpacity(usual)

    def holders(self) -> list:
        """List what the slice views show, of those that show this."""
        node = self.node
        views = nodesByClass(self._scene, "vtkMRMLSliceCompositeNode") if node is not None else []
        return [view for view in views if view.GetLabelVolumeID() == node.GetID()]

    def _find(self, className: str):
        nodes = nodesByClass(self._scene, className)
        return next((node for node in nodes if node.GetAttribute(ROLE_ATTRIBUTE) == ROLE), None)

    def _make(self):
        node = self._add("vtkMRMLLabelMapVolumeNode", _("change of the segmentation"))
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
        colours = self._find("vtkMRMLColorTableNode") or self._add("vtkMRMLColorTableNode", _("change"))
        colours.SetTypeToUser()
        colours.SetNumberOfColors(1 + RENAMED)
        colours.SetColor(0, "", 0, 0, 0, 0)
        node.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
        return node

    def _add(self, className: str, name: str):
        node = self._scene.CreateNodeByClass(className)
        node.UnRegister(None)
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAttribute(ROLE_ATTRIBUTE, ROLE)
        self._scene.AddNode(node)
        return node
