"""The reader's review of a prediction: clicks, a verdict on each doubtful region, corrections, undo and sign-off.

Every step makes a new immutable state, so undo and redo are moves along the list of states. Arrays are (z, y, x).
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
from MoBUncertaintyLib.review.view import ReviewView, decided


class Review(ReviewView):
    """The review of one prediction.

    Clicks condition the prediction; pending regions follow them, and a verdict freezes a region (see `following`).
    Every step returns the boxes in which the corrected segmentation or the maps may have changed. What changes nothing
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
        """Say which label (0: background) a place has; a decided region in which it lies is pending again.

        Args:
            points_ras: One point: a click; several: a stroke through them. RAS mm.
            region_id: The listed region it is given in. Default: the one that its first voxel lies in, if any.
            when: Default: now; local time if it names no zone.

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
        removed = self.find_click(click_id)
        return self._click(tuple(each for each in self.clicks if each is not removed), removed)

    def take_clicks(self, clicks: Iterable[Click], rank: bool = True) -> tuple[Box, ...]:
        """Let clicks with ids of their own hold in place of all others, in one step.

        Args:
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
            label: Label to INCLUDE as. Default: the one with most of the region's voxels, or else of its surroundings.
            clicks: Ids of those that hold in it. Default: all, or those that did where it is decided already.

        Raises:
            ReviewError: No such region or click, EDIT, no label value, or the review is signed.
        """
        region = self.region(region_id)
        return self._change(region, decided(self, region_id, verdict, label, clicks))

    def edit(self, region_id: str, corrected: np.ndarray) -> tuple[Box, ...]:
        """Take what the reader has drawn in a region: the segmentation of the whole volume, or of the region's box.

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
        return self._change(region, freeze(region, Verdict.EDIT, clicks, self.maps, drawn=drawn))

    def comment(self, region_id: str, text: str) -> tuple[Box, ...]:
        """Set a region's comment, without control characters; "" removes it."""
        region = self.region(region_id)
        return self._change(region, replace(region, comment=plain_text(text)))

    def update_regions(self, regions: Regions) -> tuple[Box, ...]:
        """Take regions that were found anew on `current()`, with another threshold say; see `state.update`.

        Several updates in a row by one measure of uncertainty (a slider being dragged) are one step.

        Raises:
            ReviewError: Another shape, or the review is signed.
        """
        self._refuse_if_signed()
        _check_shape(regions, self.prediction)
        state = update(self.state, regions, self.prediction, self._ids)
        again = self.state.found and self.settings.measure is regions.settings.measure
        now = self._now + (0 if again else 1)  # the next of several takes the place of the last
        self._go([*self._states[:now], state], now)
        return ()

    def sign(self, name: str, when: datetime | None = None) -> None:
        """Sign the review off by the reader's name; `when`: now by default, local time if it names no zone.

        Raises:
            ReviewError: Regions are undecided, the name is none, or it is signed already.
        """
        self._refuse_if_signed()
        signature = Signature.of(name, (when or datetime.now()).replace(microsecond=0))
        self._push(replace(self.state, signature=signature, found=False))

    def withdraw(self) -> None:
        """Take the signature back. No step in the history: undo goes on with what was done before the signature."""
        if self.signature:
            states = self._states[: self._now] or [replace(self.state, signature=None)]
            self._go(states, len(states) - 1)

    def undo(self) -> tuple[Box, ...]:
        """Take the last step back; does nothing without one."""
        return self._move(-1) if self.can_undo else ()

    def redo(self) -> tuple[Box, ...]:
        """Take the last step again that was taken back; does nothing without one."""
        return self._move(1) if self.can_redo else ()

    # For files and scenes

    def to_dict(self) -> dict[str, Any]:
        """Record all of it, sealed and ready for JSON (see `record`); only the history is not kept."""
        return write_record(self.digest, self.prediction.grid, self.prediction.click_settings, self.state)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], prediction: Prediction, describe: Describe | None = None) -> Review:
        """Read the review that `to_dict` described, with an empty history.

        Args:
            describe: Describes a region by the prediction: stored numbers are not believed. Default: a
                `RegionDescriber`.

        Raises:
            ReviewError: It is no such description, has changed since, belongs to another prediction or place, or is
                signed where it could not have been.
        """
        nothing = Regions((), np.zeros((0, 0, 0), np.uint16), hull(()), prediction.shape, RegionSettings())
        review = cls(prediction, nothing)
        describe = describe or RegionDescriber(prediction)
        stored = read_record(data, review.digest, prediction, describe, review.maps.refiner.voxels_of)
        review = cls(replace(prediction, grid=stored.grid, click_settings=stored.click_settings), nothing)
        regions = tuple(restore(region, stored.clicks, review.maps) for region in stored.regions)
        state = State(regions, stored.settings, stored.clicks, stored.signature)
        boxes = apart([*review.maps.changed((), stored.clicks), *(region.box for region in regions if region.frozen)])
        review._go([state.after(review.state, boxes, review.maps)], 0)
        review._ids = count(1 + max((int(region.region_id) for region in regions), default=0))
        click_ids = {click.click_id for region in regions for click in (*region.clicks, *region.found.clicks)}
        click_ids |= {click.click_id for click in stored.clicks}
        review._click_ids = count(1 + max((int(name[1:]) for name in click_ids), default=0))
        return review

    # Inside

    def _push(self, state: State, boxes: Iterable[Box] = ()) -> tuple[Box, ...]:
        """Go on to a state, which replaces those that were taken back; in `boxes` clicks give other maps."""
        boxes = apart([*boxes, *changed_boxes(self.regions, state.regions)])
        now = self._now + 1
        self._go([*self._states[:now], state.after(self.state, boxes, self.maps)], now)
        return boxes

    def _move(self, by: int) -> tuple[Box, ...]:
        before = self.state
        self._go(self._states, self._now + by)
        boxes = self.maps.changed(before.clicks, self.clicks)
        return apart([*boxes, *changed_boxes(before.regions, self.regions)])

    def _change(self, region: ReviewRegion, changed: ReviewRegion) -> tuple[Box, ...]:
        same = all(
            getattr(region, name) == getattr(changed, name) for name in ("verdict", "label", "comment", "clicks")
        )
        if same and np.array_equal(region.given, changed.given):
            return ()
        self._refuse_if_signed()
        regions = tuple(changed if each is region else each for each in self.regions)
        return self._push(replace(self.state, regions=regions, found=False))

    def _placed(self, click: Click) -> Click:
        """Check a click, and find the region in which it was given unless it says so."""
        if click.time.year not in YEARS:
            raise ReviewError(f"The year {click.time.year} of a click is not possible; correct its time.")
        voxels = self.maps.refiner.voxels_of(click)
        if click.region_id is None:
            hit = next(iter(self.state.regions_at(voxels[:1])), None)
            return replace(click, region_id=hit.region_id if hit else None)
        self.region(click.region_id)
        return click

    def _click(self, clicks: tuple[Click, ...], *changed: Click, rank: bool = True) -> tuple[Box, ...]:
        """Go on with other clicks; a decided region that one of `changed` lies in is pending again."""
        self._refuse_if_signed()
        voxels = np.concatenate([self.maps.refiner.voxels_of(click) for click in changed])
        hit = [region.region_id for region in self.state.regions_at(voxels)]
        clicks = in_order(clicks)
        boxes = self.maps.changed(self.clicks, clicks)
        return self._push(self.state.with_clicks(clicks, boxes, hit, self.maps, rank), boxes)

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
