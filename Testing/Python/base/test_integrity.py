"""Digests of records and of the files they list: what is noticed."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.integrity import IntegrityError, check_manifest, check_seal, digest_of, make_manifest, seal
from MoBUncertaintyLib.base.json_input import parse_object

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text("abé", max_size=3), json_values, max_size=4))
def test_sealed_record_passes_however_it_is_laid_out(record: dict) -> None:
    sealed = seal(record)
    for layout in ({"indent": 2}, {"sort_keys": True}, {"ensure_ascii": False}):
        check_seal(parse_object(json.dumps(sealed, **layout).encode()))


def test_what_json_turns_into_something_else_keeps_its_digest() -> None:
    assert digest_of({"a": (1, 2), "b": {1: 0.1, 10: 2, 9: 3}}) == digest_of(
        {"b": {"1": 0.1, "10": 2, "9": 3}, "a": [1, 2]}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["regions"][0].update(verdict="accept"),
        lambda record: record.update(added=None),
        lambda record: record.pop("volume"),
        lambda record: record.pop("sha256"),
        lambda record: record.update(sha256="0" * 64),
        lambda record: record.update(sha256=[]),
        lambda record: record.update(volume=1.0000000000000002),
    ],
)
def test_any_change_breaks_the_seal(change) -> None:
    record = seal({"volume": 1.0, "regions": [{"verdict": "pending"}]})
    change(record)
    with pytest.raises(IntegrityError):
        check_seal(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(b"one")
    (tmp_path / "b.bin").write_bytes(b"two")
    (tmp_path / "inner").mkdir()
    return tmp_path


def test_manifest_lists_the_files_and_passes(folder: Path) -> None:
    manifest = make_manifest(folder)
    assert list(manifest) == ["a.bin", "b.bin"]
    (folder / "a note of the reader.txt").write_text("tail?")
    check_manifest(folder, manifest)


@pytest.mark.parametrize("change", ["flipped", "missing", "pipe"])
def test_a_file_that_changed_is_refused(folder: Path, change: str) -> None:
    manifest = make_manifest(folder)
    if change == "flipped":
        (folder / "a.bin").write_bytes(b"onf")
    else:
        (folder / "a.bin").unlink()
    if change == "pipe" and os.name == "posix":
        os.mkfifo(folder / "a.bin")
    with pytest.raises(IntegrityError):
        check_manifest(folder, manifest)


@pytest.mark.parametrize("manifest", [None, {}, {"../a.bin": "0" * 64}, {"/etc/passwd": "0" * 64}, {"a.bin": 1}])
def test_what_is_no_manifest_is_refused(folder: Path, manifest) -> None:
    with pytest.raises(IntegrityError):
        check_manifest(folder, manifest)
