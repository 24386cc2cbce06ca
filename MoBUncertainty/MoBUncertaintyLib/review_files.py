"""A review as files: what a results folder offers for review, and the decisions file that answers it.

A decisions file is what `Review.to_dict` makes, the `report.json` of an export, or written by hand:

    {"schema": "mob-uncertainty review", "schema_version": 1,
     "regions": [{"rank": 1, "verdict": "include", "comment": "tail of the organ"}, {"rank": 2, "verdict": "accept"}],
     "signature": {"name": "A. Reader"}}

Regions that it does not name stay undecided. Edits, and regions that were found with another threshold, need the label
maps beside it that an export writes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.card import Label
from MoBUncertaintyLib.doubt import Grid, components
from MoBUncertaintyLib.errors import ImageError, ReviewError
from MoBUncertaintyLib.export import REGIONS, SEGMENTATION
from MoBUncertaintyLib.images import read_image
from MoBUncertaintyLib.json_input import SIZE_LIMIT as JSON_LIMIT
from MoBUncertaintyLib.region_settings import RegionSettings
from MoBUncertaintyLib.regions import COLUMNS, Region, Regions
from MoBUncertaintyLib.report import SCHEMA as REPORT_SCHEMA
from MoBUncertaintyLib.report import ReviewedCase
from MoBUncertaintyLib.results import Results, file_digest
from MoBUncertaintyLib.review import SCHEMA, SCHEMA_VERSION, Review, Verdict

UNKNOWN_COLOUR = (128, 174, 128)  # Slicer's tissue; for results that do not tell

_KEYS = {"schema", "schema_version", "predicted_sha256", "ijk_to_ras", "settings", "regions", "signature"}
_REGION_KEYS = {"id", "rank", "label", "verdict", "organ", "comment", "region"}
_SAME_PLACE_MM = 1.0  # positions in regions.csv are rounded


@dataclass(frozen=True)
class Decision:
    """What a decisions file says about one region; `organ` is a label's value or name."""

    rank: int
    verdict: Verdict
    organ: int | str | None
    comment: str
    centroid_ras: tuple[float, float, float] | None


@dataclass(frozen=True)
class Decisions:
    """A decisions file, checked as far as it can be without the results.

    Attributes:
        path: The file.
        data: Its review, as it stands.
        entries: What it says about each region.
        signer: Name and time of the signature; None if it is not signed.
    """

    path: Path
    data: dict[str, Any]
    entries: tuple[Decision, ...]
    signer: tuple[str, datetime | None] | None


def read_decisions(path: str | Path) -> Decisions:
    """Read a decisions file strictly: a misspelt word must not pass for a decision that was not made.

    Raises:
        ReviewError: It cannot be read, or it is no decisions file; the message says what and where.
    """
    path = Path(path)
    data = _read_json(path)
    if data.get("schema") == REPORT_SCHEMA:
        data = data.get("review")
        _require(isinstance(data, dict), path, "it holds no review")
    _require(data.get("schema") == SCHEMA, path, f'its "schema" is not "{SCHEMA}"')
    version = data.get("schema_version")
    _require(version == SCHEMA_VERSION, path, f'its "schema_version" is {version!r}, not {SCHEMA_VERSION}')
    _check_keys(data, _KEYS, path, "it")
    regions = data.get("regions")
    _require(isinstance(regions, list), path, '"regions" must be a list')
    entries = tuple(_decision(entry, number, path) for number, entry in enumerate(regions, 1))
    ranks = [entry.rank for entry in entries]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    _require(not twice, path, f"it decides region {twice[0] if twice else ''} twice")
    return Decisions(path, data, entries, _signer(data.get("signature"), path))


def review_of(results: Results) -> Review:
    """The review of a results folder, nothing decided yet."""
    settings = RegionSettings.from_dict(results.info["regions"]["settings"])
    regions = Regions(tuple(_region(row) for row in results.table), results.regions, settings)
    return Review(sitk.GetArrayFromImage(results.segmentation), regions, Grid.of(results.segmentation))


def apply_decisions(results: Results, decisions: Decisions) -> Review:
    """Review a results folder as the decisions say.

    Raises:
        ReviewError: They belong to another prediction, name a region or an organ that is not there, need label maps
            that are not there, or are signed with regions left undecided.
    """
    path, review = decisions.path, review_of(results)
    stated = decisions.data.get("predicted_sha256")
    _require(stated in (None, review.digest), path, "it belongs to another prediction than these results")
    if stated and (path.parent / REGIONS).is_file() and (path.parent / SEGMENTATION).is_file():
        maps = [_read_map(path.parent / name) for name in (REGIONS, SEGMENTATION)]
        return Review.from_dict(decisions.data, review.predicted, *maps)
    by_rank = {region.region.rank: region for region in review.regions}
    names = {organ["name"]: organ["value"] for organ in results.info["organs"]}
    for entry in decisions.entries:
        what, region = f"region {entry.rank}", by_rank.get(entry.rank)
        _require(region is not None, path, f"it decides {what}, but there are {len(by_rank)} regions")
        place = entry.centroid_ras
        moved = place is not None and np.linalg.norm(np.subtract(place, region.region.centroid_ras)) > _SAME_PLACE_MM
        _require(
            not moved, path, f"its {what} lies elsewhere; keep {REGIONS} and {SEGMENTATION} of the export beside it"
        )
        _require(
            entry.verdict is not Verdict.EDIT,
            path,
            f"{what} was edited; keep {REGIONS} and {SEGMENTATION} of the export beside it",
        )
        organ = names.get(entry.organ, entry.organ)
        _require(
            organ is None or organ in names.values(),
            path,
            f"the organ {organ!r} of {what} is not one of {', '.join(names)}",
        )
        review.decide(region.region_id, entry.verdict, organ if entry.verdict is Verdict.INCLUDE else None)
        review.comment(region.region_id, entry.comment)
    if decisions.signer:
        review.sign(*decisions.signer)
    return review


def find_ct(results: Results, ct: str | Path | None = None) -> tuple[sitk.Image, list[Path] | None]:
    """Read the CT of a results folder again, and make sure that it is the same.

    Args:
        results: The results.
        ct: Where it is; None: where it was.

    Returns:
        The CT, and its DICOM files if it is a DICOM folder.

    Raises:
        ImageError: It is not there, cannot be read, or is another one.
    """
    given = results.info["input"]
    path = Path(ct or given.get("path") or given.get("name") or "")
    if not path.name or not path.exists():
        raise ImageError(f"The CT {path if path.name else ''} is not there any more; say where it is with --ct.")
    if given.get("sha256") and file_digest(path) != given["sha256"]:
        raise ImageError(f"{path} is not the CT these results were made from (its SHA-256 differs); choose with --ct.")
    image, _ = read_image(path, given.get("series"))
    matrices = [Grid.of(each).matrix() for each in (image, results.segmentation)]
    if image.GetSize() != results.segmentation.GetSize() or not np.allclose(*matrices, atol=1e-2):
        raise ImageError(f"{path} has other voxels than the results; choose the CT they were made from with --ct.")
    if not path.is_dir():
        return image, None
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), given.get("series") or "")
    return image, [Path(name) for name in names]


def reviewed_case(results: Results, ct: sitk.Image, review: Review) -> ReviewedCase:
    """A results folder and its review, as reports and exports take them."""
    labels = tuple(
        Label(organ["value"], organ["name"], organ.get("colour", UNKNOWN_COLOUR), organ["terminology"])
        for organ in results.info["organs"]
    )
    values = [label.value for label in labels]
    probability, variance = (
        dict(zip(values, map(np.array, components(image)), strict=True))  # copies, which outlive the results
        for image in (results.probability, results.variance)
    )
    return ReviewedCase(ct, review, labels, probability, variance, results.info)


def _region(row: Mapping[str, Any]) -> Region:
    """A row of regions.csv."""
    values = {name: row[name] for name in COLUMNS if not name.startswith("centroid_")}
    return Region(centroid_ras=tuple(float(row[name]) for name in COLUMNS[2:5]), **values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        _require(path.stat().st_size <= JSON_LIMIT, path, f"it is larger than {JSON_LIMIT >> 20} MB")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ReviewError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except json.JSONDecodeError as error:
        raise ReviewError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); correct it.") from error
    except (ValueError, RecursionError) as error:
        raise ReviewError(f"{path} is not a text file in JSON; give a decisions file.") from error
    _require(isinstance(data, dict), path, "it is not a JSON object")
    return data


def _decision(entry: Any, number: int, path: Path) -> Decision:
    where = f"entry {number} of its regions"
    _require(isinstance(entry, dict), path, f"{where} is not an object")
    rank = entry.get("rank")
    _require(_is_whole(rank) and rank > 0, path, f'{where} has no "rank" from 1 on')
    where = f"region {rank}"
    _check_keys(entry, _REGION_KEYS, path, where)
    verdict, organ, comment = entry.get("verdict"), entry.get("organ"), entry.get("comment", "")
    _require(
        isinstance(verdict, str) and verdict in set(Verdict),
        path,
        f"the verdict of {where} is {verdict!r}, not one of {', '.join(Verdict)}",
    )
    _require(organ is None or _is_whole(organ) or isinstance(organ, str), path, f"the organ of {where} is no label")
    _require(isinstance(comment, str), path, f"the comment of {where} is no text")
    return Decision(rank, Verdict(verdict), organ, comment, _centroid(entry.get("region"), path, where))


def _centroid(region: Any, path: Path, where: str) -> tuple[float, float, float] | None:
    if region is None:
        return None
    try:
        r, a, s = (float(value) for value in region["centroid_ras"])
    except (KeyError, TypeError, ValueError):
        raise ReviewError(f"{path} cannot be used: {where} does not say where it lies.") from None
    return r, a, s


def _signer(signature: Any, path: Path) -> tuple[str, datetime | None] | None:
    if signature is None:
        return None
    name = signature.get("name") if isinstance(signature, dict) else None
    _require(isinstance(name, str) and bool(name.strip()), path, "its signature has no name")
    time = signature.get("time")
    try:
        return name, datetime.fromisoformat(time) if time is not None else None
    except (TypeError, ValueError):
        raise ReviewError(f"{path} cannot be used: its signature's time {time!r} is not as 2026-05-31T14:30.") from None


def _read_map(path: Path) -> np.ndarray:
    try:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise ReviewError(f"{path} cannot be read; copy it again from the export.") from error


def _check_keys(data: Mapping[str, Any], known: set[str], path: Path, where: str) -> None:
    unknown: Sequence[str] = sorted(set(data) - known)
    _require(not unknown, path, f"{where} has an unknown entry {unknown[0] if unknown else ''!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise ReviewError(f"{path} cannot be used: {problem}.")
