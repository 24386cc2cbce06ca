"""The segmentation under review, and drawing inside one of its doubtful regions.

The Segment Editor's mask must be a segment of the segmentation that is edited, so the region becomes one meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, hull, occupied, shape_of
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs, orientedImage, segmentId
from MoBUncertaintyLib.slicer_app.stored_results import onItsCt

if TYPE_CHECKING:
    from MoBUncertaintyLib.review.region import ReviewRegion
    from MoBUncertaintyLib.review.view import ReviewView

EDITOR_TAG = "MoBUncertainty"
MASK_SEGMENT = "MoBUncertainty.Region"
REGION_TAG = "MoBUncertainty.RegionId"
"""Of that segment: the region it stands for, should the scene be saved meanwhile."""


class ReviewedSegmentation:
    """The segments, the map and the surfaces of what clicks and verdicts make of a prediction."""

    def __init__(self, results: ResultScene, review: ReviewView) -> None:
        self.results, self.review = results, review
        self._predictedBox = occupied(review.prediction.segmentation)
        self._surfacesAreOld = False

    def update(self, boxes: Iterable[Box]) -> None:
        """Show the labels and maps of some boxes as they are now; `updateSurfaces` follows when there is time."""
        for box in boxes:
            self._set(box)
            self.results.overlay.update(box)

    def mend(self) -> None:
        """Bring back segments that were deleted in the Segment Editor: verdicts change them."""
        prediction = self.review.prediction
        if self.results.organs.restore(prediction.segmentation, labelSpecs(prediction.labels)):
            self.discardStrayEdits()

    @onItsCt
    def strayEdits(self) -> int:
        """Count the voxels that were changed by other means than verdicts, in the Segment Editor say."""
        box = self._changeable()
        return int(np.count_nonzero(self.results.organs.array(box) != self.review.labels_in(box)))

    @onItsCt
    def discardStrayEdits(self) -> None:
        """Let the segmentation be what the verdicts say."""
        if self.strayEdits():
            self._set(self._changeable())

    def showAll(self) -> None:
        """Let segmentation and map be what clicks and verdicts make of them, in a scene that shows the prediction."""
        self.discardStrayEdits()
        if shape_of(self.review.changed_box)[0]:
            self.results.overlay.update(self.review.changed_box)
        self.updateSurfaces()

    def updateSurfaces(self) -> None:
        """Make the organs' surfaces anew after steps that have changed them; takes as long as the organs are big."""
        if self._surfacesAreOld:
            self._surfacesAreOld = False
            self.results.updateSurfaces()

    def _set(self, box: Box) -> None:
        self.results.organs.update(box, self.review.labels_in(box))
        self._surfacesAreOld = True

    def _changeable(self) -> Box:
        """Where the segmentation can differ from the review: comparing all of an image takes too long."""
        decided = [region.box for region in self.review.regions if region.decided]
        clicked = [self.review.changed_box] if self.review.clicks else []
        return hull([*self.results.organs.boxes(), self._predictedBox, *decided, *clicked])


class RegionDrawing:
    """The reader's drawing in one region at a time; `regionId` is the one that is being edited, if any.

    `edit` takes a region's id and the labels as drawn, (z, y, x), as a step of the review.
    """

    def __init__(self, segmentation: ReviewedSegmentation, edit: Callable[[str, np.ndarray], None]) -> None:
        self._segmentation, self._edit = segmentation, edit
        self.results, self.review = segmentation.results, segmentation.review
        self.regionId: str | None = None

    @onItsCt
    def begin(self, regionId: str):
        """Prepare the Segment Editor: it may draw inside the region only, until `finish` or `cancel`.

        Returns the vtkMRMLSegmentEditorNode. Raises `ReviewError` if the review is signed off.
        """
        if self.review.signature:
            raise ReviewError(_("The review is signed off; reopen it to edit a region."))
        self.cancel()
        self._segmentation.mend()
        region, prediction = self.review.region(regionId), self.review.prediction
        addMask(self.results, region)
        self.regionId = regionId
        values = prediction.segmentation[region.box][region.mask]
        wanted = np.bincount(values[values > 0]).argmax() if values.any() else prediction.labels[0].value
        return prepareEditor(self.results, int(wanted))

    @onItsCt
    def finish(self) -> None:
        """Take what was drawn as the region's correction; where nothing was drawn in it, its verdict stays."""
        if self.regionId is None:
            return
        region, drawn = self.review.region(self.regionId), self.results.organs.array()
        if np.array_equal(drawn[region.box][region.mask], self.review.labels_in(region.box)[region.mask]):
            self.cancel()
            return
        self.regionId = None
        removeMask(self.results)
        self._edit(region.region_id, drawn)
        self._segmentation.discardStrayEdits()  # drawn outside of the region, by an effect that does not heed the mask

    def settle(self) -> None:
        """End an edit without having been told how: what was drawn is kept; to begin one is no verdict."""
        if self.regionId is not None and self._segmentation.strayEdits() > 0:
            self.finish()
        else:
            self.cancel()

    def settleStored(self) -> None:
        """End an edit during which the scene was saved."""
        masked = maskedRegion(self.results)
        self.regionId = masked if masked in {region.region_id for region in self.review.regions} else None
        self.settle()
        removeMask(self.results)  # of a region that is no more

    @onItsCt
    def cancel(self) -> None:
        """Forget what was drawn."""
        regionId, self.regionId = self.regionId, None
        if regionId is not None:
            removeMask(self.results)
            self._segmentation.discardStrayEdits()


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
    """Set the vtkMRMLSegmentEditorNode to draw a label inside the mask only, and return it."""
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
