"""Look up SNOMED-CT terminology and colour of a label by the name that TotalSegmentator or TG-263 gives it.

A code is here only if two sources that do not copy each other have it: TotalSegmentator's own table, 3D Slicer's
terminologies, DICOM's context groups, and value sets of HL7. Structures on which they differ, or of which one alone
has a code (the deep muscles of the back, iliopsoas, gluteus minimus), have none.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from typing import Any

from MoBUncertaintyLib.base.names import printable
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
SIDES = {"l": "left", "r": "right"}
"""In the names of AAPM's TG-263, always last: `Parotid_R`."""


Structure = tuple[str, str, tuple[int, int, int] | None]
"""Code, meaning, colour that Slicer recommends (None: it recommends none)."""

_VERTEBRAE = {
    "C1": "14806007", "C2": "39976000", "C3": "113205007", "C4": "5329002", "C5": "36978003", "C6": "36054005",
    "C7": "87391001", "T1": "64864005", "T2": "53733008", "T3": "1626008", "T4": "73071006", "T5": "56401006",
    "T6": "45296009", "T7": "62487009", "T8": "11068009", "T9": "82687006", "T10": "7610001", "T11": "12989004",
    "T12": "23215003", "L1": "66794005", "L2": "14293000", "L3": "36470004", "L4": "11994002", "L5": "49668003",
    "S1": "65985001",
}  # fmt: skip
_RIBS = {
    "First": "48535007", "Second": "78247007", "Third": "25888004", "Fourth": "25523003", "Fifth": "15339008",
    "Sixth": "59558009", "Seventh": "24915002", "Eighth": "5953002", "Ninth": "22565002", "Tenth": "77644006",
    "Eleventh": "58830002", "Twelfth": "43993008",
}  # fmt: skip

STRUCTURES: dict[str, Structure] = {
    "adrenal_gland": ("23451007", "Adrenal gland", (249, 186, 150)),
    "aorta": ("15825003", "Aorta", (224, 97, 76)),
    "atrial_appendage_left": ("33626005", "Left auricular appendage", None),
    "brachiocephalic_trunk": ("12691009", "Innominate artery", None),
    "brachiocephalic_vein": ("8887007", "Innominate vein", None),
    "brain": ("12738006", "Brain", (250, 250, 225)),
    "brainstem": ("119238007", "Brain Stem", None),
    "clavicula": ("51299004", "Clavicle", (205, 179, 108)),
    "colon": ("71854001", "Colon", (204, 168, 143)),
    "common_carotid_artery": ("32062004", "Common carotid artery", None),
    "costal_cartilages": ("50016007", "Costal Cartilage", None),
    "duodenum": ("38848004", "Duodenum", (255, 253, 229)),
    "esophagus": ("32849002", "Esophagus", (211, 171, 143)),
    "femur": ("71341001", "Femur", None),
    "fibula": ("87342007", "Fibula", None),
    "gallbladder": ("28231008", "Gallbladder", (139, 150, 98)),
    "gluteus_maximus": ("206007", "Gluteus maximus muscle", None),
    "gluteus_medius": ("78333006", "Gluteus medius muscle", None),
    "heart": ("80891009", "Heart", (206, 110, 84)),
    "heart_atrium_left": ("82471001", "Left atrium", None),
    "heart_atrium_right": ("73829009", "Right atrium", None),
    "heart_myocardium": ("74281007", "Myocardium", None),
    "heart_ventricle_left": ("87878005", "Left ventricle", None),
    "heart_ventricle_right": ("53085002", "Right ventricle", None),
    "hip": ("29836001", "Hip", None),
    "hippocampus": ("5366008", "Hippocampus", None),
    "humerus": ("85050009", "Humerus", None),
    "iliac_artery": ("73634005", "Common iliac artery", None),
    "iliac_vena": ("46027005", "Common iliac vein", None),
    "inferior_vena_cava": ("64131007", "Inferior vena cava", None),
    "kidney": ("64033007", "Kidney", (185, 102, 83)),
    "larynx": ("4596009", "Larynx", (150, 208, 243)),
    "liver": ("10200004", "Liver", (221, 130, 101)),
    "lung": ("39607008", "Lung", (197, 165, 145)),
    "lung_lower_lobe": ("90572001", "Lower lobe of lung", (224, 186, 162)),
    "lung_middle_lobe_right": ("72481006", "Middle lobe of right lung", (202, 164, 140)),
    "lung_upper_lobe": ("45653009", "Upper lobe of lung", (172, 138, 115)),
    "mandible": ("91609006", "Mandible", (222, 198, 101)),
    "pancreas": ("15776009", "Pancreas", (249, 180, 111)),
    "parotid": ("45289007", "Parotid gland", None),
    "patella": ("64234005", "Patella", None),
    "portal_vein_and_splenic_vein": ("110765007", "Portal vein and splenic vein", None),
    "prostate": ("41216001", "Prostate", (230, 158, 140)),
    "pulmonary_artery": ("81040000", "Pulmonary artery", None),
    "pulmonary_vein": ("122972007", "Pulmonary vein", (186, 77, 64)),
    "rectum": ("34402009", "Rectum", None),
    "sacrum": ("54735007", "Sacrum", None),
    "scapula": ("79601000", "Scapula", None),
    "skull": ("89546000", "Skull", (241, 213, 144)),
    "small_bowel": ("30315005", "Small Intestine", (205, 167, 142)),
    "spinal_cord": ("2748008", "Spinal cord", (244, 214, 49)),
    "spleen": ("78961009", "Spleen", (157, 108, 162)),
    "sternum": ("56873002", "Sternum", (244, 217, 154)),
    "stomach": ("69695003", "Stomach", (216, 132, 105)),
    "subclavian_artery": ("36765005", "Subclavian artery", None),
    "superior_vena_cava": ("48345005", "Superior vena cava", None),
    "thyroid_gland": ("69748006", "Thyroid", (62, 162, 114)),
    "tibia": ("12611008", "Tibia", None),
    "trachea": ("44567001", "Trachea", (182, 228, 255)),
    "urinary_bladder": ("89837001", "Bladder", (222, 154, 132)),
    **{f"vertebrae_{name.lower()}": (code, f"{name} vertebra", None) for name, code in _VERTEBRAE.items()},
    **{f"rib_{n}": (code, f"{name} rib", None) for n, (name, code) in enumerate(_RIBS.items(), start=1)},
}

ALIASES = {
    "adrenal": "adrenal_gland",
    "adrenal_glands": "adrenal_gland",
    "bladder": "urinary_bladder",
    "bone_mandible": "mandible",
    "brain_stem": "brainstem",
    "gall_bladder": "gallbladder",
    "kidneys": "kidney",
    "lungs": "lung",
    "oesophagus": "esophagus",
    "parotid_gland": "parotid",
    "small_intestine": "small_bowel",
    "spinalcord": "spinal_cord",
}


def terminology(name: str) -> tuple[dict[str, Any], tuple[int, int, int] | None]:
    """Look up the terminology of a label, such as `adrenal_gland_left` or `Parotid_R`, and Slicer's colour for it.

    Only the whole name counts, whatever its spaces, hyphens, capitals and the place of a side: a code that is guessed
    goes unnoticed into every system that it reaches.

    Returns:
        Category, type (Tissue if the name is unknown) and modifier as (scheme, code, meaning); the colour, if any.
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
