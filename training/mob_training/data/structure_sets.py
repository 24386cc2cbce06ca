"""Clinical contours: patients' DICOM folders with RT Structure Sets as images and label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import RTStructureSetStorage

from mob_training.data.datasets import new_folder, write_image
from mob_training.data.partial_labels import write_labelled
from MoBUncertaintyLib.base.errors import ImageError, SettingsError
from MoBUncertaintyLib.base.input_files import begins_as_dicom
from MoBUncertaintyLib.images.dicom import find_series
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import read_image
from MoBUncertaintyLib.images.segmentations import read_segmentation

Names = Mapping[str, Sequence[str]]
"""The names that a label's region of interest may have, by the label's name."""


def parse_names(entries: Sequence[str]) -> dict[str, list[str]]:
    """Parse `--label NAME[=OTHER,OTHER...]`; a label's own name always counts.

    Raises:
        SettingsError: A label or a name is empty or comes twice.
    """
    names: dict[str, list[str]] = {}
    taken: set[str] = set()
    for entry in entries:
        label, _, others = entry.partition("=")
        contours = [_plain(name) for name in (label, *filter(None, others.split(",")))]
        unique = list(dict.fromkeys(contours))
        if label in ("", "background", *names) or not all(unique) or taken.intersection(unique):
            raise SettingsError(f"--label {entry}: each label and name may come once, and 'background' not at all.")
        names[label] = unique
        taken.update(unique)
    return names


def convert(source: Path, output: Path, names: Names) -> dict[str, str]:
    """Write `images/`, `labels/` and `labelled.json` of patients with contours, as `mob-training labelled` reads them.

    A patient's folder holds a DICOM series and one RT Structure Set of it, in folders of its own or not. A label's
    value is its place in `names` (`parse_names`), from 1 on; where regions overlap, the later label stands. A label
    whose region a patient lacks was not drawn, and is missing there. Return why patients were left out, by their names.

    Raises:
        SettingsError: The source holds no folders, or the output exists.
        OutputError: It cannot be written.
    """
    patients = sorted(path for path in Path(source).iterdir() if path.is_dir() and path.name[0] != ".")
    if not patients:
        raise SettingsError(f"{source} has no subfolders; give the folder with one folder for each patient.")
    if output.exists():
        raise SettingsError(f"{output} exists already; choose a new folder.")
    missing, left_out = {}, {}
    with new_folder(output, "images", "labels") as partial:
        for patient in patients:
            try:
                lacked = _convert(patient, partial, names)
            except ImageError as problem:
                left_out[patient.name] = str(problem)
                print(f"{patient.name} is left out: {problem}")
                continue
            missing[patient.name] = lacked
            without = [label for value, label in enumerate(names, start=1) if value in lacked]
            print(f"{patient.name}, without {', '.join(without)}" if without else patient.name)
        write_labelled(partial, list(names), missing)
    return left_out


def _convert(patient: Path, output: Path, names: Names) -> frozenset[int]:
    """Write a patient's image and label map; return the values of the labels that were not drawn."""
    path, header = _structure_set(patient)
    references = {
        str(series.SeriesInstanceUID)
        for frame in header.get("ReferencedFrameOfReferenceSequence", [])
        for study in frame.get("RTReferencedStudySequence", [])
        for series in study.get("RTReferencedSeriesSequence", [])
    }
    folders = [patient, *(folder for folder in sorted(patient.rglob("*")) if folder.is_dir())]
    places = {uid: folder for folder in folders for uid in find_series(folder)}
    series = references & places.keys() or (places.keys() if len(places) == 1 else set())
    if len(series) != 1:
        raise ImageError(f"it holds no image series that {path.name} refers to.")
    (uid,) = series
    image = read_image(places[uid], uid)
    regions = {_plain(region.name): region for region in read_segmentation(path, image).structures}
    labels, drawn = np.zeros(image.image.GetSize()[::-1], np.uint8), set()
    for value, (label, contours) in enumerate(names.items(), start=1):
        masks = [regions[name].load() for name in contours if name in regions]
        if len(masks) > 1:
            raise ImageError(f"{path.name} has several ROIs for {label}; give fewer names with --label.")
        if masks and masks[0].any():
            labels[masks[0]] = value
            drawn.add(value)
    if not drawn:
        raise ImageError(f"{path.name} has none of the ROIs; give their names with --label NAME=OTHER.")
    write_image(image.image, output / "images" / f"{patient.name}.nii.gz")
    write_nifti(output / "labels" / f"{patient.name}.nii.gz", labels, grid_of(image.image))
    return frozenset(range(1, len(names) + 1)) - drawn


def _structure_set(patient: Path) -> tuple[Path, pydicom.Dataset]:
    """Find the patient's only RT Structure Set."""
    sets = []
    for path in sorted(patient.rglob("*")):
        if path.is_file() and begins_as_dicom(path):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, defer_size=1024)
            except InvalidDicomError:
                continue
            if header.get("SOPClassUID") == RTStructureSetStorage:
                sets.append((path, header))
    if len(sets) != 1:
        raise ImageError(f"it has {len(sets)} RT Structure Sets, but needs exactly one.")
    return sets[0]


def _plain(name: str) -> str:
    """Write a name as planning systems spell it differently: case, spaces, hyphens and underscores do not count."""
    return "".join(letter for letter in name.casefold() if letter not in " -_")
