"""A review as a JSON object: clicks, verdicts, comments, signature, the voxels of regions, and their labels.

The segmentation that a scene or an export shows is made from it. Its SHA-256 finds damage and careless edits; it is no
cryptographic signature. Arrays are (z, y, x).
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError, SettingsError, reason_of
from MoBUncertaintyLib.base.geometry import (
    Box,
    Grid,
    hull,
    intersection,
    largest_shift,
    occupied_rows,
    shape_of,
    whole,
    within,
)  # fmt: skip
from MoBUncertaintyLib.base.integrity import DIGEST, check_seal, seal
from MoBUncertaintyLib.base.schema import from_json, to_json
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region, as_stored
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent, Point
from MoBUncertaintyLib.review.region import Found, ReviewRegion, Verdict
from MoBUncertaintyLib.review.state import YEARS, Signature, State

SCHEMA = "mob-uncertainty review"
SCHEMA_VERSION = 5
BY_HAND = 2
"""The version for who writes a decisions file: what was found and drawn is not in it."""

Describe = Callable[[Box, np.ndarray], dict[str, Any]]
"""Describes the region that a mask is in a box, as `description.RegionDescriber` does."""
CheckClick = Callable[[Click], Any]

CLICK_ID = re.compile("c[1-9][0-9]{0,8}")
MAX_POINTS = 100_000
"""Of all clicks of a review: a thousand times what a reader gives."""
_ID = re.compile("[1-9][0-9]{0,8}")
_SAME_PLACE_MM = 0.01  # files round
_LARGEST_BOXES = 2**27  # voxels of all regions' boxes; with a large CT, eight times its own


class MisplacedReviewError(ReviewError):
    """The review belongs to an image that lies elsewhere."""


@dataclass(frozen=True)
class _Click:
    """A click in a record."""

    id: str
    points_ras: tuple[Point, ...]
    label: int
    time: datetime
    region: str | None
    extent: Extent

    @classmethod
    def of(cls, click: Click) -> _Click:
        return cls(click.click_id, click.points_ras, click.label, click.time, click.region_id, click.extent)

    def read(self) -> Click:
        if not CLICK_ID.fullmatch(self.id):
            raise ValueError("the id of a click is not c1, c2, ...")
        if self.time.year not in YEARS:
            raise ValueError(f"the year {self.time.year} of a click is not possible")
        return Click(self.id, self.points_ras, self.label, self.time, self.region, self.extent)


@dataclass(frozen=True)
class _Region:
    """A region in a record; clicks are named by their places among all, current ones first."""

    id: str
    rank: int
    number: int
    verdict: Verdict
    resolved: bool
    label: int | None
    comment: str
    region: Mapping[str, Any]  # its description, for who reads the file
    found_with_settings: RegionSettings | None  # default: the review's
    found_with_clicks: tuple[int, ...]
    decided_with_clicks: tuple[int, ...]
    first_voxel: tuple[int, int, int]
    size: tuple[int, int, int]
    voxels: str
    labels: str | None

    @classmethod
    def of(cls, region: ReviewRegion, settings: RegionSettings, places: dict[Click, int]) -> _Region:
        def places_of(clicks: Iterable[Click]) -> tuple[int, ...]:
            return tuple(places.setdefault(click, len(places)) for click in clicks)

        found, (z, y, x), (depth, height, width) = region.found, region.box, region.mask.shape
        return cls(
            region.region_id,
            region.region.rank,
            region.number,
            region.verdict,
            region.resolved,
            region.label,
            region.comment,
            asdict(region.region),
            None if found.settings == settings else found.settings,
            places_of(found.clicks),
            places_of(region.clicks),
            (z.start, y.start, x.start),
            (depth, height, width),
            *region.packed,
        )

    @property
    def box(self) -> Box:
        return tuple(slice(start, start + size) for start, size in zip(self.first_voxel, self.size, strict=True))

    def mask(self) -> np.ndarray:
        count = int(np.prod(self.size))
        bits = np.frombuffer(_unpack(self.voxels, -(-count // 8)), np.uint8)
        return np.unpackbits(bits, count=count).astype(bool).reshape(self.size)

    def read(self, rank: int, settings: RegionSettings, clicks: Sequence[Click], describe: Describe) -> ReviewRegion:
        """Read the region as it was found, and what the reader said."""
        mask, pending, include = self.mask(), self.verdict is Verdict.PENDING, self.verdict is Verdict.INCLUDE
        for problem, wrong in {
            "a region is empty": not mask.any(),
            "its ranks are not 1, 2, ...": self.rank != rank,
            "an id is no number": not _ID.fullmatch(self.id),
            "a number is out of range": not 0 < self.number < 2**16,
            "a label is out of range": include and not (self.label is not None and 0 < self.label < 2**8),
            "a comment is no plain text": plain_text(self.comment) != self.comment,
        }.items():
            if wrong:
                raise ValueError(problem)
        region = as_stored(Region(rank=rank, number=self.number, **describe(self.box, mask)), self.region)
        labels = None
        if not pending:
            drawn = np.frombuffer(_unpack(self.labels or "", mask.size), np.uint8).reshape(mask.shape)
            labels = np.where(mask, drawn, np.uint8(0))
        return ReviewRegion(
            self.id,
            Found(region, mask, self.found_with_settings or settings, _clicks_at(self.found_with_clicks, clicks)),
            region,
            self.box,
            mask,
            self.verdict,
            self.label if include else None,
            labels,
            () if pending else _clicks_at(self.decided_with_clicks, clicks),
            comment=self.comment,
        )


@dataclass(frozen=True)
class _Record:
    """A record, without its SHA-256."""

    schema: str
    schema_version: int
    predicted_sha256: str  # of the prediction that it is the review of
    ijk_to_ras: tuple[tuple[float, float, float, float], ...]
    settings: RegionSettings
    click_settings: ClickSettings
    regions: tuple[_Region, ...]
    clicks: tuple[_Click, ...]
    earlier_clicks: tuple[_Click, ...]  # that hold no more, but with which regions were found or decided
    signature: Signature | None


class StoredReview(NamedTuple):
    """What a record holds: regions as they were found and what the reader said; `region.restore` completes them."""

    grid: Grid
    click_settings: ClickSettings
    regions: tuple[ReviewRegion, ...]
    settings: RegionSettings
    clicks: tuple[Click, ...]
    signature: Signature | None


def in_order(clicks: Iterable[Click]) -> tuple[Click, ...]:
    """Sort clicks as they were given."""
    return tuple(sorted(clicks, key=lambda click: click.order))


def write_click(click: Click) -> dict[str, Any]:
    """Make a click ready for JSON."""
    return dict(to_json(_Click.of(click)))


def write_record(predicted_sha256: str, grid: Grid, click_settings: ClickSettings, state: State) -> dict[str, Any]:
    """Make the record of a review, ready for JSON; `predicted_sha256` tells which prediction it is the review of."""
    places = {click: place for place, click in enumerate(state.clicks)}
    regions = tuple(_Region.of(region, state.settings, places) for region in state.regions)
    clicks, now = tuple(map(_Click.of, places)), len(state.clicks)
    record = _Record(
        SCHEMA,
        SCHEMA_VERSION,
        predicted_sha256,
        grid.matrix().tolist(),
        state.settings,
        click_settings,
        regions,
        clicks[:now],
        clicks[now:],
        state.signature,
    )
    return seal(to_json(record))


def read_record(
    data: Mapping[str, Any], predicted_sha256: str, prediction: Prediction, describe: Describe, check: CheckClick
) -> StoredReview:
    """Read a record. Where the regions are and what the reader said is taken from it; the rest is described anew.

    `check` raises `ReviewError` for a click that cannot be one of this prediction. Raises it if this is no record, has
    changed since it was stored, or belongs to another prediction or place.
    """
    try:
        if (data["schema"], data["schema_version"]) != (SCHEMA, SCHEMA_VERSION):
            raise ReviewError("The review was stored by another version of this module; review the case again.")
        check_seal(data)
        if data["predicted_sha256"] != predicted_sha256:
            raise ReviewError("The review belongs to another prediction; review this one from the start.")
        record = from_json(_Record, {name: entry for name, entry in data.items() if name != DIGEST})
        matrix = np.array(record.ijk_to_ras, float).reshape(4, 4)
        if not largest_shift(matrix, prediction.grid.matrix(), prediction.shape) < _SAME_PLACE_MM:
            raise MisplacedReviewError("The review belongs to an image in another position; start a new review.")
        clicks = _read_clicks(record, check)
        current, signed = in_order(clicks[: len(record.clicks)]), record.signature
        regions = _read_regions(record, prediction.shape, clicks, describe)
        if not {click.region_id for click in current} <= {None, *(region.region_id for region in regions)}:
            raise ValueError("the region of a click is not there")
        signature = signed and Signature.of(signed.name, signed.time)
        return StoredReview(
            Grid.from_matrix(matrix), record.click_settings, regions, record.settings, current, signature
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error, SettingsError) as error:
        raise ReviewError(f"The stored review is damaged ({reason_of(error)}); review the case again.") from error


def _read_clicks(record: _Record, check: CheckClick) -> list[Click]:
    """Read all clicks in the order of their places; those that hold come first."""
    try:
        clicks = [click.read() for click in (*record.clicks, *record.earlier_clicks)]
        if len({click.id for click in record.clicks}) < len(record.clicks):
            raise ValueError("two clicks have one id")
        if sum(len(click.points_ras) or 1 for click in clicks) > MAX_POINTS:
            raise ValueError("it has too many clicks")
        for click in clicks:
            check(click)
    except ReviewError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return clicks


def _read_regions(
    record: _Record, shape: tuple[int, ...], clicks: Sequence[Click], describe: Describe
) -> tuple[ReviewRegion, ...]:
    for entry in record.regions:
        _check_inside(entry, shape)
    volume = sum(int(np.prod(entry.size)) for entry in record.regions)
    if volume > max(_LARGEST_BOXES, 8 * int(np.prod(shape))):
        raise ValueError("its regions are larger than the image")
    regions = tuple(
        entry.read(rank, record.settings, clicks, describe) for rank, entry in enumerate(record.regions, start=1)
    )
    for what in ("region_id", "number"):
        if len({getattr(region, what) for region in regions}) < len(regions):
            raise ValueError(f"two regions have one {what}")
    box = hull(region.box for region in regions)
    taken = np.zeros(shape_of(box), bool)
    for region in regions:
        occupied = taken[within(region.box, box)]
        if (occupied & region.mask).any():
            raise ValueError("two regions share voxels")
        occupied |= region.mask
    return regions


def _clicks_at(places: Sequence[int], clicks: Sequence[Click]) -> tuple[Click, ...]:
    if not all(0 <= place < len(clicks) for place in places):
        raise ValueError("a region was decided with a click that does not exist")
    return in_order(clicks[place] for place in places)


def digest_of(segmentation: np.ndarray) -> str:
    """Compute the SHA-256 of a predicted segmentation: of its shape, where it is occupied, and the voxels there.

    It tells which prediction a record is the review of.
    """
    box = occupied_rows(segmentation)
    head = f"{segmentation.shape} {[(s.start, s.stop) for s in box]}".encode()
    return hashlib.sha256(head + segmentation[box].astype(np.uint8).tobytes()).hexdigest()


def plain_text(text: str) -> str:
    """Turn a comment into what every file can hold: control characters but line breaks and tabs are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) != "Cc").strip()


def read_mask(entry: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[Box, np.ndarray]:
    """Read where a region of a record lies: its box, and the mask, as it was found, that fills the box.

    Raises `ValueError` or `zlib.error` if it is damaged.
    """
    region = from_json(_Region, entry)
    _check_inside(region, shape)
    return region.box, region.mask()


def _check_inside(region: _Region, shape: tuple[int, ...]) -> None:
    if min(region.size) < 1 or intersection(region.box, whole(shape)) != region.box:
        raise ValueError("a region lies outside the image")


def _unpack(text: str, size: int) -> bytes:
    """Unpack as many bytes as there must be, and never more."""
    stream = zlib.decompressobj()
    content = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError("voxels are missing")
    return content
