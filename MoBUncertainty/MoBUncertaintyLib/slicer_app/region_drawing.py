"""The steps of a review in which a reader draws inside a region, by Slicer's Segment Editor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.reviewed_segmentation import ReviewedSegmentation
from MoBUncertaintyLib.slicer_app.scene.drawing import addMask, maskedRegion, prepareEditor, removeMask
from MoBUncertaintyLib.slicer_app.stored_results import onItsCt


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
        region, drawn = self.review.region(self.regionId), self.results.corrected()
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
