"""A decisions file: what a reader decided outside of Slicer.

It is the `report.json` of an export, which holds what `Review.to_dict` makes, or written by hand:

    {"schema": "mob-uncertainty review", "schema_version": 2,
     "clicks": [{"points_ras": [[-12.5, 40.0, 7.5]], "label": "pancreas", "region": 1},
                {"points_ras": [[-20.0, 38.5, 9.0], [-22.5, 38.5, 9.0]], "label": "background"}],
     "regions": [{"rank": 1, "verdict": "accept", "comment": "tail of the organ"}, {"rank": 2, "verdict": "include"}],
     "signature": {"name": "A. Reader"}}

It holds the final state: first all clicks hold together, then the verdicts are given, whatever the order in the file. A
region that was decided before some of the clicks names those that held then, `"clicks": ["c1"]`, by their `"id"`.
Regions that it does not name stay undecided. A `report.json` is taken only as it was written, with the files of its
export that lie beside it: one whose SHA-256 is missing or wrong is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from reprlib import repr as short  # what others wrote may be long
from typing import Any

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.files.integrity import IntegrityError, check_manifest, check_seal, is_plain_name
from MoBUncertaintyLib.files.json_input import JsonError, is_number, is_whole, read_object
from MoBUncertaintyLib.output.report import SCHEMA as REPORT_SCHEMA
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.refinement.clicks import Point
from MoBUncertaintyLib.review.click_record import CLICK_ID, MAX_POINTS
from MoBUncertaintyLib.review.record import SCHEMA, SCHEMA_VERSION
from MoBUncertaintyLib.review.region import Verdict

BY_HAND = 2
"""Version of the schema for who writes a decisions file: what was found and drawn is not in it."""

_KEYS = {"schema", "schema_version", "predicted_sha256", "ijk_to_ras", "settings", "regions", "clicks", "signature"}
_REGION_KEYS = {"id", "rank", "number", "verdict", "label", "comment", "region", "clicks"}
_CLICK_KEYS = {"points_ras", "label", "id", "time", "region"}


@dataclass(frozen=True)
class Decision:
    """What a decisions file says about one region.

    Attributes:
        rank: Of the region, as found.
        verdict: The reader's.
        label: Value or name of the label to include as.
        comment: The reader's.
        centroid_ras: Where it lies, if that is said.
        clicks: Ids of those that held when it was decided; None: all.
    """

    rank: int
    verdict: Verdict
    label: int | str | None
    comment: str
    centroid_ras: Point | None
    clicks: tuple[str, ...] | None


@dataclass(frozen=True)
class DecisionClick:
    """A click of a decisions file; `label` is a label's value or name, `region` the rank of the region it lies in."""

    points_ras: tuple[Point, ...]
    label: int | str
    click_id: str | None
    time: datetime | None
    region: int | None


@dataclass(frozen=True)
class Decisions:
    """A decisions file, checked as far as it can be without the results.

    Attributes:
        path: The file.
        data: Its review, as it stands.
        entries: What it says about each region, if it was written by hand.
        clicks: Its clicks, likewise.
        signer: Name and time of the signature, if it was written by hand; None if it is not signed.
    """

    path: Path
    data: dict[str, Any]
    entries: tuple[Decision, ...]
    clicks: tuple[DecisionClick, ...]
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
            require(isinstance(data, dict), path, "it holds no review")
        require(data.get("schema") == SCHEMA, path, f'its "schema" is not "{SCHEMA}"')
        version = data.get("schema_version")
        require(
            is_whole(version) and version in (BY_HAND, SCHEMA_VERSION),
            path,
            f'its "schema_version" is {short(version)}, not {BY_HAND}',
        )
        if version == SCHEMA_VERSION:
            check_seal(data)
            return Decisions(path, data, (), (), None)
    except OSError as error:
        raise ReviewError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except JsonError as error:
        raise ReviewError(f"{path} cannot be used: {error}; correct it.") from error
    except IntegrityError as error:
        raise ReviewError(
            f"{path} cannot be used: {error}; copy the whole export again, or write a decisions file by hand."
        ) from error
    _check_keys(data, _KEYS, path, "it")
    require("regions" in data or "clicks" in data, path, 'it has neither "regions" nor "clicks"')
    regions, clicks = data.get("regions", []), data.get("clicks", [])
    for name, entries in (("regions", regions), ("clicks", clicks)):
        require(isinstance(entries, list), path, f'"{name}" must be a list')
    given = _clicks(clicks, path)
    decided = tuple(_decision(entry, number, path) for number, entry in enumerate(regions, 1))
    ranks = [entry.rank for entry in decided]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    require(not twice, path, f"it decides region {twice[0] if twice else ''} twice")
    ids = {click.click_id for click in given}
    for entry in decided:
        unknown = sorted(set(entry.clicks or ()) - ids)
        what = f"region {entry.rank} was decided with click {short(unknown[0] if unknown else '')}, which"
        require(not unknown, path, f"{what} is not there")
    return Decisions(path, data, decided, given, _signer(data.get("signature"), path))


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


def _decision(entry: Any, number: int, path: Path) -> Decision:
    where = f"entry {number} of its regions"
    require(isinstance(entry, dict), path, f"{where} is not an object")
    rank = entry.get("rank")
    require(is_whole(rank) and rank > 0, path, f'{where} has no "rank" from 1 on')
    where = f"region {rank}"
    _check_keys(entry, _REGION_KEYS, path, where)
    verdict, label, comment = entry.get("verdict"), entry.get("label"), entry.get("comment", "")
    require(
        isinstance(verdict, str) and verdict in set(Verdict),
        path,
        f"the verdict of {where} is {short(verdict)}, not one of {', '.join(Verdict)}",
    )
    require(label is None or is_whole(label) or isinstance(label, str), path, f"the label of {where} is no label")
    require(isinstance(comment, str), path, f"the comment of {where} is no text")
    held = entry.get("clicks")
    texts = held is None or (isinstance(held, list) and all(isinstance(each, str) for each in held))
    require(texts, path, f"the clicks of {where} are no list of ids")
    place = _centroid(entry.get("region"), path, where)
    return Decision(rank, Verdict(verdict), label, comment, place, None if held is None else tuple(held))


def _centroid(region: Any, path: Path, where: str) -> Point | None:
    if region is None:
        return None
    place = _point(region.get("centroid_ras") if isinstance(region, dict) else None)
    require(place is not None, path, f"{where} does not say where it lies")
    return place


def _clicks(entries: Sequence[Any], path: Path) -> tuple[DecisionClick, ...]:
    clicks = tuple(_click(entry, number, path) for number, entry in enumerate(entries, 1))
    ids = [click.click_id for click in clicks if click.click_id]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    require(not twice, path, f"two of its clicks are called {twice[0] if twice else ''}")
    require(sum(len(click.points_ras) for click in clicks) <= MAX_POINTS, path, "it has too many clicks")
    return clicks


def _click(entry: Any, number: int, path: Path) -> DecisionClick:
    where = f"click {number}"
    require(isinstance(entry, dict), path, f"{where} is not an object")
    _check_keys(entry, _CLICK_KEYS, path, where)
    points: Any = entry.get("points_ras")
    places = [_point(point) for point in points] if isinstance(points, list) else []
    known = tuple(place for place in places if place is not None)
    require(0 < len(known) == len(places), path, f'{where} has no "points_ras", a list of [R, A, S] in mm')
    label, click_id, region = entry.get("label"), entry.get("id"), entry.get("region")
    require(is_whole(label) or isinstance(label, str), path, f"{where} has no label")
    named = click_id is None or (isinstance(click_id, str) and CLICK_ID.fullmatch(click_id) is not None)
    require(named, path, f"the id of {where} is {short(click_id)}, not c1, c2, ...")
    if isinstance(region, str) and region.isascii() and region.isdecimal() and len(region) < 10:
        region = int(region)
    require(region is None or is_whole(region), path, f"the region of {where} is {short(region)}, not a rank")
    return DecisionClick(known, label, click_id, _time(entry.get("time"), path, f"the time of {where}"), region)


def _point(values: Any) -> Point | None:
    if not (isinstance(values, list) and len(values) == 3 and all(map(is_number, values))):
        return None
    r, a, s = (float(value) for value in values)
    return r, a, s


def _time(time: Any, path: Path, what: str) -> datetime | None:
    try:
        return datetime.fromisoformat(time) if time is not None else None
    except (TypeError, ValueError):
        raise ReviewError(f"{path} cannot be used: {what} is {short(time)}, not as 2026-05-31T14:30.") from None


def _signer(signature: Any, path: Path) -> tuple[str, datetime | None] | None:
    if signature is None:
        return None
    name: Any = signature.get("name") if isinstance(signature, dict) else None
    require(isinstance(name, str) and bool(name.strip()), path, "its signature has no name")
    return name, _time(signature.get("time"), path, "its signature's time")


def _check_keys(data: Mapping[str, Any], known: set[str], path: Path, where: str) -> None:
    unknown: Sequence[str] = sorted(set(data) - known)
    require(not unknown, path, f"{where} has an unknown entry {short(unknown[0] if unknown else '')}")


def require(condition: bool, path: Path, problem: str) -> None:
    """Refuse a decisions file.

    Raises:
        ReviewError: The condition does not hold.
    """
    if not condition:
        raise ReviewError(f"{path} cannot be used: {problem}.")
