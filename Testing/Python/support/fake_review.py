"""The fake prediction with its review."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.review.review import Review
from support.fake_case import FakeCase, fake_case


def fake_review(case: FakeCase | None = None, **decisions: str) -> Case:
    """A case under review.

    Args:
        case: What `fake_case` made.
        **decisions: Verdicts by region, such as `r1="include"`.
    """
    case = case or fake_case()
    prediction = replace(case.prediction, warnings=[])
    review = Review(prediction, case.regions)
    for name, verdict in decisions.items():
        review.decide(name.removeprefix("r"), verdict)
    return Case.of(case.image, review, Source(Path("/home/jane/ct"), "ct.nii.gz", "a" * 64))


def from_dicom(case: Case, files: Iterable[Path]) -> Case:
    """The case with the DICOM files that its image came from."""
    return replace(case, source=replace(case.source, dicom_files=tuple(files)))
