"""What a review is now, for whoever shows it, writes it or asks it: nothing here changes it. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, common_parts, hull, shape_of, whole, within
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions
from MoBUncertaintyLib.review.clicked_maps import ClickedMaps, Effect
from MoBUncertaintyLib.review.following import as_found, follow, freeze, usual_label
from MoBUncertaintyLib.review.record import digest_of, in_order
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.state import ERROR_UNIT, State
from MoBUncertaintyLib.review.suggestion import Suggestion, suggest


class ReviewView:
    """A review to look at; `review.Review` takes its steps.

    Attributes:
        prediction: What is reviewed; of labels that overlap, what is left of each without those within it.
        state: What the review is now.
        regions: All regions in order of rank.
        settings: What the regions were last found with; undo takes it back too.
        clicks: Those that hold, in order of time.
        signature: Who signed, and when; None as long as nobody has.
        reviewed: How many regions are decided or resolved, and how many there are.
        can_undo, can_redo: Whether there is a step to take back, or one that was taken back.
    """

    def __init__(self, prediction: Prediction, state: State) -> None:
        self.prediction = prediction.exclusive()
        self._go([state], 0)

    def _go(self, states: list[State], now: int) -> None:
        """Be at one of some states; undo and redo are moves along them."""
        self._states, self._now, self.state = states, now, states[now]
        self.regions, self.settings = self.state.regions, self.state.settings
        self.clicks, self.signature = self.state.clicks, self.state.signature
        self.reviewed = sum(region.decided for region in self.regions), len(self.regions)
        self.can_undo, self.can_redo = now > 0, now + 1 < len(states)

    @cached_property
    def maps(self) -> ClickedMaps:
        """The prediction's maps under any clicks."""
        return ClickedMaps(self.prediction)

    @cached_property
    def predicted_volumes(self) -> dict[str, StatedVolume]:
        """Each label's volume as predicted, by its name."""
        return self.prediction.stated_volumes()

    @property
    def conflicts(self) -> frozenset[str]:
        """Ids of the clicks whose label all clicks together contradict."""
        return self.maps.conflicts(self.clicks)

    @property
    def changed_box(self) -> Box:
        """Where maps differ from the prediction's; an empty box if nowhere."""
        frozen = (region.box for region in self.regions if region.maps is not None)
        reached = (self.maps.refiner.reach(self.clicks),) if self.clicks else ()
        return hull((*reached, *frozen))

    @property
    def expected_error_mm3(self) -> tuple[float, float]:
        """The volume expected to be labelled wrongly: as predicted, and now; where it is decided, none is expected."""
        difference = self.state.error * ERROR_UNIT * self.prediction.grid.voxel_mm3
        predicted = self.prediction.expected_error_mm3
        return predicted, predicted + difference

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the predicted segmentation; see `record.digest_of`."""
        return digest_of(self.prediction.segmentation)

    def region(self, region_id: str) -> ReviewRegion:
        """Look up the region of that id.

        Raises:
            ReviewError: There is none.
        """
        for region in self.regions:
            if region.region_id == region_id:
                return region
        raise ReviewError(f"There is no region {region_id!r} in this review; choose one from the list.")

    def find_click(self, click_id: str) -> Click:
        """Look up the click of that id.

        Raises:
            ReviewError: There is none.
        """
        for click in self.clicks:
            if click.click_id == click_id:
                return click
        raise ReviewError(f"There is no click {click_id!r} in this review; choose one from the list.")

    def corrected(self) -> np.ndarray:
        """Correct the whole segmentation; uint8 (z, y, x), a new array."""
        return self.labels_in(whole(self.prediction.shape))

    def labels_in(self, box: Box) -> np.ndarray:
        """Correct the segmentation in a box: by clicks, and in decided regions by their verdicts."""
        labels = self.maps.labels(self.clicks, box)
        for region in self.regions:
            if region.labels is not None and (parts := common_parts(box, region.box)):
                there, own = parts
                mask = region.mask[own]
                labels[there][mask] = region.labels[own][mask]
        return labels

    def maps_in(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Copy probability and variance of a box as they are now, (C - 1, *box) float32 each."""
        maps = self.state.maps_in(box, self.maps)
        return maps.probability, maps.variance

    def current(self) -> Prediction:
        """Make the prediction as it is now: with clicks, and in decided regions as when they were decided.

        Verdicts are not in its segmentation. Without clicks it is `prediction` itself.
        """
        box, predicted = self.changed_box, self.prediction
        if not shape_of(box)[0]:
            return predicted
        now = self.state.maps_in(box, self.maps)
        segmentation = np.array(predicted.segmentation, np.uint8)
        segmentation[box] = now.labels
        maps = []
        for given, inside in ((predicted.probability, now.probability), (predicted.variance, now.variance)):
            maps.append([np.array(each, np.float32) for each in given])
            for each, values in zip(maps[-1], inside, strict=True):
                each[box] = values
        return replace(predicted, segmentation=segmentation, probability=maps[0], variance=maps[1])

    def listed(self) -> Regions:
        """Gather all regions as they are now, with their map."""
        box = hull(region.box for region in self.regions)
        region_map = np.zeros(shape_of(box), np.uint16)
        for each in self.regions:
            region_map[within(each.box, box)][each.mask] = each.number
        ranked = tuple(each.region for each in self.regions)
        return Regions(ranked, region_map, box, self.prediction.shape, self.settings)

    def preview(self, region_id: str, verdict: Verdict | str, label: int | None = None) -> tuple[Box, np.ndarray]:
        """Tell what a verdict would give, without giving it: a box, and the corrected segmentation there; uint8.

        Arguments and errors as for `decide`; a signed review has previews, too.
        """
        region = decided(self, region_id, verdict, label)
        labels = self.maps.labels(self.clicks, region.box) if region.labels is None else region.labels
        return region.box, np.where(region.found.mask, labels, self.labels_in(region.box))

    def suggestion(self, among: Container[str] | None = None) -> Suggestion | None:
        """Suggest the place, in an undecided region (`among`: of these ids), whose click is expected to help most."""
        return suggest(self.state, self.maps, among)

    def effect(self, click_id: str) -> Effect:
        """Tell what one click changed, measured against the same set without it; verdicts do not count."""
        return self.maps.effect(self.find_click(click_id), self.clicks)


def decided(
    review: ReviewView, region_id: str, verdict: Verdict | str, label: int | None, clicks: Iterable[str] | None = None
) -> ReviewRegion:
    """Give a region a verdict, not in the history."""
    region, verdict = review.region(region_id), Verdict(verdict)
    if verdict is Verdict.EDIT:
        raise ReviewError("Nothing was drawn; draw in the region and try again.")
    if label is not None and not (is_whole(label) and label in {own.value for own in review.prediction.labels}):
        raise ReviewError(f"The prediction has no label {label!r}; choose one of its labels.")
    if verdict is Verdict.PENDING:
        return follow(as_found(region), review.clicks, review.maps) if region.frozen else region
    clicks_then = region.clicks if region.frozen else review.clicks
    if clicks is not None:
        clicks_then = in_order(map(review.find_click, set(clicks)))
    if verdict is Verdict.INCLUDE and label is None:
        label = usual_label(region, review.prediction.segmentation)
    return freeze(region, verdict, clicks_then, review.maps, label if verdict is Verdict.INCLUDE else None)
