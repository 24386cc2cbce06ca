"""What the DICOM objects of a case are made of: its slices, its labels as DICOM codes them, who made and reviewed it.

All are part of the image's study, so they carry the patient and study fields of its files. Voxels are never resampled:
they are put in the order of the slices, however the volume's axes are permuted or flipped, and a volume that does not
lie on the slices is refused. Positions are LPS mm.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highdicom
import numpy as np
from highdicom.sr import CodedConcept
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from MoBUncertaintyLib import __version__
from MoBUncertaintyLib.base.errors import ImageError, OutputError
from MoBUncertaintyLib.images.dicom import MAX_SHIFT, places_of
from MoBUncertaintyLib.model.card import Label
from MoBUncertaintyLib.output.dicom.headers import NEEDED, read_header

if TYPE_CHECKING:
    from pathlib import Path

    import SimpleITK as sitk
    from pydicom.dataset import Dataset

    from MoBUncertaintyLib.output.case import Case
    from MoBUncertaintyLib.review.state import Signature

MANUFACTURER = "MoB Uncertainty"
TOLERANCE = 0.1  # of the smallest side of a voxel: positions in files are rounded
_ANGLE = 1e-3  # of a direction cosine
_LONGEST = 64  # characters of DICOM's long strings


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The slices of one series, and where a volume's voxels go in them."""

    headers: list[Dataset]  # one for each slice, in the order of their positions, or a single one with all frames
    orientation: np.ndarray  # directions along a row, along a column and of their normal, as columns
    spacing: tuple[float, float]  # between the pixels of a row and of a column
    positions: np.ndarray  # of the first pixel of each slice or frame
    left_out: tuple[str, ...]  # keywords of fields that the files state as DICOM does not allow
    axes: tuple[int, ...]  # of the volume's array, those that run along slices, columns and rows
    backwards: tuple[bool, ...]  # which of them run against these
    order: np.ndarray  # for each slice, its place in the volume along the first of the axes

    def frames(self, array: np.ndarray) -> np.ndarray:
        """Return the volume's voxels as (frame, row, column); a view where they are so already."""
        array = array.transpose(self.axes)[tuple(slice(None, None, -1 if back else 1) for back in self.backwards)]
        return array if (np.diff(self.order) == 1).all() else array[self.order]


@dataclass(frozen=True)
class CodedLabel:
    """A label as DICOM writes it."""

    value: int
    name: str  # as a long string
    colour: tuple[int, int, int]
    category: CodedConcept
    structure: CodedConcept
    modifier: CodedConcept | None  # such as a side
    uid: str  # the same in every object of the prediction

    @classmethod
    def of(cls, label: Label, prediction: str) -> CodedLabel:
        """Code a label of the prediction whose segmentation has this SHA-256."""
        codes = {part: CodedConcept(code[1], code[0], code[2]) for part, code in label.terminology.items() if code}
        uid = generate_uid(entropy_srcs=[prediction, label.name])
        kinds = codes["category"], codes["type"], codes.get("modifier")
        return cls(label.value, line(label.name), label.colour, *kinds, str(uid))


@dataclass(frozen=True, eq=False)
class Study:
    """A case as its DICOM objects have it."""

    series: DicomSeries
    segmentation: np.ndarray  # as corrected, (frame, row, column) uint8
    labels: tuple[CodedLabel, ...]
    prediction: str  # SHA-256 of the predicted segmentation
    model: str  # name of the model, as a long string
    digest: str  # its SHA-256
    corrected: bool = False  # a reader has reviewed the case: segments are semi-automatic
    signature: Signature | None = None
    suitability: CodedConcept | None = None
    warning: str = ""  # a word before what viewers list of the case

    @classmethod
    def of(cls, case: Case, corrected: np.ndarray) -> Study:
        """Gather it from a case and its corrected segmentation (z, y, x); errors as for `read_series`."""
        review, suits = case.review, case.review.prediction.suitability
        code = own_code(suits.level.upper().replace(" ", "_"), line(suits.text)) if suits else None
        series = read_series(case.source.dicom_files, case.image)
        model = review.prediction.provenance.get("model", {})
        way = "drawn by others, checked by " if review.prediction.checked else ""
        return cls(
            series,
            series.frames(corrected),
            tuple(CodedLabel.of(label, review.digest) for label in review.prediction.labels),
            review.digest,
            line(way + (model.get("name") or "not stated")),
            line(model.get("digest") or "not stated"),
            review.reviewed[0] > 0 or bool(review.drawn),
            review.signature,
            code,
            suits.level.upper() if suits and suits.sentence else "",
        )

    @property
    def reader(self) -> str | None:
        """Who has signed: the name as that of a family, which `^` ends and `=` would part from another spelling."""
        name = self.signature and self.signature.name.replace("^", " ").replace("=", " ")
        return line(name)[: _LONGEST - 1] + "^" if name else None

    def equipment(self, number: int, description: str) -> dict[str, Any]:
        """Gather what the objects of a series are made with; the model's digest is the serial number."""
        return {
            "series_instance_uid": highdicom.UID(),
            "series_number": number,
            "sop_instance_uid": highdicom.UID(),
            "instance_number": 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.model,
            "software_versions": __version__,
            "device_serial_number": self.digest,
            "series_description": line(": ".join(filter(None, [self.warning, description]))),
        }


def own_code(value: str, meaning: str) -> CodedConcept:
    """Make a code of our own, where no public scheme has one."""
    return CodedConcept(value, "99MOB", meaning)


def line(text: str) -> str:
    """Text as DICOM's long strings can hold it: a backslash would part two values, an escape begin another script."""
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text))
    return " ".join(plain.replace("\\", "/").split())[:_LONGEST].strip()


def save(dataset: Dataset, path: Path) -> None:
    """Write a DICOM file, never deflated, since not all programs can inflate; raises `OutputError`."""
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of labels and readers may be in any script
    try:
        dataset.save_as(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder."
        ) from error


def read_series(files: Sequence[Path], image: sitk.Image) -> DicomSeries:
    """Read the headers of an image's DICOM files, in any order: all of its slices, or the one file of an enhanced CT.

    Raises `ImageError` if one cannot be read or lacks what a derived object must repeat, or if they are not one series
    of parallel slices of one size, and `OutputError` if the image does not lie on the slices.
    """
    read = [read_header(file) for file in files]
    headers = [header for header, _ in read]
    for file, header in zip(files, headers, strict=True):
        if missing := next((name for name in NEEDED if not header.get(name)), None):
            raise ImageError(f"{file} has no {missing}, which DICOM results must contain; export as NRRD.")
    if not headers:
        raise ImageError("There are no DICOM files of this image; export as NRRD, or load it from its DICOM series.")
    if len({header.SeriesInstanceUID for header in headers}) > 1:
        raise ImageError("The DICOM files belong to several series; give only those of the image's series.")
    enhanced = any("NumberOfFrames" in header for header in headers)
    if enhanced and len(headers) > 1:
        raise ImageError("The image lies in several multi-frame DICOM files; export as NRRD.")
    try:
        planes = [place for header in headers for place, _ in places_of(header)]
        sizes = {(int(header.Columns), int(header.Rows)) for header in headers}
        cosines, positions, spacings = np.split(np.array(planes), [6, 9], axis=1)
        rows, columns = np.moveaxis(cosines.reshape(-1, 2, 3), 1, 0)
    except (ImageError, AttributeError, TypeError, ValueError) as error:
        raise ImageError("The DICOM files have no slice positions; export as NRRD.") from error
    if len(sizes) > 1 or np.ptp(cosines, axis=0).max() > _ANGLE or np.ptp(spacings, axis=0).max() > 1e-3:
        raise ImageError("The slices of the DICOM series differ in size, direction or spacing; export as NRRD.")
    orientation = np.stack([rows[0], columns[0], np.cross(rows[0], columns[0])], axis=1)
    if not enhanced:
        order = np.argsort(positions @ orientation[:, 2], kind="stable")
        headers, positions = [headers[index] for index in order], positions[order]
        _state_distances(headers, positions)
    left_out = tuple(dict.fromkeys(name for _, names in read for name in names))
    spacing = spacings[0][1], spacings[0][0]
    place = _match(image, sizes.pop(), spacing, orientation, positions)
    return DicomSeries(headers, orientation, spacing, positions, left_out, *place)


def _state_distances(headers: list[Dataset], positions: np.ndarray) -> None:
    """State thickness and distance of slices, which derived objects copy and files may lack or state wrongly."""
    distance = float(np.linalg.norm(positions[-1] - positions[0])) / max(len(positions) - 1, 1)
    for header in headers:
        if not header.get("SliceThickness"):
            header.SliceThickness = DSfloat(distance, auto_format=True)
        header.SpacingBetweenSlices = DSfloat(distance, auto_format=True)


def _match(
    image: sitk.Image,
    size: tuple[int, int],
    spacing: tuple[float, float],
    orientation: np.ndarray,
    positions: np.ndarray,
) -> tuple[tuple[int, ...], tuple[bool, ...], np.ndarray]:
    """Compare an image's grid with slices, on which it must lie: axes, backwards and order of a `DicomSeries`."""
    # Cosines between the series' axes (rows) and the image's (columns): 1 or -1 where one is along the other.
    cosines = orientation.T @ np.reshape(image.GetDirection(), (3, 3))
    signs = np.round(cosines)
    if not (np.abs(cosines - signs).max() < _ANGLE and (np.abs(signs).sum(0) == 1).all()):
        raise _mismatch("its axes are rotated against the slices")
    axes, backwards = np.abs(signs).argmax(1), signs.sum(1) < 0
    steps, ours = np.array(image.GetSpacing())[axes], np.array(image.GetSize())[axes]
    if tuple(ours[:2]) != size:
        raise _mismatch(f"its slices have {ours[0]} x {ours[1]} pixels, the files' have {size[0]} x {size[1]}")
    if ours[2] != len(positions):
        raise _mismatch(f"it has {ours[2]} slices, the files {len(positions)}")
    corner, normal = np.zeros(3, int), orientation[:, 2]
    corner[axes] = np.where(backwards, ours - 1, 0)
    order = np.argsort(np.argsort(positions @ normal, kind="stable"))
    start = np.array(image.TransformIndexToPhysicalPoint(corner.tolist()))
    away = start + order[:, None] * steps[2] * normal - positions
    beside = away - np.outer(away @ normal, normal)
    if np.linalg.norm(beside - beside[order == 0], axis=1).max() <= MAX_SHIFT:
        # So they were stacked straight when they were read, and each has its own voxels; where the first is counts.
        away = away - beside + beside[order == 0]
    # Of the in-plane spacing the last pixel counts, where small differences have added up.
    off = max(np.abs(away).max(), (np.abs(steps[:2] - spacing) * ours[:2]).max())
    if not off < TOLERANCE * steps.min():
        raise _mismatch("its position differs, or slices are missing or unevenly spaced")
    # Axis a of an image is axis 2 - a of its array.
    return tuple(int(2 - axis) for axis in reversed(axes)), tuple(bool(back) for back in reversed(backwards)), order


def _mismatch(reason: str) -> OutputError:
    return OutputError(f"The volume does not lie on the slices of the image's DICOM files ({reason}); export as NRRD.")
