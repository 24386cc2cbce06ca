"""Read the reviews of a case from its results folder; see `readers`.

An export that the command line has made there counts too, by its signature.
"""

from __future__ import annotations

from pathlib import Path

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.files.names import printable, text_of
from MoBUncertaintyLib.files.publishing import KEPT
from MoBUncertaintyLib.output.cohort.readers import PREFIX, SUFFIX, CaseReview, reader_in_name, review_file
from MoBUncertaintyLib.output.decisions import Decisions, read_decisions
from MoBUncertaintyLib.output.review_export import RECORD, checking, read_export


def read_review(results: Path, reader: str) -> Decisions | None:
    """Read a reader's decisions file; None if there is none yet.

    Raises:
        ReviewError: It is damaged.
    """
    path = review_file(results, reader)
    return read_decisions(path) if path.exists() else None


def reviews_of(results: Path) -> tuple[tuple[CaseReview, ...], tuple[str, ...]]:
    """Find the reviews in a results folder, and one sentence on each that is damaged.

    Of the reviews of one reader, the decisions file counts, which is the newest; earlier exports do not.
    """
    found: dict[str, CaseReview] = {}
    problems = []
    exports = [path for path in sorted(results.glob(f"*/{RECORD}")) if not KEPT.fullmatch(path.parent.name)]
    for path in (*exports, *sorted(results.glob(f"{PREFIX}*{SUFFIX}"))):
        try:
            review = _of_export(path.parent) if path.name == RECORD else _of_file(path)
        except ReviewError as error:
            problems.append(printable(str(error)))
        else:
            found[reader_in_name(review.reader) if review.reader else str(path)] = review
    return tuple(found.values()), tuple(problems)


def _of_export(folder: Path) -> CaseReview:
    with checking(folder):
        record, _ = read_export(folder)
    return CaseReview.of(record["review"], "", folder)


def _of_file(path: Path) -> CaseReview:
    name = path.name.removesuffix(SUFFIX)
    export, record = path.with_name(name), read_decisions(path).data
    return CaseReview.of(record, text_of(name.removeprefix(PREFIX)), export if export.is_dir() else None)
