"""The review of one image's results, with its nodes: each step changes `review.Review` and what the scene shows of it.

Knows no widgets. The scene holds all of it (`documents.get("review")`), so a session can be opened again from a
scene that was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import LostReviewError, ReviewError
from MoBUncertaintyLib.base.geometry import Box, hull
from MoBUncertaintyLib.output.exchange import read_regions, read_settings
from MoBUncertaintyLib.output.pictures.palette import palette_beside
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import MisplacedReviewError
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.changes import Change, ChangeOverlay
from MoBUncertaintyLib.slicer_app.clicks.marks import ClickMarks
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.inputs.channels import channelVolume
from MoBUncertaintyLib.slicer_app.listed_regions import ListedRegions
from MoBUncertaintyLib.slicer_app.reviewed_segmentation import RegionDrawing, ReviewedSegmentation
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.stored_results import (
    areComplete,
    fits,
    lieOnCt,
    misfit,
    onItsCt,
    predictedLabels,
    scenePrediction,
    storeReview,
)


class ReviewSession:
    """One image's results under review; see `start` and `open`.

    Args:
        results: The image's nodes, complete.
        review: The review of them.

    Attributes:
        results: The image's nodes.
        review: Clicks, verdicts, comments, history and signature.
        segmentation: The segmentation in the scene, held to the review.
        regions: The doubtful regions in the scene.
        drawing: Of the reader, inside a region.
        marks: The marks of clicks in the views.
        changes: Shows over the slices what a step has changed, or would change.
        lastChange: What the last step has changed in the segmentation; None: nothing.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results, self.review = results, review
        self._palette = palette_beside(label.colour for label in review.prediction.labels)
        self.segmentation = ReviewedSegmentation(results, review)
        self.regions = ListedRegions(results, review)
        self.drawing = RegionDrawing(self.segmentation, partial(self.step, Review.edit))
        self.marks, self.changes = ClickMarks(results, review, self._palette), ChangeOverlay(results.ctNode)
        self.lastChange: Change | None = None
        results.overlay.maps.current = review

    @classmethod
    def start(cls, results: ResultScene, predicted: np.ndarray, regionMap: np.ndarray) -> ReviewSession:
        """Begin a review; one that the scene holds is lost.

        Args:
            results: With segmentation, maps and the state "prediction".
            predicted: Segmentation, uint8 (z, y, x).
            regionMap: Number of each voxel's doubtful region, uint16.
        """
        regions = read_regions(results.documents.get("prediction"), regionMap)
        return cls(results, Review(scenePrediction(results, predicted), regions))._begun()

    @classmethod
    def open(cls, results: ResultScene) -> ReviewSession:
        """Go on with the review that the scene holds; begin one where a scene of the command line holds none yet.

        Raises:
            ReviewError: What it holds is damaged, or belongs to another segmentation or to the image as it was.
        """
        if not lieOnCt(results):
            raise misfit(results.ctNode)
        begun, stored = results.node("state.review") is not None, results.documents.get("review")
        if not results.documents.get("prediction") or (begun and not stored):
            text = _("The scene has lost the review of {ct}; apply again.")
            raise (LostReviewError if begun else ReviewError)(text.format(ct=results.ctNode.GetName()))
        prediction = scenePrediction(results, predictedLabels(results))
        if not begun:
            settings = read_settings(results.documents.get("prediction"))
            regions = RegionDescriber(prediction).describe_all(results.regions.array(), settings)
            return cls(results, Review(prediction, regions))._begun()
        try:
            session = cls(results, Review.from_dict(stored, prediction))
        except MisplacedReviewError as error:
            raise misfit(results.ctNode) from error
        except ReviewError as error:
            raise LostReviewError(str(error)) from error
        drawn = results.regions.array()  # somebody may have drawn in them
        if not np.array_equal(drawn, session.review.listed().whole_map()):
            session.regions.show()
        storeReview(results, session.review)  # numbers that were found in blocks of voxels are rounded otherwise
        session.segmentation.mend()
        session.drawing.settleStored()
        session.marks.show()
        session.marks.suggest(None)
        return session

    def _begun(self) -> ReviewSession:
        self.regions.show()
        storeReview(self.results, self.review)
        return self

    @property
    def imageIds(self) -> set[str]:
        """The IDs of the image and of the volumes of the model's other input channels."""
        ct, others = self.results.ctNode, self.review.prediction.provenance.get("channels", ())[1:]
        volumes = [ct, *(channelVolume(ct, name) for name in others)]
        return {volume.GetID() for volume in volumes if volume}

    @property
    def warnings(self) -> list[str]:
        """What was odd about the image or the prediction, each in a sentence.

        What is to be said of the regions is in `regions.warning`; whether the model suits the case, in the prediction's
        `suitability`.
        """
        suitability, ct = self.review.prediction.suitability, self.results.ctNode
        text = _("{ct} lies under a transform that bends it, as unevenly spaced DICOM slices do: sizes may be wrong.")
        bent = [text.format(ct=ct.GetName())] if CtNodes(ct).isBent else []
        return bent + [text for text in self.regions.otherWarnings if not (suitability and suitability.says(text))]

    def isComplete(self) -> bool:
        """Whether all nodes are there still."""
        return areComplete(self.results)

    def fits(self) -> bool:
        """Whether image and maps are still where the image was segmented; if not, they may come back there."""
        return fits(self.results, self.review.prediction)

    # Steps of the review

    @onItsCt
    def step(self, change: Callable[..., Sequence[Box] | None], *arguments: Any) -> None:
        """Change the review, and what the scene shows of it.

        Args:
            change: One of the steps of `Review`, say `Review.decide`.
            arguments: Of the step.

        Raises:
            ReviewError: The step is refused, or the image is no longer what was segmented.
        """
        boxes = change(self.review, *arguments) or ()
        self.marks.suggest(None)  # another click helps most now
        self._show(boxes)

    def comment(self, regionId: str, text: str) -> None:
        """Set a region's comment, wherever the image lies now."""
        self._show(self.review.comment(regionId, text))

    @onItsCt
    def preview(self, regionId: str, verdict: Verdict, label: int | None = None) -> Change:
        """Show over the slices what a verdict would change, if anything; `changes.setOpacity(0)` ends it."""
        box, labels = self.review.preview(regionId, verdict, label)
        change = self._change(box, self.review.labels_in(box), labels)
        if not change.isEmpty:
            self.changes.show(change)
        return change

    @onItsCt
    def suggest(self, among: Sequence[str]) -> None:
        """Mark the place in some regions where a click helps most, if there is one; see `Review.suggestion`."""
        suggestion = self.review.suggestion(among)
        self.marks.suggest(suggestion and suggestion.point_ras)

    def _show(self, boxes: Sequence[Box]) -> None:
        """Show what has changed in boxes, and keep it: first, whatever becomes of its display."""
        storeReview(self.results, self.review)
        self.segmentation.mend()
        box = hull(boxes)
        before = self.results.organs.array(box) if boxes else None
        self.segmentation.update(boxes)
        self.lastChange = self._change(box, before, self.results.organs.array(box)) if boxes else None
        self.regions.update(box)
        self.marks.show()

    def _change(self, box: Box, before: np.ndarray, after: np.ndarray) -> Change:
        return Change(box, before, after, self.review.prediction.grid.voxel_mm3, self._palette)
