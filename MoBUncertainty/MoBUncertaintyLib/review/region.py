"""A doubtful region under review: what the reader said about it, and where it lies.

Arrays are (z, y, x); a *box* is a tuple of three slices in them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from scipy import ndimage

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.geometry import Box, intersection, nested, occupied_rows, shape_of, within
from MoBUncertaintyLib.regions.finder import FoundRegions, Region


class Verdict(StrEnum):
    """What the reader makes of a region."""

    PENDING = "pending"
    """Not decided yet."""
    ACCEPT = "accept"
    """The prediction is right there."""
    INCLUDE = "include"
    """All of the region is organ."""
    EXCLUDE = "exclude"
    """All of the region is background."""
    EDIT = "edit"
    """The reader has drawn what is organ there."""


@dataclass(frozen=True)
class ReviewRegion:
    """A region and what the reader said about it.

    Attributes:
        region_id: Names it for as long as it exists; never given to another region of the same review.
        label: Its value in `Review.label_map()`.
        region: How it was found; its `rank` and `label` are those of the review.
        box: Where it lies in the volume.
        mask: bool, fills the box.
        verdict: The reader's.
        organ: Label value that INCLUDE gives to the region.
        edited: uint8 labels that EDIT gives to the region; fills the box, counts inside the mask.
        comment: The reader's.
    """

    region_id: str
    label: int
    region: Region
    box: Box
    mask: np.ndarray = field(repr=False)
    verdict: Verdict = Verdict.PENDING
    organ: int | None = None
    edited: np.ndarray | None = field(default=None, repr=False)
    comment: str = ""

    @property
    def decided(self) -> bool:
        """Whether the reader has given a verdict."""
        return self.verdict is not Verdict.PENDING

    @property
    def touched(self) -> bool:
        """Whether the reader has given a verdict or a comment, so that the region must not vanish."""
        return self.decided or bool(self.comment)

    @property
    def given(self) -> set[int]:
        """The labels that the verdict gives to voxels of the region."""
        if self.verdict is Verdict.EDIT:
            return set(np.unique(self.edited[self.mask]).tolist())
        return {self.organ} if self.verdict is Verdict.INCLUDE else set()

    @cached_property
    def packed(self) -> dict[str, str | None]:
        """Mask (`voxels`, eight to the byte) and `edited`, compressed, as text."""
        edited = self.edited
        return {"voxels": _pack(np.packbits(self.mask)), "edited": None if edited is None else _pack(edited)}


def masks(found: FoundRegions) -> list[tuple[Region, Box, np.ndarray]]:
    """Box and mask of each region; the box lies in the CT's array."""
    boxes = boxes_of(found.labels)
    masks = []
    for region in found.regions:
        box = boxes[region.label - 1] if 0 < region.label <= len(boxes) else None
        if box is None:
            raise ReviewError(f"The label map of the regions lacks region {region.rank}; find the regions again.")
        place = box if found.box is None else nested(found.box, box)
        masks.append((region, place, found.labels[box] == region.label))
    return masks


def boxes_of(labels: np.ndarray) -> list[Box | None]:
    """Find the box of each label 1, 2, ... in a label map; None for one that is nowhere."""
    near = occupied_rows(labels)
    boxes = ndimage.find_objects(labels[near]) if labels[near].size else []  # it fails where nothing is
    return [box and nested(near, box) for box in boxes]


def covered(box: Box, regions: Iterable[ReviewRegion]) -> np.ndarray:
    """Which voxels of the box belong to one of the regions."""
    covered = np.zeros(shape_of(box), bool)
    for region in regions:
        inner = intersection(box, region.box)
        if inner:
            covered[within(inner, box)] |= region.mask[within(inner, region.box)]
    return covered


def changed_boxes(before: Iterable[ReviewRegion], after: Iterable[ReviewRegion]) -> tuple[Box, ...]:
    """Boxes of the regions whose part of the corrected segmentation may differ."""

    def effects(regions: Iterable[ReviewRegion]) -> dict[str, tuple[Any, ...]]:
        return {
            each.region_id: (each.verdict, each.organ, id(each.edited), each.box) for each in regions if each.decided
        }

    old, new = effects(before), effects(after)
    return tuple(
        (new.get(key) or old[key])[-1] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    )


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
