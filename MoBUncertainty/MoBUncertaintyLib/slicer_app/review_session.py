"""The review of one image's results, with its nodes: each step changes `review.Review` and what the scene shows of it.

Knows no widgets. The scene holds all of it (`documents.get("review")`), so a session can be opened again from a
scene that was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MoBUncertaintyLib.base.errors import LostReviewError, ReviewError, SettingsError
from MoBUncertaintyLib.base.geometry import Box, common_parts, hull, shape_of
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.measurements.distribution import Measured
from MoBUncertaintyLib.model.region_settings import Measure, RegionSettings
from MoBUncertaintyLib.output.pictures.style import palette_beside
from MoBUncertaintyLib.output.results_record import read_regions
from MoBUncertaintyLib.regions.description import RegionDescriber
from MoBUncertaintyLib.regions.finder import RegionFinder
from MoBUncertaintyLib.regions.region import Coverage, Effect, Regions, as_stored
from MoBUncertaintyLib.review.record import MisplacedReviewError
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review, preview
from MoBUncertaintyLib.review.suggestion import suggest
from MoBUncertaintyLib.slicer_app.clicks.changes import Change, ChangeOverlay
from MoBUncertaintyLib.slicer_app.clicks.marks import ClickMarks
from MoBUncertaintyLib.slicer_app.drawing import RegionDrawing, ReviewedSegmentation
from MoBUncertaintyLib.slicer_app.region_names import regionTitles
from MoBUncertaintyLib.slicer_app.scene.nodes import isBent
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import describe, highlight, regionSpecs
from MoBUncertaintyLib.slicer_app.stored_results import (
    areComplete,
    fits,
    lieOnCt,
    misfit,
    onItsCt,
    predictedLabels,
    scenePrediction,
)


class ReviewSession:
    """One image's results under review; see `start` and `open`.

    `segmentation` is that of the scene, held to the review; `changes` shows over the slices what a step has changed, or
    would change; `lastChange` is what the last step has changed in the segmentation, if anything; `measured` is what
    the worker has measured of the review as it is now, if it has.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results, self.review = results, review
        self._palette = palette_beside(label.colour for label in review.prediction.labels)
        self.segmentation = ReviewedSegmentation(results, review)
        self.regions = ListedRegions(results, review)
        self.drawing = RegionDrawing(self.segmentation, partial(self.step, Review.edit))
        self.marks, self.changes = ClickMarks(results, review, self._palette), ChangeOverlay(results.ctNode)
        self.lastChange: Change | None = None
        self._steps = 0  # that were taken
        self.measured: list[dict[str, Any]] | None = None
        results.overlay.maps.review = review

    @classmethod
    def start(cls, results: ResultScene, predicted: np.ndarray, regionMap: np.ndarray) -> ReviewSession:
        """Begin a review of a segmentation, uint8, and its doubtful regions; one that the scene holds is lost."""
        prediction = scenePrediction(results, predicted)
        regions = read_regions(results.documents.get("prediction"), regionMap, prediction.region_settings)
        return _begin(cls(results, Review(prediction, regions)))

    @classmethod
    def open(cls, results: ResultScene) -> ReviewSession:
        """Go on with the review that the scene holds; begin one where a scene of the command line holds none yet.

        Raises `ReviewError` if what it holds is damaged, or belongs to another segmentation or to the image as it was.
        """
        if not lieOnCt(results):
            raise misfit(results.ctNode)
        begun, stored = results.node("state.review") is not None, results.documents.get("review")
        if not results.documents.get("prediction") or (begun and not stored):
            text = _("The scene has lost the review of {ct}; apply again.")
            raise (LostReviewError if begun else ReviewError)(text.format(ct=results.ctNode.GetName()))
        prediction = scenePrediction(results, predictedLabels(results))
        if not begun:
            describer = RegionDescriber(prediction)
            regions = describer.describe_all(results.regions.array(), prediction.region_settings)
            # What voxels do not tell.
            stored = dict(enumerate(prediction.provenance.get("regions", {}).get("ranked", ()), start=1))
            try:
                ranked = tuple(as_stored(region, stored.get(region.number, {})) for region in regions.ranked)
            except ValueError as error:
                raise ReviewError(str(error)) from error
            regions = replace(regions, ranked=ranked)
            return _begin(cls(results, Review(prediction, regions)))
        try:
            session = cls(results, Review.from_dict(stored, prediction))
        except MisplacedReviewError as error:
            raise misfit(results.ctNode) from error
        except ReviewError as error:
            raise LostReviewError(str(error)) from error
        drawn = results.regions.array()  # somebody may have drawn in them
        if not np.array_equal(drawn, session.review.listed().whole_map()):
            session.regions.show()
        # Numbers that were found in blocks of voxels are rounded otherwise.
        results.documents.set("review", session.review.to_dict())
        session.segmentation.mend()
        session.drawing.settleStored()
        session.marks.show()
        session.marks.suggest(None)
        return session

    @property
    def warnings(self) -> list[str]:
        """What was odd about the image or the prediction, each in a sentence.

        What is to be said of the regions is in `regions.warning`; whether the model suits the case, in the prediction's
        `suitability`.
        """
        suitability, ct = self.review.prediction.suitability, self.results.ctNode
        text = _("{ct} has a nonlinear transform, as images of unevenly spaced DICOM slices do: sizes may be wrong.")
        bent = [text.format(ct=ct.GetName())] if isBent(ct) else []
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

        Raises `ReviewError` if the step is refused, or the image is no longer what was segmented.
        """
        boxes = change(self.review, *arguments) or ()
        self._steps += 1
        if boxes:  # a signature, for one, changes no number
            self.measured = None
        self.marks.suggest(None)  # another click helps most now
        self._show(boxes)

    def comment(self, regionId: str, text: str) -> None:
        """Set a region's comment, wherever the image lies now."""
        self._show(self.review.comment(regionId, text))

    @onItsCt
    def preview(self, regionId: str, verdict: Verdict, label: int | None = None) -> Change:
        """Show over the slices what a verdict would change, if anything; `changes.hide()` ends it."""
        box, labels = preview(self.review, regionId, verdict, label)
        change = self._change(box, self.review.labels_in(box), labels)
        if not change.isEmpty:
            self.changes.show(change)
        return change

    @onItsCt
    def suggest(self, among: Sequence[str]) -> None:
        """Mark the place in some regions where a click helps most, if there is one; see `suggestion.suggest`."""
        suggestion = suggest(self.review, among)
        self.marks.suggest(suggestion and suggestion.point_ras)

    def receiverOfMeasurements(self) -> Callable[[dict[str, Any]], Iterator[None]]:
        """Make what receives the worker's measurements of the review as it is now, in steps; returns them.

        Regions are ranked by their effects, unless the review has changed meanwhile or is signed.
        """
        steps = self._steps

        def receive(result: dict[str, Any]) -> Iterator[None]:
            yield
            effects = {region: from_json(Effect, each) for region, each in result["effects"].items()}
            if self._steps == steps:
                if not self.review.signature and (effects or self.review.ranked_by):
                    self.step(Review.rank, effects)
                self.measured = result["measured"]
            return [from_json(Measured, each) for each in result["measured"]]

        return receive

    def _show(self, boxes: Sequence[Box]) -> None:
        """Show what has changed in boxes, and keep it: first, whatever becomes of its display."""
        self.results.documents.set("review", self.review.to_dict())
        self.segmentation.mend()
        box = hull(boxes)
        before = self.results.organs.array(box) if boxes else None
        self.segmentation.update(boxes)
        self.lastChange = self._change(box, before, self.results.organs.array(box)) if boxes else None
        self.regions.update(box)
        self.marks.show()

    def _change(self, box: Box, before: np.ndarray, after: np.ndarray) -> Change:
        return Change(box, before, after, self.review.prediction.grid.voxel_mm3, self._palette)


def _begin(session: ReviewSession) -> ReviewSession:
    """Show the regions of a review that begins, and no clicks of an earlier one; keep it in the scene."""
    session.regions.show()
    session.marks.show()
    session.marks.suggest(None)
    session.results.documents.set("review", session.review.to_dict())
    return session


class ListedRegions:
    """The regions that a review lists, with their segments in the scene."""

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results, self.review = results, review
        self._finder: RegionFinder | None = None
        self._foundAt: tuple = ()  # the clicks in the maps in which it finds regions
        self._shown = self._numbers()
        self._marked: str | None = None  # the region that stands out
        predicted = _readCoverage(review.prediction.provenance.get("regions", {}))
        stored = results.documents.get("coverage") or {}
        isOurs = stored.get("predicted_sha256") == review.digest  # and not an earlier one's
        last = _readCoverage(stored) if isOurs else None
        self._coverages = dict(filter(None, (predicted, last)))  # by the settings that regions were found with
        self._predictedWarning = predicted[1].warning if predicted else None

    @property
    def warning(self) -> str | None:
        """What is to be said of how much of the expected error they hold; None: they hold enough."""
        coverage = self._coverages.get(self.review.settings)
        listed = sum(region.found.region.expected_error_mm3 for region in self.review.regions)  # decided ones stay
        return coverage.extended(listed).warning if coverage else None

    @property
    def otherWarnings(self) -> list[str]:
        """The prediction's warnings, but for what was said of its regions; what is plainly wrong in a checked one."""
        prediction = self.review.prediction
        findings = prediction.checked.findings if prediction.checked else ()
        warnings = [text for text in prediction.warnings if text != self._predictedWarning]
        return [*warnings, *(finding.sentence for finding in findings)]

    def prepare(self, measure: Measure | None = None) -> Iterator[None]:
        """Get ready for `find`, in steps: the first time takes seconds on a large image."""
        settings = self.review.settings
        yield from self._finderFor(replace(settings, measure=measure or settings.measure)).prepare()

    @onItsCt
    def find(self, threshold: float | None, smallest: float, measure: Measure | None = None) -> None:
        """Find the regions anew; those with a verdict or a comment stay.

        The threshold is in units of the measure of uncertainty (default: the usual one), the smallest volume in mm3;
        the measure is by default as it was.
        """
        before = self.review.settings
        settings = replace(before, measure=measure or before.measure, threshold=threshold, minimum_mm3=smallest)
        if settings == before:
            return
        regions = self._finderFor(settings).find(settings)
        self.review.update_regions(regions)
        if regions.coverage is not None:
            self._coverages[settings] = regions.coverage
            stored = {"settings": asdict(settings), "coverage": asdict(regions.coverage)}
            self.results.documents.set("coverage", stored | {"predicted_sha256": self.review.digest})
        self.show()
        self.results.documents.set("review", self.review.to_dict())

    def show(self) -> None:
        """Show all of them anew."""
        regions = self.review.listed()
        self.results.setRegions(regions.map, regionSpecs(regions.ranked, self.review.prediction.labels), regions.box)
        self._shown = self._numbers()
        self.mark(self._marked)
        self._describe(regions)

    def update(self, box: Box) -> None:
        """Show them as they are now, where they can have changed in a box only."""
        numbers = self._numbers()
        if numbers != self._shown or set(self.results.regions.segments()) != set(numbers.values()):
            self.show()
            return
        regions = self.review.listed()
        if common := common_parts(box, regions.box):
            labels = np.zeros(shape_of(box), regions.map.dtype)
            labels[common[0]] = regions.map[common[1]]
            self.results.regions.update(box, labels)
        self._describe(regions)

    @onItsCt
    def mark(self, regionId: str | None) -> None:
        """Let one region, or none, stand out from the others."""
        self._marked = regionId
        highlight(self.results.regions, self._shown.get(regionId))

    @onItsCt
    def jumpTo(self, region: ReviewRegion | None) -> None:
        """Mark a region, and let all slice views jump and zoom to it; None: no region is marked."""
        self.mark(region.region_id if region else None)
        if region:
            self.results.jumpTo(region.region.centroid_ras, region.region.extent_mm)

    def _finderFor(self, settings: RegionSettings) -> RegionFinder:
        if self._finder is None or self._foundAt != self.review.clicks or not self._finder.fits(settings):
            self._finder, self._foundAt = RegionFinder(self.review.current(), settings), self.review.clicks
        return self._finder

    def _numbers(self) -> dict[str, int]:
        return {region.region_id: region.number for region in self.review.regions}

    def _describe(self, regions: Regions) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        decided = {region.number: region.decided for region in self.review.regions}
        statuses = {number: logic.Completed if done else logic.Flagged for number, done in decided.items()}
        describe(self.results.regions, regionTitles(regions.ranked, self.review.prediction.labels), statuses)


def _readCoverage(stored: Mapping[str, Any]) -> tuple[RegionSettings, Coverage] | None:
    """Read how regions were found and what they hold; None where that is not known, or damaged."""
    try:
        return RegionSettings.from_dict(stored["settings"]), Coverage(**stored["coverage"])
    except (KeyError, TypeError, ValueError, SettingsError):
        return None
