"""A review as a JSON object: verdicts, comments, signature, and the voxels of regions and edits.

It is whole, so that nothing that others can draw in is read back: the segmentation that a scene or an export shows is
made from it. Its SHA-256 tells whether it is as it was stored. That finds damage and careless edits; it is no
cryptographic signature, because whoever changes a record on purpose can compute its SHA-256 anew.

Arrays are (z, y, x).
"""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from textwrap import shorten
from typing import Any

import numpy as np

from MoBUncertaintyLib.errors import ReviewError, SettingsError
from MoBUncertaintyLib.files.integrity import check_seal, seal
from MoBUncertaintyLib.files.json_input import is_whole
from MoBUncertaintyLib.geometry import Box, Grid, hull, largest_shift, shape_of, within
from MoBUncertaintyLib.regions.finder import Region
from MoBUncertaintyLib.regions.settings import RegionSettings
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict

SCHEMA = "mob-uncertainty review"
SCHEMA_VERSION = 4

Describe = Callable[[Box, np.ndarray], dict[str, Any]]
"""Describes the region that a mask is in a box, as `description.RegionDescriber` does."""

_ID = re.compile("[1-9][0-9]{0,8}")
_YEARS = range(1970, 2200)
_LONGEST_NAME = 100
_JOINERS = "\u200c\u200d"  # of Persian and Indian scripts; Python calls them not printable
_SAME_PLACE_MM = 0.01  # files round
_LARGEST_BOXES = 2**27  # voxels of all regions' boxes; with a large CT, eight times its own


class MisplacedReviewError(ReviewError):
    """The review belongs to an image that lies elsewhere."""


@dataclass(frozen=True)
class Signature:
    """Who signed the review off, and when, with its time zone."""

    name: str
    time: datetime

    @classmethod
    def of(cls, name: str, time: datetime) -> Signature:
        """Make a signature of what a reader has entered; a time that names no zone is local time.

        Raises:
            ReviewError: The name is empty, too long or holds control characters, or the time is out of range.
        """
        name = " ".join(name.split())
        if not name:
            raise ReviewError("There is no name to sign with; enter the reviewer's name.")
        if len(name) > _LONGEST_NAME or not all(each.isprintable() or each in _JOINERS for each in name):
            raise ReviewError(
                f"The name to sign with must be one line of at most {_LONGEST_NAME} printable characters; shorten it."
            )
        if time.year not in _YEARS:
            raise ReviewError(f"The year {time.year} of the signature is not possible; correct its time.")
        return cls(name, time if time.tzinfo else time.astimezone())


@dataclass(frozen=True)
class StoredReview:
    """What a record holds; its grid is the image's, but for rounding."""

    grid: Grid
    regions: tuple[ReviewRegion, ...]
    settings: RegionSettings
    signature: Signature | None


def write_record(
    predicted_sha256: str,
    grid: Grid,
    settings: RegionSettings,
    regions: Sequence[ReviewRegion],
    signature: Signature | None,
) -> dict[str, Any]:
    """Make the record of a review, ready for JSON.

    Args:
        predicted_sha256: Tells which prediction it is the review of.
        grid: Where its voxels lie.
        settings: How the regions were found.
        regions: In order of rank.
        signature: None: not signed.
    """
    return seal(
        {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "predicted_sha256": predicted_sha256,
            "ijk_to_ras": grid.matrix().tolist(),
            "settings": asdict(settings),
            "regions": [_write_region(region) for region in regions],
            "signature": signature and {"name": signature.name, "time": signature.time.isoformat(timespec="seconds")},
        }
    )


def read_record(
    data: Mapping[str, Any], predicted_sha256: str, shape: tuple[int, ...], grid: Grid, describe: Describe
) -> StoredReview:
    """Read a record. Where the regions are and what the reader said is taken from it; the rest is described anew.

    Args:
        data: From `write_record`.
        predicted_sha256: Of the prediction at hand.
        shape: Of the prediction at hand.
        grid: Where its voxels lie.
        describe: Describes a region.

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
        _check_place(matrix, shape, grid)
        signed = data["signature"]
        return StoredReview(
            Grid.from_matrix(matrix),
            _read_regions(data["regions"], shape, describe),
            RegionSettings.from_dict(data["settings"]),
            None if signed is None else Signature.of(signed["name"], datetime.fromisoformat(signed["time"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error, SettingsError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)  # a KeyError's text is the bare key
        problem = shorten(said, 120, placeholder="...")  # others' text may be in it
        raise ReviewError(f"The stored review is damaged ({problem}); review the case again.") from error


def plain_text(text: str) -> str:
    """Turn a comment into what every file can hold: control characters but line breaks and tabs are left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) != "Cc").strip()


def _write_region(region: ReviewRegion) -> dict[str, Any]:
    return {
        "id": region.region_id,
        "rank": region.region.rank,
        "number": region.number,
        "verdict": region.verdict.value,
        "label": region.label,
        "comment": region.comment,
        "region": asdict(region.region),
        "first_voxel": [s.start for s in region.box],
        "size": list(region.mask.shape),
        **region.packed,
    }


def _read_regions(
    entries: Sequence[Mapping[str, Any]], shape: tuple[int, ...], describe: Describe
) -> tuple[ReviewRegion, ...]:
    boxes = [_read_box(entry, shape) for entry in entries]
    volume = sum(int(np.prod(shape_of(box))) for box in boxes)
    if volume > max(_LARGEST_BOXES, 8 * int(np.prod(shape))):
        raise ValueError("its regions are larger than the image")
    regions = tuple(
        _read_region(entry, rank, box, describe)
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


def _read_region(entry: Mapping[str, Any], rank: int, box: Box, describe: Describe) -> ReviewRegion:
    size = shape_of(box)
    count = int(np.prod(size))
    bits = np.frombuffer(_unpack(entry["voxels"], -(-count // 8)), np.uint8)
    mask = np.unpackbits(bits, count=count).astype(bool).reshape(size)
    verdict, number, region_id = Verdict(entry["verdict"]), entry["number"], entry["id"]
    edited = None
    if verdict is Verdict.EDIT:
        edited = np.where(mask, np.frombuffer(_unpack(entry["edited"], count), np.uint8).reshape(size), np.uint8(0))
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
    region = Region(rank=rank, number=number, **describe(box, mask))
    return ReviewRegion(region_id, region, box, mask, verdict, label, edited, entry["comment"])


def _read_box(entry: Mapping[str, Any], shape: tuple[int, ...]) -> Box:
    first, size = entry["first_voxel"], entry["size"]
    if not all(
        isinstance(a, int) and isinstance(n, int) and 0 <= a < a + n <= most
        for a, n, most in zip(first, size, shape, strict=True)
    ):
        raise ValueError("a region lies outside of the image")
    return tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))


def _check_place(matrix: np.ndarray, shape: tuple[int, ...], grid: Grid) -> None:
    if not largest_shift(matrix, grid.matrix(), shape) < _SAME_PLACE_MM:
        raise MisplacedReviewError("The review belongs to an image that lies elsewhere; review this one anew.")


def _unpack(text: str, size: int) -> bytes:
    """Unpack as many bytes as there must be, and never more."""
    stream = zlib.decompressobj()
    content = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError("voxels are missing")
    return content
