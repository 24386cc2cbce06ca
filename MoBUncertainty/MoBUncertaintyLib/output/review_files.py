"""A results folder under review: its review, what a decisions file makes of it, and its CT."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from reprlib import repr as short  # what others wrote may be long
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.base.errors import ImageError, reporting_out_of_memory
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.output.decisions import Decisions, moment_of, read_decisions, require
from MoBUncertaintyLib.output.results_folder import Results, read_results
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.review.record import SCHEMA_VERSION
from MoBUncertaintyLib.review.refinement.clicks import Click
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.state import YEARS

if TYPE_CHECKING:
    import SimpleITK as sitk

BACKGROUND = "background"
"""What a decisions file calls the label 0, beside its value."""

_SAME_PLACE_MM = 1.0  # people round


def apply_decisions(results: Results, decisions: Decisions) -> Review:
    """Review a results folder as the decisions say.

    Raises:
        ReviewError: They belong to another prediction, name a region or a label that is not there, click where nothing
            was predicted, or are signed with regions left undecided.
    """
    path, review = decisions.path, Review(results.prediction, results.regions)
    digest = decisions.data.get("predicted_sha256")
    require(digest in (None, review.digest), path, "it belongs to another prediction than these results")
    labels = {label.name: label.value for label in results.prediction.labels}
    if decisions.data["schema_version"] == SCHEMA_VERSION:
        review = Review.from_dict(decisions.data, results.prediction)
        values = {int(value) for region in review.regions for value in np.unique(region.given)}
        require(values <= {0, *labels.values()}, path, "it gives voxels to a label that the model does not have")
        return review
    by_rank = {region.region.rank: region for region in review.regions}
    review.take_clicks(_clicks(decisions, by_rank, {BACKGROUND: 0} | labels), rank=False)
    for entry in decisions.entries:
        what = f"region {entry.rank}"
        require(entry.rank in by_rank, path, f"it decides {what}, but there are {len(by_rank)} regions")
        region = by_rank[entry.rank]
        predicted_place = region.region.centroid_ras
        moved = np.linalg.norm(np.subtract(entry.region.centroid_ras, predicted_place)) if entry.region else 0.0
        there = bool(moved <= _SAME_PLACE_MM)
        require(there, path, f"its {what} lies elsewhere; use the {RECORD} of the export as it was written")
        require(
            entry.verdict is not Verdict.EDIT,
            path,
            f"{what} was edited, and only the {RECORD} of an export, as it was written, holds what was drawn",
        )
        label = None if entry.label is None else _value(entry.label, labels, path, what)
        include = entry.verdict is Verdict.INCLUDE
        review.decide(region.region_id, entry.verdict, label if include else None, entry.clicks)
        review.comment(region.region_id, entry.comment)
    if decisions.signer:
        review.sign(decisions.signer.name, moment_of(decisions.signer.time))
    return review


@reporting_out_of_memory()
def open_case(folder: Path, decisions: Path | Decisions | None = None, ct: Path | None = None) -> Case:
    """Read a results folder and its image, to begin or go on with its review.

    Args:
        folder: Results folder.
        decisions: What was decided: a JSON file with clicks and verdicts, or the `report.json` of an export; None:
            nothing.
        ct: Where the image is. Default: where it was.

    Raises:
        UserError: Whatever the user can mend.
    """
    decided = read_decisions(decisions) if isinstance(decisions, Path) else decisions
    results = read_results(folder)
    image, source = find_image(results, ct)
    review = apply_decisions(results, decided) if decided else None
    return Case(image, results.prediction, results.regions, source, review)


def find_image(results: Results, ct: Path | None = None) -> tuple[sitk.Image, Source]:
    """Read the image of results again, and make sure that it is the same; its source has its DICOM files.

    Raises:
        ImageError: It is not there, cannot be read, or is another one.
    """
    source = results.source
    path = ct or source.path or Path(source.name)
    if not path.name or not path.exists():
        raise ImageError(f"The image {path if path.name else ''} is not there any more; say where it is with --ct.")
    read = read_image(path, source.series)
    if source.sha256 and read.sha256 != source.sha256:
        raise ImageError(f"{path} is not the image of these results (its SHA-256 differs); choose with --ct.")
    image, prediction = read.image, results.prediction
    ours, theirs = grid_of(image).matrix(), prediction.grid.matrix()
    if image.GetSize()[::-1] != prediction.shape or not np.allclose(ours, theirs, atol=1e-2):
        raise ImageError(f"{path} has other voxels than the results; choose the image they were made from with --ct.")
    return image, replace(source, dicom_files=read.files if read.is_dicom else ())


def _clicks(decisions: Decisions, by_rank: dict[int, ReviewRegion], labels: dict[str, int]) -> list[Click]:
    """Make the clicks of a decisions file; of those without a time, the later in the file is the later one."""
    used = {click.id for click in decisions.clicks}
    free = (name for number in range(1, 2**31) if (name := f"c{number}") not in used)
    now = datetime.now().astimezone()
    clicks = []
    for number, click in enumerate(decisions.clicks, 1):
        what, region = f"click {number}", click.region
        there = region is None or region in by_rank
        require(there, decisions.path, f"{what} lies in region {region}, but there are {len(by_rank)} regions")
        label = _value(click.label, labels, decisions.path, what)
        time = moment_of(click.time) or now + timedelta(microseconds=number)
        require(time.year in YEARS, decisions.path, f"the year {time.year} of {what} is not possible")
        time = time if time.tzinfo else time.astimezone()
        region_id = None if region is None else by_rank[region].region_id
        clicks.append(Click(click.id or next(free), click.points_ras, label, time, region_id))
    return clicks


def _value(label: int | str, labels: dict[str, int], path: Path, what: str) -> int:
    value = labels.get(label) if isinstance(label, str) else label
    require(value in labels.values(), path, f"the label {short(label)} of {what} is not one of {', '.join(labels)}")
    assert value is not None
    return value
