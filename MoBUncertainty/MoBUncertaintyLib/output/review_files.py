"""A results folder under review: its review, what a decisions file makes of it, and its CT."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from reprlib import repr as short  # what others wrote may be long
from typing import TYPE_CHECKING

import numpy as np

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.decisions import Decisions, require
from MoBUncertaintyLib.output.exchange import read_settings
from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.output.results_folder import Results
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.refinement.clicks import Click
from MoBUncertaintyLib.review.description import RegionDescriber
from MoBUncertaintyLib.review.record import SCHEMA_VERSION
from MoBUncertaintyLib.review.region import ReviewRegion, Verdict
from MoBUncertaintyLib.review.review import Review
from MoBUncertaintyLib.review.state import YEARS

if TYPE_CHECKING:
    import SimpleITK as sitk

BACKGROUND = "background"
"""What a decisions file calls the label 0, beside its value."""

_SAME_PLACE_MM = 1.0  # people round


def review_of(results: Results) -> Review:
    """Begin the review of a results folder; nothing is decided yet."""
    settings = read_settings({"provenance": results.prediction.provenance})
    return Review(results.prediction, RegionDescriber(results.prediction).describe_all(results.region_map, settings))


def apply_decisions(results: Results, decisions: Decisions) -> Review:
    """Review a results folder as the decisions say.

    Raises:
        ReviewError: They belong to another prediction, name a region or a label that is not there, click where nothing
            was predicted, or are signed with regions left undecided.
    """
    path, review = decisions.path, review_of(results)
    stated = decisions.data.get("predicted_sha256")
    require(stated in (None, review.digest), path, "it belongs to another prediction than these results")
    labels = {label.name: label.value for label in results.prediction.labels}
    if decisions.data["schema_version"] == SCHEMA_VERSION:
        review = Review.from_dict(decisions.data, results.prediction)
        given = {int(value) for region in review.regions for value in np.unique(region.given)}
        require(given <= {0, *labels.values()}, path, "it gives voxels to a label that the model does not have")
        return review
    by_rank = {region.region.rank: region for region in review.regions}
    review.take_clicks(_clicks(decisions, by_rank, {BACKGROUND: 0} | labels), rank=False)
    for entry in decisions.entries:
        what = f"region {entry.rank}"
        require(entry.rank in by_rank, path, f"it decides {what}, but there are {len(by_rank)} regions")
        region, place = by_rank[entry.rank], entry.centroid_ras
        moved = place is not None and np.linalg.norm(np.subtract(place, region.region.centroid_ras)) > _SAME_PLACE_MM
        require(not moved, path, f"its {what} lies elsewhere; use the {RECORD} of the export as it was written")
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
        review.sign(*decisions.signer)
    return review


def reviewed_case(
    found: Results, decisions: Decisions | None = None, ct: str | Path | None = None
) -> tuple[ReviewedCase, list[Path] | None]:
    """Review results as decisions say, or begin their review; returns the CT's DICOM files too.

    Args:
        found: The results.
        decisions: What was decided; None: nothing.
        ct: As for `find_ct`.

    Raises:
        ImageError, ReviewError: As for `find_ct` and `apply_decisions`.
    """
    image, dicom_files = find_ct(found.prediction, ct)
    return ReviewedCase(image, apply_decisions(found, decisions) if decisions else review_of(found)), dicom_files


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
        raise ImageError(f"The image {path if path.name else ''} is not there any more; say where it is with --ct.")
    read = read_image(path, given.get("series"))
    if given.get("sha256") and read.sha256 != given["sha256"]:
        raise ImageError(f"{path} is not the image of these results (its SHA-256 differs); choose with --ct.")
    image = read.image
    ours, theirs = grid_of(image).matrix(), prediction.grid.matrix()
    if image.GetSize()[::-1] != prediction.shape or not np.allclose(ours, theirs, atol=1e-2):
        raise ImageError(f"{path} has other voxels than the results; choose the image they were made from with --ct.")
    return image, list(read.files) if read.is_dicom else None


def _clicks(decisions: Decisions, by_rank: dict[int, ReviewRegion], labels: dict[str, int]) -> list[Click]:
    """Make the clicks of a decisions file; of those without a time, the later in the file is the later one."""
    used = {click.click_id for click in decisions.clicks}
    free = (name for number in range(1, 2**31) if (name := f"c{number}") not in used)
    now = datetime.now().astimezone()
    clicks = []
    for number, click in enumerate(decisions.clicks, 1):
        what, region = f"click {number}", click.region
        there = region is None or region in by_rank
        require(there, decisions.path, f"{what} lies in region {region}, but there are {len(by_rank)} regions")
        label = _value(click.label, labels, decisions.path, what)
        time = now + timedelta(microseconds=number) if click.time is None else click.time
        require(time.year in YEARS, decisions.path, f"the year {time.year} of {what} is not possible")
        time = time if time.tzinfo else time.astimezone()
        region_id = None if region is None else by_rank[region].region_id
        clicks.append(Click(click.click_id or next(free), click.points_ras, label, time, region_id))
    return clicks


def _value(label: int | str, labels: dict[str, int], path: Path, what: str) -> int:
    value = labels.get(label) if isinstance(label, str) else label
    require(value in labels.values(), path, f"the label {short(label)} of {what} is not one of {', '.join(labels)}")
    assert value is not None
    return value
