"""Slicer's DICOM database (ctkDICOMDatabase) of one patient's files, as far as modules ask it."""

from collections.abc import Mapping, Sequence
from pathlib import Path


class Database:
    """`slicer.dicomDatabase`.

    Args:
        series: The files of each series, by its UID.
    """

    isOpen = True

    def __init__(self, series: Mapping[str, Sequence[Path]]):
        import pydicom

        self._series = {uid: [str(file) for file in files] for uid, files in series.items()}
        self._headers = {name: pydicom.dcmread(name) for files in self._series.values() for name in files}

    def patients(self) -> list[str]:
        return ["1"]

    def studiesForPatient(self, _patient: str) -> list[str]:
        return ["1.2.3"]

    def seriesForStudy(self, _study: str) -> list[str]:
        return list(self._series)

    def filesForSeries(self, series: str) -> list[str]:
        return self._series[series]

    def fileValue(self, name: str, tag: str) -> str:
        element = self._headers[name].get(tuple(int(part, 16) for part in tag.split(",")))
        values = [] if element is None else element.value if element.VM > 1 else [element.value]
        return "\\".join(map(str, values))

    def instanceForFile(self, name: str) -> str:
        return str(self._headers[name].SOPInstanceUID)

    def fileForInstance(self, uid: str) -> str:
        return next((name for name, header in self._headers.items() if header.SOPInstanceUID == uid), "")
