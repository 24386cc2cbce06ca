"""The reviews that a calibration is fitted to: exports that are signed off, unchanged, and of the model at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MoBUncertaintyLib.conformal.volumes import StatedVolume
from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.files.json_input import is_number
from MoBUncertaintyLib.files.names import printable
from MoBUncertaintyLib.output.review_export import DECIDED, RECORD, checking, read_export
from MoBUncertaintyLib.refinement.evidence import Evidence


@dataclass(frozen=True)
class SignedCase:
    """What one review says.

    Attributes:
        folder: Of its export.
        ct_sha256: Of the image; None: not known.
        evidence: Of each label, where the reader has decided.
        deviations: From the model's ordinary cases (`Suitability`); none if it was not compared with any.
        volumes: Of each label by its name, in the order of `evidence`: what the prediction states, and what the
            reader made of it in ml.
    """

    folder: Path
    ct_sha256: str | None
    evidence: tuple[Evidence, ...]
    deviations: Mapping[str, float]
    volumes: Mapping[str, tuple[StatedVolume, float]]


def find_reviews(folders: Iterable[Path]) -> list[Path]:
    """List exports: those given, and those in the folders given or in results folders there.

    Raises:
        ReviewError: A folder holds none.
    """
    found = []
    for folder in folders:
        inside = [folder / RECORD, *sorted(folder.glob(f"*/{RECORD}")), *sorted(folder.glob(f"*/*/{RECORD}"))]
        exports = [path.parent for path in inside if path.is_file()]
        if not exports:
            raise ReviewError(f"{folder} holds no exported review; give folders with a {RECORD}.")
        found += exports
    return list(dict.fromkeys(found))


def read_cases(folders: Iterable[Path], digest: str) -> tuple[list[SignedCase], list[str]]:
    """Read reviews.

    Args:
        folders: Of exports.
        digest: Of the model that must have predicted them.

    Returns:
        The cases, and one sentence on each review that is refused.
    """
    cases: list[SignedCase] = []
    refused = []
    for folder in folders:
        try:
            case = read_case(folder, digest)
            twice = [each for each in cases if case.ct_sha256 and each.ct_sha256 == case.ct_sha256]
            if twice:
                raise ReviewError(f"The review in {folder} is of the same image as that in {twice[0].folder}.")
            cases.append(case)
        except ReviewError as error:
            refused.append(str(error))
    return cases, refused


def read_case(folder: Path, digest: str) -> SignedCase:
    """Read a review; arguments as for `read_cases`.

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
    return SignedCase(folder, sha256 if isinstance(sha256, str) else None, evidence, _deviations(record), volumes)


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
