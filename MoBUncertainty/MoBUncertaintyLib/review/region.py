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
from MoBUncertaintyLib.regions.finder import Region, Regions


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
        region: How it was found; its `rank` and `number` are those of the review.
        box: Where it lies in the volume.
        mask: bool, fills the box.
        verdict: The reader's.
        label: Value of the label that INCLUDE gives to the region.
        edited: uint8 segmentation that EDIT gives to the region; fills the box, counts inside the mask.
        comment: The reader's.
    """

    region_id: str
    region: Region
    box: Box
    mask: np.ndarray = field(repr=False)
    verdict: Verdict = Verdict.PENDING
    label: int | None = None
    edited: np.ndarray | None = field(default=None, repr=False)
    comment: str = ""

    @property
    def number(self) -> int:
        """Its value in the map of all regions."""
        return self.region.number

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
            assert self.edited is not None
            return set(np.unique(self.edited[self.mask]).tolist())
        return {self.label or 0} if self.verdict is Verdict.INCLUDE else set()

    @cached_property
    def packed(self) -> dict[str, str | None]:
        """Mask (`voxels`, eight to the byte) and `edited`, compressed, as text."""
        edited = self.edited
        return {"voxels": _pack(np.packbits(self.mask)), "edited": None if edited is None else _pack(edited)}


def masks(found: Regions) -> list[tuple[Region, Box, np.ndarray]]:
    """List each region with its box in the CT's array, and the mask that fills it.

    Raises:
        ReviewError: The map lacks a region.
    """
    boxes = boxes_of(found.map)
    masks = []
    for region in found.ranked:
        box = boxes[region.number - 1] if 0 < region.number <= len(boxes) else None
        if box is None:
            raise ReviewError(f"The map of the regions lacks region {region.rank}; find the regions again.")
        masks.append((region, nested(found.box, box), found.map[box] == region.number))
    return masks


def boxes_of(region_map: np.ndarray) -> list[Box | None]:
    """Find the box of each region 1, 2, ... in a map of them; None for one that is nowhere."""
    near = occupied_rows(region_map)
    boxes = ndimage.find_objects(region_map[near]) if region_map[near].size else []  # it fails where nothing is
    return [box and nested(near, box) for box in boxes]


def covered(box: Box, regions: Iterable[ReviewRegion]) -> np.ndarray:
    """Mark which voxels of the box belong to one of the regions."""
    covered = np.zeros(shape_of(box), bool)
    for region in regions:
        inner = intersection(box, region.box)
        if inner:
            covered[within(inner, box)] |= region.mask[within(inner, region.box)]
    return covered


def changed_boxes(before: Iterable[ReviewRegion], after: Iterable[ReviewRegion]) -> tuple[Box, ...]:
    """List the boxes of the regions whose part of the corrected segmentation may differ."""

    def effects(regions: Iterable[ReviewRegion]) -> dict[str, tuple[Any, ...]]:
        return {
            each.region_id: (each.verdict, each.label, id(each.edited), each.box) for each in regions if each.decided
        }

    old, new = effects(before), effects(after)
    return tuple(
        (new.get(key) or old[key])[-1] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    )


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
