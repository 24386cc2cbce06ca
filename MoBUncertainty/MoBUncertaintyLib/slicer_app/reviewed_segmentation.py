"""The segmentation in the scene, held to what a review says of it, and drawn in by its reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, hull, occupied, shape_of
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.drawing import addMask, maskedRegion, prepareEditor, removeMask
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs
from MoBUncertaintyLib.slicer_app.stored_results import onItsCt


class ReviewedSegmentation:
    """The segments, the map and the surfaces of what clicks and verdicts make of a prediction.

    Args:
        results: The image's nodes.
        review: The review of them.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
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
        return int(np.count_nonzero(self.results.organs.array()[box] != self.review.labels_in(box)))

    @onItsCt
    def discardStrayEdits(self) -> None:
        """Let the segmentation be what the verdicts say."""
        box = self._changeable()
        if not np.array_equal(self.results.organs.array()[box], self.review.labels_in(box)):
            self._set(box)

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
        self.results.updateSegmentation(box, self.review.labels_in(box), surfaces=False)
        self._surfacesAreOld = True

    def _changeable(self) -> Box:
        """Where the segmentation can differ from the review: comparing all of an image takes too long."""
        decided = [region.box for region in self.review.regions if region.decided]
        clicked = [self.review.changed_box] if self.review.clicks else []
        return hull([*self.results.organs.boxes(), self._predictedBox, *decided, *clicked])


class RegionDrawing:
    """The reader's drawing in one region at a time.

    Args:
        segmentation: That is drawn in.
        edit: Takes a region's id and the labels as drawn, (z, y, x), as a step of the review.

    Attributes:
        regionId: The region that is being edited, if any.
    """

    def __init__(self, segmentation: ReviewedSegmentation, edit: Callable[[str, np.ndarray], None]) -> None:
        self._segmentation, self._edit = segmentation, edit
        self.results, self.review = segmentation.results, segmentation.review
        self.regionId: str | None = None

    @onItsCt
    def begin(self, regionId: str):
        """Prepare the Segment Editor: it may draw inside the region only, until `finish` or `cancel`.

        Returns:
            The vtkMRMLSegmentEditorNode.

        Raises:
            ReviewError: The review is signed off.
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
