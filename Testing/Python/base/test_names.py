"""Names of files: unique, short and safe on every disk, whatever things are called."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from MoBUncertaintyLib.base.names import (
    LIMIT,
    distinct_name,
    is_unicode,
    label_file_names,
    printable,
    short_name,
    text_of,
    unique_names,
)

names = st.lists(st.text(st.characters(), max_size=130), max_size=6)


@given(names)
def test_names_are_each_their_own_short_and_harmless(texts: list[str]) -> None:
    for made in (unique_names(texts), label_file_names(texts)):
        assert len({name.casefold() for name in made}) == len(texts)
        for name in made:
            assert name.isprintable() and not set(name) & set('<>:"/\\|?*')
            assert len(name.encode()) <= LIMIT
            assert name not in ("", ".", "..") or made is not unique_names


@given(st.text(st.characters(), max_size=130), st.text(st.characters(), max_size=130))
@example("A/B", "A:B")
@example("ADA", "ada")
@example("Ada", "ADA")
@example("A%2FB", "A/B")
@example("Ends.", "Ends")
@example("Straße", "Strasse")
@example("a" * 200, "a" * 201)
def test_a_distinct_name_is_that_of_one_text_alone(one: str, other: str) -> None:
    made = [distinct_name(text) for text in (one, other)]
    assert (folded(made[0]) == folded(made[1])) == (normal(one) == normal(other))
    for name in made:
        assert name.isprintable() and not set(name) & set('<>:"/\\|?*') and not name.endswith((".", " "))
        assert 0 < len(name.encode()) <= LIMIT


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=7))
def test_the_text_can_be_read_off_a_distinct_name(text: str) -> None:
    assert text_of(distinct_name(text)) == normal(text)


@pytest.mark.parametrize("name", ["A. Reader", "Dr. Åse Müller", "O'Brien", "報告 1"])
def test_the_usual_spelling_of_a_readers_name_stays(name: str) -> None:
    assert distinct_name(name) == name


def folded(name: str) -> str:
    """As a disk sees it that ignores case."""
    return unicodedata.normalize("NFC", name).casefold()


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((name, name) for name in ("PhantomCT", "Doe, Jane (2)", "Müller & Söhne", "報告 1", "a.b", "[1] Ärzte")),
        ("M\udcfcller", "M_ller"),
        ("bell\x07 <b>", "bell_ _b_"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("ends. ", "ends"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_ordinary_names_stay_and_what_a_disk_does_not_take_is_replaced(text: str, name: str) -> None:
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


def test_ordinary_labels_stay_and_long_names_keep_their_beginning() -> None:
    assert label_file_names(["kidney_left", "left kidney", "胃"]) == ["kidney_left", "left_kidney", "胃"]
    assert short_name("a" * 255).startswith("a" * (LIMIT - 9) + "_")
    assert short_name("a" * LIMIT) == "a" * LIMIT
    assert short_name("a" * 255) != short_name("a" * 254)


def test_what_cannot_be_seen_is_shown_as_an_escape() -> None:
    assert printable("M\udcfcller\x07") == r"M\xfcller\x07"
    assert printable("\u202egpj.exe") == r"\u202egpj.exe"
    assert printable("Müller 報告") == "Müller 報告"
    assert is_unicode("Müller") and not is_unicode("M\udcfcller")
