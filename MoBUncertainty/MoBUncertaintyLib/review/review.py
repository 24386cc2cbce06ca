"""The reader's review of a prediction: clicks, a verdict on each doubtful region, corrections, undo and sign-off.

Knows nothing of Slicer, files or pictures. Every step makes a new immutable state, so undo and redo are moves along the
list of states. Arrays are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, hull
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions
from MoBUncertaintyLib.review.clicked_maps import apart
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.following import freeze, restore
from MoBUncertaintyLib.review.record import CLICK_ID, Describe, in_order, plain_text, read_record, write_record
from MoBUncertaintyLib.review.refinement.clicks import Click, Point
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict, changed_boxes, masks
from MoBUncertaintyLib.review.state import YEARS, Signature, State, made, numbered, update
from MoBUncertaintyLib.review.view import ReviewView


class Review(ReviewView):
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
        _check_shape(regions, prediction)
        self._ids, self._click_ids = count(1), count(1)
        # Ranked as they come: a reader has seen them in a table of the same ranks.
        first = numbered(made(*each, regions, self._ids, ()) for each in masks(regions))
        super().__init__(prediction, State(first, regions.settings))

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
        if when is None:
            when = datetime.now().astimezone()
            if self.clicks:  # clocks are set back
                when = max(when, self.clicks[-1].time + timedelta(microseconds=1))
        points = tuple((float(r), float(a), float(s)) for r, a, s in points_ras)
        click = self._placed(Click("", points, label, when if when.tzinfo else when.astimezone(), region_id))
        click = replace(click, click_id=f"c{next(self._click_ids)}")
        return self._click((*self.clicks, click), click)

    def remove_click(self, click_id: str) -> tuple[Box, ...]:
        """Take a single click back.

        Raises:
            ReviewError: No such click, or the review is signed.
        """
        removed = self._clicked(click_id)
        return self._click(tuple(each for each in self.clicks if each is not removed), removed)

    def take_clicks(self, clicks: Iterable[Click], rank: bool = True) -> tuple[Box, ...]:
        """Let clicks that were given elsewhere hold in place of all others, in one step.

        Args:
            clicks: With ids of their own; those without a region are given in the one that they lie in.
            rank: Rank the regions anew; else they keep the ranks by which their reader knows them.

        Raises:
            ReviewError: As for `click`, or two have one id.
        """
        self._refuse_if_signed()
        placed = in_order(self._placed(click) for click in clicks)
        ids = {click.click_id for click in placed}
        if len(ids) < len(placed) or not all(map(CLICK_ID.fullmatch, ids)):
            raise ReviewError("The ids of clicks must be c1, c2, ..., each given once.")
        if placed == self.clicks:
            return ()
        used = [int(click.click_id[1:]) for click in (*self.clicks, *placed)]
        self._click_ids = count(max(1 + max(used, default=0), next(self._click_ids)))
        return self._click(placed, *set(placed).symmetric_difference(self.clicks), rank=rank)

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
                f"The edited segmentation has the shape {corrected.shape}, not the image's {self.prediction.shape}; "
                "draw on the image's own voxels."
            )
        drawn = np.asarray(corrected, np.uint8)
        clicks = region.clicks if region.frozen else self.clicks
        return self._change(region, freeze(region, Verdict.EDIT, clicks, self._maps, drawn=drawn))

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
        _check_shape(regions, self.prediction)
        # The next of several takes the place of the last.
        state = update(self._state, regions, self.prediction, self._ids)
        again = self._state.found and self.settings.measure is regions.settings.measure
        self._now += 0 if again else 1
        self._states[self._now :] = [state]
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
            unsigned = replace(self._state, signature=None)
            self._states = self._states[: self._now] or [unsigned]
            self._now = len(self._states) - 1

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
        review._states = [state.after(review._state, boxes, review._maps)]
        review._ids = count(1 + max((int(region.region_id) for region in regions), default=0))
        click_ids = {click.click_id for region in regions for click in (*region.clicks, *region.found.clicks)}
        click_ids |= {click.click_id for click in stored.clicks}
        review._click_ids = count(1 + max((int(name[1:]) for name in click_ids), default=0))
        return review

    # Inside

    def _push(self, state: State, boxes: Iterable[Box] = ()) -> tuple[Box, ...]:
        """Go on to a state, which replaces those that were taken back; in `boxes` clicks give other maps."""
        boxes = apart([*boxes, *changed_boxes(self.regions, state.regions)])
        self._states[self._now + 1 :] = [state.after(self._state, boxes, self._maps)]
        self._now += 1
        return boxes

    def _move(self, by: int) -> tuple[Box, ...]:
        before = self._state
        self._now += by
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

    def _click(self, clicks: tuple[Click, ...], *changed: Click, rank: bool = True) -> tuple[Box, ...]:
        """Go on with other clicks; a decided region that one of `changed` lies in is pending again."""
        self._refuse_if_signed()
        voxels = np.concatenate([self._maps.refiner.voxels_of(click) for click in changed])
        hit = [region.region_id for region in self._state.regions_at(voxels)]
        clicks = in_order(clicks)
        boxes = self._maps.changed(self.clicks, clicks)
        return self._push(self._state.with_clicks(clicks, boxes, hit, self._maps, rank), boxes)

    def _refuse_if_signed(self) -> None:
        if self.signature:
            raise ReviewError(
                f"The review is signed off by {self.signature.name}; withdraw the signature to change it."
            )


def _check_shape(regions: Regions, prediction: Prediction) -> None:
    if regions.shape != prediction.shape:
        raise ReviewError(
            f"The map of the regions has the shape {regions.shape}, the segmentation {prediction.shape}; "
            "both must have the image's voxels."
        )
