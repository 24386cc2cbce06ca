"""The review of one CT's results, with its nodes: every step changes `review.Review` and what the scene shows of it.

Knows no widgets. The scene holds all of it (`ResultScene.state("review")`), so a session can be opened again from a
scene that was saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

import numpy as np

from MoBUncertaintyLib.errors import LostReviewError, ReviewError
from MoBUncertaintyLib.geometry import Box, hull, occupied, shape_of
from MoBUncertaintyLib.output.exchange import read_regions, read_settings
from MoBUncertaintyLib.output.pictures.palette import palette_beside
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.refinement.clicks import Click, voxels_of
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import MisplacedReviewError
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.clicks.changes import Change, ChangeOverlay
from MoBUncertaintyLib.slicer_app.clicks.marks import ClickMarks, Mark, Point
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.inputs.channels import channelVolume
from MoBUncertaintyLib.slicer_app.listed_regions import ListedRegions
from MoBUncertaintyLib.slicer_app.region_drawing import RegionDrawing, onItsCt
from MoBUncertaintyLib.slicer_app.scene import views
from MoBUncertaintyLib.slicer_app.scene.drawing import maskedRegion, removeMask
from MoBUncertaintyLib.slicer_app.scene.nodes import CtNodes, isPlaced
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs
from MoBUncertaintyLib.slicer_app.stored_results import (
    areComplete,
    lieOnCt,
    misfit,
    predictedLabels,
    scenePrediction,
)


class ReviewSession(RegionDrawing):
    """One CT's results under review; see `start` and `open`.

    Args:
        results: The CT's nodes, complete.
        review: The review of them.

    Attributes:
        results: The CT's nodes.
        review: Clicks, verdicts, comments, history and signature.
        marks: The marks of its clicks.
        changes: Shows over the slices what a step has changed, or would change.
        lastChange: What the last step has changed in the segmentation; None: nothing.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results = results
        self.review = review
        self._editing: str | None = None
        self._surfacesAreOld = False
        self._predictedBox = occupied(review.prediction.segmentation)
        self._nodes = CtNodes(results.ctNode)
        self._palette = palette_beside(label.colour for label in review.prediction.labels)
        self.marks, self.changes = ClickMarks(self._nodes, self._palette), ChangeOverlay(results.ctNode)
        self.lastChange: Change | None = None
        self._conflicts: tuple | None = None  # the clicks for which they were asked, and the answer
        self._regions = ListedRegions(results, review)
        results.followMaps(review)

    @classmethod
    def start(cls, results: ResultScene, predicted: np.ndarray, regionMap: np.ndarray) -> ReviewSession:
        """Begin a review; one that the scene holds is lost.

        Args:
            results: With segmentation, maps and the state "prediction".
            predicted: Segmentation, uint8 (z, y, x).
            regionMap: Number of each voxel's doubtful region, uint16.
        """
        regions = read_regions(results.state("prediction"), regionMap)
        return cls(results, Review(scenePrediction(results, predicted), regions))._begun()

    @classmethod
    def open(cls, results: ResultScene) -> ReviewSession:
        """Go on with the review that the scene holds; begin one where a scene of the command line holds none yet.

        Raises:
            ReviewError: What it holds is damaged, or belongs to another segmentation or to the CT as it was.
        """
        if not lieOnCt(results):
            raise misfit(results.ctNode)
        begun, stored = results.node("state.review") is not None, results.state("review")
        if not results.state("prediction") or (begun and not stored):
            text = _("The scene has lost the review of {ct}; apply again.")
            raise (LostReviewError if begun else ReviewError)(text.format(ct=results.ctNode.GetName()))
        prediction = scenePrediction(results, predictedLabels(results))
        if not begun:
            settings = read_settings(results.state("prediction"))
            regions = RegionDescriber(prediction).describe_all(results.regionMap(), settings)
            return cls(results, Review(prediction, regions))._begun()
        try:
            session = cls(results, Review.from_dict(stored, prediction))
        except MisplacedReviewError as error:
            raise misfit(results.ctNode) from error
        except ReviewError as error:
            raise LostReviewError(str(error)) from error
        if not np.array_equal(results.regionMap(), session.review.listed().whole_map()):  # somebody has drawn in them
            session._regions.show()
        session._store()  # numbers that were found in blocks of voxels are rounded otherwise
        session._mend()
        masked = maskedRegion(results)
        session._editing = masked if masked in {region.region_id for region in session.review.regions} else None
        session.settleEdit()  # saved amid it
        removeMask(results)  # of a region that is no more
        session.showClicks()
        session.marks.suggest(None)
        return session

    @property
    def ctNode(self):
        """The CT."""
        return self.results.ctNode

    @property
    def imageIds(self) -> set[str]:
        """The IDs of the CT and of the volumes of the model's other input channels."""
        others = self.prediction.provenance.get("channels", ())[1:]
        volumes = [self.ctNode, *(channelVolume(self.ctNode, name) for name in others)]
        return {volume.GetID() for volume in volumes if volume}

    @property
    def prediction(self) -> Prediction:
        """What is reviewed."""
        return self.review.prediction

    @property
    def settings(self) -> RegionSettings:
        """What counts as a region now."""
        return self.review.settings

    @property
    def warnings(self) -> list[str]:
        """What was odd about the CT or the prediction, each in a sentence.

        What is to be said of the regions is in `coverageWarning`; whether the model suits the case, in the prediction's
        `suitability`.
        """
        suitability = self.prediction.suitability
        text = _("{ct} lies under a transform that bends it, as unevenly spaced DICOM slices do: sizes may be wrong.")
        bent = text.format(ct=self.ctNode.GetName()) if self.isBent else None
        others = [each for each in self._regions.otherWarnings if not (suitability and suitability.says(each))]
        return [*filter(None, [bent]), *others]

    @property
    def isBent(self) -> bool:
        """Whether the CT lies under a transform that bends it; see `CtNodes.isBent`."""
        return self._nodes.isBent

    @property
    def coverageWarning(self) -> str | None:
        """What is to be said of how much of the expected error the listed regions hold; None: they hold enough."""
        return self._regions.warning

    @property
    def modelDigest(self) -> str | None:
        """The SHA-256 of the model that made the prediction, where that is known."""
        return self.prediction.provenance.get("model", {}).get("digest")

    def isComplete(self) -> bool:
        """Whether all nodes are there still."""
        return areComplete(self.results)

    def fits(self) -> bool:
        """Whether CT and maps are still where the CT was segmented; if not, they may come back there."""
        placed = isPlaced(self.ctNode, self.prediction.grid.matrix(), self.prediction.shape)
        return placed and lieOnCt(self.results)

    def checkFit(self) -> None:
        """Refuse to go on with results that do not fit.

        Raises:
            ReviewError: The CT was moved or changed.
        """
        if not self.fits():
            raise misfit(self.ctNode)

    # Steps of the review

    @onItsCt
    def decide(self, regionId: str, verdict: Verdict, label: int | None = None) -> None:
        """Give a verdict; see `Review.decide`."""
        self._step(self.review.decide(regionId, verdict, label))

    @onItsCt
    def click(self, points: Sequence[Point], label: int) -> None:
        """Say what lies at a place, or along a stroke; see `Review.click`.

        Args:
            points: RAS mm of the CT's own coordinates.
            label: 0: background.
        """
        self._step(self.review.click(points, label))

    @onItsCt
    def checkPlace(self, points: Sequence[Point]) -> None:
        """Refuse places that cannot be clicked.

        Raises:
            ReviewError: One lies outside of what was predicted.
        """
        given, prediction = Click("", tuple(points), 0, datetime.now().astimezone()), self.prediction
        voxels_of(given, prediction.grid, prediction.shape, prediction.processed_box)

    @onItsCt
    def moveClick(self, clickId: str, points: Sequence[Point]) -> None:
        """Move a click; see `Review.move_click`."""
        self._step(self.review.move_click(clickId, points))

    @onItsCt
    def removeClick(self, clickId: str) -> None:
        """Remove a click; see `Review.remove_click`."""
        self._step(self.review.remove_click(clickId))

    @onItsCt
    def suggest(self, among: Sequence[str]):
        """Return the `Suggestion` of the place in some regions where a click helps most; see `Review.suggestion`."""
        return self.review.suggestion(among)

    def markSuggestion(self, point: Point | None) -> None:
        """Mark a place where to click, and let all slice views go through it; None: no place is marked."""
        self.marks.suggest(point)
        if point is not None:
            views.sliceThrough(self.results.scene, self._nodes.toWorld(point))

    @onItsCt
    def preview(self, regionId: str, verdict: Verdict, label: int | None = None) -> Change:
        """Show over the slices what a verdict would change, if anything; `changes.setOpacity(0)` ends it."""
        box, labels = self.review.preview(regionId, verdict, label)
        change = self._change(box, self.review.labels_in(box), labels)
        if not change.isEmpty:
            self.changes.show(change)
        return change

    def showClicks(
        self,
        text: tuple[Point, str] | None = None,
        drawn: tuple[Sequence[Point], int] | None = None,
        moved: Mapping[str, Sequence[Point]] = MappingProxyType({}),
    ) -> None:
        """Mark all clicks.

        Args:
            text: Stands beside the click that begins at this point.
            drawn: Points and label of a stroke that is not finished yet.
            moved: Where clicks are dragged to, by id.
        """
        marked: dict[Mark, list] = {}
        for click in self.review.clicks:
            mark = Mark.CONFLICT if click.click_id in self.conflicts else Mark.of(click.label)
            marked.setdefault(mark, []).append(moved.get(click.click_id, click.points_ras))
        if drawn:
            marked.setdefault(Mark.of(drawn[1]), []).append(drawn[0])
        self.marks.show(marked, text)

    @property
    def conflicts(self) -> frozenset[str]:
        """Ids of the clicks that all clicks together contradict."""
        if self._conflicts is None or self._conflicts[0] is not self.review.clicks:
            self._conflicts = self.review.clicks, self.review.conflicts
        return self._conflicts[1]

    def toWorld(self, points: Sequence[Point]) -> list[Point]:
        """Where points of the CT's own coordinates lie in the world, the CT's transform applied."""
        return [tuple(self._nodes.toWorld(point).tolist()) for point in points]

    def fromWorld(self, points: Sequence[Point]) -> list[Point]:
        """Where points of the world lie in the CT's own coordinates."""
        return [tuple(self._nodes.fromWorld(point).tolist()) for point in points]

    @onItsCt
    def jump(self, point: Point, extentMm: float) -> None:
        """Let all slice views jump to a place that is as wide as said."""
        self.results.jumpTo(point, extentMm)

    def comment(self, regionId: str, text: str) -> None:
        """Set a region's comment."""
        self._showStep(self.review.comment(regionId, text))

    @onItsCt
    def undo(self) -> None:
        """Take the last step back."""
        self._step(self.review.undo())

    @onItsCt
    def redo(self) -> None:
        """Take the last step again that was taken back."""
        self._step(self.review.redo())

    @onItsCt
    def sign(self, name: str) -> None:
        """Sign off; see `Review.sign`."""
        self.review.sign(name)
        self._store()

    @onItsCt
    def withdraw(self) -> None:
        """Take the signature back."""
        self.review.withdraw()
        self._store()

    def prepare(self, measure: Measure | None = None) -> Iterator[None]:
        """Get ready for `findRegions`, in steps: the first time takes seconds on a large CT.

        Args:
            measure: The measure of uncertainty; None: as it is.
        """
        yield from self._regions.prepare(replace(self.settings, measure=measure or self.settings.measure))

    @onItsCt
    def findRegions(self, threshold: float | None, smallest: float, measure: Measure | None = None) -> None:
        """Find the regions anew; those with a verdict or a comment stay.

        Args:
            threshold: In units of the measure of uncertainty; None: the usual one.
            smallest: mm3.
            measure: The measure of uncertainty; None: as it was.
        """
        settings = replace(
            self.settings, measure=measure or self.settings.measure, threshold=threshold, minimum_mm3=smallest
        )
        if settings != self.settings:
            self._regions.find(settings)
            self._store()

    @onItsCt
    def show(self, region: ReviewRegion | None) -> None:
        """Let all slice views jump to a region, zoom to it and mark it; None: no region is marked."""
        self._regions.jumpTo(region)

    @onItsCt
    def mark(self, regionId: str | None) -> None:
        """Let a region stand out where the slice views are."""
        self._regions.mark(regionId)

    @onItsCt
    def strayEdits(self) -> int:
        """How many voxels of the segmentation were changed by other means than verdicts, in the Segment Editor say."""
        box = self._changeable()
        return int(np.count_nonzero(self.results.corrected()[box] != self.review.labels_in(box)))

    @onItsCt
    def discardStrayEdits(self) -> None:
        """Let the segmentation be what the verdicts say."""
        box = self._changeable()
        wanted = self.review.labels_in(box)
        if not np.array_equal(self.results.corrected()[box], wanted):
            self.results.updateSegmentation(box, wanted, surfaces=False)
            self._surfacesAreOld = True

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

    def close(self) -> None:
        """Leave the scene as it can be saved."""
        self.cancelEdit()
        self.updateSurfaces()
        self.changes.setOpacity(0)
        self.marks.suggest(None)
        self.results.highlightRegion(None)

    # Inside

    def _step(self, boxes: Sequence[Box]) -> None:
        self.marks.suggest(None)  # another click helps most now
        self._showStep(boxes)

    def _showStep(self, boxes: Sequence[Box]) -> None:
        self._store()  # first: what was decided is kept, whatever becomes of its display
        self._mend()
        box = hull(boxes)
        before = self.results.corrected(box) if boxes else None
        for each in boxes:
            self.results.updateSegmentation(each, self.review.labels_in(each), surfaces=False)
            self.results.updateMap(each)
        self.lastChange = self._change(box, before, self.results.corrected(box)) if boxes else None
        self._surfacesAreOld = self._surfacesAreOld or bool(boxes)
        self._regions.update(box)
        self.showClicks()

    def _change(self, box: Box, before: np.ndarray, after: np.ndarray) -> Change:
        return Change(box, before, after, self.prediction.grid.voxel_mm3, self._palette)

    def _mend(self) -> None:
        """Bring back segments that were deleted in the Segment Editor: verdicts change them."""
        if self.results.restoreSegments(self.prediction.segmentation, labelSpecs(self.prediction.labels)):
            self.discardStrayEdits()

    def _changeable(self) -> Box:
        """Where the segmentation can differ from the review: comparing all of a CT takes too long."""
        decided = [each.box for each in self.review.regions if each.decided]
        clicked = [self.review.changed_box] if self.review.clicks else []
        return hull([*self.results.segmentBoxes(), self._predictedBox, *decided, *clicked])

    def _begun(self) -> ReviewSession:
        self._regions.show()
        self._store()
        return self

    def _store(self) -> None:
        self.results.setState("review", self.review.to_dict())
