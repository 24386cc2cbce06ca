"""A doubtful region under review: what the reader said about it, how it follows clicks, and what a verdict makes of it.

A pending region is what was found, less the voxels that clicks have made certain: those that clicks have changed and
that are not near a doubtful voxel any more, where doubtful and near mean what they meant when it was found. It is
*resolved* once no voxel of it is doubtful, or its expected error has fallen below a fraction of what it was. All of
this depends on the region as found and on the clicks alone, not on the way to them. Arrays are (z, y, x).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, common_parts, shape_of, widened
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.description import describe, organ_of
from MoBUncertaintyLib.regions.measure import VoxelMaps, error_of, uncertainty_of
from MoBUncertaintyLib.regions.pieces import grow
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Discrepancy, Effect, Region
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.refinement.locks import spared
from MoBUncertaintyLib.review.refinement.refiner import Clicks, Refiner

_SURROUNDINGS = 20  # voxels


class Verdict(StrEnum):
    """What the reader makes of a region."""

    PENDING = "pending"
    """Not decided yet."""
    ACCEPT = "accept"
    """The prediction is right there."""
    INCLUDE = "include"
    """What is doubtful in the region is organ."""
    EXCLUDE = "exclude"
    """What is doubtful in the region is not the organ that the region is named after; other organs stay."""
    EDIT = "edit"
    """The reader has drawn what is organ there."""


@dataclass(frozen=True, eq=False)
class Found:
    """A region as it was found: its description, the mask that fills its box, how it was found, the clicks then."""

    region: Region
    mask: np.ndarray = field(repr=False)
    settings: RegionSettings
    clicks: tuple[Click, ...] = ()


@dataclass(frozen=True, eq=False)
class ReviewRegion:
    """A region and what the reader said about it.

    While it is pending it follows the clicks (`follow`). A verdict freezes it: it then keeps `labels`, `clicks`
    and `maps`, whatever is clicked elsewhere later.
    """

    region_id: str  # never given to another region of the same review
    found: Found = field(repr=False)
    region: Region  # as it is now; its rank and number are those of the review
    box: Box  # where it lies in the volume
    # bool, fills the box: what was found, less what clicks have made certain while it is pending
    mask: np.ndarray = field(repr=False)
    verdict: Verdict = Verdict.PENDING
    label: int | None = None  # value of the label that INCLUDE gives to the region
    # uint8 segmentation that a verdict gives to the region; fills the box, counts inside the mask
    labels: np.ndarray | None = field(default=None, repr=False)
    clicks: tuple[Click, ...] = field(default=(), repr=False)  # that held when it was decided
    # (2, C - 1, N) float32, probability and variance of the mask's voxels; None where they are as predicted
    maps: np.ndarray | None = field(default=None, repr=False)
    resolved: bool = False  # clicks have left too little expected error in it to ask for a verdict
    comment: str = ""

    @property
    def number(self) -> int:
        """Its value in the map of all regions."""
        return self.region.number

    @property
    def frozen(self) -> bool:
        """Whether the reader has given a verdict."""
        return self.verdict is not Verdict.PENDING

    @property
    def decided(self) -> bool:
        """Whether it needs no verdict any more: it has one, or clicks have resolved it."""
        return self.frozen or self.resolved

    @property
    def touched(self) -> bool:
        """Whether it is decided or has a comment, so that it must not vanish."""
        return self.decided or bool(self.comment)

    @property
    def given(self) -> np.ndarray:
        """The labels that the verdict gives to the region's voxels, one after another; none without a verdict."""
        return np.empty(0, np.uint8) if self.labels is None else self.labels[self.mask]

    def mask_in(self, box: Box) -> np.ndarray:
        """Return where it lies in a box of the volume, which may hold only a part of it, or nothing."""
        mask = np.zeros(shape_of(box), bool)
        if parts := common_parts(box, self.box):
            mask[parts[0]] = self.mask[parts[1]]
        return mask

    @cached_property
    def packed(self) -> tuple[str, str | None]:
        """Mask as found, eight voxels to the byte, and labels, compressed, as text."""
        return _pack(np.packbits(self.found.mask)), None if self.labels is None else _pack(self.labels)


PENDING: dict[str, Any] = {
    "verdict": Verdict.PENDING, "label": None, "labels": None, "clicks": (), "maps": None, "resolved": False,
}  # fmt: skip
"""The fields of a region without a verdict."""


def follow(region: ReviewRegion, clicks: Clicks, refiner: Refiner) -> ReviewRegion:
    """Let a pending region be what clicks leave of it; a frozen one stays as it is."""
    if region.frozen:
        return region
    found, box, prediction = region.found, region.box, refiner.prediction
    before, now = refiner.refine(found.clicks, box), refiner.refine(clicks, box)
    changed = _changed(before, now) & found.mask
    if not changed.any():
        return as_found(region)
    doubtful = _doubtful(found, now, prediction)
    near = grow(doubtful, prediction.grid.spacing, found.settings.grow_mm)
    error, first = (float(error_of(each, prediction)[found.mask].sum(dtype=float)) for each in (now, before))
    resolved = not doubtful.any() or error < prediction.click_settings.resolved_fraction * first
    mask = found.mask if resolved else found.mask & (near | ~changed)
    described = replace(region.region, **describe(now, box, mask, prediction), location=found.region.location)
    return replace(region, region=described, mask=mask, **PENDING | {"resolved": bool(resolved)})


def freeze(
    region: ReviewRegion,
    verdict: Verdict,
    clicks: Clicks,
    refiner: Refiner,
    label: int | None = None,
    drawn: np.ndarray | None = None,
) -> ReviewRegion:
    """Give a region a verdict, and with it the labels and maps that it keeps, under the clicks that hold in it.

    INCLUDE, which gives a label, and EXCLUDE act on the voxels that are doubtful themselves, not on what the region was
    grown by; if clicks have left none, on those that were when it was found; if none was, on all. EXCLUDE takes the
    region's organ away and leaves others that reach into it. EDIT gives what was `drawn`; uint8, fills the region's
    box. What is locked stays as it is.
    """
    found = region.found
    now = refiner.refine(clicks, region.box)
    labels = now.segmentation.copy() if drawn is None else drawn
    if verdict in (Verdict.INCLUDE, Verdict.EXCLUDE):
        first = refiner.refine(found.clicks, region.box)
        cores = (_doubtful(found, each, refiner.prediction) for each in (now, first))
        core = next((core for core in cores if core.any()), found.mask)
        labels[core if verdict is Verdict.INCLUDE else core & _own(region, labels, refiner.prediction)] = label or 0
    labels = np.where(spared(now.segmentation, labels, clicks), now.segmentation, labels)
    labels = np.where(found.mask, labels, np.uint8(0))
    return _kept(replace(region, verdict=verdict, label=label, labels=labels, clicks=clicks, resolved=False), refiner)


def restore(region: ReviewRegion, clicks: Clicks, refiner: Refiner) -> ReviewRegion:
    """Complete a region of which only the places and what the reader said were stored."""
    found = region.found
    if found.clicks:
        described = describe(refiner.refine(found.clicks, region.box), region.box, found.mask, refiner.prediction)
        region = replace(region, found=replace(found, region=replace(found.region, **described)))
    return _kept(region, refiner) if region.frozen else follow(as_found(region), clicks, refiner)


def usual_label(region: ReviewRegion, prediction: Prediction) -> int:
    """Take the label with most predicted voxels in a region, else in its surroundings, else the first one.

    Where others have drawn the segmentation, it is the label that is missing, or the one that the model finds most
    probable in the region.
    """
    predicted, found = prediction.segmentation, region.found.region
    named = {label.name: label.value for label in prediction.labels}
    if isinstance(found, Discrepancy) and found.missing and found.label in named:
        return named[found.label]
    if prediction.checked:
        sums = [float(each[region.box][region.found.mask].sum(dtype=float)) for each in prediction.probability]
        return prediction.labels[int(np.argmax(sums))].value
    around = widened(region.box, [_SURROUNDINGS] * 3, predicted.shape)
    for labels in (predicted[region.box][region.found.mask], predicted[around]):
        votes = np.bincount(labels.ravel(), minlength=2)[1:]
        if votes.any():
            return int(votes.argmax()) + 1
    return prediction.labels[0].value


def _kept(region: ReviewRegion, refiner: Refiner) -> ReviewRegion:
    """Let a frozen region have the maps and the description that go with its clicks."""
    found, box = region.found, region.box
    now, predicted, first = (refiner.refine(clicks, box) for clicks in (region.clicks, (), found.clicks))
    maps = None
    if (_changed(predicted, now) & found.mask).any():
        maps = np.stack([now.probability[:, found.mask], now.variance[:, found.mask]])
    described = as_found(region).region
    if (_changed(first, now) & found.mask).any():
        described = replace(described, **describe(now, box, found.mask, refiner.prediction))
    return replace(region, region=described, mask=found.mask, maps=maps)


def as_found(region: ReviewRegion) -> ReviewRegion:
    """Take a verdict back, and what clicks have done; what the region then is, `follow` says."""
    described = replace(region.found.region, rank=region.region.rank, number=region.number)
    return replace(region, region=described, mask=region.found.mask, **PENDING)


def with_effect(region: ReviewRegion, effect: Effect | None) -> ReviewRegion:
    """Note what resolving a region does to a measurement, or forget it."""
    found = replace(region.found, region=replace(region.found.region, effect=effect))
    return replace(region, found=found, region=replace(region.region, effect=effect))


def _doubtful(found: Found, maps: VoxelMaps, prediction: Prediction) -> np.ndarray:
    """Mark the voxels of a region whose own uncertainty is above the threshold with which it was found.

    Where two segmentations are compared these are all: a verdict takes the region as it is in the second one.
    """
    if isinstance(found.region, Discrepancy) and found.region.compared:
        return found.mask
    uncertainty = uncertainty_of(found.settings.measure, maps, prediction)
    return np.asarray(found.mask & (uncertainty > found.settings.level))


def _own(region: ReviewRegion, labels: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Mark the voxels whose label is the organ that a region is named after; all if it is named after none."""
    named = region.found.region
    if isinstance(named, Discrepancy):
        organ = next((label.value for label in prediction.labels if label.name == named.label), 0)
    else:
        predicted = prediction.segmentation[region.box][region.found.mask]
        organ = organ_of(np.array(named.centroid_ras), predicted, {})
    return np.asarray(labels == organ if organ else np.ones(labels.shape, bool))


def _changed(before: VoxelMaps, after: VoxelMaps) -> np.ndarray:
    return np.asarray(((before.probability != after.probability) | (before.variance != after.variance)).any(axis=0))


def changed_boxes(before: Iterable[ReviewRegion], after: Iterable[ReviewRegion]) -> tuple[Box, ...]:
    """List the boxes of the regions that verdicts make differ from one state of a review to another."""

    def effects(regions: Iterable[ReviewRegion]) -> dict[str, tuple[Any, ...]]:
        return {each.region_id: (id(each.labels), id(each.maps), each.box) for each in regions if each.frozen}

    old, new = effects(before), effects(after)
    return tuple(
        (new.get(key) or old[key])[-1] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    )


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
