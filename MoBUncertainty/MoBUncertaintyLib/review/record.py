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
from typing import Any

import numpy as np

from MoBUncertaintyLib.base.errors import ReviewError, SettingsError, reason_of
from MoBUncertaintyLib.base.geometry import Box, Grid, hull, largest_shift, occupied_rows, shape_of, within
from MoBUncertaintyLib.base.integrity import check_seal, seal
from MoBUncertaintyLib.base.json_input import is_whole
from MoBUncertaintyLib.model.click_settings import ClickSettings
from MoBUncertaintyLib.model.region_settings import RegionSettings
from MoBUncertaintyLib.regions.prediction import Prediction
from MoBUncertaintyLib.regions.region import Region
from MoBUncertaintyLib.review.refinement.clicks import Click
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
class StoredReview:
    """What a record holds: regions as they were found and what the reader said; `following.restore` completes them."""

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
    return {
        "id": click.click_id,
        "points_ras": [list(point) for point in click.points_ras],
        "label": click.label,
        "time": click.time.isoformat(),
        "region": click.region_id,
    }


def _read_click(entry: Mapping[str, Any]) -> Click:
    click_id, region_id, time = entry["id"], entry["region"], datetime.fromisoformat(entry["time"])
    if not (isinstance(click_id, str) and CLICK_ID.fullmatch(click_id)):
        raise ValueError("the id of a click is not c1, c2, ...")
    if not (region_id is None or isinstance(region_id, str)):
        raise ValueError("the region of a click is no id")
    if time.year not in YEARS:
        raise ValueError(f"the year {time.year} of a click is not possible")
    points = tuple((float(r), float(a), float(s)) for r, a, s in entry["points_ras"])
    return Click(click_id, points, entry["label"], time, region_id)


def _read_clicks(data: Mapping[str, Any], check: CheckClick) -> tuple[tuple[Click, ...], list[Click]]:
    """Read the clicks that hold, and all in the order of their places.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: They are damaged.
    """
    try:
        clicks, earlier = (list(map(_read_click, data[name])) for name in ("clicks", "earlier_clicks"))
        if len({click.click_id for click in clicks}) < len(clicks):
            raise ValueError("two clicks have one id")
        if sum(len(click.points_ras) for click in clicks + earlier) > MAX_POINTS:
            raise ValueError("it has too many clicks")
        for click in clicks + earlier:
            check(click)
    except ReviewError as error:
        raise ValueError(str(error).rstrip(".")) from error
    return in_order(clicks), clicks + earlier


def _clicks_at(places: Sequence[int], clicks: Sequence[Click]) -> tuple[Click, ...]:
    if not all(isinstance(place, int) and 0 <= place < len(clicks) for place in places):
        raise ValueError("a region was decided with a click that does not exist")
    return in_order(clicks[place] for place in places)


def write_record(predicted_sha256: str, grid: Grid, click_settings: ClickSettings, state: State) -> dict[str, Any]:
    """Make the record of a review, ready for JSON; `predicted_sha256` tells which prediction it is the review of."""
    places = {click: place for place, click in enumerate(state.clicks)}
    regions = [_write_region(region, state.settings, places) for region in state.regions]
    clicks, signature = list(map(write_click, places)), state.signature
    return seal(
        {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "predicted_sha256": predicted_sha256,
            "ijk_to_ras": grid.matrix().tolist(),
            "settings": asdict(state.settings),
            "click_settings": asdict(click_settings),
            "regions": regions,
            "clicks": clicks[: len(state.clicks)],
            "earlier_clicks": clicks[len(state.clicks) :],
            "signature": signature and {"name": signature.name, "time": signature.time.isoformat(timespec="seconds")},
        }
    )


def read_record(
    data: Mapping[str, Any], predicted_sha256: str, prediction: Prediction, describe: Describe, check: CheckClick
) -> StoredReview:
    """Read a record. Where the regions are and what the reader said is taken from it; the rest is described anew.

    Args:
        predicted_sha256: Of the prediction at hand.
        check: Raises ReviewError for a click that cannot be one of this prediction.

    Raises:
        ReviewError: It is no record, has changed since it was stored, or belongs to another prediction or place.
    """
    try:
        if (data["schema"], data["schema_version"]) != (SCHEMA, SCHEMA_VERSION):
            raise ReviewError("The review was stored by another version of this module; review the case again.")
        check_seal(data)
        if data["predicted_sha256"] != predicted_sha256:
            raise ReviewError("The review belongs to another prediction; review this one from the start.")
        matrix = np.array(data["ijk_to_ras"], float).reshape(4, 4)
        if not largest_shift(matrix, prediction.grid.matrix(), prediction.shape) < _SAME_PLACE_MM:
            raise MisplacedReviewError("The review belongs to an image in another position; start a new review.")
        signed, settings = data["signature"], RegionSettings.from_dict(data["settings"])
        clicks, every = _read_clicks(data, check)
        regions = _read_regions(data["regions"], prediction.shape, settings, every, describe)
        if not {click.region_id for click in clicks} <= {None, *(region.region_id for region in regions)}:
            raise ValueError("the region of a click is not there")
        return StoredReview(
            Grid.from_matrix(matrix),
            ClickSettings.from_dict(data["click_settings"]),
            regions,
            settings,
            clicks,
            None if signed is None else Signature.of(signed["name"], datetime.fromisoformat(signed["time"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error, SettingsError) as error:
        raise ReviewError(f"The stored review is damaged ({reason_of(error)}); review the case again.") from error


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

    Raises:
        KeyError, TypeError, ValueError, zlib.error: It is damaged.
    """
    box = _read_box(entry, shape)
    return box, _read_voxels(entry, box)


def _read_voxels(entry: Mapping[str, Any], box: Box) -> np.ndarray:
    count = int(np.prod(shape_of(box)))
    bits = np.frombuffer(_unpack(entry["voxels"], -(-count // 8)), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool).reshape(shape_of(box))


def _write_region(region: ReviewRegion, settings: RegionSettings, places: dict[Click, int]) -> dict[str, Any]:
    def places_of(clicks: Iterable[Click]) -> list[int]:
        return [places.setdefault(click, len(places)) for click in clicks]

    found = region.found
    return {
        "id": region.region_id,
        "rank": region.region.rank,
        "number": region.number,
        "verdict": region.verdict.value,
        "resolved": region.resolved,
        "label": region.label,
        "comment": region.comment,
        "region": asdict(region.region),
        "found_with_settings": None if found.settings == settings else asdict(found.settings),
        "found_with_clicks": places_of(found.clicks),
        "decided_with_clicks": places_of(region.clicks),
        "first_voxel": [s.start for s in region.box],
        "size": list(region.mask.shape),
        **region.packed,
    }


def _read_regions(
    entries: Sequence[Mapping[str, Any]],
    shape: tuple[int, ...],
    settings: RegionSettings,
    clicks: Sequence[Click],
    describe: Describe,
) -> tuple[ReviewRegion, ...]:
    boxes = [_read_box(entry, shape) for entry in entries]
    volume = sum(int(np.prod(shape_of(box))) for box in boxes)
    if volume > max(_LARGEST_BOXES, 8 * int(np.prod(shape))):
        raise ValueError("its regions are larger than the image")
    regions = tuple(
        _read_region(entry, rank, box, settings, clicks, describe)
        for rank, (entry, box) in enumerate(zip(entries, boxes, strict=True), 1)
    )
    for what in ("region_id", "number"):
        if len({getattr(region, what) for region in regions}) < len(regions):
            raise ValueError(f"two regions have one {what}")
    whole = hull(boxes)
    taken = np.zeros(shape_of(whole), bool)
    for region in regions:
        there = taken[within(region.box, whole)]
        if (there & region.mask).any():
            raise ValueError("two regions share voxels")
        there |= region.mask
    return regions


def _read_region(
    entry: Mapping[str, Any],
    rank: int,
    box: Box,
    settings: RegionSettings,
    clicks: Sequence[Click],
    describe: Describe,
) -> ReviewRegion:
    mask = _read_voxels(entry, box)
    verdict, number, region_id = Verdict(entry["verdict"]), entry["number"], entry["id"]
    pending = verdict is Verdict.PENDING
    label: Any = entry["label"] if verdict is Verdict.INCLUDE else None
    for problem, found in {
        "a region is empty": not mask.any(),
        "its ranks are not 1, 2, ...": entry["rank"] != rank,
        "an id is no number": not (isinstance(region_id, str) and _ID.fullmatch(region_id)),
        "a number is out of range": not (is_whole(number) and 0 < number < 2**16),
        "a label is out of range": verdict is Verdict.INCLUDE and not (is_whole(label) and 0 < label < 2**8),
        "a comment is no plain text": plain_text(entry["comment"]) != entry["comment"],
    }.items():
        if found:
            raise ValueError(problem)
    own = entry["found_with_settings"]
    settings = settings if own is None else RegionSettings.from_dict(own)
    region = Region(rank=rank, number=number, **describe(box, mask))
    drawn = None if pending else np.frombuffer(_unpack(entry["labels"], mask.size), np.uint8).reshape(mask.shape)
    return ReviewRegion(
        region_id,
        Found(region, mask, settings, _clicks_at(entry["found_with_clicks"], clicks)),
        region,
        box,
        mask,
        verdict,
        label,
        None if drawn is None else np.where(mask, drawn, np.uint8(0)),
        () if pending else _clicks_at(entry["decided_with_clicks"], clicks),
        comment=entry["comment"],
    )


def _read_box(entry: Mapping[str, Any], shape: tuple[int, ...]) -> Box:
    first, size = entry["first_voxel"], entry["size"]
    if not all(
        isinstance(a, int) and isinstance(n, int) and 0 <= a < a + n <= most
        for a, n, most in zip(first, size, shape, strict=True)
    ):
        raise ValueError("a region lies outside the image")
    return tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))


def _unpack(text: str, size: int) -> bytes:
    """Unpack as many bytes as there must be, and never more."""
    stream = zlib.decompressobj()
    content = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError("voxels are missing")
    return content
