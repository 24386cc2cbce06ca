"""Terminology and colours of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.terminology import (
    ANATOMY,
    STRUCTURES,
    TISSUE,
    TISSUE_CATEGORY,
    describe_labels,
    terminology,
)


@pytest.mark.parametrize(
    ("name", "context", "code", "modifier"),
    [
        ("pancreas", "", "15776009", None),
        ("adrenal_gland_left", "", "23451007", "7771000"),
        ("Right Kidney", "", "64033007", "24028007"),
        ("anterior", "Dataset004_Hippocampus", "5366008", "255549009"),
        ("hippocampus", "", "5366008", None),
        ("something new", "", "85756007", None),
        ("left", "Dataset001_Unknown", "85756007", None),
    ],
)
def test_labels_get_their_terminology(name: str, context: str, code: str, modifier: str | None) -> None:
    codes, _ = terminology(name, context)
    assert codes["type"][1] == code
    assert (codes["modifier"] or (None, None))[1] == modifier


def test_every_code_is_one_of_slicers_own() -> None:
    trame_slicer = pytest.importorskip("trame_slicer")
    tables = (Path(trame_slicer.__file__).parent / "resources" / "terminologies").glob("*CategoryType*.term.json")
    known = {
        (category["CodeValue"], entry["CodeValue"], entry["CodeMeaning"])
        for table in tables
        for category in json.loads(table.read_text())["SegmentationCodes"]["Category"]
        for entry in category["Type"]
    }
    ours = {(ANATOMY[1], code, meaning) for code, meaning, _ in STRUCTURES.values()}
    assert ours | {(TISSUE_CATEGORY[1], *TISSUE[1:])} <= known


@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=40))
def test_no_two_labels_share_a_colour(names: list[str]) -> None:
    labels = describe_labels({value: f"x{name!r}" for value, name in enumerate([*names, "kidney_left"], start=1)})
    kidneys = describe_labels({1: "kidney_left", 2: "kidney_right"})
    assert len({label.colour for label in labels}) == len(labels)
    assert kidneys[0].colour != kidneys[1].colour


def test_a_label_that_a_segmentation_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 255"):
        Label(256, "x", (0, 0, 0), describe_labels({1: "x"})[0].terminology)


@pytest.mark.parametrize(
    "code",
    [
        ("SCHEME OF 17 LETT", "1", "a"),
        ("SCT", "12345678901234567", "a"),
        ("SCT", "1", "a" * 65),
        ("SCT", "1\\2", "a"),
        ("SCT", "1", "a\nb"),
        ("SCT", "1", "a\x1bb"),
        ("SCT", "1", "half \ud800 a pair"),
        ("SCT", " 1", "a"),
        ("SCT", "1", ""),
        ("SCT", "1"),
        ("SCT", 1, "a"),
    ],
)
def test_codes_that_dicom_cannot_hold_are_refused(code: tuple) -> None:
    known = describe_labels({1: "pancreas"})[0].terminology
    for key in ("category", "type", "modifier"):
        with pytest.raises(ValueError, match="terminology"):
            Label(1, "pancreas", (0, 0, 0), known | {key: code})
