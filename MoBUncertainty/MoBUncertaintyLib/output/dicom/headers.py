"""Read the header of an image's DICOM file so that its fields can be copied: decoded once, and only what DICOM allows.

Files state character sets that do not exist, dates such as 00000000, and much else: such a field is left out.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.charset import python_encoding
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA, TM, DSfloat, validate_value

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import BoundedReader, begins_as_dicom, check_regular

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality")
"""What a derived object repeats."""
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What DICOM demands to be there, empty if unknown; not all files have it."""

_PATIENT = {
    "PatientName": "Name",
    "PatientID": "ID",
    "PatientBirthDate": "Born",
    "PatientSex": "Sex",
    "StudyDate": "Study of",
    "AccessionNumber": "Accession number",
}
_SERIES = {"SeriesNumber": "Series number", "StudyInstanceUID": "Study UID", "SeriesInstanceUID": "Series UID"}

_COPIED = {*MAY_BE_EMPTY, "StudyDescription", "BodyPartExamined", "Laterality"}
_COPIED_GROUPS = (0x0010, 0x0012)  # of the patient and of a trial
_CHARACTER_SET = pydicom.tag.Tag("SpecificCharacterSet")
_LONG_TEXT = ("LT", "ST", "UT")
_TEXT = ("AE", "AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UC", "UI", "UR", *_LONG_TEXT)


def read_header(path: Path) -> tuple[Dataset, list[str]]:
    """Read a file's header without pixels, its text in UTF-8; raises `ImageError`.

    Return also the keywords of the fields about patient and study that were left out of it because DICOM does not allow
    their values.
    """
    check_regular(path)
    try:
        with BoundedReader(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are looked at below
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=begins_as_dicom(path))
            removed = list(_clean(dataset, True))
    except (OSError, EOFError, InvalidDicomError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not a DICOM file"
        raise ImageError(f"{path} cannot be read ({reason}); give the image's DICOM files.") from error
    except MemoryError:
        raise
    except Exception as error:  # elements are parsed at their first use, and damaged in as many ways as there are
        raise ImageError(f"{path} is damaged; give the image's DICOM files.") from error
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    for name in MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, None)
    return dataset, removed


def describe_file(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Say in a report's words which series a file is of, and which patient; raises `ImageError`."""
    header, _ = read_header(path)
    series, patient = (
        {words: _words(name, header[name].value) for name, words in names.items() if header.get(name)}
        for names in (_SERIES, _PATIENT)
    )
    return series, patient


def _words(name: str, value: Any) -> str:
    text = str(value)
    if name.endswith("Date") and re.fullmatch(r"\d{8}", text):
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return value.family_comma_given() if name == "PatientName" else text


def _clean(dataset: Dataset, decodable: bool) -> Iterator[str]:
    """Remove what is not allowed, and what is private; yield the keywords of what of it would have been copied."""
    if (charset := dataset.get(_CHARACTER_SET)) is not None:
        terms = [charset.value] if isinstance(charset.value, str | None) else charset.value
        decodable = {term or "" for term in terms} <= python_encoding.keys()
        # Its items inherit the set of the whole, once all are decoded.
    for tag in list(dataset.keys()):
        if tag == _CHARACTER_SET or pydicom.datadict.keyword_for_tag(tag) in NEEDED:
            continue
        try:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                list(_clean(item, decodable))
            allowed = not tag.is_private and _is_allowed(element, decodable)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - as there are many ways to be damaged
            allowed = False
        if not allowed:
            del dataset[tag]
            keyword = pydicom.datadict.keyword_for_tag(tag)
            if tag.group in _COPIED_GROUPS or keyword in _COPIED:
                yield keyword or str(tag)
    if _CHARACTER_SET in dataset:
        del dataset[_CHARACTER_SET]


def _is_allowed(element: DataElement, decodable: bool) -> bool:
    """Whether an element may be copied; a number with too many digits is shortened, and a name becomes plain text."""
    several = element.VM > 1
    values = list(element.value) if several else [element.value]
    if element.VR == "DS":
        numbers = [None if each is None or each == "" else float(each) for each in values]
        if any(len(str(each)) > 16 for each in values):
            short = [None if each is None else DSfloat(each, auto_format=True) for each in numbers]
            element.value = short if several else short[0]
        return all(each is None or math.isfinite(each) for each in numbers)
    if element.VR in _TEXT:
        texts = ["" if each is None else str(each) for each in values]
        if element.VR == "PN":
            element.value = texts if several else texts[0]
        return all(_is_allowed_text(element, each, decodable) for each in texts if each)
    return True


def _is_allowed_text(element: DataElement, text: str, decodable: bool) -> bool:
    breaks = "\r\n\t\f" if element.VR in _LONG_TEXT else ""
    if any(unicodedata.category(each) in ("Cc", "Cs") and each not in breaks for each in text):
        return False
    if "\ufffd" in text or not (decodable or text.isascii()):  # not what was meant
        return False
    if element.keyword == "PatientSex" and text not in ("M", "F", "O"):
        return False
    validate_value(element.VR, text, pydicom.config.RAISE)
    parse: Any = {"DA": DA, "TM": TM}.get(element.VR)
    return parse is None or parse(text) is not None
