"""Look up SNOMED-CT terminology and colour of a label by its name. Codes and colours are from 3D Slicer's tables."""

from __future__ import annotations

import colorsys
import re
from typing import Any

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

# Name in TotalSegmentator's spelling -> code, meaning, Slicer's recommended colour (None: Slicer has none).
STRUCTURES: dict[str, tuple[str, str, tuple[int, int, int] | None]] = {
    "adrenal_gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "brain": ("12738006", "Brain", (250, 250, 225)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "hippocampus": ("5366008", "Hippocampus", None),
    "inferior_vena_cava": ("64131007", "Inferior vena cava", None),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "rectum": ("34402009", "Rectum", None),
    "small_bowel": ("30315005", "Small Intestine", (205, 167, 142)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "urinary_bladder": ("89837001", "Bladder", (222, 154, 132)),
}

ALIASES = {
    "adrenal": "adrenal_gland",
    "adrenal_glands": "adrenal_gland",
    "bladder": "urinary_bladder",
    "gall_bladder": "gallbladder",
    "kidneys": "kidney",
    "lungs": "lung",
    "oesophagus": "esophagus",
    "small_intestine": "small_bowel",
}


def terminology(name: str, context: str = "") -> tuple[dict[str, Any], tuple[int, int, int] | None]:
    """Look up the terminology of a label and Slicer's colour for it.

    Args:
        name: For example `pancreas`, `adrenal_gland_left`, `Left Kidney`.
        context: Name of the data set; a label that is only a modifier (`anterior`) refers to the organ in it.

    Returns:
        Category, type and modifier as (scheme, code, meaning); the type is Tissue if the name is unknown. The colour is
        None if Slicer recommends none.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    modifier = None
    for end in (0, -1):
        if words and words[end] in MODIFIERS:
            modifier = MODIFIERS[words.pop(end)]
            break
    structure = "_".join(words)
    structure = ALIASES.get(structure, structure)
    if not structure:
        structure = next((known for known in STRUCTURES if known in context.lower()), "")
    if structure not in STRUCTURES:
        return {"category": TISSUE_CATEGORY, "type": TISSUE, "modifier": None}, None
    code, meaning, colour = STRUCTURES[structure]
    return {"category": ANATOMY, "type": ("SCT", code, meaning), "modifier": modifier}, colour


def describe_labels(
    names: dict[int, str], context: str = "", covered: dict[int, tuple[int, ...]] | None = None
) -> tuple[Label, ...]:
    """Make labels with terminology and a colour each; no two have the same colour.

    Args:
        names: Label value -> name, foreground only, in the order of the labels.
        context: Name of the data set.
        covered: Values that each covers, by its own value; None: its own alone.
    """
    labels: list[Label] = []
    for value, name in names.items():
        codes, colour = terminology(name, context)
        taken = {label.colour for label in labels}
        turn = value
        while colour is None or colour in taken:
            colour = _generated_colour(turn)
            turn += 1
        labels.append(Label(value, name, colour, codes, (covered or {}).get(value, ())))
    return tuple(labels)


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
