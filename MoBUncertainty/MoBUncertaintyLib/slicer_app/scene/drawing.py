"""Drawing inside one doubtful region: the mask that the Segment Editor heeds, and its settings.

The editor's mask must be a segment of the segmentation that is edited, so the region becomes one meanwhile.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import orientedImage, segmentId

EDITOR_TAG = "MoBUncertainty"
MASK_SEGMENT = "MoBUncertainty.Region"
REGION_TAG = "MoBUncertainty.RegionId"
"""Of that segment: the region it stands for, should the scene be saved meanwhile."""


def addMask(results: ResultScene, region: ReviewRegion) -> None:
    """Make a region a segment of the organs' segmentation."""
    node = results.node("segmentation")
    segment = slicer.vtkSegment()
    segment.SetName(_("Region under review"))
    segment.SetTag(REGION_TAG, region.region_id)
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment.AddRepresentation(name, orientedImage(results.ctNode, region.box, region.mask.astype(np.uint8)))
    node.GetSegmentation().AddSegment(segment, MASK_SEGMENT)
    # Not to be seen, and therefore not to be overwritten by what is drawn.
    node.GetDisplayNode().SetSegmentVisibility(MASK_SEGMENT, False)


def maskedRegion(results: ResultScene) -> str | None:
    """Return the id of the region whose mask the scene holds, if any."""
    segment = results.node("segmentation").GetSegmentation().GetSegment(MASK_SEGMENT)
    regionId = vtk.reference("")
    return regionId.get() if segment is not None and segment.GetTag(REGION_TAG, regionId) else None


def removeMask(results: ResultScene) -> None:
    """Remove the mask, where there is one."""
    node = results.node("segmentation")
    if node and node.GetSegmentation().GetSegment(MASK_SEGMENT):
        node.GetSegmentation().RemoveSegment(MASK_SEGMENT)


def prepareEditor(results: ResultScene, label: int):
    """Set the vtkMRMLSegmentEditorNode to draw a label inside the mask only, and return it.

    Args:
        results: Of the CT.
        label: Its value.
    """
    scene = results.ctNode.GetScene()
    editor = scene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
    if editor is None:
        editor = slicer.vtkMRMLSegmentEditorNode()
        editor.SetSingletonTag(EDITOR_TAG)
        editor = scene.AddNode(editor)
    editor.SetAndObserveSegmentationNode(results.node("segmentation"))
    editor.SetAndObserveSourceVolumeNode(results.ctNode)
    editor.SetSelectedSegmentID(segmentId(label))
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    editor.SetMaskSegmentID(MASK_SEGMENT)
    editor.SetSourceVolumeIntensityMask(False)  # the panel does not show whether it is on
    editor.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments)
    return editor
