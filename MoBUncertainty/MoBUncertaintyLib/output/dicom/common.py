"""What the DICOM objects have in common: who made them, codes, text that fits, identifiers, and how they are saved.

All carry the patient and study fields of the CT's files, because DICOM demands it: the objects are part of the same
study. They are as identifiable as the CT itself. Voxels are never resampled: they are put in the order of the slices,
however the volume's axes are permuted or flipped, and a volume that does not lie on the slices is refused.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom
from highdicom.sr import CodedConcept
from pydicom.uid import generate_uid

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import OutputError
from MoBUncertaintyLib.model.card import Label

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "MoB Uncertainty"
# After those of the scanner.
SEG_SERIES_NUMBER, VARIANCE_SERIES_NUMBER, PROBABILITY_SERIES_NUMBER, REPORT_SERIES_NUMBER = 9001, 9002, 9003, 9004
STRUCTURE_SET_SERIES_NUMBER = 9005

LONGEST = 64  # characters of DICOM's long strings


@dataclass(frozen=True)
class Origin:
    """Where the voxels of an object come from.

    Attributes:
        model: `name` and `digest` of the model, and what else `equipment` takes.
        labels: Those of the prediction.
        corrected: A reader has reviewed it: segments are semi-automatic.
        reader: Who signed, for the content creator's name.
        prediction: SHA-256 of the predicted segmentation, which gives segments the identifiers that other objects know
            them by.
    """

    model: Mapping[str, Any]
    labels: Sequence[Label]
    corrected: bool = False
    reader: str | None = None
    prediction: str | None = None


def equipment(model: Mapping[str, Any], series_description: str) -> dict[str, Any]:
    """Gather what all objects are made with. There is no device: the model's digest stands for its serial number.

    Args:
        model: `name` and `digest` of the model; `suitability`, a word that warns, comes before the description.
        series_description: What viewers list.
    """
    return {
        "series_instance_uid": highdicom.UID(),
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": line(model["name"]),
        "software_versions": __version__,
        "device_serial_number": line(model["digest"]),
        "series_description": line(": ".join(filter(None, [model.get("suitability"), series_description]))),
    }


def own_code(value: str, meaning: str) -> CodedConcept:
    """Make a code of our own, where no public scheme has one."""
    return CodedConcept(value, "99MOB", meaning)


def code_of(label: Label, part: str) -> CodedConcept | None:
    """Make the code of a label's `category`, `type` or `modifier`; None if it has none."""
    code = label.terminology.get(part)
    return CodedConcept(code[1], code[0], line(code[2])) if code else None


def tracking_uid(prediction: str, name: str) -> str:
    """Make the identifier by which a label or region of a prediction is known in every object.

    Args:
        prediction: SHA-256 of the predicted segmentation.
        name: Of the label or region in it.
    """
    return str(generate_uid(entropy_srcs=[prediction, name]))


def line(text: str) -> str:
    """Text as DICOM's long strings can hold it: a backslash would part two values, an escape begin another script."""
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text))
    return " ".join(plain.replace("\\", "/").split())[:LONGEST].strip()


def person(name: str | None) -> str | None:
    """Write a name in plain text as the family name, which `^` ends and `=` would part from another spelling."""
    return line(name.replace("^", " ").replace("=", " "))[: LONGEST - 1] + "^" if name else None


def save(dataset: Dataset, path: str | Path) -> None:
    """Write a DICOM file, uncompressed: not all programs can inflate, and nothing else packs floating-point voxels.

    Args:
        dataset: The object.
        path: The file, in a folder that exists.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of labels and readers may be in any script
    try:
        dataset.save_as(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder."
        ) from error
