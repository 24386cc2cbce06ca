"""Terminology and colours of labels."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.terminology import (
    ALIASES,
    ANATOMY,
    MODIFIERS,
    STRUCTURES,
    TISSUE,
    TISSUE_CATEGORY,
    describe_labels,
    terminology,
    without_code,
)

OF_HL7 = {*(f"rib_{number}" for number in range(1, 13)), "vertebrae_s1", "gluteus_maximus", "gluteus_medius"}
OF_HL7 |= {"heart_myocardium", "portal_vein_and_splenic_vein"}
"""Structures whose codes are in value sets of HL7's guides and in no table that is installed here."""


@pytest.mark.parametrize(
    ("name", "code", "modifier"),
    [
        ("pancreas", "15776009", None),
        ("adrenal_gland_left", "23451007", "7771000"),
        ("Right Kidney", "64033007", "24028007"),
        ("kidney (left)", "64033007", "7771000"),
        ("hippocampus-anterior", "5366008", "255549009"),
        ("hippocampus", "5366008", None),
        ("rib_left_7", "24915002", "7771000"),
        ("vertebrae_T12", "23215003", None),
        ("heart_atrium_left", "82471001", None),
        ("lung_middle_lobe_right", "72481006", None),
        ("lung_upper_lobe_right", "45653009", "24028007"),
        ("subclavian_artery_left", "36765005", "7771000"),
        ("Brainstem", "119238007", None),
        ("SpinalCord", "2748008", None),
        ("Parotid_R", "45289007", "24028007"),
        ("Parotid_L", "45289007", "7771000"),
        ("Kidney_L", "64033007", "7771000"),
        ("Esophagus", "32849002", None),
        ("Larynx", "4596009", None),
        ("Bone_Mandible", "91609006", None),
        # No exact name: nothing is guessed.
        ("anterior", "85756007", None),
        ("left", "85756007", None),
        ("something new", "85756007", None),
        ("autochthon_left", "85756007", None),
        ("kidney tumour", "85756007", None),
        ("kidney_肿瘤", "85756007", None),
        ("non+kidney", "85756007", None),
        ("kidney?", "85756007", None),
        ("left right kidney", "85756007", None),
        ("hip implant", "85756007", None),
        ("", "85756007", None),
    ],
)
def test_labels_get_their_terminology(name: str, code: str, modifier: str | None) -> None:
    codes, _ = terminology(name)
    assert codes["type"][1] == code
    assert (codes["modifier"] or (None, None))[1] == modifier


def test_every_code_is_one_of_slicers_or_of_dicoms_own() -> None:
    """By its code and its meaning; those that are HL7's alone are named."""
    trame_slicer = pytest.importorskip("trame_slicer")
    from pydicom.sr._concepts_dict import concepts

    tables = (Path(trame_slicer.__file__).parent / "resources" / "terminologies").glob("*CategoryType*.term.json")
    known = {
        (category["CodeValue"], entry["CodeValue"], entry["CodeMeaning"])
        for table in tables
        for category in json.loads(table.read_text())["SegmentationCodes"]["Category"]
        for entry in category["Type"]
    }
    known |= {(ANATOMY[1], code, each[0]) for codes in concepts["SCT"].values() for code, each in codes.items()}
    ours = {name: (ANATOMY[1], code, meaning) for name, (code, meaning, _) in STRUCTURES.items()}
    assert {name for name, code in ours.items() if code not in known} == OF_HL7
    assert (TISSUE_CATEGORY[1], *TISSUE[1:]) in known


@given(st.sampled_from(sorted({*STRUCTURES, *ALIASES, *MODIFIERS})), st.text(min_size=1, max_size=8))
def test_a_name_with_anything_else_in_it_has_no_code(name: str, more: str) -> None:
    """Unless it is a separator, or makes the name of another structure."""
    for written in (name + more, more + name):
        codes, _ = terminology(written)
        plain = re.sub(r"[\s_.,()-]+", "_", written.lower()).strip("_")
        plain = re.sub("_[lr]$", "", plain)
        whole = {*STRUCTURES, *ALIASES}
        without_side = {re.sub(f"_?{side}(_|$)", r"\1", plain).strip("_") for side in MODIFIERS if side in plain}
        if plain not in whole and not without_side & whole:
            assert codes["type"] == TISSUE


def test_labels_without_a_code_are_named_with_what_to_do() -> None:
    assert without_code(describe_labels({1: "pancreas", 2: "kidney_left"})) == []
    (one,) = without_code(describe_labels({1: "Anterior", 2: "pancreas"}))
    assert one.startswith("No SNOMED-CT code is known for Anterior, so Tissue is used; to set one, write it as")
    (many,) = without_code(describe_labels({value: f"part {value}" for value in range(1, 7)}))
    assert "for part 1, part 2, part 3 and 3 more, so" in many


def test_no_two_structures_share_a_code() -> None:
    assert len({code for code, *_ in STRUCTURES.values()}) == len(STRUCTURES)


@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=40))
def test_no_two_labels_share_a_colour(names: list[str]) -> None:
    labels = describe_labels({value: f"x{name!r}" for value, name in enumerate([*names, "kidney_left"], start=1)})
    kidneys = describe_labels({1: "kidney_left", 2: "kidney_right"})
    assert len({label.colour for label in labels}) == len(labels)
    assert kidneys[0].colour != kidneys[1].colour


def test_a_label_that_a_segmentation_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError):
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
    ],
)
def test_codes_that_dicom_cannot_hold_are_refused(code: tuple) -> None:
    known = describe_labels({1: "pancreas"})[0].terminology
    for key in ("category", "type", "modifier"):
        with pytest.raises(ValueError):
            Label(1, "pancreas", (0, 0, 0), known | {key: code})
