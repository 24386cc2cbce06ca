"""The fake prediction with its review."""

from __future__ import annotations

from dataclasses import replace

from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.review.review import Review
from support.fake_case import Case, fake_case


def fake_review(case: Case | None = None, **decisions: str) -> ReviewedCase:
    """A case under review.

    Args:
        case: What `fake_case` made.
        **decisions: Verdicts by region, such as `r1="include"`.
    """
    case = case or fake_case()
    given = {"input": {"name": "ct.nii.gz", "sha256": "a" * 64, "path": "/home/jane/ct"}}
    prediction = replace(case.prediction, provenance=case.prediction.provenance | given, warnings=[])
    review = Review(prediction, case.regions)
    for name, verdict in decisions.items():
        review.decide(name.removeprefix("r"), verdict)
    return ReviewedCase(case.image, review)
