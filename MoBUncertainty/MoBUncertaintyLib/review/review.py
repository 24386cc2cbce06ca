"""The reader's review of a prediction: a verdict on each doubtful region, corrections, undo and sign-off.

Knows nothing of Slicer, files or pictures. Every step makes a new immutable state, so undo and redo are moves along the
list of states. Arrays are (z, y, x).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.geometry import Box, hull, intersection, occupied_rows, shape_of, whole, widened, within
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.finder import Region, Regions
from MoBUncertaintyLib.regions.pieces import diameter
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import Describe, Signature, plain_text, read_record, write_record
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict, changed_boxes, covered, masks

_SURROUNDINGS = 20  # voxels


@dataclass(frozen=True)
class _State:
    """What a review is at one time. Whatever it was made from, none is signed with regions left undecided."""

    regions: tuple[ReviewRegion, ...]
    settings: RegionSettings
    signature: Signature | None = None
    found: bool = False  # made by `update_regions`: the next such state takes its place

    def __post_init__(self) -> None:
        left, total = sum(not region.decided for region in self.regions), len(self.regions)
        if self.signature and left:
            raise ReviewError(f"{left} of {total} regions are not decided; decide them before signing off.")


class Review:
    """The review of one prediction.

    Every step returns the boxes in which the corrected segmentation may have changed, so that a display need not be
    drawn anew as a whole; `labels_in(box)` is what belongs there. What changes nothing is no step in the history.

    Args:
        prediction: What is reviewed; not copied, never changed.
        regions: Its doubtful regions.

    Raises:
        ReviewError: The map of the regions has another shape, or lacks a region.
    """

    def __init__(self, prediction: Prediction, regions: Regions) -> None:
        self.prediction = prediction
        self._next_id = 1
        self._check_shape(regions)
        # Ranked as they come: a reader has seen them in a table of the same ranks.
        made = [self._new(region, box, mask) for region, box, mask in masks(regions)]
        self._states = [_State(self._numbered(made), regions.settings)]
        self._now = 0

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
    def signature(self) -> Signature | None:
        """Who signed, and when; None as long as nobody has."""
        return self._state.signature

    @property
    def reviewed(self) -> tuple[int, int]:
        """How many regions are decided, and how many there are."""
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
        """SHA-256 of the predicted segmentation (its shape, where it is occupied, and the voxels there).

        It tells which prediction this is the review of.
        """
        predicted = self.prediction.segmentation
        box = occupied_rows(predicted)
        head = f"{predicted.shape} {[(s.start, s.stop) for s in box]}".encode()
        return hashlib.sha256(head + predicted[box].astype(np.uint8).tobytes()).hexdigest()

    def region(self, region_id: str) -> ReviewRegion:
        """Look up the region of that id.

        Raises:
            ReviewError: There is none.
        """
        for region in self.regions:
            if region.region_id == region_id:
                return region
        raise ReviewError(f"There is no region {region_id!r} in this review; choose one of its list.")

    def corrected(self) -> np.ndarray:
        """Correct the segmentation inside the decided regions only; uint8 (z, y, x), a new array."""
        return self.labels_in(whole(self.prediction.shape))

    def labels_in(self, box: Box) -> np.ndarray:
        """Correct the segmentation in a box."""
        labels = np.array(self.prediction.segmentation[box], dtype=np.uint8)
        for region in self.regions:
            inner = intersection(box, region.box)
            if inner and region.verdict in (Verdict.INCLUDE, Verdict.EXCLUDE, Verdict.EDIT):
                there = labels[within(inner, box)]
                own = within(inner, region.box)
                mask = region.mask[own]
                there[mask] = region.label or 0 if region.edited is None else region.edited[own][mask]
        return labels

    def listed(self) -> Regions:
        """Gather all regions as they are now, with their map."""
        box = hull(region.box for region in self.regions)
        region_map = np.zeros(shape_of(box), np.uint16)
        for each in self.regions:
            region_map[within(each.box, box)][each.mask] = each.number
        ranked = tuple(each.region for each in self.regions)
        return Regions(ranked, region_map, box, self.prediction.shape, self.settings)

    # Steps

    def decide(self, region_id: str, verdict: Verdict | str, label: int | None = None) -> tuple[Box, ...]:
        """Give a verdict, or take it back with PENDING.

        Args:
            region_id: The region.
            verdict: Any but EDIT.
            label: Value of the label to INCLUDE as; None: the one with most of the region's voxels, or else most of its
                surroundings.

        Raises:
            ReviewError: No such region, EDIT, no label value, or the review is signed.
        """
        region, verdict = self.region(region_id), Verdict(verdict)
        if verdict is Verdict.EDIT:
            raise ReviewError("An edit needs what was drawn; draw them in the region and try again.")
        if label is not None and not 1 <= label <= 255:
            raise ReviewError(f"A label's value is a number from 1 to 255, not {label}; choose a label of the model.")
        given = int(label or self._usual_label(region)) if verdict is Verdict.INCLUDE else None
        return self._change(region, verdict=verdict, label=given, edited=None)

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
        edited = np.where(region.mask, corrected, 0).astype(np.uint8)
        return self._change(region, verdict=Verdict.EDIT, label=None, edited=edited)

    def comment(self, region_id: str, text: str) -> tuple[Box, ...]:
        """Set a region's comment, without control characters; "" removes it."""
        return self._change(self.region(region_id), comment=plain_text(text))

    def update_regions(self, regions: Regions) -> tuple[Box, ...]:
        """Take regions that were found anew, with another threshold say.

        Regions with a verdict or a comment stay as they are. The new ones lose the voxels of these and are dropped if
        that leaves less than the smallest size; what is left of a region that lost some has its volume, centroid,
        extent and fraction measured anew, its expected error in proportion to its volume. Ranks are renewed. Several
        updates in a row by one measure of uncertainty (a slider being dragged) are one step.

        Raises:
            ReviewError: Another shape, or the review is signed.
        """
        self._refuse_if_signed()
        self._check_shape(regions)
        kept = [region for region in self.regions if region.touched]
        used = {region.number for region in kept}
        new = []
        for region, box, mask in masks(regions):
            free = mask & ~covered(box, kept)
            left = int(free.sum())
            if left == mask.sum():
                new.append(self._new(region, box, mask, used))
            elif left and left * self.prediction.grid.voxel_mm3 >= regions.settings.minimum_mm3:
                new.append(self._new(self._rest(region, box, mask, free), box, free, used))
        state = _State(self._ranked(kept + new), regions.settings, found=True)
        if self._state.found and self.settings.measure is regions.settings.measure:  # take the place of the last update
            self._now -= 1
        self._push(state)
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
        return write_record(self.digest, self.prediction.grid, self.settings, self.regions, self.signature)

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
        stored = read_record(data, review.digest, prediction.shape, prediction.grid, describe)
        review.prediction = replace(prediction, grid=stored.grid)
        review._states = [_State(stored.regions, stored.settings, stored.signature)]
        review._next_id = 1 + max((int(region.region_id) for region in stored.regions), default=0)
        return review

    # Inside

    @property
    def _state(self) -> _State:
        return self._states[self._now]

    def _push(self, state: _State) -> None:
        del self._states[self._now + 1 :]
        self._states.append(state)
        self._now += 1

    def _move(self, by: int) -> tuple[Box, ...]:
        before = self._state
        self._now += by
        return changed_boxes(before.regions, self._state.regions)

    def _change(self, region: ReviewRegion, **values: Any) -> tuple[Box, ...]:
        if all(np.array_equal(getattr(region, name), value) for name, value in values.items()):
            return ()
        self._refuse_if_signed()
        changed = replace(region, **values)
        regions = tuple(changed if each is region else each for each in self.regions)
        self._push(replace(self._state, regions=regions, found=False))
        return changed_boxes((region,), (changed,))

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

    def _new(self, region: Region, box: Box, mask: np.ndarray, used: set[int] | None = None) -> ReviewRegion:
        """Give a region an id of its own; unless `used` numbers are given, it keeps its own, else takes a free one."""
        if used is not None:
            region = replace(region, number=next(number for number in range(1, 2**16) if number not in used))
            used.add(region.number)
        made = ReviewRegion(str(self._next_id), region, box, mask)
        self._next_id += 1
        return made

    @classmethod
    def _ranked(cls, regions: Iterable[ReviewRegion]) -> tuple[ReviewRegion, ...]:
        return cls._numbered(
            sorted(regions, key=lambda each: (-each.region.expected_error_mm3, each.region.centroid_ras))
        )

    @staticmethod
    def _numbered(regions: Iterable[ReviewRegion]) -> tuple[ReviewRegion, ...]:
        return tuple(
            replace(each, region=replace(each.region, rank=rank)) for rank, each in enumerate(regions, start=1)
        )

    def _rest(self, region: Region, box: Box, mask: np.ndarray, free: np.ndarray) -> Region:
        """Describe a region once only `free` is left of it."""
        index, grid = np.argwhere(free), self.prediction.grid
        centroid = grid.to_ras(index.mean(axis=0) + [s.start for s in box])
        return replace(
            region,
            volume_mm3=float(len(index) * grid.voxel_mm3),
            expected_error_mm3=region.expected_error_mm3 * float(len(index) / mask.sum()),
            inside_fraction=float((self.prediction.segmentation[box][free] > 0).mean()),
            centroid_ras=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
            extent_mm=diameter(index, grid.spacing),
        )

    def _usual_label(self, region: ReviewRegion) -> int:
        """Take the label with most voxels in the region, else in its surroundings, else the first one."""
        predicted = self.prediction.segmentation
        around = widened(region.box, [_SURROUNDINGS] * 3, predicted.shape)
        for labels in (predicted[region.box][region.mask], predicted[around]):
            votes = np.bincount(labels.ravel(), minlength=2)[1:]
            if votes.any():
                return int(votes.argmax()) + 1
        return 1
