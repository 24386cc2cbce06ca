"""The review of one CT's results, with its nodes: every step changes `review.Review` and what the scene shows of it.

Knows no widgets. The scene holds all of it (`ResultScene.state("review")`), so a session can be opened again from a
scene that was saved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer

from MoBUncertaintyLib.errors import LostReviewError, ReviewError
from MoBUncertaintyLib.geometry import Box, Grid, hull, occupied
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.covariance import Covariance
from MoBUncertaintyLib.output.pictures.style import REGION_COLOUR
from MoBUncertaintyLib.output.results_record import RecordError, check_provenance, read_labels
from MoBUncertaintyLib.regions.finder import FoundRegions, Region, RegionFinder
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import MisplacedReviewError
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.region_names import regionTitle
from MoBUncertaintyLib.slicer_app.scene.drawing import addMask, maskedRegion, prepareEditor, removeMask
from MoBUncertaintyLib.slicer_app.scene.label_record import ElsewhereError
from MoBUncertaintyLib.slicer_app.scene.nodes import ijkToRas, isPlaced, shape
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import SegmentSpec


@dataclass(frozen=True)
class Organ:
    """A label of the model, as the user reads it."""

    value: int
    name: str


def onItsCt(step: Callable) -> Callable:
    """Make a step raise ReviewError if the CT is not what was segmented."""

    @functools.wraps(step)
    def checked(session: ReviewSession, *args, **kwargs):
        session.checkFit()
        return step(session, *args, **kwargs)

    return checked


class ReviewSession:
    """One CT's results under review; see `start` and `open`.

    Args:
        results: The CT's nodes, complete.
        review: The review of them.

    Attributes:
        results: The CT's nodes.
        review: Verdicts, comments, history and signature.
        prediction: What the worker said of the prediction: `labels`, `rows`, `provenance`, `warnings`.
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results = results
        self.review = review
        self.prediction: dict[str, Any] = results.state("prediction")
        self._finder: RegionFinder | None = None
        self._editing: str | None = None
        self._surfacesAreOld = False
        self._predictedBox = occupied(review.predicted)
        self._listed = self._list()
        self._marked: str | None = None  # the region that was shown last

    @classmethod
    def start(cls, results: ResultScene, predicted: np.ndarray, labels: np.ndarray) -> ReviewSession:
        """Begin a review; one that the scene holds is lost.

        Args:
            results: With segmentation, maps and the state "prediction".
            predicted: Predicted label map, uint8 (z, y, x).
            labels: Label map of the doubtful regions, uint16.
        """
        prediction, grid = results.state("prediction"), Grid.from_matrix(ijkToRas(results.ctNode))
        found = FoundRegions(tuple(map(Region.from_dict, prediction["rows"])), labels, settingsOf(prediction))
        return cls(results, Review(predicted, found, grid))._begun()

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
        _checkPrediction(results)
        predicted, grid = _predicted(results), Grid.from_matrix(ijkToRas(results.ctNode))
        describe = RegionDescriber(results.probability(), results.variance(), predicted, grid)
        if not begun:
            found = describe.describe_all(results.regionLabels(), settingsOf(results.state("prediction")))
            return cls(results, Review(predicted, found, grid))._begun()
        try:
            session = cls(results, Review.from_dict(stored, predicted, grid, describe))
        except MisplacedReviewError as error:
            raise misfit(results.ctNode) from error
        except ReviewError as error:
            raise LostReviewError(str(error)) from error
        if not np.array_equal(results.regionLabels(), session.review.label_map()):  # somebody has drawn in them
            session._showRegions()
        session._store()  # numbers that were found in blocks of voxels are rounded otherwise
        session._mend()
        masked = maskedRegion(results)
        session._editing = masked if masked in {region.region_id for region in session.review.regions} else None
        session.settleEdit()  # saved amid it
        removeMask(results)  # of a region that is no more
        return session

    @property
    def ctNode(self):
        """The CT."""
        return self.results.ctNode

    @property
    def organs(self) -> list[Organ]:
        """What the model segments, in the order of its labels."""
        return [Organ(label["value"], readable(label["name"])) for label in self.prediction["labels"]]

    @property
    def settings(self) -> RegionSettings:
        """What counts as a region now."""
        return self.review.settings or RegionSettings()

    @property
    def warnings(self) -> list[str]:
        """What was odd about the CT or the prediction, each in a sentence."""
        found = self.prediction.get("warnings")
        return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []

    @property
    def modelDigest(self) -> str | None:
        """The SHA-256 of the model that made the prediction, where that is known."""
        return self.prediction["provenance"].get("model", {}).get("digest")

    @property
    def editing(self) -> str | None:
        """The region that is being edited, if any."""
        return self._editing

    @property
    def hasVariance(self) -> bool:
        """Whether the model has a predictive variance; see `hasVariance`."""
        return hasVariance(self.prediction)

    def isComplete(self) -> bool:
        """Whether all nodes are there still."""
        return areComplete(self.results)

    def fits(self) -> bool:
        """Whether CT and maps are still where the CT was segmented; if not, they may come back there."""
        placed = isPlaced(self.ctNode, self.review.grid.matrix(), self.review.predicted.shape)
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

    def comment(self, regionId: str, text: str) -> None:
        """Set a region's comment."""
        self._step(self.review.comment(regionId, text))

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
        """Get ready for `setDoubt`, in steps: the first time takes seconds on a large CT.

        Args:
            measure: The measure of doubt; None: as it is.
        """
        settings = replace(self.settings, measure=measure or self.settings.measure)
        if self._finder is None or not self._finder.fits(settings):
            maps = self.results.probability(), self.results.variance(), self.review.predicted
            self._finder = yield from RegionFinder.in_steps(*maps, ijkToRas(self.ctNode), settings)

    @onItsCt
    def setDoubt(self, threshold: float | None, smallest: float, measure: Measure | None = None) -> None:
        """Find the regions anew; those with a verdict or a comment stay.

        Args:
            threshold: In units of the measure of doubt; None: the usual one.
            smallest: mm3.
            measure: The measure of doubt; None: as it was.
        """
        settings = replace(
            self.settings, measure=measure or self.settings.measure, threshold=threshold, minimum_mm3=smallest
        )
        if settings == self.settings:
            return
        self.review.update_regions(self._regionFinder(settings).find_arrays(settings))
        self._showRegions()
        self._store()

    @onItsCt
    def show(self, region: ReviewRegion | None) -> None:
        """Let all slice views jump to a region, zoom to it and mark it; None: no region is marked."""
        self._marked = region.region_id if region else None
        self.results.highlightRegion(region.label if region else None)
        if region:
            self.results.jumpTo(region.region.centroid_ras, region.region.extent_mm)

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

    def updateSurfaces(self) -> None:
        """Make the organs' surfaces anew after steps that have changed them; takes as long as the organs are big."""
        if self._surfacesAreOld:
            self._surfacesAreOld = False
            self.results.updateSurfaces()

    # Editing

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
        organ = self.review.predicted[region.box][region.mask]
        wanted = np.bincount(organ[organ > 0]).argmax() if organ.any() else self.organs[0].value
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

    def close(self) -> None:
        """Leave the scene as it can be saved."""
        self.cancelEdit()
        self.updateSurfaces()
        self.results.highlightRegion(None)

    # Inside

    def _regionFinder(self, settings: RegionSettings) -> RegionFinder:
        if self._finder is None or not self._finder.fits(settings):
            self._finder = RegionFinder.from_arrays(
                self.results.probability(),
                self.results.variance(),
                self.review.predicted,
                ijkToRas(self.ctNode),
                settings.measure,
                settings.window_mm,
            )
        return self._finder

    def _step(self, boxes) -> None:
        self._store()  # first: what was decided is kept, whatever becomes of its display
        self._mend()
        for box in boxes:
            self.results.updateSegmentation(box, self.review.labels_in(box), surfaces=False)
        self._surfacesAreOld = self._surfacesAreOld or bool(boxes)
        if self._list() != self._listed or self.results.listedRegions() != {label for label, _ in self._listed}:
            self._showRegions()
        self._showStatus()

    def _mend(self) -> None:
        """Bring back organs that were deleted in the Segment Editor: verdicts change them."""
        if self.results.restoreOrgans(self.review.predicted, organSpecs(self.prediction["labels"])):
            self.discardStrayEdits()

    def _changeable(self) -> Box:
        """Where the segmentation can differ from the review: comparing all of a CT takes too long."""
        decided = [each.box for each in self.review.regions if each.decided]
        return hull([*self.results.organBoxes(), self._predictedBox, *decided])

    def _list(self) -> list[tuple[int, str]]:
        return [(each.label, each.region_id) for each in self.review.regions]

    def _showRegions(self) -> None:
        specs = [SegmentSpec(each.label, regionTitle(each.region), REGION_COLOUR) for each in self.review.regions]
        box, labels = self.review.listed()
        self.results.setRegions(labels, specs, box)
        self._listed = self._list()
        self.results.highlightRegion({name: label for label, name in self._listed}.get(self._marked))
        self._showStatus()

    def _showStatus(self) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        statuses = {each.label: logic.Completed if each.decided else logic.Flagged for each in self.review.regions}
        self.results.setRegionStatuses(statuses)

    def _begun(self) -> ReviewSession:
        self._showRegions()
        self._store()
        return self

    def _store(self) -> None:
        self.results.setState("review", self.review.to_dict())


def organSpecs(labels: list[dict]) -> list[SegmentSpec]:
    """How a model's labels are shown, from what the worker said of them."""
    return [
        SegmentSpec(label["value"], readable(label["name"]), tuple(label["colour"]), label["terminology"])
        for label in labels
    ]


def _predicted(results: ResultScene) -> np.ndarray:
    """The label map as predicted.

    Raises:
        ReviewError: The scene's copy of it is damaged, or the CT was moved.
    """
    try:
        return results.predicted()
    except ElsewhereError as error:
        raise misfit(results.ctNode) from error
    except ValueError as error:
        text = _("The scene's copy of the prediction of {ct} cannot be used ({reason}); apply again.")
        raise ReviewError(text.format(ct=results.ctNode.GetName(), reason=error)) from error


def _checkPrediction(results: ResultScene) -> None:
    prediction = results.state("prediction")
    try:
        check_provenance(prediction["provenance"])
        read_labels(prediction["labels"])
    except (KeyError, RecordError) as error:
        text = _("What the scene keeps of the prediction is damaged ({reason}); apply again.")
        raise ReviewError(text.format(reason=error)) from error


def settingsOf(prediction: dict) -> RegionSettings:
    """What counted as a region when a CT was segmented, from what the worker said of the prediction."""
    return RegionSettings.from_dict(prediction["provenance"].get("regions", {}).get("settings", {}))


def hasVariance(prediction: dict) -> bool:
    """Whether a model has a predictive variance: without a covariance there is but the disagreement of tiles."""
    return prediction["provenance"].get("covariance") != Covariance.DETERMINISTIC


def lieOnCt(results: ResultScene) -> bool:
    """Whether a CT's maps have its voxels still; a transform that has not been hardened moves both."""
    variance = results.node("variance")
    return variance is None or isPlaced(results.ctNode, ijkToRas(variance), shape(variance))


def misfit(ct) -> ReviewError:
    """Describe to the reader that a CT has left its results."""
    text = _(
        "{ct} was moved or changed after it was segmented, so its results no longer fit it: take that back to go on"
        " with the review, or apply again."
    )
    return ReviewError(text.format(ct=ct.GetName()))


def areComplete(results: ResultScene) -> bool:
    """Whether a CT, and all nodes that a review of it needs, are in the scene."""
    roles = ("segmentation", "state.predicted", "probability", "variance", "regions", "state.prediction")
    return results.ctNode.GetScene() is not None and all(results.node(role) for role in roles)
