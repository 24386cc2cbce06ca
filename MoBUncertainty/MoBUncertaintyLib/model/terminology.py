"""Look up SNOMED-CT terminology and colour of a label by the name that TotalSegmentator or TG-263 gives it.

A code is in the table only if two sources that do not copy each other have it: TotalSegmentator's own table, 3D
Slicer's terminologies, DICOM's context groups, and value sets of HL7. Structures on which they differ, or of which one
alone has a code (the deep muscles of the back, iliopsoas, gluteus minimus), have none.
"""

from __future__ import annotations

import colorsys
import csv
import re
from collections.abc import Sequence
from typing import Any

from MoBUncertaintyLib.base.names import printable
from MoBUncertaintyLib.base.resources import RESOURCES
from MoBUncertaintyLib.model.card import Label

ANATOMY = ("SCT", "123037004", "Anatomical Structure")
TISSUE_CATEGORY = ("SCT", "85756007", "Tissue")
TISSUE = ("SCT", "85756007", "Tissue")

_LIST = "Segmentation category and type - 3D Slicer General Anatomy list"

MODIFIERS = {
    "left": ("SCT", "7771000", "Left"),
    "right": ("SCT", "24028007", "Right"),
    "anterior": ("SCT", "255549009", "Anterior"),
    "posterior": ("SCT", "255551008", "Posterior"),
}
SIDES = {"l": "left", "r": "right"}  # in the names of AAPM's TG-263, always last: `Parotid_R`


Structure = tuple[str, str, tuple[int, int, int] | None]
"""Code, meaning, colour that Slicer recommends, if it recommends one."""


def _read_table() -> tuple[dict[str, Structure], dict[str, str]]:
    """Read the structures by their names, and the other names that some of them have."""
    structures: dict[str, Structure] = {}
    aliases: dict[str, str] = {}
    with (RESOURCES / "Terminology" / "structures.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            red, green, blue = map(int, row["colour"].split() or (0, 0, 0))
            colour = (red, green, blue) if row["colour"] else None
            structures[row["name"]] = row["code"], row["meaning"], colour
            aliases |= dict.fromkeys(row["also"].split(), row["name"])
    return structures, aliases


STRUCTURES, ALIASES = _read_table()


def terminology(name: str) -> tuple[dict[str, Any], tuple[int, int, int] | None]:
    """Look up the terminology of a label, such as `adrenal_gland_left` or `Parotid_R`, and Slicer's colour, if any.

    Only the whole name counts, whatever its spaces, hyphens, capitals and the place of a side: no code is guessed.
    Returns category, type (Tissue if the name is unknown) and modifier as (scheme, code, meaning).
    """
    words = [word for word in re.split(r"[\s_.,()-]+", name.lower()) if word]
    if len(words) > 1:
        words[-1] = SIDES.get(words[-1], words[-1])
    sides = [word for word in words if word in MODIFIERS]
    modifier = None
    structure = "_".join(words)
    if structure not in STRUCTURES and len(sides) == 1:  # the left atrium has a code of its own
        modifier = MODIFIERS[sides[0]]
        structure = "_".join(word for word in words if word not in MODIFIERS)
    structure = ALIASES.get(structure, structure)
    if structure not in STRUCTURES:
        return {"category": TISSUE_CATEGORY, "type": TISSUE, "modifier": None}, None
    code, meaning, colour = STRUCTURES[structure]
    return {"category": ANATOMY, "type": ("SCT", code, meaning), "modifier": modifier}, colour


def describe_labels(names: dict[int, str], covered: dict[int, tuple[int, ...]] | None = None) -> tuple[Label, ...]:
    """Make labels with terminology, and colours that differ, from names and covered values by value, in order."""
    labels: list[Label] = []
    for value, name in names.items():
        codes, colour = terminology(name)
        taken = {label.colour for label in labels}
        turn = value
        while colour is None or colour in taken:
            colour = _generated_colour(turn)
            turn += 1
        labels.append(Label(value, name, colour, codes, (covered or {}).get(value, ())))
    return tuple(labels)


def without_code(labels: Sequence[Label]) -> list[str]:
    """Say which labels have no code of their own, and how to give them one; nothing if all have."""
    names = [printable(label.name) for label in labels if label.terminology["type"] == TISSUE]
    if not names:
        return []
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"No SNOMED-CT code is known for {named}, so Tissue is used; to set one, write it as the label's terminology "
        "in the model.json that mob-uncertainty export makes."
    ]


def _generated_colour(number: int) -> tuple[int, int, int]:
    """Make a colour; steps of the golden ratio around the hue circle keep neighbours far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def terminology_entry(terminology: dict[str, tuple[str, str, str] | None]) -> str | None:
    """Write a terminology in one line, as Slicer does; None if a code holds one of the line's own separators."""
    codes = [terminology.get(key) or ("", "", "") for key in ("category", "type", "modifier")]
    if any(separator in part for code in codes for part in code for separator in "~^|"):
        return None
    return "~".join([_LIST, *("^".join(code) for code in codes), "Anatomic codes - DICOM master list", "^^", "^^"])
