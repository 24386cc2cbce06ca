"""The fake prediction with its review."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.regions.uncertainty import components
from MoBUncertaintyLib.review.review import Review
from support.fake_case import Case, fake_case


def fake_review(case: Case | None = None, **decisions: str) -> ReviewedCase:
    """A case under review.

    Args:
        case: What `fake_case` made.
        **decisions: Verdicts by region, such as `r1="include"`.
    """
    case = case or fake_case()
    predicted = sitk.GetArrayFromImage(case.prediction.segmentation)
    review = Review(predicted, case.regions, grid_of(case.image))
    for name, verdict in decisions.items():
        review.decide(name.removeprefix("r"), verdict)
    probability, variance = (
        dict(enumerate(map(np.array, components(image)), 1))
        for image in (case.prediction.probability, case.prediction.variance)
    )
    info = case.prediction.provenance | {"input": {"name": "ct.nii.gz", "sha256": "a" * 64, "path": "/home/jane/ct"}}
    return ReviewedCase(case.image, review, case.card.labels, probability, variance, info)
