"""A review as files: what a results folder offers for review, and the decisions file that answers it.

A decisions file is the `report.json` of an export, which holds what `Review.to_dict` makes, or written by hand:

    {"schema": "mob-uncertainty review", "schema_version": 2,
     "regions": [{"rank": 1, "verdict": "include", "comment": "tail of the organ"}, {"rank": 2, "verdict": "accept"}],
     "signature": {"name": "A. Reader"}}

Regions that it does not name stay undecided. A `report.json` is taken only as it was written, with the files of its
export that lie beside it: one whose SHA-256 is missing or wrong is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from reprlib import repr as short  # what others wrote may be long
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.errors import ImageError, ReviewError
from MoBUncertaintyLib.files.integrity import IntegrityError, check_manifest, check_seal, is_plain_name
from MoBUncertaintyLib.files.json_input import JsonError, is_whole, read_object
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.exchange import read_settings
from MoBUncertaintyLib.output.report import SCHEMA as REPORT_SCHEMA
from MoBUncertaintyLib.output.results_folder import Results
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import SCHEMA, SCHEMA_VERSION
from MoBUncertaintyLib.review.region import Verdict
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    import SimpleITK as sitk

BY_HAND = 2
"""Version of the schema for who writes a decisions file: what was found and drawn is not in it."""

_KEYS = {"schema", "schema_version", "predicted_sha256", "ijk_to_ras", "settings", "regions", "signature"}
_REGION_KEYS = {"id", "rank", "number", "verdict", "label", "comment", "region"}
_SAME_PLACE_MM = 1.0  # people round


@dataclass(frozen=True)
class Decision:
    """What a decisions file says about one region; `label` is its value or name."""

    rank: int
    verdict: Verdict
    label: int | str | None
    comment: str
    centroid_ras: tuple[float, float, float] | None


@dataclass(frozen=True)
class Decisions:
    """A decisions file, checked as far as it can be without the results.

    Attributes:
        path: The file.
        data: Its review, as it stands.
        entries: What it says about each region, if it was written by hand.
        signer: Name and time of the signature, if it was written by hand; None if it is not signed.
    """

    path: Path
    data: dict[str, Any]
    entries: tuple[Decision, ...]
    signer: tuple[str, datetime | None] | None


def read_decisions(path: str | Path) -> Decisions:
    """Read a decisions file strictly: a misspelt word must not pass for a decision that was not made.

    Raises:
        ReviewError: It cannot be read, it is no decisions file, or it has changed since an export wrote it; the message
            says what and where.
    """
    path = Path(path)
    try:
        data: Any = read_object(path)
        if data.get("schema") == REPORT_SCHEMA:
            check_record(data, path)
            data = data.get("review")
            _require(isinstance(data, dict), path, "it holds no review")
        _require(data.get("schema") == SCHEMA, path, f'its "schema" is not "{SCHEMA}"')
        version = data.get("schema_version")
        _require(
            is_whole(version) and version in (BY_HAND, SCHEMA_VERSION),
            path,
            f'its "schema_version" is {short(version)}, not {BY_HAND}',
        )
        if version == SCHEMA_VERSION:
            check_seal(data)
            return Decisions(path, data, (), None)
    except OSError as error:
        raise ReviewError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except JsonError as error:
        raise ReviewError(f"{path} cannot be used: {error}; correct it.") from error
    except IntegrityError as error:
        raise ReviewError(
            f"{path} cannot be used: {error}; copy the whole export again, or write a decisions file by hand."
        ) from error
    _check_keys(data, _KEYS, path, "it")
    regions = data.get("regions")
    _require(isinstance(regions, list), path, '"regions" must be a list')
    entries = tuple(_decision(entry, number, path) for number, entry in enumerate(regions, 1))
    ranks = [entry.rank for entry in entries]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    _require(not twice, path, f"it decides region {twice[0] if twice else ''} twice")
    return Decisions(path, data, entries, _signer(data.get("signature"), path))


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Check that an export's record, and what lies beside it of the export, are as they were written.

    Args:
        record: Content of its `report.json`.
        path: Of that file. The export's other files are looked for only if it is still called `report.json`.

    Raises:
        IntegrityError: They are not.
    """
    check_seal(record)
    files = record.get("files")
    if path.name == RECORD and isinstance(files, dict):
        beside = {name: each for name, each in files.items() if is_plain_name(name) and (path.parent / name).exists()}
        if beside:
            check_manifest(path.parent, beside)


def review_of(results: Results) -> Review:
    """Begin the review of a results folder; nothing is decided yet."""
    settings = read_settings({"provenance": results.prediction.provenance})
    return Review(results.prediction, RegionDescriber(results.prediction).describe_all(results.region_map, settings))


def apply_decisions(results: Results, decisions: Decisions) -> Review:
    """Review a results folder as the decisions say.

    Raises:
        ReviewError: They belong to another prediction, name a region or a label that is not there, or are signed with
            regions left undecided.
    """
    path, review = decisions.path, review_of(results)
    stated = decisions.data.get("predicted_sha256")
    _require(stated in (None, review.digest), path, "it belongs to another prediction than these results")
    names = {label.name: label.value for label in results.prediction.labels}
    if decisions.data["schema_version"] == SCHEMA_VERSION:
        review = Review.from_dict(decisions.data, results.prediction)
        given = {int(value) for region in review.regions for value in np.unique(region.given)}
        _require(given <= {0, *names.values()}, path, "it gives voxels to a label that the model does not have")
        return review
    by_rank = {region.region.rank: region for region in review.regions}
    for entry in decisions.entries:
        what = f"region {entry.rank}"
        _require(entry.rank in by_rank, path, f"it decides {what}, but there are {len(by_rank)} regions")
        region, place = by_rank[entry.rank], entry.centroid_ras
        moved = place is not None and np.linalg.norm(np.subtract(place, region.region.centroid_ras)) > _SAME_PLACE_MM
        _require(not moved, path, f"its {what} lies elsewhere; use the {RECORD} of the export as it was written")
        _require(
            entry.verdict is not Verdict.EDIT,
            path,
            f"{what} was edited, and only the {RECORD} of an export, as it was written, holds what was drawn",
        )
        label: Any = names.get(entry.label, entry.label) if isinstance(entry.label, str) else entry.label
        _require(
            label is None or label in names.values(),
            path,
            f"the label {short(label)} of {what} is not one of {', '.join(names)}",
        )
        review.decide(region.region_id, entry.verdict, label if entry.verdict is Verdict.INCLUDE else None)
        review.comment(region.region_id, entry.comment)
    if decisions.signer:
        review.sign(*decisions.signer)
    return review


def find_ct(prediction: Prediction, ct: str | Path | None = None) -> tuple[sitk.Image, list[Path] | None]:
    """Read the CT of a prediction again, and make sure that it is the same.

    Args:
        prediction: As a results folder holds it.
        ct: Where it is; None: where it was.

    Returns:
        The CT, and its DICOM files if it came from DICOM.

    Raises:
        ImageError: It is not there, cannot be read, or is another one.
    """
    given = prediction.provenance["input"]
    path = Path(ct or given.get("path") or given.get("name") or "")
    if not path.name or not path.exists():
        raise ImageError(f"The CT {path if path.name else ''} is not there any more; say where it is with --ct.")
    read = read_image(path, given.get("series"))
    if given.get("sha256") and read.sha256 != given["sha256"]:
        raise ImageError(f"{path} is not the CT these results were made from (its SHA-256 differs); choose with --ct.")
    image = read.image
    ours, theirs = grid_of(image).matrix(), prediction.grid.matrix()
    if image.GetSize()[::-1] != prediction.shape or not np.allclose(ours, theirs, atol=1e-2):
        raise ImageError(f"{path} has other voxels than the results; choose the CT they were made from with --ct.")
    return image, list(read.files) if read.is_dicom else None


def _decision(entry: Any, number: int, path: Path) -> Decision:
    where = f"entry {number} of its regions"
    _require(isinstance(entry, dict), path, f"{where} is not an object")
    rank = entry.get("rank")
    _require(is_whole(rank) and rank > 0, path, f'{where} has no "rank" from 1 on')
    where = f"region {rank}"
    _check_keys(entry, _REGION_KEYS, path, where)
    verdict, label, comment = entry.get("verdict"), entry.get("label"), entry.get("comment", "")
    _require(
        isinstance(verdict, str) and verdict in set(Verdict),
        path,
        f"the verdict of {where} is {short(verdict)}, not one of {', '.join(Verdict)}",
    )
    _require(label is None or is_whole(label) or isinstance(label, str), path, f"the label of {where} is no label")
    _require(isinstance(comment, str), path, f"the comment of {where} is no text")
    return Decision(rank, Verdict(verdict), label, comment, _centroid(entry.get("region"), path, where))


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
    name: Any = signature.get("name") if isinstance(signature, dict) else None
    _require(isinstance(name, str) and bool(name.strip()), path, "its signature has no name")
    time = signature.get("time")
    try:
        return name, datetime.fromisoformat(time) if time is not None else None
    except (TypeError, ValueError):
        raise ReviewError(
            f"{path} cannot be used: its signature's time {short(time)} is not as 2026-05-31T14:30."
        ) from None


def _check_keys(data: Mapping[str, Any], known: set[str], path: Path, where: str) -> None:
    unknown: Sequence[str] = sorted(set(data) - known)
    _require(not unknown, path, f"{where} has an unknown entry {short(unknown[0] if unknown else '')}")


def _require(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise ReviewError(f"{path} cannot be used: {problem}.")
