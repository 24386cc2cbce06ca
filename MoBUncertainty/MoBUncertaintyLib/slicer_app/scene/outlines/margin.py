"""How far from each label's outline, as predicted, the true surface is expected to lie: a band in the slice views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import slicer

from MoBUncertaintyLib.model.card import Label, readable
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes
from MoBUncertaintyLib.slicer_app.scene.segments import BINARY_LABELMAP, orientedImage

FILL, LINE = 0.12, 0.8  # opacities: the map below the band can still be read


class MarginBand:
    """A segmentation node with a segment for each label: the voxels within its margin, inside and outside.

    Args:
        nodes: Of the CT.
    """

    def __init__(self, nodes: CtNodes):
        self._nodes = nodes

    @property
    def node(self):
        """The vtkMRMLSegmentationNode, or None."""
        return self._nodes.node("margin")

    def show(self, segmentation: np.ndarray, labels: Sequence[Label], margins: Mapping[str, float]):
        """Show the bands, made once for each prediction.

        Args:
            segmentation: As predicted, of the CT's shape.
            labels: Those of the model.
            margins: In mm, by the label's name; labels without one get no band.
        """
        node = self._nodes.getOrCreate("margin", "vtkMRMLSegmentationNode", _("margin"))
        if not node.GetSegmentation().GetNumberOfSegments():
            self._fill(node, segmentation, labels, margins)
        node.GetDisplayNode().SetVisibility(True)

    def hide(self):
        """Hide the bands, if there are any."""
        if self.node:
            self.node.GetDisplayNode().SetVisibility(False)

    def clear(self):
        """Forget the bands: there is another prediction."""
        if self.node:
            self.node.GetSegmentation().RemoveAllSegments()

    def _fill(self, node, segmentation: np.ndarray, labels: Sequence[Label], margins: Mapping[str, float]):
        from MoBUncertaintyLib.conformal.outline import (
            around,  # scipy takes long to import, and a scene file has no band
        )

        ct = self._nodes.ctNode
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        node.GetSegmentation().SetSourceRepresentationName(BINARY_LABELMAP)
        spacing = ct.GetSpacing()[::-1]
        for label in (label for label in labels if label.name in margins):
            box, marked = around(label.mask(segmentation), spacing, margins[label.name])
            segment = slicer.vtkSegment()
            title = _("{label}: within {mm} mm of the outline")
            segment.SetName(title.format(label=readable(label.name), mm=f"{margins[label.name]:g}"))
            segment.SetColor(*(channel / 255 for channel in label.colour))
            segment.SetLabelValue(1)
            segment.AddRepresentation(BINARY_LABELMAP, orientedImage(ct, box, marked.astype(np.uint8)))
            node.GetSegmentation().AddSegment(segment)  # each has a layer of its own: bands overlap
        display = node.GetDisplayNode()
        display.SetOpacity2DFill(FILL)
        display.SetOpacity2DOutline(LINE)
        display.SetSliceIntersectionThickness(1)
        display.SetVisibility3D(False)
