"""The CURVAS data set (MICCAI 2024): abdominal CTs whose pancreas, kidneys and liver three radiologists drew each.

Its layout (zenodo.org/records/12687192): `CASE/image.nii.gz`, `CASE/annotation_1.nii.gz`, `annotation_2`,
`annotation_3`, with 1 for the pancreas, 2 for the kidneys, 3 for the liver.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mob_training.data.datasets import LabelledCase, LeftOut, check_case, gather_cases, write_image
from MoBUncertaintyLib.base.errors import ImageError, OutputError, SettingsError
from MoBUncertaintyLib.images.reader import read_volume

ORGANS = ("pancreas", "kidney", "liver")
"""Names of the values 1, 2, 3."""
VALUES = [[1], [2], [3]]
IMAGE, ANNOTATIONS = "image.nii.gz", "annotation_[0-9].nii.gz"


def convert(source: Path, output: Path, report: Callable[[str], None] = print) -> list[LeftOut]:
    """Write what `mob-training labelled` and `mob-training evaluate --raters` read.

    `images/CASE.nii.gz`; `labels/CASE.nii.gz`, each voxel's label by most of the raters, background if there is none;
    `CASE/raters/ORGAN_1.nii.gz` and so on, the masks of each. Cases that cannot be used are left out.

    Args:
        source: Folder that holds the cases' folders.
        output: New folder.
        report: Called with one line for each case.

    Returns:
        The cases that were left out, and why.

    Raises:
        SettingsError: The source holds no cases, or the output exists.
        OutputError: It cannot be written.
    """
    names = [path.parent.name for path in sorted(Path(source).glob(f"*/{IMAGE}")) if path.parent.name[0] != "."]
    if not names:
        raise SettingsError(f"{source} holds no CASE/{IMAGE}; give the folder that holds CURVAS's cases.")
    if output.exists():
        raise SettingsError(f"{output} exists already; choose a new folder.")
    cases, left_out = gather_cases(names, lambda name: _check(source / name), report)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for case in cases:
            _write(case, source / case.name, partial)
            report(case.name)
        partial.mkdir(parents=True, exist_ok=True)
        partial.rename(output)
    except (OSError, RuntimeError) as error:  # SimpleITK's are RuntimeErrors
        raise OutputError(f"{output} cannot be written ({error}); free some space or choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return left_out


def _check(folder: Path) -> LabelledCase:
    annotations = sorted(folder.glob(ANNOTATIONS))
    if len(annotations) < 2:
        raise ImageError(f"There are not several {folder.name}/annotation_N.nii.gz.")
    checked = [check_case(folder.name, folder / IMAGE, path, VALUES, "any organ") for path in annotations]
    return checked[0]


def _write(case: LabelledCase, folder: Path, output: Path) -> None:
    for place in (output / "images", output / "labels", output / case.name / "raters"):
        place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / IMAGE, output / "images" / f"{case.name}.nii.gz")
    raters = [read_volume(path) for path in sorted(folder.glob(ANNOTATIONS))]
    maps = [sitk.GetArrayFromImage(one) for one in raters]
    most = np.zeros(maps[0].shape, np.uint8)
    for value, organ in enumerate(ORGANS, start=1):
        masks = [(one == value).astype(np.uint8) for one in maps]
        most[2 * np.sum(masks, axis=0) > len(masks)] = value
        for number, mask in enumerate(masks, start=1):
            _save(mask, raters[0], output / case.name / "raters" / f"{organ}_{number}.nii.gz")
    _save(most, raters[0], output / "labels" / f"{case.name}.nii.gz")


def _save(array: np.ndarray, like: sitk.Image, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    write_image(image, path)
