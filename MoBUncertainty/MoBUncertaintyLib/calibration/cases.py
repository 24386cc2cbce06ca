"""The reviews that a calibration is fitted to: exports that are signed off, unchanged, and of the model at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MoBUncertaintyLib.errors import ReviewError
from MoBUncertaintyLib.files.json_input import is_number, read_object
from MoBUncertaintyLib.files.names import printable
from MoBUncertaintyLib.output.review_export import RECORD
from MoBUncertaintyLib.output.signing import verify
from MoBUncertaintyLib.refinement.evidence import Evidence


@dataclass(frozen=True)
class SignedCase:
    """What one review says.

    Attributes:
        folder: Of its export.
        ct_sha256: Of the image; None: not known.
        evidence: Of each label, where the reader has decided.
        deviations: From the model's ordinary cases (`Suitability`); none if it was not compared with any.
    """

    folder: Path
    ct_sha256: str | None
    evidence: tuple[Evidence, ...]
    deviations: Mapping[str, float]


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
    verified = verify(folder)
    if not verified.signed_off:
        raise ReviewError(f"The review in {folder} is not signed off; sign it off and export it again.")
    record = read_object(folder / RECORD)  # as it was verified, or a moment later: what follows checks all it uses
    model = record.get("model")
    if not isinstance(model, dict) or model.get("digest") != digest:
        name = printable(str(model.get("name") if isinstance(model, dict) else None))[:100]
        raise ReviewError(f"The review in {folder} is of another model, {name}.")
    if not isinstance(record.get("evidence"), dict) or not record["evidence"]:
        raise ReviewError(f"The review in {folder} was exported by an older version; export it again.")
    try:
        evidence = tuple(map(Evidence.from_text, record["evidence"].values()))
    except ValueError as error:
        raise ReviewError(f"The review in {folder} cannot be used: {error}; export it again.") from error
    if not any(each.voxels for each in evidence):
        raise ReviewError(f"The review in {folder} decides nothing; it tells no label of any voxel.")
    sha256 = record["ct"].get("sha256") if isinstance(record.get("ct"), dict) else None
    return SignedCase(folder, sha256 if isinstance(sha256, str) else None, evidence, _deviations(record))


def _deviations(record: Mapping[str, Any]) -> dict[str, float]:
    stated = record.get("suitability")
    given = stated.get("deviations") if isinstance(stated, dict) else None
    if not isinstance(given, dict):
        return {}
    return {name: float(value) for name, value in given.items() if is_number(value) and value >= 0}
