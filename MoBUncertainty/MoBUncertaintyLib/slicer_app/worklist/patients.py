"""The CT and MR series of the patients in Slicer's DICOM database, as the inputs of a worklist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from MoBUncertaintyLib.slicer_app.requests import MODALITY

MODALITIES = ("CT", "MR")
KIND = "0008,0008"
NAMED_BY = ("0010,0020", "0008,0020", "0020,0011", "0008,103e")
"""The patient's ID, the study's date, the series' number and description."""


def listPatients(database) -> list[dict[str, Any]]:
    """List the fields of the inputs (`images.inputs.Input`), one of each series; scout images are left out.

    Args:
        database: A ctkDICOMDatabase.
    """
    found = []
    for series, files in _series(database):
        if database.fileValue(files[0], MODALITY) in MODALITIES and "LOCALIZER" not in database.fileValue(
            files[0], KIND
        ):
            words = (database.fileValue(files[0], tag).strip() for tag in NAMED_BY)
            name = " ".join(filter(None, words)) or series
            found.append(_input(name, series, [Path(file) for file in files]))
    counts = Counter(each["entry"] for each in found)
    for each in found:
        if counts[each["entry"]] > 1:
            each["entry"] = each["name"] = f"{each['entry']} {each['series']}"
    return found


def _series(database) -> Iterator[tuple[str, Sequence[str]]]:
    for patient in database.patients():
        for study in database.studiesForPatient(patient):
            for series in database.seriesForStudy(study):
                files = database.filesForSeries(series)
                if files:
                    yield series, files


def _input(name: str, series: str, files: Sequence[Path]) -> dict[str, Any]:
    """Name one series: its folder, or its only file, which may have several frames."""
    folders = sorted({file.parent for file in files})
    problem = _("its DICOM files lie in several folders; import them into the database with a copy of the files")
    return {
        "path": str(files[0] if len(files) == 1 else folders[0]),
        "entry": name,
        "name": name,
        "problem": problem if len(folders) > 1 else "",
        "is_case": True,
        "channels": [],
        "series": series,
    }
