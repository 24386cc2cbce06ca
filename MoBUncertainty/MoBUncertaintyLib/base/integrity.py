"""Tell whether a record, and the files it lists, are as they were written: damage and mixed-up files, not forgery.

Needs only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGEST = "sha256"  # entry of a sealed record: the SHA-256 of all its other entries

_SHA256 = re.compile("[0-9a-f]{64}")


class IntegrityError(ValueError):
    """Something is not as it was written; the message is a phrase such as "variance.nii.gz has changed"."""


def digest_of(record: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a JSON object without its own entry `sha256`: of UTF-8, keys sorted, no spaces."""
    # As it will be when it is read again: JSON has no tuples, and no keys that are numbers.
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != DIGEST}, allow_nan=False))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest of all else to a record as its last entry, `sha256`."""
    rest = {key: value for key, value in record.items() if key != DIGEST}
    return rest | {DIGEST: digest_of(rest)}


def check_seal(record: Mapping[str, Any]) -> None:
    """Raise `IntegrityError` unless the `sha256` of a record is what `seal` makes it."""
    if record.get(DIGEST) != digest_of(record):
        raise IntegrityError("its SHA-256 does not match its content")


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file; raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_manifest(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of the files in a folder, but not in its subfolders, by name. Raises `OSError`."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}


def check_manifest(folder: Path, manifest: Any) -> None:
    """Raise `IntegrityError` unless a manifest is one, and each file it lists is there and unchanged."""
    if not isinstance(manifest, dict) or not manifest:
        raise IntegrityError("it lists no files")
    for name, expected in manifest.items():
        if not is_plain_name(name):
            raise IntegrityError(f"it lists {name!r}, which is not a file name")
        if not isinstance(expected, str) or not _SHA256.fullmatch(expected):
            raise IntegrityError(f"it has no SHA-256 for {name}")
        path = folder / name
        try:
            if not path.is_file():  # a named pipe, say, which would be waited for
                raise IntegrityError(f"{name} is missing")
            if file_digest(path) != expected:
                raise IntegrityError(f"{name} has changed since it was written")
        except OSError as error:
            raise IntegrityError(f"{name} cannot be read ({error.strerror})") from error


def is_plain_name(name: str) -> bool:
    """Whether a name stays within its folder: it has no separators and is not a parent."""
    return bool(name) and name not in (".", "..") and not re.search(r"[/\\:\0]", name)
