"""The results folder: written whole or not at all, and read again.

Everything is written to a hidden folder beside the target, which then takes the target's name. Volumes are NIfTI in the
CT's geometry; positions in `regions.csv` are RAS mm.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from MoBUncertaintyLib.doubt import Grid, components
from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.figures import draw_overlay
from MoBUncertaintyLib.folders import FolderKind
from MoBUncertaintyLib.images import volume_stem
from MoBUncertaintyLib.regions import write_csv
from MoBUncertaintyLib.report import ReviewedCase, build_report, write_html
from MoBUncertaintyLib.review import Review
from MoBUncertaintyLib.scene_file import SceneError, write_scene_file

if TYPE_CHECKING:
    from MoBUncertaintyLib.card import ModelCard
    from MoBUncertaintyLib.prediction import Prediction
    from MoBUncertaintyLib.regions import Regions

SCHEMA = "mob-uncertainty results"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Results:
    """A results folder, read.

    Attributes:
        segmentation, probability, variance: As `Prediction` has them.
        regions: Label map of the doubtful regions.
        table: Rows of `regions.csv`: rank, label, `location` and so on; numbers are numbers.
        info: `prediction.json`.
    """

    segmentation: sitk.Image
    probability: sitk.Image
    variance: sitk.Image
    regions: sitk.Image
    table: list[dict[str, int | float | str]]
    info: dict[str, Any]


def is_results_folder(folder: Path) -> bool:
    """Whether the folder was written by `write_results`."""
    try:
        return _read_json(folder)["schema"] == SCHEMA
    except (OSError, ValueError, TypeError, KeyError):
        return False


def read_record(folder: Path) -> dict[str, Any] | None:
    """`prediction.json` of a results folder; None where there is none."""
    return _read_json(folder) if is_results_folder(folder) else None


FOLDER = FolderKind(
    noun="results",
    one="results",
    earlier="earlier results",
    recognises=is_results_folder,
    files=re.compile(
        r"(segmentation|regions|(probability|variance)(_.*)?)\.nii\.gz|regions\.csv|review\.html|overlay\.png|scene\.mrb"
        r"|(prediction|demo)\.json"
    ),
)
"""A folder with anything else in it, a reader's review say, is never replaced."""


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse an output folder before hours of computing rather than after.

    Args:
        folder: The results folder that will be written.
        overwrite: An older results folder may be replaced.

    Raises:
        OutputError: Something else is there, or older results that may not be replaced, or it may not be written to.
    """
    FOLDER.check(folder, overwrite)


def write_results(
    folder: str | Path,
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    card: ModelCard,
    *,
    source: str | Path | None = None,
    sha256: str | None = None,
    series: str | None = None,
    scene: bool = True,
    overwrite: bool = False,
    warnings: Sequence[str] = (),
) -> list[str]:
    """Write a results folder.

    Args:
        folder: To be made; missing parents are made too.
        image: The CT.
        prediction: Of that CT.
        regions: Of that prediction.
        card: Of the model.
        source: The file or DICOM folder the CT was read from, to name it and find it again.
        sha256: Of what was read there; see `images.digest`.
        series: Series instance UID, where the folder has several.
        scene: Write `scene.mrb` too (a process of its own, with `slicer-core`).
        overwrite: Replace an older results folder.
        warnings: What was noticed before, for `prediction.json`.

    Returns:
        What could not be written and why, one sentence each; also in `prediction.json`.

    Raises:
        OutputError: The folder cannot be written; nothing of it is left, and older results are as they were.
    """
    check_output(folder, overwrite)
    folder = Path(folder).resolve()
    name = volume_stem(source) if source else "CT"
    with FOLDER.new(folder) as partial:
        _write_volumes(partial, prediction, card)
        _write_nifti(regions.labels, partial / "regions.nii.gz")
        write_csv(regions, partial / "regions.csv")
        draw_overlay(image, prediction, regions, card.labels, partial / "overlay.png", Path(source or "").name)
        problems = []
        info = describe(image, prediction, regions, card, source, sha256, series)
        info["warnings"] = [*warnings, *prediction.warnings]
        if scene:
            try:
                write_scene_file(partial / "scene.mrb", image, prediction, regions, card, name, info)
            except SceneError as error:  # the prediction is worth keeping without it
                problems.append(str(error))
        info["warnings"] += problems
        problems += _write_review(partial / "review.html", image, prediction, regions, card, info)
        info["warnings"] = [*warnings, *prediction.warnings, *problems]
        text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        (partial / "prediction.json").write_text(text + "\n", encoding="utf-8")
    return problems


def read_results(folder: str | Path) -> Results:
    """Read a results folder.

    Raises:
        OutputError: It is not one, or one of its files cannot be read.
    """
    folder = Path(folder)
    if not is_results_folder(folder):
        raise OutputError(f"{folder} is not a results folder; give one that mob-uncertainty predict has written.")
    try:
        info = _read_json(folder)
        names = [organ["name"] for organ in info["organs"]]
        with open(folder / "regions.csv", newline="", encoding="utf-8") as file:
            table = [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        return Results(
            segmentation=_read_nifti(folder / "segmentation.nii.gz"),
            probability=_read_per_class(folder, "probability", names),
            variance=_read_per_class(folder, "variance", names),
            regions=_read_nifti(folder / "regions.nii.gz"),
            table=table,
            info=info,
        )
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise OutputError(f"The results in {folder} are damaged ({error}); predict again.") from error


def _write_volumes(folder: Path, prediction: Prediction, card: ModelCard) -> None:
    _write_nifti(prediction.segmentation, folder / "segmentation.nii.gz")
    for kind, image in (("probability", prediction.probability), ("variance", prediction.variance)):
        paths = _per_class(folder, kind, [label.name for label in card.labels])
        for index, path in enumerate(paths):
            _write_nifti(sitk.VectorIndexSelectionCast(image, index) if len(paths) > 1 else image, path)


def _write_review(
    path: Path, image: sitk.Image, prediction: Prediction, regions: Regions, card: ModelCard, info: dict[str, Any]
) -> list[str]:
    """The report of a case that nobody has reviewed yet; returns why it could not be made, if so."""
    predicted = sitk.GetArrayViewFromImage(prediction.segmentation)
    values = [label.value for label in card.labels]
    probability, variance = (
        dict(zip(values, components(each), strict=True)) for each in (prediction.probability, prediction.variance)
    )
    review = Review(predicted, regions, Grid.of(image))
    case = ReviewedCase(image, review, card.labels, probability, variance, info)
    try:
        write_html(path, build_report(case, corrected=predicted), case, corrected=predicted, table="regions.csv")
    except OutputError as error:  # the prediction is worth keeping without it
        return [str(error)]
    return []


def _per_class(folder: Path, kind: str, names: list[str]) -> list[Path]:
    """One file for one organ; with several organs one for each, in the order of the labels."""
    if len(names) == 1:
        return [folder / f"{kind}.nii.gz"]
    # A name is free text: what a file name cannot hold is replaced, and the number keeps names apart.
    safe = ["".join(c if c.isalnum() else "_" for c in name) for name in names]
    return [
        folder / f"{kind}_{name if safe.count(name) == 1 else f'{name}_{number}'}.nii.gz"
        for number, name in enumerate(safe, 1)
    ]


def _read_nifti(path: Path) -> sitk.Image:
    if not _is_complete(path):
        raise OSError(f"{path.name} is missing or incomplete")
    return sitk.ReadImage(str(path))


def _write_nifti(image: sitk.Image, path: Path) -> None:
    """Write, and make sure that all of it was: SimpleITK cuts a NIfTI file short on a full disk without a word."""
    try:
        sitk.WriteImage(image, str(path))
    except RuntimeError as error:
        raise _disk_error(path) from error
    if not _is_complete(path):
        raise _disk_error(path)


def _is_complete(path: Path) -> bool:
    """Whether a .nii.gz file ends as it should: the last thing of a gzip file is its unpacked length (modulo 2^32)."""
    try:
        voxels = nibabel.load(path).dataobj
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            unpacked = int.from_bytes(file.read(), "little")
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError):
        return False
    return unpacked == (voxels.offset + math.prod(voxels.shape) * voxels.dtype.itemsize) % 2**32


def _disk_error(path: Path) -> OSError:
    """Libraries do not say that a disk is full: ask the disk."""
    full = shutil.disk_usage(path.parent).free < 2**20
    code = errno.ENOSPC if full else errno.EIO
    return OSError(code, os.strerror(code))


def _read_per_class(folder: Path, kind: str, names: list[str]) -> sitk.Image:
    images = [_read_nifti(path) for path in _per_class(folder, kind, names)]
    return sitk.Compose(images) if len(images) > 1 else images[0]


def describe(
    image: sitk.Image,
    prediction: Prediction,
    regions: Regions,
    card: ModelCard,
    source: str | Path | None = None,
    sha256: str | None = None,
    series: str | None = None,
) -> dict[str, Any]:
    """`prediction.json` but for the warnings: what came in, what was done with it, what came out."""
    volumes = organ_volumes(prediction.segmentation, card)
    return prediction.provenance | {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            "name": Path(source).name if source else None,
            "sha256": sha256,
            "path": str(Path(source).resolve()) if source else None,
            "series": series,
            "size": image.GetSize(),
            "spacing_mm": image.GetSpacing(),
            "origin_lps_mm": image.GetOrigin(),
            "direction": image.GetDirection(),
        },
        "organs": [
            {
                "name": label.name,
                "value": label.value,
                "colour": label.colour,
                "terminology": label.terminology,
                "volume_ml": round(volumes[label.name], 3),
            }
            for label in card.labels
        ],
        "regions": {
            "count": len(regions.regions),
            "expected_error_mm3": round(sum(region.expected_error_mm3 for region in regions.regions), 1),
            "settings": asdict(regions.settings),
        },
        "timings_s": {stage: round(seconds, 3) for stage, seconds in prediction.timings.items()},
    }


def organ_volumes(segmentation: sitk.Image, card: ModelCard) -> dict[str, float]:
    """Segmented volume of each organ by its name, ml."""
    array = sitk.GetArrayViewFromImage(segmentation)
    voxel_ml = math.prod(segmentation.GetSpacing()) / 1000
    # Not by numpy's bincount, which makes int64 of the volume.
    return {label.name: voxel_ml * int(np.count_nonzero(array == label.value)) for label in card.labels}


def _read_json(folder: Path) -> Any:
    return json.loads((folder / "prediction.json").read_text(encoding="utf-8"))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
