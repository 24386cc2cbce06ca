"""The reader's review of a prediction: clicks, a verdict on each doubtful region, corrections, undo and sign-off.

Knows nothing of Slicer, files or pictures. Every step makes a new immutable state, so undo and redo are moves along the
list of states. Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from itertools import count
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.geometry import Box, hull, shape_of, whole, within
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.refinement.clicks import Click, Point
from MoBUncertaintyLib.regions.finder import Regions
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.click_record import CLICK_ID, in_order
from MoBUncertaintyLib.review.clicked_maps import ClickedMaps, apart
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.following import follow, freeze, reopen, restore, usual_label
from MoBUncertaintyLib.review.history import History
from MoBUncertaintyLib.review.record import Describe, digest_of, plain_text, read_record, write_record
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict, changed_boxes
from MoBUncertaintyLib.review.state import ERROR_UNIT, YEARS, Signature, State, numbered
from MoBUncertaintyLib.review.suggestion import Effect, Suggestion, effect_of, suggest
from MoBUncertaintyLib.review.updating import first_regions, update


class Review:
    """The review of one prediction.

    Clicks condition the prediction; pending regions follow them, and a verdict freezes a region (see `following`).

    Every step returns the boxes in which the corrected segmentation or the maps may have changed, so that a display
    need not be drawn anew as a whole; `labels_in(box)` and `maps_in(box)` are what belongs there. What changes nothing
    is no step in the history.

    Args:
        prediction: What is reviewed; not copied, never changed.
        regions: Its doubtful regions.

    Raises:
        ReviewError: The map of the regions has another shape, or lacks a region.
    """

    def __init__(self, prediction: Prediction, regions: Regions) -> None:
        self.prediction = prediction
        self._ids, self._click_ids = count(1), count(1)
        self._check_shape(regions)
        # Ranked as they come: a reader has seen them in a table of the same ranks.
        self._history = History(State(numbered(first_regions(regions, self._ids)), regions.settings))

    # What there is

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
        return self._state.changed_box(self._maps)

    @property
    def expected_error_mm3(self) -> tuple[float, float]:
        """The volume expected to be labelled wrongly, of the whole image: as predicted, and now.

        Clicks change it; a decided region counts as when it was decided.
        """
        difference = self._state.error * ERROR_UNIT * self.prediction.grid.voxel_mm3
        return self._predicted_error, self._predicted_error + difference

    @property
    def effects(self) -> dict[str, Effect]:
        """What each click changed, measured against the same set without it; verdicts do not count."""
        return {click.click_id: self._effect(click, self.clicks) for click in self.clicks}

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
        return self._history.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a step that was taken back."""
        return self._history.can_redo

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
        raise ReviewError(f"There is no region {region_id!r} in this review; choose one of its list.")

    def region_at(self, point_ras: Point) -> ReviewRegion | None:
        """Find the region that a place lies in, if any; regions are taken as they were found."""
        return next(iter(self._state.regions_at([_voxel(point_ras, self.prediction)])), None)

    def corrected(self) -> np.ndarray:
        """Correct the segmentation by clicks, and in decided regions by verdicts; uint8 (z, y, x), a new array."""
        return self.labels_in(whole(self.prediction.shape))

    def labels_in(self, box: Box) -> np.ndarray:
        """Correct the segmentation in a box."""
        return self._state.labels_in(box, self._maps)

    def maps_in(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Copy probability and variance of a box as they are now, (C - 1, *box) float32 each."""
        maps = self._state.maps_in(box, self._maps)
        return maps.probability, maps.variance

    def current(self) -> Prediction:
        """Make the prediction as it is now: with clicks, and in decided regions as when they were decided.

        Its segmentation is what clicks make of it; verdicts are not in it. Without clicks it is `prediction` itself.
        """
        return self._state.current(self._maps)

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
        region = self._decided(region_id, verdict, label)
        given = self._maps.labels(self.clicks, region.box) if region.labels is None else region.labels
        return region.box, np.where(region.found.mask, given, self.labels_in(region.box))

    def suggestion(self, among: Container[str] | None = None) -> Suggestion | None:
        """Suggest the place, in a region that is not decided, whose click is expected to correct most error.

        May take up to 0.2 s.

        Args:
            among: Ids of the regions to choose from; None: all.
        """
        return suggest(self._state, self._maps, among)

    def effect(self, click_id: str) -> Effect:
        """Tell what one click changed, see `effects`."""
        return self._effect(self._clicked(click_id), self.clicks)

    # Steps

    def click(
        self, points_ras: Sequence[Point], label: int, region_id: str | None = None, when: datetime | None = None
    ) -> tuple[Box, ...]:
        """Say which label a place has.

        A decided region in which it lies is pending again; any other that is decided stays as it is.

        Args:
            points_ras: One point: a click; several: a stroke through them. RAS mm.
            label: Value of a label; 0: background.
            region_id: The listed region it is given in; None: the one that its first voxel lies in, if any.
            when: Now, if not given; local time if it names no zone.

        Raises:
            ReviewError: It lies outside of what was predicted, no such label or region, or the review is signed.
        """
        self._refuse_if_signed()
        click = self._made("", points_ras, label, region_id, when)
        click = replace(click, click_id=f"c{next(self._click_ids)}")
        return self._click((*self.clicks, click), click)

    def move_click(self, click_id: str, points_ras: Sequence[Point], when: datetime | None = None) -> tuple[Box, ...]:
        """Put a click elsewhere: it keeps its id and label; its region and time are new.

        Raises:
            ReviewError: No such click, or as for `click`.
        """
        before = self._clicked(click_id)
        if before.points_ras == _points(points_ras):
            return ()
        click = self._made(click_id, points_ras, before.label, None, when)
        return self._click((*(each for each in self.clicks if each is not before), click), before, click)

    def remove_click(self, click_id: str) -> tuple[Box, ...]:
        """Take a single click back.

        Raises:
            ReviewError: No such click, or the review is signed.
        """
        removed = self._clicked(click_id)
        return self._click(tuple(each for each in self.clicks if each is not removed), removed)

    def take_clicks(self, clicks: Iterable[Click]) -> tuple[Box, ...]:
        """Let clicks that were given elsewhere hold in place of all others, in one step.

        Args:
            clicks: With ids of their own; those without a region are given in the one that they lie in.

        Raises:
            ReviewError: As for `click`, or two have one id.
        """
        self._refuse_if_signed()
        given = in_order(self._placed(click) for click in clicks)
        ids = {click.click_id for click in given}
        if len(ids) < len(given) or not all(map(CLICK_ID.fullmatch, ids)):
            raise ReviewError("The ids of clicks must be c1, c2, ..., each given once.")
        if given == self.clicks:
            return ()
        used = [int(click.click_id[1:]) for click in (*self.clicks, *given)]
        self._click_ids = count(max(1 + max(used, default=0), next(self._click_ids)))
        return self._click(given, *set(given).symmetric_difference(self.clicks))

    def decide(
        self, region_id: str, verdict: Verdict | str, label: int | None = None, clicks: Iterable[str] | None = None
    ) -> tuple[Box, ...]:
        """Give a verdict, or take it back with PENDING. The region then keeps its labels, whatever is clicked later.

        INCLUDE and EXCLUDE fill what is doubtful in the region (see `following.freeze`), and `preview` shows it.

        Args:
            region_id: The region.
            verdict: Any but EDIT.
            label: Label to INCLUDE as; None: the one with most of the region's voxels, or else of its surroundings.
            clicks: Ids of those that hold in it; None: of a region that is decided already, those that did; else all.

        Raises:
            ReviewError: No such region or click, EDIT, no label value, or the review is signed.
        """
        region = self.region(region_id)
        return self._change(region, self._decided(region_id, verdict, label, clicks))

    def edit(self, region_id: str, corrected: np.ndarray) -> tuple[Box, ...]:
        """Take what the reader has drawn in a region; what was drawn outside of it does not count.

        Args:
            region_id: The region.
            corrected: Segmentation of the whole volume, or of the region's box.

        Raises:
            ReviewError: No such region, another shape, or the review is signed.
        """
        region = self.region(region_id)
        if corrected.shape == self.prediction.shape:
            corrected = corrected[region.box]
        elif corrected.shape != region.mask.shape:
            raise ReviewError(
                f"The edited segmentation has the shape {corrected.shape}, not the CT's {self.prediction.shape}; "
                "draw on the CT's own voxels."
            )
        drawn = np.asarray(corrected, np.uint8)
        held = region.clicks if region.frozen else self.clicks
        return self._change(region, freeze(region, Verdict.EDIT, held, self._maps, drawn=drawn))

    def comment(self, region_id: str, text: str) -> tuple[Box, ...]:
        """Set a region's comment, without control characters; "" removes it."""
        region = self.region(region_id)
        return self._change(region, replace(region, comment=plain_text(text)))

    def update_regions(self, regions: Regions) -> tuple[Box, ...]:
        """Take regions that were found anew, with another threshold say.

        They should be found on `current()`, and clicks remain. Regions that are decided, have a comment or a click
        given in them stay as they are. The new ones lose the voxels of these and are dropped if
        that leaves less than the smallest size; what is left of a region that lost some has its volume, centroid,
        extent and fraction measured anew, its expected error in proportion to its volume. Ranks are renewed. Several
        updates in a row by one measure of uncertainty (a slider being dragged) are one step.

        Raises:
            ReviewError: Another shape, or the review is signed.
        """
        self._refuse_if_signed()
        self._check_shape(regions)
        # The next of several takes the place of the last.
        again = self._state.found and self.settings.measure is regions.settings.measure
        self._history.push(update(self._state, regions, self.prediction, self._ids), in_place=again)
        return ()

    def sign(self, name: str, when: datetime | None = None) -> None:
        """Sign the review off.

        Args:
            name: The reader's.
            when: Now, if not given; local time if it names no zone.

        Raises:
            ReviewError: Regions are undecided, the name is none, or it is signed already.
        """
        self._refuse_if_signed()
        signature = Signature.of(name, (when or datetime.now()).replace(microsecond=0))
        self._push(replace(self._state, signature=signature, found=False))

    def withdraw(self) -> None:
        """Take the signature back, so that the review can be changed again.

        No step in the history: undo then goes on with what was done before the signature, and never signs.
        """
        if self.signature:
            self._history.unsign()

    def undo(self) -> tuple[Box, ...]:
        """Take the last step back; does nothing without one."""
        return self._move(-1) if self.can_undo else ()

    def redo(self) -> tuple[Box, ...]:
        """Take the last step again that was taken back; does nothing without one."""
        return self._move(1) if self.can_redo else ()

    # For files and scenes

    def to_dict(self) -> dict[str, Any]:
        """Record all of it, sealed and ready for JSON (see `record`); only the history is not kept."""
        return write_record(self.digest, self.prediction.grid, self.prediction.click_settings, self._state)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], prediction: Prediction, describe: Describe | None = None) -> Review:
        """Read the review that `to_dict` described, with an empty history.

        Args:
            data: From `to_dict`.
            prediction: The prediction.
            describe: Describes a region by the prediction; None: a `RegionDescriber` does. What was stored of its
                numbers and its place in the organ is not believed.

        Raises:
            ReviewError: It is no such description, has changed since, belongs to another prediction or place, or is
                signed where it could not have been.
        """
        nothing = Regions((), np.zeros((0, 0, 0), np.uint16), hull(()), prediction.shape, RegionSettings())
        review = cls(prediction, nothing)
        describe = describe or RegionDescriber(prediction)
        stored = read_record(data, review.digest, prediction, describe, review._maps.refiner.voxels_of)
        review = cls(replace(prediction, grid=stored.grid, click_settings=stored.click_settings), nothing)
        regions = tuple(restore(region, stored.clicks, review._maps) for region in stored.regions)
        state = State(regions, stored.settings, stored.clicks, stored.signature)
        boxes = apart([*review._maps.changed((), stored.clicks), *(region.box for region in regions if region.frozen)])
        review._history = History(state.after(review._state, boxes, review._maps))
        review._ids = count(1 + max((int(region.region_id) for region in regions), default=0))
        known = {click.click_id for region in regions for click in (*region.clicks, *region.found.clicks)}
        known |= {click.click_id for click in stored.clicks}
        review._click_ids = count(1 + max((int(name[1:]) for name in known), default=0))
        return review

    # Inside

    @property
    def _state(self) -> State:
        return self._history.now

    @cached_property
    def _maps(self) -> ClickedMaps:
        return ClickedMaps(self.prediction)

    @cached_property
    def _effect(self) -> Callable[[Click, tuple[Click, ...]], Effect]:
        return lru_cache(maxsize=1024)(lambda click, clicks: effect_of(click, clicks, self._maps))

    @cached_property
    def _predicted_error(self) -> float:
        return self.prediction.expected_error_mm3()

    def _push(self, state: State, boxes: Iterable[Box] = ()) -> tuple[Box, ...]:
        """Go on to a state; in `boxes` clicks give other maps."""
        boxes = apart([*boxes, *changed_boxes(self.regions, state.regions)])
        self._history.push(state.after(self._state, boxes, self._maps))
        return boxes

    def _move(self, by: int) -> tuple[Box, ...]:
        before = self._state
        self._history.move(by)
        boxes = self._maps.changed(before.clicks, self.clicks)
        return apart([*boxes, *changed_boxes(before.regions, self.regions)])

    def _change(self, region: ReviewRegion, changed: ReviewRegion) -> tuple[Box, ...]:
        same = all(
            getattr(region, name) == getattr(changed, name) for name in ("verdict", "label", "comment", "clicks")
        )
        if same and np.array_equal(region.given, changed.given):
            return ()
        self._refuse_if_signed()
        regions = tuple(changed if each is region else each for each in self.regions)
        return self._push(replace(self._state, regions=regions, found=False))

    def _decided(
        self, region_id: str, verdict: Verdict | str, label: int | None, clicks: Iterable[str] | None = None
    ) -> ReviewRegion:
        """Give a region a verdict, not in the history."""
        region, verdict = self.region(region_id), Verdict(verdict)
        if verdict is Verdict.EDIT:
            raise ReviewError("An edit needs what was drawn; draw in the region and try again.")
        if label is not None and not 1 <= label <= 255:
            raise ReviewError(f"A label is a number from 1 to 255, not {label}; choose a label of the model.")
        if verdict is Verdict.PENDING:
            return follow(reopen(region), self.clicks, self._maps) if region.frozen else region
        held = region.clicks if region.frozen else self.clicks
        if clicks is not None:
            held = in_order(map(self._clicked, set(clicks)))
        if verdict is Verdict.INCLUDE and label is None:
            label = usual_label(region, self.prediction.segmentation)
        return freeze(region, verdict, held, self._maps, label if verdict is Verdict.INCLUDE else None)

    def _made(
        self, click_id: str, points_ras: Sequence[Point], label: int, region_id: str | None, when: datetime | None
    ) -> Click:
        """Make a click, the latest."""
        if when is None:
            when = datetime.now().astimezone()
            if self.clicks:  # clocks are set back
                when = max(when, self.clicks[-1].time + timedelta(microseconds=1))
        when = when if when.tzinfo else when.astimezone()
        return self._placed(Click(click_id, _points(points_ras), label, when, region_id))

    def _placed(self, click: Click) -> Click:
        """Check a click, and find the region in which it was given unless it says so."""
        if click.time.year not in YEARS:
            raise ReviewError(f"The year {click.time.year} of a click is not possible; correct its time.")
        voxels = self._maps.refiner.voxels_of(click)
        if click.region_id is None:
            hit = next(iter(self._state.regions_at(voxels[:1])), None)
            return replace(click, region_id=hit.region_id if hit else None)
        self.region(click.region_id)
        return click

    def _clicked(self, click_id: str) -> Click:
        for click in self.clicks:
            if click.click_id == click_id:
                return click
        raise ReviewError(f"There is no click {click_id!r} in this review; choose one of its list.")

    def _click(self, clicks: tuple[Click, ...], *changed: Click) -> tuple[Box, ...]:
        """Go on with other clicks; a decided region that one of `changed` lies in is pending again."""
        self._refuse_if_signed()
        voxels = np.concatenate([self._maps.refiner.voxels_of(click) for click in changed])
        hit = [region.region_id for region in self._state.regions_at(voxels)]
        clicks = in_order(clicks)
        boxes = self._maps.changed(self.clicks, clicks)
        return self._push(self._state.with_clicks(clicks, boxes, hit, self._maps), boxes)

    def _refuse_if_signed(self) -> None:
        if self.signature:
            raise ReviewError(
                f"The review is signed off by {self.signature.name}; withdraw the signature to change it."
            )

    def _check_shape(self, regions: Regions) -> None:
        if regions.shape != self.prediction.shape:
            raise ReviewError(
                f"The map of the regions has the shape {regions.shape}, the segmentation {self.prediction.shape}; "
                "both must have the CT's voxels."
            )


def _points(points_ras: Sequence[Point]) -> tuple[Point, ...]:
    return tuple((float(r), float(a), float(s)) for r, a, s in points_ras)


def _voxel(point_ras: Point, prediction: Prediction) -> np.ndarray:
    return np.asarray(np.rint(prediction.grid.to_index(np.array(point_ras, float))).astype(int))
