"""Convert a labelled data set to nnU-Net's raw layout, with a fixed split that nnU-Net follows."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mob_training.data import CHANNEL
from mob_training.data.partial_labels import FILE, read_missing, write_labelled
from mob_training.data.split import Split, StatedSplit, check_subjects
from MoBUncertaintyLib.base.errors import ImageError, OutputError, SettingsError
from MoBUncertaintyLib.base.publishing import write_file
from MoBUncertaintyLib.images.channels import on_same_grid
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import read_image, read_volume, stored_orientation

CASES_FILE = "cases.csv"
LEFT_OUT = "left out"
SUFFIX = ".nii.gz"
FOLDERS = dict.fromkeys(("train", "val"), ("imagesTr", "labelsTr", "_0000"))
FOLDERS |= {"test": ("imagesTs", "labelsTs", "_0000"), "calibrate": ("calibration/images", "calibration/labels", "")}
"""Where images and label maps of each part of a split lie in a raw data set, and what follows the name of an image."""

Values = Mapping[str, Sequence[int] | None]
"""Values in a label map by the name of their class, of which the first is written as 1. Default: all but 0."""


@dataclass(frozen=True)
class LabelledCase:
    """One image and its label map on the same grid, as files: data sets are larger than memory.

    Attributes:
        volumes_ml: Volume of each class.
        repairs: What `read_image` repairs in the image; empty: the file can be copied.
        missing: Classes that were not drawn in this case (`partial_labels`); others may be absent from it.
    """

    name: str
    image: Path
    label: Path
    volumes_ml: tuple[float, ...] = ()
    repairs: str = ""
    missing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cohort:
    """Cases that can be used, why the others cannot, names and values of the classes, and where the data came from.

    The channel is `CT` for Hounsfield units with nnU-Net's CT normalisation; anything else is z-scored.
    """

    cases: Sequence[LabelledCase]
    left_out: Mapping[str, str]
    labels: Values
    source: str
    channel: str = "CT"


def parse_labels(entries: list[str]) -> dict[str, list[int]]:
    """Parse the names and label values of `--label NAME=VALUE[,VALUE...]`.

    Raises:
        SettingsError: One is not of that form, or a name or a value comes twice.
    """
    labels: dict[str, list[int]] = {}
    for entry in entries:
        name, _, members = entry.partition("=")
        if not name or not all(member.strip().isdecimal() for member in members.split(",")):
            raise SettingsError(f"--label must be NAME=VALUE or NAME=VALUE,VALUE, not {entry!r}.")
        values = [int(member) for member in members.split(",")]
        used = {0}.union(*labels.values())
        if name in ("background", *labels) or len(used.union(values)) < len(used) + len(values):
            raise SettingsError(f"--label {entry}: each name and value may come once, background and 0 not at all.")
        labels[name] = values
    return labels


def case_names(source: Path) -> set[str]:
    """Find the names of the files in a folder's `images` and `labels`.

    Raises:
        SettingsError: The folder holds no images.
    """
    images, labels = Path(source) / "images", Path(source) / "labels"
    files = {path.name for folder in (images, labels) for path in folder.glob(f"*{SUFFIX}")}
    names = {file.removesuffix(SUFFIX) for file in files if not file.startswith(".")}
    if not any((images / f"{name}{SUFFIX}").is_file() for name in names):
        raise SettingsError(f"{source} holds no images/NAME{SUFFIX}; give the folder with images/ and labels/.")
    return names


def folder_cases(
    source: Path,
    labels: Mapping[str, Sequence[int]],
    channel: str = CHANNEL,
    absent_is_missing: bool = False,
) -> Cohort:
    """Find the cases of a folder with `images/NAME.nii.gz` and `labels/NAME.nii.gz`, and those that cannot be used.

    With `absent_is_missing` a class that a label map does not show was not drawn there, instead of being absent.

    Raises:
        SettingsError: The folder holds no images, or its `labelled.json` is wrong.
    """
    names = case_names(source)
    missing = read_missing(source, list(labels), names)
    files = {name: (source / "images" / f"{name}{SUFFIX}", source / "labels" / f"{name}{SUFFIX}") for name in names}
    cases, left_out = read_cases(files, labels)
    taken = []
    for case in cases:
        absent = frozenset(value for value, volume in enumerate(case.volumes_ml, start=1) if not volume)
        lacked = missing.get(case.name, frozenset()) | (absent if absent_is_missing else frozenset())
        if shown := lacked - absent:
            label = list(labels)[min(shown) - 1]
            left_out[case.name] = f"{_short(case.label)} shows {label}, which {FILE} does not give to it."
            print(f"{case.name} is left out: {left_out[case.name]}")
        else:
            taken.append(replace(case, missing=lacked))
    return Cohort(taken, left_out, labels, source.name, channel)


def read_cases(files: Mapping[str, tuple[Path, Path]], labels: Values) -> tuple[list[LabelledCase], dict[str, str]]:
    """Read image and label map of each case completely, one case at a time.

    Return the cases whose files can be used together, and why the others are left out; each is printed in one line.
    """
    cases, left_out = [], {}
    for name, (image, label) in sorted(files.items()):
        try:
            case = _check_case(name, image, label, labels)
        except ImageError as problem:
            left_out[name] = str(problem)
            print(f"{name} is left out: {problem}")
        else:
            cases.append(case)
            if case.repairs:
                print(f"{name} is repaired: {case.repairs}")
    return cases, left_out


def _check_case(name: str, image: Path, label: Path, labels: Values) -> LabelledCase:
    for path in (image, label):
        if not path.is_file():
            raise ImageError(f"There is no {_short(path)}.")
    classes = read_classes(label, labels.values())
    volumes = volumes_ml(classes, len(labels))
    if not any(volumes):
        raise ImageError(f"{_short(label)} shows nothing that is to be segmented.")
    try:
        read = read_image(image)
    except ImageError as error:
        raise ImageError(f"The image cannot be used: {error}") from error
    if not on_same_grid(read.image, classes):
        raise ImageError(f"{_short(label)} has a different grid from {_short(image)}.")
    return LabelledCase(name, image, label, volumes, " ".join(read.warnings))


def read_classes(path: Path, values: Iterable[Sequence[int] | None]) -> sitk.Image:
    """Read a label map as uint8: class 1, 2, ... for the values of the first, second, ... list, else 0.

    Raises:
        ImageError: It is damaged, or not a volume.
    """
    try:
        stored = read_volume(path)
    except ImageError as error:
        raise ImageError(f"{_short(path)} cannot be used: {error}") from error
    array = sitk.GetArrayViewFromImage(stored)
    classes = np.zeros(array.shape, np.uint8)
    for index, members in enumerate(values, start=1):
        classes[array != 0 if members is None else np.isin(array, members)] = index
    label = sitk.GetImageFromArray(classes)
    label.CopyInformation(stored)
    return label


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def new_dataset_folder(dataset_id: int, name: str) -> Path:
    """Return the folder of a new raw data set: `nnUNet_raw/DatasetXXX_NAME`.

    Raises:
        SettingsError: There is one of that number already, or the name cannot be nnU-Net's.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise SettingsError(f"--name must be of letters, digits, '_', '.' and '-', not {name!r}.")
    raw = Path(os.environ["nnUNet_raw"])
    taken = sorted(raw.glob(f"Dataset{dataset_id:03d}_*"))
    if taken:
        raise SettingsError(f"{taken[0]} exists already; choose another --dataset-id or remove it.")
    return raw / f"Dataset{dataset_id:03d}_{name}"


def write_dataset(
    folder: Path,
    cohort: Cohort,
    split: Split | StatedSplit,
    orientation: str | None = None,
) -> Path:
    """Write a raw data set with images, label maps, `dataset.json`, `splits_final.json` and `cases.csv`; return it.

    If some cases lack labels, `labelled.json` says so. It and the split also go to nnU-Net's preprocessed folder, where
    nnU-Net follows the split. One case is in memory at a time; the folder appears when it is complete. Cases whose axes
    are stored in another order than most, or than `orientation` (such as `LPS`), are reoriented, since a network is
    trained on stored axes. Test cases lie in `imagesTs` and `labelsTs`, which nnU-Net does not look at in training,
    cases that calibrate in `calibration/images` and `calibration/labels`.

    Raises:
        SettingsError: There are too few cases for the split, or its subjects are of other cases.
        OutputError: The disk is full, or the folder cannot be written.
    """
    names, labels = [case.name for case in cohort.cases], list(cohort.labels)
    check_subjects(names, split.subjects)
    parts = split.assign(names)
    part_of = {name: part for part, members in parts.items() for name in members}
    with new_folder(folder, "imagesTr", "labelsTr", "imagesTs", "labelsTs") as hidden:
        used = {case: stored_orientation(case.image) for case in cohort.cases if case.name in part_of}
        orientation = orientation or Counter(sorted(used.values())).most_common(1)[0][0]
        rows = []
        for case in cohort.cases:
            note = case.repairs
            if used.get(case, orientation) != orientation:
                turned = f"Reoriented from {used[case]} to {orientation}."
                print(f"{case.name}: {turned}")
                note = f"{note} {turned}".strip()
            if case in used:
                image, label = _places(hidden, case.name, part_of[case.name])
                if note:
                    write_image(sitk.DICOMOrient(read_image(case.image).image, orientation), image)
                else:
                    shutil.copyfile(case.image, image)
                write_image(sitk.DICOMOrient(read_classes(case.label, cohort.labels.values()), orientation), label)
            row = {"case": case.name, "part": part_of.get(case.name, "not used"), "note": note}
            row["subject"] = split.subjects.get(case.name, case.name)
            for value, (label, volume) in enumerate(zip(labels, case.volumes_ml, strict=False), start=1):
                row[f"{label}_ml"] = "" if value in case.missing else f"{volume:.3f}"
            rows.append(row)
        rows += [{"case": name, "part": LEFT_OUT, "note": problem} for name, problem in cohort.left_out.items()]
        missing = {case.name: case.missing for case in used}
        write_labelled(hidden, labels, missing)
        if calibrating := parts.get("calibrate"):
            write_labelled(hidden / "calibration", labels, {name: missing[name] for name in calibrating})
        description = {
            "channel_names": {"0": cohort.channel},
            "labels": {"background": 0} | {label: value for value, label in enumerate(labels, start=1)},
            "numTraining": len(parts["train"]) + len(parts["val"]),
            "file_ending": SUFFIX,
            "reference": cohort.source,
            # Not nnU-Net's: kept so that `mob-uncertainty export` can state the axes the model was trained in.
            "orientation": orientation,
        }
        splits = [{"train": parts["train"], "val": parts["val"]}]
        for name, content in (("dataset", description), ("splits_final", splits)):
            (hidden / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        with (hidden / CASES_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["case", "part", "subject", "note", *(f"{label}_ml" for label in labels)])
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: row["case"]))
    if "nnUNet_preprocessed" in os.environ:
        copy_case_files(folder, Path(os.environ["nnUNet_preprocessed"]) / folder.name)
    return folder


@contextmanager
def new_folder(folder: Path, *parts: str) -> Iterator[Path]:
    """Write a folder that appears when it is complete, with empty folders in it; yield where to write it.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    hidden = folder.with_name(f".{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        for part in parts:
            (hidden / part).mkdir(parents=True)
        yield hidden
        hidden.rename(folder)
    except (OSError, RuntimeError) as error:  # SimpleITK's are RuntimeErrors
        raise OutputError(f"{folder} cannot be written ({error}); free some space or choose another folder.") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def copy_case_files(raw: Path, preprocessed: Path) -> None:
    """Copy what names cases, the split and `labelled.json`, to where a training looks for it."""
    for name in ("splits_final.json", FILE):
        if (raw / name).exists():
            write_file(preprocessed / name, partial(shutil.copyfile, raw / name))


def _places(folder: Path, name: str, part: str) -> tuple[Path, Path]:
    """Return where image and label map of a case lie in a data set, by its part of the split."""
    *folders, channel = FOLDERS[part]
    images, labels = (folder / place for place in folders)
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    return images / f"{name}{channel}{SUFFIX}", labels / f"{name}{SUFFIX}"


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image as `.nii.gz`; where SimpleITK would cut it short without a word, on a full disk, this raises.

    Raises:
        OSError: It cannot be written.
    """
    write_nifti(path, sitk.GetArrayViewFromImage(image), grid_of(image))


def volumes_ml(label: sitk.Image, classes: int) -> tuple[float, ...]:
    """Compute the volume in ml of the classes 1 to `classes` of a label map."""
    counts = np.bincount(sitk.GetArrayViewFromImage(label).ravel(), minlength=classes + 1)
    return tuple(float(count) * math.prod(label.GetSpacing()) / 1000 for count in counts[1 : classes + 1])
