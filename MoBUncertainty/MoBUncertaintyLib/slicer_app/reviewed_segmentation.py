"""The segmentation in the scene, held to what a review says of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from MoBUncertaintyLib.geometry import Box, hull, occupied, shape_of
from MoBUncertaintyLib.review.review import Review
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
            self.results.updateMap(box)

    def mend(self) -> None:
        """Bring back segments that were deleted in the Segment Editor: verdicts change them."""
        prediction = self.review.prediction
        if self.results.restoreSegments(prediction.segmentation, labelSpecs(prediction.labels)):
            self.discardStrayEdits()

    @onItsCt
    def strayEdits(self) -> int:
        """Count the voxels that were changed by other means than verdicts, in the Segment Editor say."""
        box = self._changeable()
        return int(np.count_nonzero(self.results.corrected()[box] != self.review.labels_in(box)))

    @onItsCt
    def discardStrayEdits(self) -> None:
        """Let the segmentation be what the verdicts say."""
        box = self._changeable()
        if not np.array_equal(self.results.corrected()[box], self.review.labels_in(box)):
            self._set(box)

    def showAll(self) -> None:
        """Let segmentation and map be what clicks and verdicts make of them, in a scene that shows the prediction."""
        self.discardStrayEdits()
        if shape_of(self.review.changed_box)[0]:
            self.results.updateMap(self.review.changed_box)
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
        decided = [each.box for each in self.review.regions if each.decided]
        clicked = [self.review.changed_box] if self.review.clicks else []
        return hull([*self.results.segmentBoxes(), self._predictedBox, *decided, *clicked])
