"""A doubtful region under review: what the reader said about it, and where it lies. Arrays are (z, y, x)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.geometry import Box, common_parts, shape_of
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.review.refinement.clicks import Click


class Verdict(StrEnum):
    """What the reader makes of a region."""

    PENDING = "pending"
    """Not decided yet."""
    ACCEPT = "accept"
    """The prediction is right there."""
    INCLUDE = "include"
    """What is doubtful in the region is organ."""
    EXCLUDE = "exclude"
    """What is doubtful in the region is background."""
    EDIT = "edit"
    """The reader has drawn what is organ there."""


@dataclass(frozen=True)
class Found:
    """A region as it was found: its description, the mask that fills its box, how it was found, the clicks then."""

    region: Region
    mask: np.ndarray = field(repr=False)
    settings: RegionSettings
    clicks: tuple[Click, ...] = ()


@dataclass(frozen=True)
class ReviewRegion:
    """A region and what the reader said about it.

    While it is pending it follows the clicks (see `following`). A verdict freezes it: it then keeps `labels`, `clicks`
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
