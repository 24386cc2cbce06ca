"""Where the review of each reader of a case lies, and how far it is; what Slicer writes of it while the reader works.

In the case's results folder, `review-NAME.json` is a decisions file, kept up to date while the reader works, and
`review-NAME` is the export of the signed review, `review-NAME.kept-1` an earlier one. Needs only the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.base.errors import OutputError, ReviewError
from MoBUncertaintyLib.base.integrity import digest_of
from MoBUncertaintyLib.base.json_input import read_object
from MoBUncertaintyLib.base.names import distinct_name
from MoBUncertaintyLib.base.publishing import absolute, write_file

PREFIX, SUFFIX = "review-", ".json"


@dataclass(frozen=True)
class CaseReview:
    """The review of one reader."""

    reader: str  # who has signed it or, before that, whom the file is named after; empty: unknown
    signed: bool  # whether it is signed off
    regions_left: int  # number of regions to decide
    export: Path | None = None  # folder of the corrected segmentation, where there is one

    @classmethod
    def of(cls, record: Mapping[str, Any], reader: str, export: Path | None = None) -> CaseReview:
        """Describe the record of a review (`Review.to_dict`), the reader's until it is signed; raises `ReviewError`."""
        try:
            signature = record["signature"]
            left = sum(each["verdict"] == "pending" and not each["resolved"] for each in record["regions"])
            return cls(str(signature["name"]) if signature else reader, bool(signature), left, export)
        except (KeyError, TypeError) as error:
            raise ReviewError("A review is damaged; move it away, or export it again.") from error

    @property
    def text(self) -> str:
        """Who, and how far: "A. Reader: signed"."""
        left = f"{self.regions_left} region{'s' if self.regions_left != 1 else ''} left"
        return f"{self.reader or 'unknown reader'}: {'signed' if self.signed else left}"


class CaseState(StrEnum):
    """How far a case is."""

    NOT_RUN = "not run"  # it has no results yet
    FAILED = "failed"
    READY = "ready"  # it has results, and no review
    IN_REVIEW = "in review"  # a review is begun
    SIGNED = "signed"  # every review that is begun is signed off

    @classmethod
    def of(cls, reviews: Sequence[CaseReview]) -> CaseState:
        """Tell the state of a case with results by its reviews."""
        if not reviews:
            return cls.READY
        return cls.SIGNED if all(review.signed for review in reviews) else cls.IN_REVIEW


def reader_in_name(reader: str) -> str:
    """Write a reader's name as files are named after it; `names.text_of` reads it."""
    return distinct_name(" ".join(reader.split()))


def review_file(results: Path, reader: str) -> Path:
    """Name the decisions file of a reader."""
    return results / f"{PREFIX}{reader_in_name(reader)}{SUFFIX}"


def export_folder(results: Path, reader: str) -> Path:
    """Name the folder of a reader's signed review."""
    return results / f"{PREFIX}{reader_in_name(reader)}"


def check_version(results: Path, reader: str, versions: Collection[str | None]) -> None:
    """Raise `ReviewError` if the review on disk is none of these versions: another program has changed it.

    `versions` are the `digest_of` of what the reader goes on from, and of what was to be written since.
    """
    path = review_file(results, reader)
    try:
        version = digest_of(read_object(path)) if path.exists() else None
    except (OSError, ValueError):
        version = "damaged"
    if version not in versions:
        text = "was changed in the meantime, perhaps in another window; open the case again and continue from there."
        raise ReviewError(f"The review of {reader} in {path} {text}")


def write_review(results: Path, reader: str, record: Mapping[str, Any], versions: Collection[str | None]) -> CaseReview:
    """Write a reader's decisions file, whole; raises `OutputError`, and as `check_version` does."""
    path = absolute(review_file(results, reader))

    def write(partial: Path) -> None:
        check_version(results, reader, versions)  # now that nobody else writes there
        write_decisions(partial, record)

    try:
        if not path.parent.is_dir():
            raise FileNotFoundError("the results folder is gone")
        write_file(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"The review cannot be saved in {path} ({reason}); free some space there.") from error
    export = export_folder(results, reader)
    return CaseReview.of(record, " ".join(reader.split()), export if export.is_dir() else None)


def write_decisions(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a review as it stands in a decisions file; raises `OSError`."""
    path.write_text(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
