"""The fake prediction with its review, of a CT from a file or from DICOM."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.output.case import Case, Source
from MoBUncertaintyLib.review.review import Review
from support.dicom_files import write_series
from support.fake_case import FakeCase, changed_case, fake_case


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


def dicom_case(folder: Path, tags: dict[str, str] | None = None, **options: Any) -> tuple[list[Path], FakeCase]:
    """Write the CT of a fake case as a series, whose tags may differ; the case lies on the grid that is read there."""
    folder.mkdir(exist_ok=True)
    case = fake_case(**options)
    files = write_series(folder, case.image, tags)
    read = read_image(folder).image

    def onto(image: sitk.Image) -> sitk.Image:
        # SimpleITK may read the slices in the other order: what is at a place stays there.
        return sitk.Resample(image, read, sitk.Transform(), sitk.sitkNearestNeighbor)

    return files, changed_case(case, onto, lambda _: read)


def from_dicom(case: Case, files: Iterable[Path]) -> Case:
    """The case with the DICOM files that its image came from."""
    return replace(case, source=replace(case.source, dicom_files=tuple(files)))
