"""List the images at a path: one image, or every entry of a folder, with the reason if it cannot be predicted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from MoBUncertaintyLib.errors import ImageError
from MoBUncertaintyLib.files.input_files import begins_as_dicom, is_regular
from MoBUncertaintyLib.files.names import is_system_file, printable, unique_names
from MoBUncertaintyLib.images.reader import volume_stem
from MoBUncertaintyLib.images.volume_headers import VOLUME_SUFFIXES, is_volume_name, read_header


@dataclass(frozen=True)
class Input:
    """An image that was named itself, or an entry of a folder that was.

    Attributes:
        path: Volume file or DICOM folder.
        entry: Name in the folder; a volume may lie in a subfolder of its own. Empty if the image was named itself.
        name: Name of its results folder; empty if the image was named itself.
        problem: Why it cannot be predicted, as the end of a sentence; empty if no reason is known yet.
    """

    path: Path
    entry: str
    name: str
    problem: str = ""


def list_inputs(path: str | Path, output: Path | None = None) -> list[Input]:
    """List the images at `path`: a file, a DICOM folder, or each entry of a folder of these.

    An entry is a volume file, a DICOM folder or a folder with one volume file. Hidden files are no entries.

    Args:
        path: Path that the user named.
        output: Folder for the results; if it lies in `path`, it is not an entry.

    Raises:
        ImageError: There is nothing at `path`, or no image in it.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise ImageError(f"{printable(str(path))} does not exist; check the path.")
    if not path.is_dir():
        return [Input(path, "", "")]
    entries = [entry for entry in _entries(path) if output is None or entry.resolve() != output.resolve()]
    slices = [entry for entry in entries if begins_as_dicom(entry) and not is_volume_name(entry.name)]
    found = [_entry(entry) for entry in entries if entry not in slices]
    good = [each for each in found if not each.problem]
    if _holds_slices(slices):
        if not good:
            return [Input(path, "", "")]
        found.append(
            Input(path, path.name, path.name, "DICOM files lie beside other images; give them a folder of their own")
        )
    if not good:
        reasons = "".join(f"; {each.entry}: {each.problem}" for each in found[:3])
        raise ImageError(
            f"{path} holds no image{reasons}; give a folder with DICOM slices or {', '.join(VOLUME_SUFFIXES)} files."
        )
    return _with_distinct_names(found)


def case_folders(inputs: Sequence[Input], output: Path) -> list[tuple[Input, Path]]:
    """Pair each input with its results folder: `output` for an image that was named itself, else a folder in it."""
    names = unique_names([each.name for each in inputs])
    return [(each, output / name if each.name else output) for each, name in zip(inputs, names, strict=True)]


def _entries(folder: Path) -> list[Path]:
    """List a folder without hidden files and without voxels that belong to a header beside them."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder} cannot be listed ({error.strerror}); check the path.") from error
    entries = [entry for entry in entries if not entry.name.startswith(".") and not is_system_file(entry.name)]
    beside = _voxel_files(entries)
    return [entry for entry in entries if entry not in beside]


def _voxel_files(entries: Sequence[Path]) -> set[Path]:
    """Find the files that hold the voxels of a header beside them."""
    files: set[Path] = set()
    for entry in entries:
        if is_volume_name(entry.name) and is_regular(entry):
            try:
                files |= set(read_header(entry).files) - {entry}
            except ImageError:
                continue  # is reported when it is read
    return files


def _entry(path: Path) -> Input:
    if not path.is_dir():
        is_volume = is_volume_name(path.name)
        problem = "" if is_volume else "it is no volume and no folder of DICOM files"
        return Input(path, path.name, volume_stem(path), problem)
    try:
        entries = _entries(path)
        volumes = [entry for entry in entries if is_volume_name(entry.name) and not entry.is_dir()]
        has_slices = _holds_slices([entry for entry in entries if entry not in volumes])
    except ImageError as error:
        problem = str(error).rstrip(".")
    else:
        if len(volumes) + has_slices == 1:
            return Input(volumes[0] if volumes else path, path.name, path.name)
        count = f"{len(volumes)} volumes" if len(volumes) > 1 else "a volume"
        several = f"it holds {count}{' and DICOM files' if has_slices else ''}; keep one image there"
        problem = several if volumes else "it holds no image itself"
    return Input(path, path.name, path.name, problem)


def _holds_slices(entries: Sequence[Path]) -> bool:
    return any(begins_as_dicom(entry) and entry.name.upper() != "DICOMDIR" for entry in entries)


def _with_distinct_names(inputs: Sequence[Input]) -> list[Input]:
    """Name inputs without suffixes if that keeps them distinct, else as in the folder."""
    count = Counter(name for each in inputs for name in {each.name, each.entry})
    return [each if count[each.name] == 1 else replace(each, name=each.entry) for each in inputs]
