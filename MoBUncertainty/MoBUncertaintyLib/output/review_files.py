"""A results folder under review: its image, and what a reader has decided outside of Slicer, in a decisions file.

A decisions file is the `report.json` of an export, which holds what `Review.to_dict` makes and is taken only as it was
written, with the files of its export that lie beside it; or it is written by hand:

    {"schema": "mob-uncertainty review", "schema_version": 2,
     "clicks": [{"points_ras": [[-12.5, 40.0, 7.5]], "label": "pancreas", "region": 1},
                {"points_ras": [[-20.0, 38.5, 9.0], [-22.5, 38.5, 9.0]], "label": "background"},
                {"extent": "lock", "label": "pancreas"},
                {"extent": "outline", "points_ras": [[0, 30, 9], [8, 30, 9], [8, 36, 9]], "label": "duodenum"}],
     "regions": [{"rank": 1, "verdict": "accept", "comment": "tail of the organ"}, {"rank": 2, "verdict": "include"}],
     "signature": {"name": "A. Reader"}}

First all clicks hold together, then the verdicts are given, whatever the order in the file. A region that was decided
before some of the clicks names those that held then, `"clicks": ["c1"]`, by their `"id"`. Regions that it does not name
stay undecided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from reprlib import repr as short  # what others wrote may be long
from typing import TYPE_CHECKING, Any

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, ReviewError, reporting_out_of_memory, require
from MoBUncertaintyLib.base.integrity import IntegrityError, check_manifest, check_seal, is_plain_name
from MoBUncertaintyLib.base.json_input import JsonError, is_whole, read_object
from MoBUncertaintyLib.base.schema import from_json
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.report import SCHEMA as REPORT_SCHEMA
from MoBUncertaintyLib.output.results_folder import Results, read_results
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.review.record import BY_HAND, CLICK_ID, MAX_POINTS, SCHEMA, SCHEMA_VERSION
from MoBUncertaintyLib.review.refinement.clicks import Click, Extent, Point
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.state import YEARS

if TYPE_CHECKING:
    import SimpleITK as sitk

BACKGROUND = "background"  # what a decisions file calls the label 0, beside its value

_SAME_PLACE_MM = 1.0  # people round


@dataclass(frozen=True)
class Place:
    """Where a region lies."""

    centroid_ras: Point


@dataclass(frozen=True)
class Decision:
    """What a decisions file says about one region; `clicks` are those in effect when it was decided (default: all)."""

    rank: int
    verdict: Verdict
    label: int | str | None = None
    comment: str = ""
    region: Place | None = None
    clicks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("'rank' must be 1 or more")


@dataclass(frozen=True)
class DecisionClick:
    """A click of a decisions file; `label` is a label's value or name, `region` the rank of the region it lies in."""

    label: int | str
    points_ras: tuple[Point, ...] = ()
    extent: Extent = Extent.STROKE
    id: str | None = None
    time: datetime | None = None
    region: int | None = None

    def __post_init__(self) -> None:
        if not self.points_ras and self.extent is not Extent.LOCK:
            raise ValueError("'points_ras' must be places, [R, A, S] in mm")
        if self.id is not None and not CLICK_ID.fullmatch(self.id):
            raise ValueError(f"'id' is {short(self.id)}, not c1, c2, ...")


@dataclass(frozen=True)
class Signer:
    """Who signs off, and when."""

    name: str
    time: datetime | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("'name' is empty")


@dataclass(frozen=True)
class ByHand:
    """The content of a decisions file that was written by hand."""

    schema: str
    schema_version: int
    predicted_sha256: str | None = None
    regions: tuple[Decision, ...] = ()
    clicks: tuple[DecisionClick, ...] = ()
    signature: Signer | None = None

    def __post_init__(self) -> None:
        for what, names in (
            ("it decides region {} twice", [entry.rank for entry in self.regions]),
            ("two of its clicks are called {}", [click.id for click in self.clicks if click.id]),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(what.format(twice[0]))
        ids = {click.id for click in self.clicks}
        for entry in self.regions:
            if unknown := sorted(set(entry.clicks or ()) - ids):
                raise ValueError(f"region {entry.rank} was decided with the unknown click {short(unknown[0])}")
        if sum(len(click.points_ras) for click in self.clicks) > MAX_POINTS:
            raise ValueError("it has too many clicks")


@dataclass(frozen=True)
class Decisions:
    """A decisions file, checked as far as it can be without the results: its review, and what was written by hand."""

    path: Path
    data: dict[str, Any]
    by_hand: ByHand | None = None


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Say in the user's words why a decisions file cannot be used: raise `ReviewError` for a `ValueError`."""
    try:
        yield
    except OSError as error:
        raise ReviewError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except JsonError as error:
        raise ReviewError(f"{path} cannot be used: {error}; correct it.") from error
    except IntegrityError as error:
        raise ReviewError(
            f"{path} cannot be used: {error}; copy the whole export again, or write a decisions file by hand."
        ) from error
    except ValueError as error:
        raise ReviewError(f"{path} cannot be used: {error}.") from error


def read_decisions(path: str | Path) -> Decisions:
    """Read a decisions file strictly: a misspelt word must not pass for a decision that was not made.

    Raises `ReviewError`, which says what and where, also if it has changed since an export wrote it.
    """
    path = Path(path)
    with _checked(path):
        data: Any = read_object(path)
        if data.get("schema") == REPORT_SCHEMA:
            check_seal(data)
            # Of the export's other files, those that still lie beside its record.
            files = data.get("files") if path.name == RECORD and isinstance(data.get("files"), dict) else {}
            beside = {name for name in files if is_plain_name(name) and (path.parent / name).exists()}
            if beside:
                check_manifest(path.parent, {name: files[name] for name in beside})
            data = data.get("review")
            require(isinstance(data, dict), "it holds no review")
        require(data.get("schema") == SCHEMA, f'its "schema" is not "{SCHEMA}"')
        version = data.get("schema_version")
        if is_whole(version) and version == SCHEMA_VERSION:
            check_seal(data)
            return Decisions(path, data)
        require(is_whole(version) and version == BY_HAND, f'its "schema_version" is {short(version)}, not {BY_HAND}')
        require(bool(data.keys() & {"regions", "clicks"}), 'it has neither "regions" nor "clicks"')
        return Decisions(path, data, from_json(ByHand, data))


def apply_decisions(results: Results, decisions: Decisions) -> Review:
    """Review a results folder as the decisions say.

    Raises `ReviewError` if they belong to another prediction, name a region or label that is not there, click where
    nothing was predicted, or are signed with regions undecided.
    """
    review = Review(results.prediction, results.regions)
    labels = {label.name: label.value for label in results.prediction.labels}
    with _checked(decisions.path):
        digest = decisions.data.get("predicted_sha256")
        require(digest in (None, review.digest), "it belongs to another prediction than these results")
        if decisions.by_hand:
            _decide(review, decisions.by_hand, labels)
            return review
        review = Review.from_dict(decisions.data, results.prediction)
        values = {int(value) for region in review.regions for value in np.unique(region.given)}
        require(values <= {0, *labels.values()}, "it assigns voxels to a label that the model does not have")
        return review


def _decide(review: Review, decisions: ByHand, labels: dict[str, int]) -> None:
    by_rank = {region.region.rank: region for region in review.regions}
    review.take_clicks(_clicks(decisions, by_rank, {BACKGROUND: 0} | labels), rank=False)
    for entry in decisions.regions:
        what = f"region {entry.rank}"
        require(entry.rank in by_rank, f"it decides {what}, but there are {len(by_rank)} regions")
        region = by_rank[entry.rank]
        if entry.region:
            moved = np.linalg.norm(np.subtract(entry.region.centroid_ras, region.region.centroid_ras))
            elsewhere = f"its {what} has another position; use the unchanged {RECORD} of the export"
            require(bool(moved <= _SAME_PLACE_MM), elsewhere)
        require(
            entry.verdict is not Verdict.EDIT,
            f"{what} was edited, and the drawing is only in the unchanged {RECORD} of an export",
        )
        label = None if entry.label is None else _value(entry.label, labels, what)
        include = entry.verdict is Verdict.INCLUDE
        review.decide(region.region_id, entry.verdict, label if include else None, entry.clicks)
        review.comment(region.region_id, entry.comment)
    if decisions.signature:
        review.sign(decisions.signature.name, decisions.signature.time)


@reporting_out_of_memory()
def open_case(folder: Path, decisions: Path | Decisions | None = None, ct: Path | None = None) -> Case:
    """Read a results folder and its image (default: where it was), to begin or go on with its review; `UserError`s."""
    decided = read_decisions(decisions) if isinstance(decisions, Path) else decisions
    results = read_results(folder)
    image, source = find_image(results, ct)
    review = apply_decisions(results, decided) if decided else None
    return Case(image, results.prediction, results.regions, source, review)


def find_image(results: Results, ct: Path | None = None) -> tuple[sitk.Image, Source]:
    """Read the image of results again; raises `ImageError` if it is missing, unreadable, or another one."""
    source = results.source
    path = ct or source.path or Path(source.name)
    if not path.name or not path.exists():
        raise ImageError(f"The image {path if path.name else ''} no longer exists; give its new path with --image.")
    read = read_image(path, source.series)
    if source.sha256 and read.sha256 != source.sha256:
        raise ImageError(f"{path} is not the image of these results (other SHA-256); give the right one with --image.")
    image, prediction = read.image, results.prediction
    ours, theirs = grid_of(image).matrix(), prediction.grid.matrix()
    if image.GetSize()[::-1] != prediction.shape or not np.allclose(ours, theirs, atol=1e-2):
        raise ImageError(f"{path} does not fit the results; give the image that they were made from with --image.")
    return image, replace(source, dicom_files=read.files if read.is_dicom else ())


def _clicks(decisions: ByHand, by_rank: dict[int, ReviewRegion], labels: dict[str, int]) -> list[Click]:
    """Make the clicks of a decisions file; of those without a time, the later in the file is the later one."""
    used = {click.id for click in decisions.clicks}
    free = (name for number in range(1, 2**31) if (name := f"c{number}") not in used)
    now, clicks = datetime.now().astimezone(), []
    for number, click in enumerate(decisions.clicks, 1):
        what, rank = f"click {number}", click.region
        require(rank is None or rank in by_rank, f"{what} lies in region {rank}, but there are {len(by_rank)} regions")
        label = _value(click.label, labels, what)
        time = click.time or now + timedelta(microseconds=number)
        require(time.year in YEARS, f"the year {time.year} of {what} is not possible")
        time = time if time.tzinfo else time.astimezone()
        region_id = None if rank is None else by_rank[rank].region_id
        clicks.append(Click(click.id or next(free), click.points_ras, label, time, region_id, click.extent))
    return clicks


def _value(label: int | str, labels: dict[str, int], what: str) -> int:
    value = labels.get(label) if isinstance(label, str) else label
    require(value in labels.values(), f"the label {short(label)} of {what} is not one of {', '.join(labels)}")
    assert value is not None
    return value
