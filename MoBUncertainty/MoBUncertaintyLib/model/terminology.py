"""Look up SNOMED-CT terminology and colour of a label by its name."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from typing import Any

from MoBUncertaintyLib.files.names import printable
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.model.structures import ALIASES, STRUCTURES

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
SIDES = {"l": "left", "r": "right"}
"""In the names of AAPM's TG-263, always last: `Parotid_R`."""


def terminology(name: str) -> tuple[dict[str, Any], tuple[int, int, int] | None]:
    """Look up the terminology of a label and Slicer's colour for it.

    Only the whole name counts, whatever its spaces, hyphens, capitals and the place of a side: a code that is guessed
    goes unnoticed into every system that it reaches.

    Args:
        name: For example `pancreas`, `adrenal_gland_left`, `Left Kidney`, `Parotid_R`.

    Returns:
        Category, type and modifier as (scheme, code, meaning); the type is Tissue if the name is unknown. The colour is
        None if Slicer recommends none.
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
    """Make labels with terminology and a colour each; no two have the same colour.

    Args:
        names: Label value -> name, foreground only, in the order of the labels.
        covered: Values that each covers, by its own value; None: its own alone.
    """
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
        f"No SNOMED-CT code is known for {named}, so Tissue is stated; to set one, write it as the label's terminology "
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
