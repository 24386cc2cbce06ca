"""Cases of the TotalSegmentator data set, version 2.0.1 (Wasserthal et al. 2023), that show an organ.

Its layout: `CASE/ct.nii.gz`, `CASE/segmentations/ORGAN.nii.gz` for 117 structures, and `meta.csv` with one case a line.
A mask of a structure that the CT does not show is there, but empty.
"""

from __future__ import annotations

import csv
from difflib import get_close_matches
from pathlib import Path

from mob_training.data.datasets import Cohort, read_cases
from MoBUncertaintyLib.base.errors import SettingsError

MASKS, ENDING = "segmentations", ".nii.gz"


def find_cases(source: Path, organ: str) -> Cohort:
    """Find the cases that show the organ, and those left out: without it, incomplete, damaged, or on two grids.

    Every file is read once, one case at a time. `meta.csv` need not be there; where it is, cases that it lists and that
    have no folder are left out by name.

    Raises:
        SettingsError: The folder holds no cases, or none with a mask of that name.
    """
    source = Path(source)
    if not source.is_dir():
        raise SettingsError(f"{source} is not a folder; give the one that holds TotalSegmentator's cases.")
    folders = {path.name: path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if not any((folder / "ct.nii.gz").is_file() for folder in folders.values()):
        raise SettingsError(f"{source} holds no CASE/ct.nii.gz; give the folder that holds TotalSegmentator's cases.")
    _check_name(organ, source, {path.name for folder in folders.values() for path in folder.glob(f"{MASKS}/*{ENDING}")})

    names = folders.keys() | _listed(source / "meta.csv")
    files = {name: (source / name / "ct.nii.gz", source / name / MASKS / f"{organ}{ENDING}") for name in names}
    labels = {organ: None}
    return Cohort(*read_cases(files, labels), labels, f"{organ} of {source.name}")


def _check_name(organ: str, source: Path, files: set[str]) -> None:
    """Refuse a structure that no case has a mask of, and list the available ones."""
    names = sorted(name.removesuffix(ENDING) for name in files)
    if organ in names:
        return
    nearest = get_close_matches(organ.lower(), names, n=1)
    hint = f" (do you mean {nearest[0]}?)" if nearest else ""
    there_are = ", ".join(names) or "none"
    raise SettingsError(f"No case of {source} has a mask of '{organ}'{hint}; choose one of: {there_are}.")


def _listed(meta: Path) -> set[str]:
    """Return the names of the cases that `meta.csv` lists; none if there is no such file or it is of another kind."""
    if not meta.is_file():
        return set()
    try:
        with meta.open(newline="", encoding="utf-8-sig") as file:
            return {row["image_id"] for row in csv.DictReader(file, delimiter=";") if row["image_id"]}
    except (KeyError, UnicodeDecodeError, csv.Error):
        print(f"{meta.name} is not a list of cases and is not used")
        return set()
