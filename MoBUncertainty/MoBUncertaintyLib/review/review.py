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
from MoBUncertaintyLib.base.geometry import Box, apart, hull
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.model.card import readable
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import RegionDescriber, masks
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Effect, Regions
from MoBUncertaintyLib.review.record import CLICK_ID, Describe, in_order, plain_text, read_record, write_record
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent, Point
from MoBUncertaintyLib.review.refinement.locks import spared
from MoBUncertaintyLib.review.region import (
    ReviewRegion,
    Verdict,
    as_found,
    changed_boxes,
    follow,
    freeze,
    restore,
    usual_label,
    with_effect,
)
from MoBUncertaintyLib.review.state import YEARS, Signature, State, made, numbered, ranked, update
from MoBUncertaintyLib.review.view import ReviewView


class ReviewHistory(ReviewView):
    """What a review has been and is now: undo and redo are moves along its states; while it is signed it stays."""

    def __init__(self, prediction: Prediction, state: State) -> None:
        super().__init__(prediction, state)
        self._go([state], 0)

    def _go(self, states: list[State], now: int) -> None:
        """Be at one of some states."""
        self._states, self._now = states, now
        self.can_undo, self.can_redo = now > 0, now + 1 < len(states)
        self._show(states[now])

    def undo(self) -> tuple[Box, ...]:
        """Take the last step back; does nothing without one."""
        return self._move(-1) if self.can_undo else ()

    def redo(self) -> tuple[Box, ...]:
        """Take the last step again that was taken back; does nothing without one."""
        return self._move(1) if self.can_redo else ()

    def sign(self, name: str, when: datetime | None = None) -> None:
        """Sign the review off by the reader's name; `when`: now by default, local time if it names no zone.

        Raises `ReviewError` if regions are undecided, the name is none, or it is signed already.
        """
        self._refuse_if_signed()
        signature = Signature.of(name, (when or datetime.now()).replace(microsecond=0))
        self._push(replace(self.state, signature=signature, found=False))

    def withdraw(self) -> None:
        """Take the signature back. No step in the history: undo goes on with what was done before the signature."""
        if self.signature:
            states = self._states[: self._now] or [replace(self.state, signature=None)]
            self._go(states, len(states) - 1)

    def rank(self, effects: Mapping[str, Effect]) -> tuple[Box, ...]:
        """Rank regions by what resolving each does to a measurement, by their ids; without any, by expected error.

        Raises `ReviewError` if the review is signed.
        """
        self._refuse_if_signed()
        regions = ranked(with_effect(each, effects.get(each.region_id)) for each in self.regions)
        return self._push(replace(self.state, regions=regions, found=False))

    def _push(self, state: State, boxes: Iterable[Box] = ()) -> tuple[Box, ...]:
        """Go on to a state, which replaces those that were taken back; in `boxes` clicks give other maps."""
        boxes, now = apart([*boxes, *changed_boxes(self.regions, state.regions)]), self._now + 1
        locks = set(self.locks.values()).intersection(state.clicks)
        for box in boxes if locks else ():
            before, after = self.labels_in(box), state.labels_in(box, self.refiner)
            if (spared(before, after, locks) & (before != after)).any():
                raise _locked(self)
        self._go([*self._states[:now], state.after(self.state, boxes, self.refiner)], now)
        return boxes

    def _change(self, region: ReviewRegion, changed: ReviewRegion) -> tuple[Box, ...]:
        same = all(
            getattr(region, name) == getattr(changed, name) for name in ("verdict", "label", "comment", "clicks")
        )
        if same and np.array_equal(region.given, changed.given):
            return ()
        self._refuse_if_signed()
        regions = tuple(changed if each is region else each for each in self.regions)
        return self._push(replace(self.state, regions=regions, found=False))

    def _move(self, by: int) -> tuple[Box, ...]:
        before = self.state
        self._go(self._states, self._now + by)
        boxes = self.refiner.changed(before.clicks, self.clicks)
        return apart([*boxes, *changed_boxes(before.regions, self.regions)])

    def _refuse_if_signed(self) -> None:
        if self.signature:
            raise ReviewError(
                f"The review is signed off by {self.signature.name}; withdraw the signature to change it."
            )


class Review(ReviewHistory):
    """The review of one prediction.

    Clicks condition the prediction, which is never changed; pending regions follow them, and a verdict freezes a region
    (see `region`). Every step returns the boxes in which the corrected segmentation or the maps may have changed.
    What changes nothing is no step in the history. Raises `ReviewError` if the map of the regions has another shape
    than the prediction, or lacks a region.
    """

    def __init__(self, prediction: Prediction, regions: Regions) -> None:
        _check_shape(regions, prediction)
        self._ids, self._click_ids = count(1), count(1)
        # Ranked as they come: a reader has seen them in a table of the same ranks.
        first = numbered(made(*each, regions, self._ids, ()) for each in masks(regions))
        super().__init__(prediction, State(first, regions.settings))

    def click(
        self,
        points_ras: Sequence[Point],
        label: int,
        region_id: str | None = None,
        when: datetime | None = None,
        extent: Extent = Extent.STROKE,
    ) -> tuple[Box, ...]:
        """Say which label (0: background) a place has; a decided region in which it lies is pending again.

        One point (RAS mm) is a click, several are a stroke through them, or the corners of an outline. Default: given
        in the region that its first voxel lies in, if any, and now; a time that names no zone is local. Raises
        `ReviewError` if it lies outside of what was predicted or in locked labels alone, there is no such label or
        region, or the review is signed.
        """
        self._refuse_if_signed()
        if when is None:
            when = datetime.now().astimezone()
            if self.clicks:  # clocks are set back
                when = max(when, self.clicks[-1].time + timedelta(microseconds=1))
        points = tuple((float(r), float(a), float(s)) for r, a, s in points_ras)
        when = when if when.tzinfo else when.astimezone()
        click = _placed(self, Click("", points, label, when, region_id, extent))
        if points and not len(self.refiner.free_voxels(click, self.clicks)):
            raise _locked(self)
        click = replace(click, click_id=f"c{next(self._click_ids)}")
        return self._click((*self.clicks, click), click)

    def lock(self, label: int, locked: bool = True) -> tuple[Box, ...]:
        """Let no click or verdict change which voxels have a label, or let them again; raises as `click` does."""
        if locked is (label in self.locks):
            return ()
        return self.click((), label, extent=Extent.LOCK) if locked else self.remove_click(self.locks[label].click_id)

    def remove_click(self, click_id: str) -> tuple[Box, ...]:
        """Take a single click back; raises `ReviewError` if it is not there, or the review is signed."""
        removed = _named(self, click_id)
        return self._click(tuple(each for each in self.clicks if each is not removed), removed)

    def take_clicks(self, clicks: Iterable[Click], rank: bool = True) -> tuple[Box, ...]:
        """Let clicks with ids of their own hold in place of all others, in one step.

        Regions keep the ranks by which their reader knows them unless `rank`. Raises `ReviewError` as for `click`, and
        if two clicks have one id.
        """
        self._refuse_if_signed()
        placed = in_order(_placed(self, click) for click in clicks)
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

        INCLUDE and EXCLUDE fill what is doubtful in the region (see `region.freeze`), and `preview` shows it. The
        label to INCLUDE as is by default the one with most of the region's voxels, or else of its surroundings. Clicks
        with these ids hold in it; default: all, or those that did where it is decided already. Raises `ReviewError` if
        there is no such region, click or label, for EDIT, or if the review is signed.
        """
        region = self.region(region_id)
        return self._change(region, _decided(self, region_id, verdict, label, clicks))

    def edit(self, region_id: str, corrected: np.ndarray) -> tuple[Box, ...]:
        """Take what the reader has drawn in a region: the segmentation of the whole volume, or of the region's box.

        Raises `ReviewError` if there is no such region, for another shape, or if the review is signed.
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
        return self._change(region, freeze(region, Verdict.EDIT, clicks, self.refiner, drawn=drawn))

    def comment(self, region_id: str, text: str) -> tuple[Box, ...]:
        """Set a region's comment, without control characters; "" removes it."""
        region = self.region(region_id)
        return self._change(region, replace(region, comment=plain_text(text)))

    def update_regions(self, regions: Regions) -> tuple[Box, ...]:
        """Take regions that were found anew on `current()`, with another threshold say; see `state.update`.

        Several updates in a row by one measure of uncertainty (a slider being dragged) are one step. Raises
        `ReviewError` for another shape, or if the review is signed.
        """
        self._refuse_if_signed()
        _check_shape(regions, self.prediction)
        state = update(self.state, regions, self.prediction, self._ids)
        again = self.state.found and self.settings.measure is regions.settings.measure
        now = self._now + (0 if again else 1)  # the next of several takes the place of the last
        self._go([*self._states[:now], state], now)
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Record all of it, sealed and ready for JSON (see `record`); only the history is not kept."""
        return write_record(self.digest, self.prediction.grid, self.prediction.click_settings, self.state)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], prediction: Prediction, describe: Describe | None = None) -> Review:
        """Read the review that `to_dict` described, with an empty history.

        Regions are described anew (default: by a `RegionDescriber`), since stored numbers are not believed. Raises
        `ReviewError` if it is no such description, has changed since, belongs to another prediction or place, or is
        signed where it could not have been.
        """
        nothing = Regions((), np.zeros((0, 0, 0), np.uint16), hull(()), prediction.shape, RegionSettings())
        review = cls(prediction, nothing)
        describe = describe or RegionDescriber(prediction)
        stored = read_record(data, review.digest, prediction, describe, review.refiner.voxels_of)
        review = cls(replace(prediction, grid=stored.grid, click_settings=stored.click_settings), nothing)
        regions = tuple(restore(region, stored.clicks, review.refiner) for region in stored.regions)
        state = State(regions, stored.settings, stored.clicks, stored.signature)
        frozen = [region.box for region in regions if region.frozen]
        boxes = apart([*review.refiner.changed((), stored.clicks), *frozen])
        review._go([state.after(review.state, boxes, review.refiner)], 0)
        review._ids = count(1 + max((int(region.region_id) for region in regions), default=0))
        click_ids = {click.click_id for region in regions for click in (*region.clicks, *region.found.clicks)}
        click_ids |= {click.click_id for click in stored.clicks}
        review._click_ids = count(1 + max((int(name[1:]) for name in click_ids), default=0))
        return review

    def _click(self, clicks: tuple[Click, ...], *changed: Click, rank: bool = True) -> tuple[Box, ...]:
        """Go on with other clicks; a decided region that one of `changed` lies in is pending again."""
        self._refuse_if_signed()
        voxels = np.concatenate([self.refiner.voxels_of(click) for click in changed])
        hit = [region.region_id for region in self.state.regions_at(voxels)]
        boxes = self.refiner.changed(self.clicks, clicks := in_order(clicks))
        return self._push(self.state.with_clicks(clicks, boxes, hit, self.refiner, rank), boxes)


def _check_shape(regions: Regions, prediction: Prediction) -> None:
    if regions.shape != prediction.shape:
        raise ReviewError(
            f"The map of the regions has the shape {regions.shape}, the segmentation {prediction.shape}; "
            "both must have the image's voxels."
        )


def _placed(review: ReviewView, click: Click) -> Click:
    """Check a click, and find the region in which it was given unless it says so."""
    if click.time.year not in YEARS:
        raise ReviewError(f"The year {click.time.year} of a click is not possible; correct its time.")
    voxels = review.refiner.voxels_of(click)
    if click.region_id is None:
        hit = next(iter(review.state.regions_at(voxels[:1])), None)
        return replace(click, region_id=hit.region_id if hit else None)
    review.region(click.region_id)
    return click


def _locked(review: ReviewView) -> ReviewError:
    names = [readable(label.name) for label in review.prediction.labels if label.value in review.locks]
    return ReviewError(f"This would change what is locked ({', '.join(names)}); unlock it first.")


def preview(
    review: ReviewView, region_id: str, verdict: Verdict | str, label: int | None = None
) -> tuple[Box, np.ndarray]:
    """Tell what a verdict would give, without giving it: a box, and the corrected segmentation there; uint8.

    Arguments and errors as for `Review.decide`; a signed review has previews, too.
    """
    region = _decided(review, region_id, verdict, label)
    labels = review.refiner.labels(review.clicks, region.box) if region.labels is None else region.labels
    return region.box, np.where(region.found.mask, labels, review.labels_in(region.box))


def _named(review: ReviewView, click_id: str) -> Click:
    for click in review.clicks:
        if click.click_id == click_id:
            return click
    raise ReviewError(f"There is no click {click_id!r} in this review; choose one from the list.")


def _decided(
    review: ReviewView, region_id: str, verdict: Verdict | str, label: int | None, clicks: Iterable[str] | None = None
) -> ReviewRegion:
    """Give a region a verdict, not in the history."""
    region, verdict = review.region(region_id), Verdict(verdict)
    if verdict is Verdict.EDIT:
        raise ReviewError("Nothing was drawn; draw in the region and try again.")
    if label is not None and not (is_whole(label) and label in {own.value for own in review.prediction.labels}):
        raise ReviewError(f"The prediction has no label {label!r}; choose one of its labels.")
    if verdict is Verdict.PENDING:
        return follow(as_found(region), review.clicks, review.refiner) if region.frozen else region
    clicks_then = region.clicks if region.frozen else review.clicks
    if clicks is not None:
        clicks_then = in_order(_named(review, click_id) for click_id in set(clicks))
    if verdict is Verdict.INCLUDE and label is None:
        label = usual_label(region, review.prediction)
    return freeze(region, verdict, clicks_then, review.refiner, label if verdict is Verdict.INCLUDE else None)
