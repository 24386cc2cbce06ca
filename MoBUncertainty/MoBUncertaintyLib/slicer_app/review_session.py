"""The review of one CT's results, with its nodes: every step changes `review.Review` and what the scene shows of it.

Knows no widgets. The scene holds all of it (`ResultScene.state("review")`), so a session can be opened again from a
scene that was saved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import slicer

from MoBUncertaintyLib.errors import ImageError, LostReviewError, ReviewError
from MoBUncertaintyLib.geometry import Box, Grid, hull, occupied
from MoBUncertaintyLib.output.exchange import make_prediction, read_regions, read_settings
from MoBUncertaintyLib.output.results_record import RecordError
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.finder import RegionFinder
from MoBUncertaintyLib.regions.settings import Measure, RegionSettings
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import MisplacedReviewError
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.slicer_app.i18n import tr as _
from MoBUncertaintyLib.slicer_app.scene.drawing import addMask, maskedRegion, prepareEditor, removeMask
from MoBUncertaintyLib.slicer_app.scene.label_record import ElsewhereError
from MoBUncertaintyLib.slicer_app.scene.nodes import ijkToRas, isPlaced, shape
from MoBUncertaintyLib.slicer_app.scene.results import ResultScene
from MoBUncertaintyLib.slicer_app.scene.segments import labelSpecs, regionSpecs


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
    """

    def __init__(self, results: ResultScene, review: Review) -> None:
        self.results = results
        self.review = review
        self._finder: RegionFinder | None = None
        self._editing: str | None = None
        self._surfacesAreOld = False
        self._predictedBox = occupied(review.prediction.segmentation)
        self._listed = self._list()
        self._marked: str | None = None  # the region that was shown last

    @classmethod
    def start(cls, results: ResultScene, predicted: np.ndarray, regionMap: np.ndarray) -> ReviewSession:
        """Begin a review; one that the scene holds is lost.

        Args:
            results: With segmentation, maps and the state "prediction".
            predicted: Segmentation, uint8 (z, y, x).
            regionMap: Number of each voxel's doubtful region, uint16.
        """
        regions = read_regions(results.state("prediction"), regionMap)
        return cls(results, Review(_prediction(results, predicted), regions))._begun()

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
        prediction = _prediction(results, _predicted(results))
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
    def prediction(self) -> Prediction:
        """What is reviewed."""
        return self.review.prediction

    @property
    def settings(self) -> RegionSettings:
        """What counts as a region now."""
        return self.review.settings

    @property
    def warnings(self) -> list[str]:
        """What was odd about the CT or the prediction, each in a sentence."""
        return self.prediction.warnings

    @property
    def modelDigest(self) -> str | None:
        """The SHA-256 of the model that made the prediction, where that is known."""
        return self.prediction.provenance.get("model", {}).get("digest")

    @property
    def editing(self) -> str | None:
        """The region that is being edited, if any."""
        return self._editing

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
        """Get ready for `findRegions`, in steps: the first time takes seconds on a large CT.

        Args:
            measure: The measure of uncertainty; None: as it is.
        """
        yield from self._regionFinder(replace(self.settings, measure=measure or self.settings.measure)).prepare()

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
        if settings == self.settings:
            return
        self.review.update_regions(self._regionFinder(settings).find(settings))
        self._showRegions()
        self._store()

    @onItsCt
    def show(self, region: ReviewRegion | None) -> None:
        """Let all slice views jump to a region, zoom to it and mark it; None: no region is marked."""
        self._marked = region.region_id if region else None
        self.results.highlightRegion(region.number if region else None)
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

    def close(self) -> None:
        """Leave the scene as it can be saved."""
        self.cancelEdit()
        self.updateSurfaces()
        self.results.highlightRegion(None)

    # Inside

    def _regionFinder(self, settings: RegionSettings) -> RegionFinder:
        if self._finder is None or not self._finder.fits(settings):
            self._finder = RegionFinder(self.prediction, settings)
        return self._finder

    def _step(self, boxes) -> None:
        self._store()  # first: what was decided is kept, whatever becomes of its display
        self._mend()
        for box in boxes:
            self.results.updateSegmentation(box, self.review.labels_in(box), surfaces=False)
        self._surfacesAreOld = self._surfacesAreOld or bool(boxes)
        if self._list() != self._listed or self.results.listedRegions() != {number for number, _ in self._listed}:
            self._showRegions()
        self._showStatus()

    def _mend(self) -> None:
        """Bring back segments that were deleted in the Segment Editor: verdicts change them."""
        if self.results.restoreSegments(self.prediction.segmentation, labelSpecs(self.prediction.labels)):
            self.discardStrayEdits()

    def _changeable(self) -> Box:
        """Where the segmentation can differ from the review: comparing all of a CT takes too long."""
        decided = [each.box for each in self.review.regions if each.decided]
        return hull([*self.results.segmentBoxes(), self._predictedBox, *decided])

    def _list(self) -> list[tuple[int, str]]:
        return [(each.number, each.region_id) for each in self.review.regions]

    def _showRegions(self) -> None:
        regions = self.review.listed()
        self.results.setRegions(regions.map, regionSpecs(regions.ranked), regions.box)
        self._listed = self._list()
        self.results.highlightRegion({name: number for number, name in self._listed}.get(self._marked))
        self._showStatus()

    def _showStatus(self) -> None:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        statuses = {each.number: logic.Completed if each.decided else logic.Flagged for each in self.review.regions}
        self.results.setRegionStatuses(statuses)

    def _begun(self) -> ReviewSession:
        self._showRegions()
        self._store()
        return self

    def _store(self) -> None:
        self.results.setState("review", self.review.to_dict())


class _SceneMaps(Sequence):
    """The maps of one kind, looked up at each access: a review keeps no memory of volumes that are replaced.

    Args:
        arrays: Gives the volumes' own voxels by label.
    """

    def __init__(self, arrays: Callable[[], dict[int, np.ndarray]]) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays())

    def __getitem__(self, index: int) -> np.ndarray:
        return list(self._arrays().values())[index]


def _prediction(results: ResultScene, predicted: np.ndarray) -> Prediction:
    """Read the prediction that a scene holds.

    Raises:
        ReviewError: What the scene keeps of it is damaged.
    """
    maps = _SceneMaps(results.probability), _SceneMaps(results.variance)
    try:
        return make_prediction(
            results.state("prediction"), predicted, *maps, Grid.from_matrix(ijkToRas(results.ctNode))
        )
    except (RecordError, ImageError) as error:
        text = _("What the scene keeps of the prediction is damaged ({reason}); apply again.")
        raise ReviewError(text.format(reason=error)) from error


def _predicted(results: ResultScene) -> np.ndarray:
    """Read the segmentation as predicted.

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
