"""What a review is at one time: the corrected segmentation, the maps, the regions. Arrays are (z, y, x)."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, hull, shape_of, whole, within
from MoBUncertaintyLib.model.region_settings import Measure
from MoBUncertaintyLib.regions.measure import uncertainty_of, with_maps
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions, ranked_by
from MoBUncertaintyLib.review.record import digest_of
from MoBUncertaintyLib.review.refinement.clicks import Extent
from MoBUncertaintyLib.review.refinement.locks import LockingRefiner, locks_of
from MoBUncertaintyLib.review.region import ReviewRegion
from MoBUncertaintyLib.review.state import ERROR_UNIT, State


class ReviewView:
    """What a review is now, for whoever shows it, writes it or asks it: nothing here changes it.

    Of labels that overlap, `prediction` has what is left of each without those within it. Regions, settings, clicks and
    signature are those of its `state`; `locks` are those clicks that lock a label, by that, and `drawn` the others.
    `conflicts` are the ids of the clicks whose label all clicks together contradict; `reviewed` is how many regions are
    decided or resolved, and how many there are. The `refiner` gives the prediction's maps under any clicks.
    """

    def __init__(self, prediction: Prediction, state: State) -> None:
        self.prediction = prediction.exclusive()
        self.refiner = LockingRefiner(self.prediction)
        self._show(state)

    def _show(self, state: State) -> None:
        """Be what a state says."""
        self.state, self.regions, self.settings = state, state.regions, state.settings
        self.clicks, self.signature = state.clicks, state.signature
        self.locks = locks_of(self.clicks)
        self.drawn = tuple(click for click in self.clicks if click.extent is not Extent.LOCK)
        self.conflicts = self.refiner.conflicts(self.clicks) if self.clicks else frozenset()
        self.reviewed = sum(region.decided for region in self.regions), len(self.regions)

    @property
    def changed_box(self) -> Box:
        """Where maps differ from the prediction's; an empty box if nowhere."""
        frozen = (region.box for region in self.regions if region.maps is not None)
        reached = (self.refiner.reach(self.clicks),) if self.clicks else ()
        return hull((*reached, *frozen))

    @property
    def expected_error_mm3(self) -> tuple[float, float]:
        """The volume expected to be labelled wrongly: as predicted, and now; where it is decided, none is expected."""
        difference = self.state.error * ERROR_UNIT * self.prediction.grid.voxel_mm3
        predicted = self.prediction.expected_error_mm3
        return predicted, predicted + difference

    @property
    def ranked_by(self) -> str | None:
        """The measurement that the regions are ranked by; default: the expected error."""
        return ranked_by(region.region for region in self.regions)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the predicted segmentation; see `record.digest_of`."""
        return digest_of(self.prediction.segmentation)

    def region(self, region_id: str) -> ReviewRegion:
        """Look up the region of that id; raises `ReviewError` if there is none."""
        for region in self.regions:
            if region.region_id == region_id:
                return region
        raise ReviewError(f"There is no region {region_id!r} in this review; choose one from the list.")

    def corrected(self) -> np.ndarray:
        """Correct the whole segmentation; uint8 (z, y, x), a new array."""
        return self.labels_in(whole(self.prediction.shape))

    def labels_in(self, box: Box) -> np.ndarray:
        """Correct the segmentation in a box: by clicks, and in decided regions by their verdicts."""
        return self.state.labels_in(box, self.refiner)

    def maps_in(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Copy probability and variance of a box as they are now, (C - 1, *box) float32 each."""
        return self.state.maps_in(box, self.refiner)[:2]

    def uncertainty_in(self, box: Box, measure: Measure) -> np.ndarray:
        """Compute the uncertainty of each voxel in a box as it is now."""
        maps = self.state.maps_in(box, self.refiner)
        return uncertainty_of(measure, maps._replace(segmentation=self.labels_in(box)), self.prediction)

    def current(self) -> Prediction:
        """Make the prediction as it is now: with clicks, and in decided regions as when they were decided.

        Verdicts are not in its segmentation. Without clicks it is `prediction` itself.
        """
        box = self.changed_box
        if not shape_of(box)[0]:
            return self.prediction
        return with_maps(self.prediction, box, self.state.maps_in(box, self.refiner))

    def listed(self) -> Regions:
        """Gather all regions as they are now, with their map."""
        box = hull(region.box for region in self.regions)
        region_map = np.zeros(shape_of(box), np.uint16)
        for region in self.regions:
            region_map[within(region.box, box)][region.mask] = region.number
        ranked = tuple(region.region for region in self.regions)
        return Regions(ranked, region_map, box, self.prediction.shape, self.settings)
