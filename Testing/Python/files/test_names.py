"""Names of files: unique, short and safe on every disk, whatever things are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.files.names import LIMIT, is_unicode, label_file_names, printable, short_name, unique_names

names = st.lists(st.text(st.characters(), max_size=130), max_size=6)


@given(names)
def test_names_are_each_their_own_short_and_harmless(texts: list[str]) -> None:
    for made in (unique_names(texts), label_file_names(texts)):
        assert len({name.casefold() for name in made}) == len(texts)
        for name in made:
            assert name.isprintable() and not set(name) & set('<>:"/\\|?*')
            assert len(name.encode()) <= LIMIT
            assert name not in ("", ".", "..") or made is not unique_names


@pytest.mark.parametrize("name", ["PhantomCT", "Doe, Jane (2)", "Müller & Söhne", "報告 1", "a.b", "[1] Ärzte"])
def test_ordinary_names_stay(name: str) -> None:
    assert unique_names([name]) == [name]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (os.fsdecode(b"M\xfcller"), "M_ller"),
        ("bell\x07 <b>", "bell_ _b_"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("ends. ", "ends"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_what_a_disk_does_not_take_is_replaced(text: str, name: str) -> None:
    assert unique_names([text]) == [name]


def test_a_name_does_not_depend_on_others_that_come_later() -> None:
    """A batch that is started again with more patients finds what it has done."""
    first, second = unique_names(["Case", "case"]), unique_names(["A", "case", "Case", "Z"])
    assert set(first) <= set(second)
    assert first[0].startswith("Case_") and first[1].startswith("case_")


@pytest.mark.parametrize(
    "labels", [("a b", "a_b", "a_b_1"), ("臓" * 100, "臓" * 101), ("Kidney", "kidney"), ("é", "e\u0301", "e_")]
)
def test_labels_have_a_file_each(tmp_path: Path, labels: tuple[str, ...]) -> None:
    for name in label_file_names(labels):
        (tmp_path / f".probability_{name}.nii.gz.mob-12345678.tmp").write_text("")
    assert len(list(tmp_path.iterdir())) == len(labels)


def test_ordinary_labels_stay() -> None:
    assert label_file_names(["kidney_left", "left kidney", "胃"]) == ["kidney_left", "left_kidney", "胃"]


def test_long_names_keep_their_beginning() -> None:
    assert short_name("a" * 255).startswith("a" * (LIMIT - 9) + "_")
    assert short_name("a" * LIMIT) == "a" * LIMIT
    assert short_name("a" * 255) != short_name("a" * 254)


def test_what_cannot_be_seen_is_shown_as_an_escape() -> None:
    assert printable(os.fsdecode(b"M\xfcller\x07")) == r"M\xfcller\x07"
    assert printable("\u202egpj.exe") == r"\u202egpj.exe"
    assert printable("Müller 報告") == "Müller 報告"
    assert is_unicode("Müller") and not is_unicode(os.fsdecode(b"M\xfcller"))
