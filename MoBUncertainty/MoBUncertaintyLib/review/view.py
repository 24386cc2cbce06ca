"""What a review is now, for whoever shows it, writes it or asks it: nothing here changes it.

Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, common_parts, hull, shape_of, whole, within
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.measurements.interval import AS_PREDICTED, Interval, volume_text
from MoBUncertaintyLib.measurements.volumes import StatedVolume
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions
from MoBUncertaintyLib.review.clicked_maps import ClickedMaps, Effect
from MoBUncertaintyLib.review.description import maps_in
from MoBUncertaintyLib.review.following import as_found, follow, freeze, usual_label
from MoBUncertaintyLib.review.record import digest_of, in_order
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.state import ERROR_UNIT, Signature, State
from MoBUncertaintyLib.review.suggestion import Suggestion, suggest


class ReviewView:
    """A review to look at; `review.Review` takes its steps.

    Args:
        prediction: What is reviewed; not copied, never changed.
        state: With which it begins.

    Attributes:
        prediction: What is reviewed; of labels that overlap, what is left of each without those within it.
    """

    def __init__(self, prediction: Prediction, state: State) -> None:
        self.prediction = prediction.exclusive()
        self._states, self._now = [state], 0  # undo and redo are moves along them

    @property
    def regions(self) -> tuple[ReviewRegion, ...]:
        """All regions in order of rank."""
        return self._state.regions

    @property
    def settings(self) -> RegionSettings:
        """What the regions were last found with; undo takes it back too."""
        return self._state.settings

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks that hold, in order of time."""
        return self._state.clicks

    @property
    def conflicts(self) -> frozenset[str]:
        """Ids of the clicks whose label all clicks together contradict."""
        return self._maps.conflicts(self.clicks)

    @property
    def changed_box(self) -> Box:
        """Where maps differ from the prediction's; an empty box if nowhere."""
        frozen = (region.box for region in self.regions if region.maps is not None)
        reached = (self._maps.refiner.reach(self.clicks),) if self.clicks else ()
        return hull((*reached, *frozen))

    @property
    def expected_error_mm3(self) -> tuple[float, float]:
        """The volume expected to be labelled wrongly, of the whole image: as predicted, and now.

        Clicks change it, and where a verdict or an edit has decided it the reader expects none.
        """
        difference = self._state.error * ERROR_UNIT * self.prediction.grid.voxel_mm3
        predicted = self.prediction.expected_error_mm3
        return predicted, predicted + difference

    @property
    def signature(self) -> Signature | None:
        """Who signed, and when; None as long as nobody has."""
        return self._state.signature

    @property
    def reviewed(self) -> tuple[int, int]:
        """How many regions are decided or resolved, and how many there are."""
        return sum(region.decided for region in self.regions), len(self.regions)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a step that was taken back."""
        return self._now + 1 < len(self._states)

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

    def corrected(self) -> np.ndarray:
        """Correct the whole segmentation; uint8 (z, y, x), a new array."""
        return self.labels_in(whole(self.prediction.shape))

    def labels_in(self, box: Box) -> np.ndarray:
        """Correct the segmentation in a box: by clicks, and in decided regions by their verdicts."""
        labels = self._maps.labels(self.clicks, box)
        for region in self.regions:
            if region.labels is not None and (parts := common_parts(box, region.box)):
                there, own = parts
                mask = region.mask[own]
                labels[there][mask] = region.labels[own][mask]
        return labels

    def maps_in(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Copy probability and variance of a box as they are now, (C - 1, *box) float32 each."""
        maps = self._state.maps_in(box, self._maps)
        return maps.probability, maps.variance

    def current(self) -> Prediction:
        """Make the prediction as it is now: with clicks, and in decided regions as when they were decided.

        Its segmentation is what clicks make of it; verdicts are not in it. Without clicks it is `prediction` itself.
        """
        box, predicted = self.changed_box, self.prediction
        if not shape_of(box)[0]:
            return predicted
        now = self._state.maps_in(box, self._maps)
        segmentation = np.array(predicted.segmentation, np.uint8)
        segmentation[box] = now.labels
        maps = []
        for given, inside in ((predicted.probability, now.probability), (predicted.variance, now.variance)):
            maps.append([np.array(each, np.float32) for each in given])
            for each, values in zip(maps[-1], inside, strict=True):
                each[box] = values
        return replace(predicted, segmentation=segmentation, probability=maps[0], variance=maps[1])

    def decided_voxels(self) -> tuple[np.ndarray, ...]:
        """List the voxels whose label the reader has decided: z, y and x, (N,) each, no voxel twice.

        Their labels are those of `corrected`. They are all of a region with an edit, and those clicked. In regions with
        another verdict, and in those that clicks given in them have resolved, they are the ones that keep their
        predicted label: what a verdict or a click has changed around it, nobody has looked at voxel by voxel.
        """
        clicked, places = {click.region_id for click in self.clicks}, [np.empty((0, 3), int)]
        for region in self.regions:
            if region.frozen or (region.resolved and region.region_id in clicked):
                as_predicted = self.labels_in(region.box) == self.prediction.segmentation[region.box]
                mask = region.found.mask & (as_predicted | (region.verdict is Verdict.EDIT))
                places.append(np.argwhere(mask) + [part.start for part in region.box])
        places += [self._maps.refiner.voxels_of(click) for click in self.clicks]
        return tuple(np.unique(np.concatenate(places), axis=0).T)

    def listed(self) -> Regions:
        """Gather all regions as they are now, with their map."""
        box = hull(region.box for region in self.regions)
        region_map = np.zeros(shape_of(box), np.uint16)
        for each in self.regions:
            region_map[within(each.box, box)][each.mask] = each.number
        ranked = tuple(each.region for each in self.regions)
        return Regions(ranked, region_map, box, self.prediction.shape, self.settings)

    def stated_volumes(self) -> dict[str, StatedVolume]:
        """State each label's volume as corrected, by its name, and the error expected where nothing is decided."""
        volumes, boxes = dict(self._predicted_volumes), [each.box for each in self.regions if each.decided]
        if shape_of(self.changed_box)[0]:
            boxes.append(self.changed_box)
        if not boxes:
            return volumes
        box, voxel_ml = hull(boxes), self.prediction.grid.voxel_mm3 / 1000
        before, now, corrected = (
            maps_in(self.prediction, box),
            self._state.maps_in(box, self._maps),
            self.labels_in(box),
        )
        is_open = np.ones(shape_of(box), bool)
        for region in self.regions:
            if region.decided:
                is_open[within(region.box, box)] &= ~region.found.mask
        for label in self.prediction.labels:
            had, has, channels = label.mask(before.labels), label.mask(corrected), self.prediction.channels_of(label)
            error = np.abs(label.mask(now.labels) - now.probability[channels].sum(axis=0))[is_open].sum(dtype=float)
            error -= np.abs(had - before.probability[channels].sum(axis=0)).sum(dtype=float)
            ml = volumes[label.name].ml + voxel_ml * (np.count_nonzero(has) - np.count_nonzero(had))
            left = volumes[label.name].error_ml + voxel_ml * float(error)
            volumes[label.name] = StatedVolume(max(ml, 0.0), max(left, 0.0))
        return volumes

    def volume_intervals(self, volumes: Mapping[str, StatedVolume] | None = None) -> dict[str, Interval]:
        """Compute the interval of each label's volume as it is now, where one can be stated.

        As long as no region is decided that is the prediction's; clicks before that make it unknown.

        Args:
            volumes: `stated_volumes()`, if they are at hand.
        """
        bounds, reviewed = self.prediction.volume_bounds, self.reviewed
        if bounds is None or (self.clicks and not reviewed[0]):
            return {}
        return bounds.intervals(self.stated_volumes() if volumes is None else volumes, reviewed)

    def volume_lines(self) -> list[str]:
        """Write the volume of each label as it is now, with its interval; none where the model states no interval.

        Where none was measured of a review as it is now, the prediction's stands: it is about the true volume, which no
        review changes.
        """
        bounds = self.prediction.volume_bounds
        if bounds is None:
            return []
        volumes, predicted = self.stated_volumes(), self.prediction.volume_intervals()
        intervals = self.volume_intervals(volumes)
        lines = []
        for name in (name for name in volumes if name in bounds.labels):
            interval = intervals.get(name) or predicted.get(name)
            note = AS_PREDICTED if name in predicted and name not in intervals else ""
            lines.append(f"{readable(name)} {volume_text(volumes[name].ml, interval, note=note)}")
        return lines

    def preview(self, region_id: str, verdict: Verdict | str, label: int | None = None) -> tuple[Box, np.ndarray]:
        """Tell what a verdict would give, without giving it: a box, and the corrected segmentation there; uint8.

        Arguments and errors as for `decide`; a signed review has previews, too.
        """
        region = self._decided(region_id, verdict, label)
        labels = self._maps.labels(self.clicks, region.box) if region.labels is None else region.labels
        return region.box, np.where(region.found.mask, labels, self.labels_in(region.box))

    def suggestion(self, among: Container[str] | None = None) -> Suggestion | None:
        """Suggest the place, in a region that is not decided, whose click is expected to correct most error.

        May take up to 0.2 s.

        Args:
            among: Ids of the regions to choose from; None: all.
        """
        return suggest(self._state, self._maps, among)

    def effect(self, click_id: str) -> Effect:
        """Tell what one click changed, measured against the same set without it; verdicts do not count."""
        return self._maps.effect(self._clicked(click_id), self.clicks)

    # Inside

    @property
    def _state(self) -> State:
        return self._states[self._now]

    @cached_property
    def _maps(self) -> ClickedMaps:
        return ClickedMaps(self.prediction)

    @cached_property
    def _predicted_volumes(self) -> dict[str, StatedVolume]:
        return self.prediction.stated_volumes()

    def _decided(
        self, region_id: str, verdict: Verdict | str, label: int | None, clicks: Iterable[str] | None = None
    ) -> ReviewRegion:
        """Give a region a verdict, not in the history."""
        region, verdict = self.region(region_id), Verdict(verdict)
        if verdict is Verdict.EDIT:
            raise ReviewError("Nothing was drawn; draw in the region and try again.")
        if label is not None and not (is_whole(label) and label in {own.value for own in self.prediction.labels}):
            raise ReviewError(f"The prediction has no label {label!r}; choose one of its labels.")
        if verdict is Verdict.PENDING:
            return follow(as_found(region), self.clicks, self._maps) if region.frozen else region
        clicks_then = region.clicks if region.frozen else self.clicks
        if clicks is not None:
            clicks_then = in_order(map(self._clicked, set(clicks)))
        if verdict is Verdict.INCLUDE and label is None:
            label = usual_label(region, self.prediction.segmentation)
        return freeze(region, verdict, clicks_then, self._maps, label if verdict is Verdict.INCLUDE else None)

    def _clicked(self, click_id: str) -> Click:
        for click in self.clicks:
            if click.click_id == click_id:
                return click
        raise ReviewError(f"There is no click {click_id!r} in this review; choose one from the list.")
