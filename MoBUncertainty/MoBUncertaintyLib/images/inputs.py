"""List the images at a path: one, or those of each entry of a folder, with the reason for what cannot be predicted.

DICOM folders, volume files and cases in TotalSegmentator's layout may be mixed, and lie in folders of folders. For a
model of several input channels, the files CASE_0000, CASE_0001, ... are one case, as for nnU-Net.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from MoBUncertaintyLib.base.errors import ImageError
from MoBUncertaintyLib.base.input_files import begins_as_dicom
from MoBUncertaintyLib.base.names import is_system_file, printable, unique_names
from MoBUncertaintyLib.base.publishing import RECORDS, read_record
from MoBUncertaintyLib.images.reader import volume_stem
from MoBUncertaintyLib.images.segmentations import stem_of
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES, is_volume_name

# A case in TotalSegmentator's layout is its image beside a folder of masks; a data set of them has a list of cases.
_CASE_IMAGES, _MASKS, _CASE_LIST = ("ct", "mri"), "segmentations", "meta.csv"
_DEEPEST = 8  # folders in each other, as patient, study and series


@dataclass(frozen=True)
class Input:
    """An image that was named itself, or one in an entry of a folder that was."""

    path: Path  # volume file or DICOM folder
    entry: str  # name in the folder, or path where an entry holds several; empty if the image was named itself
    name: str  # name of its results folder; empty if the image was named itself
    problem: str = ""  # why it cannot be predicted, as the end of a sentence, if a reason is known
    is_case: bool = True  # whether there is an image at all
    channels: tuple[Path, ...] = ()  # volume files of a model's second and further input channels, in order
    series: str | None = None  # series instance UID, where it is known to be one of several in its folder
    segmentation: Path | None = None  # that others have drawn, to be checked
    against: Path | None = None  # a second one, with which that one is compared


def list_inputs(path: str | Path, output: Path | None = None, channels: int = 1) -> list[Input]:
    """List the images at `path`: a file, a DICOM folder, or those of each entry of a folder of these.

    An entry is a volume file, a DICOM folder, a folder with one volume file, a case in TotalSegmentator's layout, or a
    folder of such folders; hidden files and results folders are none, nor is `output`. Raises `ImageError` for none.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise ImageError(f"{printable(str(path))} does not exist; check the path.")
    if not path.is_dir():
        return [Input(path, "", "", channels=_numbered(path, channels)[1:])]
    if _holds_results(path):
        raise ImageError(f"{path} holds results, not images; give the image that they were made from.")
    passed = frozenset({output.resolve()} if output else ())
    entries = [entry for entry in _entries(path, channels) if entry.resolve() not in passed]
    if image := _image_of_case(entries):
        return [Input(image, "", "")]
    slices = [entry for entry in entries if begins_as_dicom(entry) and not is_volume_name(entry.name)]
    inputs = [one for entry in entries if entry not in slices for one in _search(entry, passed, channels)]
    if any(_image_of_case(_entries(one.path.parent)) for one in inputs if volume_stem(one.path) in _CASE_IMAGES):
        inputs = [one for one in inputs if one.entry != _CASE_LIST]
    good = [one for one in inputs if not one.problem]
    if _holds_slices(slices):
        if not good:
            return [Input(path, "", "")]
        inputs.append(Input(path, path.name, path.name, "DICOM files are mixed with other images; separate them"))
    if not good:
        reasons = "".join(f"; {one.entry}: {one.problem}" for one in inputs[:3])
        raise ImageError(
            f"{path} holds no image{reasons}; give a folder with DICOM slices or {', '.join(VOLUME_SUFFIXES)} files."
        )
    return _with_distinct_names(inputs)


def case_folders(inputs: Sequence[Input], output: Path) -> list[tuple[Input, Path]]:
    """Pair each input with its results folder: `output` for an image that was named itself, else a folder in it."""
    names = unique_names([one.name for one in inputs])
    return [(one, output / name if one.name else output) for one, name in zip(inputs, names, strict=True)]


def paired(inputs: Sequence[Input], segmentation: Path, against: Path | None = None) -> list[Input]:
    """Give each input its segmentation: an image that was named itself this one, others that of their name in a folder.

    Likewise the second one, `against` which it is compared. An input that has none there has a problem. Raises
    `ImageError` if a segmentation is not there, or no folder.
    """
    if against is not None:
        firsts = paired(inputs, segmentation)
        pairs = zip(firsts, paired(firsts, against), strict=True)
        return [replace(two, segmentation=one.segmentation, against=two.segmentation) for one, two in pairs]
    if not os.path.exists(segmentation):
        raise ImageError(f"{printable(str(segmentation))} does not exist; check the path.")
    if not inputs[0].entry:
        return [replace(inputs[0], segmentation=segmentation)]
    if not segmentation.is_dir():
        raise ImageError(f"{segmentation} is a file, but there are several images; give a folder of segmentations.")
    drawn = {stem_of(entry): entry for entry in _entries(segmentation)}
    missing = f"there is no segmentation of that name in {printable(segmentation.name)}"
    return [
        replace(one, segmentation=drawn.get(one.name), problem=one.problem or ("" if one.name in drawn else missing))
        for one in inputs
    ]


def _entries(folder: Path, channels: int = 1) -> list[Path]:
    """List a folder without hidden files, and without channels that belong to a file beside them."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder} cannot be listed ({error.strerror}); check the path.") from error
    entries = [entry for entry in entries if not entry.name.startswith(".") and not is_system_file(entry.name)]
    beside = {other for entry in entries for other in _numbered(entry, channels)[1:]}
    return [entry for entry in entries if entry not in beside]


def _numbered(path: Path, channels: int) -> tuple[Path, ...]:
    """List the files of a case, if this is the first of them: those with its name and the numbers of the channels."""
    stem = volume_stem(path)
    if channels == 1 or not stem.endswith("_0000") or not is_volume_name(path.name):
        return ()
    suffix = path.name[len(stem) :]
    files = (path.with_name(f"{stem[:-4]}{number:04}{suffix}") for number in range(channels))
    return tuple(file for file in files if file.exists())


def _volume(path: Path, channels: int, entry: str = "", name: str = "") -> Input:
    """Make the input of a volume file in a folder, with its other channels; a lone channel's number is no name."""
    files = _numbered(path, max(channels, 2))
    name = name.removesuffix("_0000") if channels > 1 or len(files) == 1 else name
    if channels == 1:
        return Input(path, entry, name)
    if len(files) == channels:
        return Input(path, entry, name, channels=files[1:])
    names = [f"CASE_{number:04}" for number in range(channels)]
    return Input(path, entry, name, f"the model takes {channels} images of each case, in files {', '.join(names)}")


def _search(entry: Path, passed: frozenset[Path], channels: int) -> list[Input]:
    """Find the images in an entry of the folder that was named; the folders `passed` are not searched."""
    if not entry.is_dir():
        if is_volume_name(entry.name):
            return [_volume(entry, channels, entry.name, volume_stem(entry))]
        return [Input(entry, entry.name, entry.name, "it is neither a volume nor a DICOM folder", is_case=False)]
    inputs = _in_folder(entry, passed, _DEEPEST, channels)
    if len(inputs) == 1:
        return [replace(inputs[0], entry=entry.name, name=entry.name)]
    if not inputs and not _holds_results(entry):
        return [Input(entry, entry.name, entry.name, "it holds no image", is_case=False)]
    named = [one.path if one.path.is_dir() else one.path.parent for one in inputs]
    texts = [folder.relative_to(entry.parent).as_posix() for folder in named]
    return [replace(one, entry=text, name=text.replace("/", "_")) for one, text in zip(inputs, texts, strict=True)]


def _in_folder(folder: Path, passed: frozenset[Path], depth: int, channels: int) -> list[Input]:
    """Find the image in a folder, else those in its subfolders."""
    place = folder.resolve()
    if place in passed or _holds_results(folder):
        return []
    try:
        entries = _entries(folder, channels)
    except ImageError as error:
        return [Input(folder, "", "", str(error).rstrip("."))]
    if image := _image_of_case(entries):
        return [Input(image, "", "")]
    volumes = [entry for entry in entries if is_volume_name(entry.name) and not entry.is_dir()]
    has_slices = _holds_slices([entry for entry in entries if entry not in volumes])
    if len(volumes) + has_slices == 1:
        return [_volume(volumes[0], channels) if volumes else Input(folder, "", "")]
    if volumes:
        count = f"{len(volumes)} volumes" if len(volumes) > 1 else "a volume"
        count += " and DICOM files" if has_slices else ""
        return [Input(folder, "", "", f"it contains {count}; leave only one image in it")]
    below = [entry for entry in entries if entry.is_dir()] if depth else []
    passed |= {place}  # links may lead in circles
    return [one for entry in below for one in _in_folder(entry, passed, depth - 1, channels)]


def _image_of_case(entries: Sequence[Path]) -> Path | None:
    """Find the image of a case in TotalSegmentator's layout among the entries of its folder."""
    if not any(entry.name == _MASKS and entry.is_dir() for entry in entries):
        return None
    images = [entry for entry in entries if is_volume_name(entry.name) and volume_stem(entry) in _CASE_IMAGES]
    return images[0] if len(images) == 1 else None


def _holds_results(folder: Path) -> bool:
    records = (read_record(folder / name) or {} for name in RECORDS)
    return any(str(record.get("schema")).startswith("mob-uncertainty ") for record in records)


def _holds_slices(entries: Sequence[Path]) -> bool:
    return any(begins_as_dicom(entry) and entry.name.upper() != "DICOMDIR" for entry in entries)


def _with_distinct_names(inputs: Sequence[Input]) -> list[Input]:
    """Name inputs without suffixes if that keeps them distinct, else as in the folder."""
    count = Counter(name for one in inputs for name in {one.name, one.entry})
    return [one if count[one.name] == 1 else replace(one, name=one.entry) for one in inputs]
