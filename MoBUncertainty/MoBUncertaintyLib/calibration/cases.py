"""The cases that a calibration is fitted to; reviews among them are signed off, unchanged, of the model at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.conformal.volumes import StatedVolume
from MoBUncertaintyLib.errors import ImageError, ReviewError
from MoBUncertaintyLib.files.json_input import is_number
from MoBUncertaintyLib.files.names import printable
from MoBUncertaintyLib.files.publishing import KEPT
from MoBUncertaintyLib.output.review_export import DECIDED, RECORD, checking, read_export
from MoBUncertaintyLib.refinement.evidence import Evidence


@dataclass(frozen=True)
class SiteCase:
    """A case whose truth a site knows: from a review or, of a labelled image, whole.

    Attributes:
        place: Folder of the review's export, or file of the image.
        image_sha256: None: not known.
        evidence: Of each label, where the truth is known.
        deviations: From the model's ordinary cases (`Suitability`); none if it was not compared with any.
        volumes: Of each label by its name, in the order of `evidence`: what the prediction states, and the truth in ml.
        labelled: The labels were drawn without the model's segmentation.
    """

    place: Path
    image_sha256: str | None
    evidence: tuple[Evidence, ...]
    deviations: Mapping[str, float]
    volumes: Mapping[str, tuple[StatedVolume, float]]
    labelled: bool = False

    @property
    def what(self) -> str:
        """Name it in a sentence."""
        return f"The image {self.place}" if self.labelled else f"The review in {self.place}"


def find_reviews(folders: Iterable[Path]) -> list[Path]:
    """List exports: those given, and the latest of each reader in the folders given or in results folders there.

    Raises:
        ReviewError: A folder holds none.
    """
    found = []
    for folder in folders:
        inside = [folder / RECORD, *sorted(folder.glob(f"*/{RECORD}")), *sorted(folder.glob(f"*/*/{RECORD}"))]
        exports = [path.parent for path in inside if path.is_file()]
        exports = [each for each in exports if each == folder or not KEPT.fullmatch(each.name)]
        if not exports:
            raise ReviewError(f"{folder} holds no exported review; give folders with a {RECORD}.")
        found += exports
    return list(dict.fromkeys(found))


def counted(cases: Sequence[SiteCase]) -> str:
    """Say how many cases there are of each kind, such as `5 reviewed`."""
    labelled = sum(case.labelled for case in cases)
    counts = {"reviewed": len(cases) - labelled, "labelled": labelled}
    return " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def gather(reads: Iterable[Callable[[], SiteCase]]) -> tuple[list[SiteCase], list[str]]:
    """Read cases, each image once.

    Args:
        reads: Each reads a case, or raises a `ReviewError` or `ImageError` that says why it cannot be used.

    Returns:
        The cases, and one sentence on each that is refused.
    """
    cases: list[SiteCase] = []
    refused = []
    for read in reads:
        try:
            case = read()
            twice = [each for each in cases if case.image_sha256 and each.image_sha256 == case.image_sha256]
            if twice:
                raise ReviewError(f"{case.what} is of the same image as {twice[0].place}.")
            cases.append(case)
        except (ReviewError, ImageError) as error:
            refused.append(str(error))
    return cases, refused


def read_reviews(folders: Iterable[Path], digest: str) -> list[Callable[[], SiteCase]]:
    """Make what reads each review, for `gather`.

    Args:
        folders: Of exports.
        digest: Of the model that must have predicted them.
    """
    return [partial(read_review, folder, digest) for folder in folders]


def read_review(folder: Path, digest: str) -> SiteCase:
    """Read a review; arguments as for `read_reviews`.

    Raises:
        ReviewError: It cannot be used; the message says why.
    """
    with checking(folder):
        record, signed_off = read_export(folder)
    if not signed_off:
        raise ReviewError(f"The review in {folder} is not signed off; sign it off and export it again.")
    model = record.get("model")
    if not isinstance(model, dict) or model.get("digest") != digest:
        name = printable(str(model.get("name") if isinstance(model, dict) else None))[:100]
        raise ReviewError(f"The review in {folder} is of another model, {name}.")
    if not isinstance(record.get(DECIDED), dict) or not record[DECIDED]:
        raise ReviewError(f"The review in {folder} was exported by an older version; export it again.")
    try:
        evidence = tuple(map(Evidence.from_text, record[DECIDED].values()))
        volumes = {str(row["name"]): _volumes(row) for row in record["labels"]}
        if len(volumes) != len(evidence):
            raise ValueError("its labels are not those of the decided voxels")
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "its labels are not as they should be"
        raise ReviewError(f"The review in {folder} cannot be used: {reason}; export it again.") from error
    if not any(each.voxels for each in evidence):
        raise ReviewError(f"The review in {folder} decides nothing; it tells no label of any voxel.")
    sha256 = record["ct"].get("sha256") if isinstance(record.get("ct"), dict) else None
    return SiteCase(folder, sha256 if isinstance(sha256, str) else None, evidence, _deviations(record), volumes)


def error_growth(evidence: Sequence[Evidence], temperature: float, keep_probability: bool = False) -> float:
    """Compute the logarithm of the factor by which a temperature changes the expected error of a case.

    Arguments as for `Evidence.moments`.
    """

    def expected(scaled_by: float) -> float:
        maps = ((each, each.moments(scaled_by, keep_probability)[0]) for each in evidence)
        return sum(float(each.counts.sum(axis=0) @ np.minimum(p, 1 - p)) for each, p in maps)

    before, after = expected(1.0), expected(temperature)
    return math.log(after / before) if before > 0 and after > 0 else 0.0


def _volumes(row: Mapping[str, Any]) -> tuple[StatedVolume, float]:
    numbers = [row[name] for name in ("predicted_ml", "expected_error_ml", "corrected_ml")]
    if not all(is_number(number) and 0 <= number < math.inf for number in numbers):
        raise ValueError("its volumes are not as they should be")
    predicted, error, corrected = map(float, numbers)
    return StatedVolume(predicted, error), corrected


def _deviations(record: Mapping[str, Any]) -> dict[str, float]:
    stated = record.get("suitability")
    given = stated.get("deviations") if isinstance(stated, dict) else None
    if not isinstance(given, dict):
        return {}
    return {name: float(value) for name, value in given.items() if is_number(value) and value >= 0}
