"""What a review is at one time, and how clicks and other regions lead to another such state. Arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError
from MoBUncertaintyLib.base.geometry import Box, common_parts, intersection
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import masks, measure
from MoBUncertaintyLib.regions.measure import VoxelMaps, error_of
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, Regions
from MoBUncertaintyLib.review.refinement.refiner import Clicks, Refiner
from MoBUncertaintyLib.review.region import Found, ReviewRegion, as_found, follow, with_effect

ERROR_UNIT = 2.0**-32
"""Expected error is summed in whole numbers of this, so that differences of boxes add up exactly in any order."""

YEARS = range(1970, 2200)
"""Of what a reader does."""

NAMED = 5
"""Undecided regions that an error names."""

_LONGEST_NAME = 100
_JOINERS = "\u200c\u200d"  # of Persian and Indian scripts; Python calls them not printable


@dataclass(frozen=True)
class Signature:
    """Who signed the review off, and when, with its time zone."""

    name: str
    time: datetime

    @classmethod
    def of(cls, name: str, time: datetime) -> Signature:
        """Make a signature of what a reader has entered; a time that names no zone is local time.

        Raises `ReviewError` for a name that is empty, too long or holds control characters, or an impossible year.
        """
        name = " ".join(name.split())
        if not name:
            raise ReviewError("The reader's name is missing; enter it to sign off.")
        if len(name) > _LONGEST_NAME or not all(each.isprintable() or each in _JOINERS for each in name):
            raise ReviewError(
                f"The name to sign with must be one line of at most {_LONGEST_NAME} printable characters; shorten it."
            )
        if time.year not in YEARS:
            raise ReviewError(f"The year {time.year} of the signature is not possible; correct its time.")
        return cls(name, time if time.tzinfo else time.astimezone())


@dataclass(frozen=True)
class State:
    """What a review is at one time. Whatever it was made from, none is signed with regions left undecided."""

    regions: tuple[ReviewRegion, ...]  # in order of rank
    settings: RegionSettings  # what the regions were last found with
    clicks: Clicks = ()  # in order of time
    signature: Signature | None = None
    error: int = 0  # how much the expected error of all voxels differs from the prediction's, in `ERROR_UNIT`
    found: bool = False  # made by an update of the regions: the next such state takes its place

    def __post_init__(self) -> None:
        left = [str(region.region.rank) for region in self.regions if not region.decided]
        if self.signature and left:
            ranks = ", ".join([*left[:NAMED], *(["..."] if len(left) > NAMED else [])])
            what = f"{len(left)} of {len(self.regions)} regions are not decided (rank {ranks})"
            raise ReviewError(f"{what}; decide them before signing off.")

    def maps_in(self, box: Box, refiner: Refiner) -> VoxelMaps:
        """Copy the maps of a box as they are now: in frozen regions, as they were when these were decided.

        The labels are those of clicks alone.
        """
        now = refiner.refine(self.clicks, box)
        for region in self.regions:
            if region.frozen and region.clicks != self.clicks and (parts := common_parts(box, region.box)):
                there, own = parts
                mask = region.mask[own]
                kept = refiner.refine((), region.box)
                if region.maps is not None:
                    kept.probability[:, region.mask], kept.variance[:, region.mask] = region.maps
                now.probability[:, *there][:, mask] = kept.probability[:, *own][:, mask]
                now.variance[:, *there][:, mask] = kept.variance[:, *own][:, mask]
        return now

    def labels_in(self, box: Box, refiner: Refiner) -> np.ndarray:
        """Correct the segmentation in a box: by clicks, and in decided regions by their verdicts; uint8, a copy."""
        labels = refiner.labels(self.clicks, box)
        for region in self.regions:
            if region.labels is not None and (parts := common_parts(box, region.box)):
                there, own = parts
                mask = region.mask[own]
                labels[there][mask] = region.labels[own][mask]
        return labels

    def regions_at(self, voxels: Iterable[np.ndarray]) -> list[ReviewRegion]:
        """List the regions that one of the voxels (z, y, x) lies in, as they were found."""
        voxels = np.asarray(voxels)
        hit = []
        for region in self.regions:
            own = voxels - [part.start for part in region.box]
            own = own[((own >= 0) & (own < region.mask.shape)).all(axis=1)]
            if region.found.mask[tuple(own.T)].any():
                hit.append(region)
        return hit

    def error_in(self, boxes: Iterable[Box], refiner: Refiner) -> int:
        """Sum the expected error of boxes that do not overlap, in `ERROR_UNIT`; none is left where it is decided."""
        total = 0
        for box in boxes:
            error = error_of(self.maps_in(box, refiner), refiner.prediction)
            for region in self.regions:
                if region.frozen and (parts := common_parts(box, region.box)):
                    error[parts[0]][region.mask[parts[1]]] = 0
            total += int(np.rint(error * (1 / ERROR_UNIT), dtype=float).sum(dtype=np.int64))
        return total

    def with_clicks(
        self, clicks: Clicks, boxes: Sequence[Box], hit: Iterable[str], refiner: Refiner, rank: bool = True
    ) -> State:
        """Let regions follow other clicks, which change the maps in `boxes`; those with an id in `hit` are reopened.

        They are ranked anew, unless `rank` is False or others have drawn the segmentation: then their order is that of
        the discrepancy of what was drawn, which no click changes.
        """
        hit = set(hit)
        regions = []
        for region in self.regions:
            reopened = region.frozen and region.region_id in hit
            if reopened or any(intersection(region.box, box) for box in boxes):
                region = follow(as_found(region) if reopened else region, clicks, refiner)
            regions.append(region)
        again = rank and refiner.prediction.checked is None
        return replace(self, regions=ranked(regions) if again else tuple(regions), clicks=clicks, found=False)

    def after(self, before: State, boxes: Iterable[Box], refiner: Refiner) -> State:
        """Complete this state by its expected error, which differs from that of the one before in these boxes only."""
        boxes = tuple(boxes)
        return replace(self, error=before.error + self.error_in(boxes, refiner) - before.error_in(boxes, refiner))


def ranked(regions: Iterable[ReviewRegion]) -> tuple[ReviewRegion, ...]:
    """Rank regions by falling expected error or, where they have one, by falling effect, which no click changes."""
    return numbered(sorted(regions, key=lambda each: (each.region.order, each.region.centroid_ras)))


def numbered(regions: Iterable[ReviewRegion]) -> tuple[ReviewRegion, ...]:
    """Rank regions as they come."""
    return tuple(
        each if each.region.rank == rank else replace(each, region=replace(each.region, rank=rank))
        for rank, each in enumerate(regions, start=1)
    )


def update(state: State, regions: Regions, prediction: Prediction, ids: Iterator[int]) -> State:
    """Replace the regions that nothing was said of by others, less the voxels of those that stay.

    A new one, which takes one of the `ids` that no region has had, is dropped if less than the smallest size is left of
    it; one that has lost some voxels is measured anew, its expected error in proportion to its volume.
    """
    clicked = {click.region_id for click in state.clicks}
    touched = [region for region in state.regions if region.touched or region.region_id in clicked]
    used = {region.number for region in touched}
    new = []
    for region, box, mask in masks(regions):
        free = mask.copy()
        for other in touched:
            if parts := common_parts(box, other.box):
                free[parts[0]] &= ~other.found.mask[parts[1]]
        left = int(free.sum())
        if not left or (left < mask.sum() and left * prediction.grid.voxel_mm3 < regions.settings.minimum_mm3):
            continue
        if left < mask.sum():
            error = region.expected_error_mm3 * float(left / mask.sum())
            rest = measure(box, free, prediction.segmentation[box], prediction.grid)
            region = replace(region, expected_error_mm3=error, **rest)
        number = next(number for number in range(1, 2**16) if number not in used)
        used.add(number)
        new.append(made(replace(region, number=number), box, free, regions, ids, state.clicks))
    unranked = [with_effect(region, None) for region in touched]  # new ones have none, and one list has one order
    return replace(state, regions=ranked(unranked + new), settings=regions.settings, found=True)


def made(
    region: Region, box: Box, mask: np.ndarray, regions: Regions, ids: Iterator[int], clicks: Clicks
) -> ReviewRegion:
    """Make a region of a review as it was found."""
    return ReviewRegion(str(next(ids)), Found(region, mask, regions.settings, clicks), region, box, mask)
