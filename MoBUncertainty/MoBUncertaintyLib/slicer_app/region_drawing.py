"""The steps of a review in which a reader draws inside a region, by Slicer's Segment Editor."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.drawing import addMask, prepareEditor, removeMask
from MoBUncertaintyLib.slicer_app.stored_results import heldMaps


def onItsCt(step: Callable) -> Callable:
    """Make a step raise ReviewError if the CT is not what was segmented."""

    @functools.wraps(step)
    def checked(session, *args, **kwargs):
        session.checkFit()
        with heldMaps(session.prediction):
            return step(session, *args, **kwargs)

    return checked


class RegionDrawing:
    """The part of a `ReviewSession` that is about drawing."""

    _editing: str | None = None

    @property
    def editing(self) -> str | None:
        """The region that is being edited, if any."""
        return self._editing

    @onItsCt
    def beginEdit(self, regionId: str):
        """Prepare the Segment Editor: it may draw inside the region only, until `finishEdit` or `cancelEdit`.

        Returns:
            The vtkMRMLSegmentEditorNode.

        Raises:
            ReviewError: The review is signed off.
        """
        if self.review.signature:
            raise ReviewError(_("The review is signed off; reopen it to edit a region."))
        self.cancelEdit()
        self._mend()
        region = self.review.region(regionId)
        addMask(self.results, region)
        self._editing = regionId
        values = self.prediction.segmentation[region.box][region.mask]
        wanted = np.bincount(values[values > 0]).argmax() if values.any() else self.prediction.labels[0].value
        return prepareEditor(self.results, int(wanted))

    def hasDrawn(self) -> bool:
        """Whether anything was drawn since `beginEdit`."""
        return self._editing is not None and self.strayEdits() > 0

    @onItsCt
    def finishEdit(self) -> None:
        """Take what was drawn as the region's correction; where nothing was drawn in it, its verdict stays."""
        if self._editing is None:
            return
        region, drawn = self.review.region(self._editing), self.results.corrected()
        if np.array_equal(drawn[region.box][region.mask], self.review.labels_in(region.box)[region.mask]):
            self.cancelEdit()
            return
        self._editing = None
        removeMask(self.results)
        self._step(self.review.edit(region.region_id, drawn))
        self.discardStrayEdits()  # drawn outside of the region, by an effect that does not heed the mask

    def settleEdit(self) -> None:
        """End an edit without having been told how: what was drawn is kept; to begin one is no verdict."""
        if self.hasDrawn():
            self.finishEdit()
        else:
            self.cancelEdit()

    @onItsCt
    def cancelEdit(self) -> None:
        """Forget what was drawn."""
        regionId, self._editing = self._editing, None
        if regionId is not None:
            removeMask(self.results)
            self.discardStrayEdits()
