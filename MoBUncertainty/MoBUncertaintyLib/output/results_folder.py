"""The results folder: written whole or not at all, and read again.

Everything is written to a hidden folder beside the target, which then takes the target's name. Volumes are NIfTI in the
CT's geometry; positions in `regions.csv` are RAS mm.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from MoBUncertaintyLib.errors import OutputError
from MoBUncertaintyLib.files.integrity import make_manifest, seal
from MoBUncertaintyLib.files.names import label_file_names, printable
from MoBUncertaintyLib.files.publishing import absolute, sweep
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.reader import volume_stem
from MoBUncertaintyLib.output.folders import FolderInProgress, FolderKind
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.report import ReviewedCase, build_report, check_template, write_html
from MoBUncertaintyLib.output.results_record import RECORD, SCHEMA, SCHEMA_VERSION, read_record, read_table
from MoBUncertaintyLib.output.scene_file import SceneError, write_scene_file
from MoBUncertaintyLib.regions.finder import write_csv
from MoBUncertaintyLib.regions.uncertainty import components
from MoBUncertaintyLib.review.review import Review

if TYPE_CHECKING:
    from MoBUncertaintyLib.inference.predictor import Prediction
    from MoBUncertaintyLib.model.card import ModelCard
    from MoBUncertaintyLib.regions.finder import Regions


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


FOLDER = FolderKind(
    noun="results",
    one="results",
    earlier="earlier results",
    main="segmentation.nii.gz",
    record=RECORD,
    schema=SCHEMA,
)
"""A folder with anything else in it than its record lists, a reader's review say, is never replaced."""


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse an output folder before hours of computing rather than after.

    Args:
        folder: The results folder that will be written.
        overwrite: An older results folder may be replaced.

    Raises:
        OutputError: Something else is there, or older results that may not be replaced, or it may not be written to;
            or this program is not installed as a whole.
    """
    check_template()
    FOLDER.check(folder, overwrite)


def write_results(
    folder: str | Path | FolderInProgress,
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
    more: Callable[[Path], None] | None = None,
) -> list[str]:
    """Write a results folder.

    Args:
        folder: To be made; missing parents are made too. Or what `FOLDER.reserve` gave for it.
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
        more: Writes more files to the folder that it is called with.

    Returns:
        What could not be written and why, one sentence each; also in `prediction.json`.

    Raises:
        OutputError: The folder cannot be written; nothing of it is left, and older results are as they were.
    """
    check_template()
    reserved = isinstance(folder, FolderInProgress)
    name = printable(volume_stem(source)) if source else "CT"
    with nullcontext(folder) if reserved else FOLDER.reserve(folder, overwrite) as place, place.writing() as partial:
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
        _write_review(partial / "review.html", image, prediction, regions, card, info)
        if more:
            more(partial)
        record = seal(json.loads(json.dumps(info, default=str)) | {"files": make_manifest(partial)})
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    return problems + place.warnings


def read_results(folder: str | Path) -> Results:
    """Read a results folder.

    Raises:
        OutputError: It is not one, or one of its files cannot be read.
    """
    folder = absolute(folder)
    if not folder.exists():
        sweep(folder.parent)  # an earlier result may be hidden, where a run was killed that replaced it
    if not FOLDER.recognises(folder):
        raise OutputError(f"{folder} is not a results folder; give one that mob-uncertainty predict has written.")
    try:
        info = read_record(folder)
        names = [organ["name"] for organ in info["organs"]]
        results = Results(
            segmentation=_read_nifti(folder / "segmentation.nii.gz"),
            probability=_read_per_class(folder, "probability", names),
            variance=_read_per_class(folder, "variance", names),
            regions=_read_nifti(folder / "regions.nii.gz"),
            table=read_table(folder / "regions.csv"),
            info=info,
        )
        _check_volumes(results)
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"The results in {folder} are damaged ({error}); predict again.") from error
    return results


def _check_volumes(results: Results) -> None:
    """Check that the volumes fit each other, and what the record says of them.

    Raises:
        ValueError: They do not.
    """
    for image in (results.segmentation, results.probability, results.variance, results.regions):
        if list(image.GetSize()) != results.info["input"]["size"]:
            raise ValueError("its volumes differ in size")
    organs = [organ["value"] for organ in results.info["organs"]]
    regions = [row["label"] for row in results.table]
    for name, labels in (("segmentation", organs), ("regions", regions)):
        array = sitk.GetArrayViewFromImage(getattr(results, name))
        if array.dtype.kind != "u" or array.max() > max(labels, default=0):
            raise ValueError(f"{name}.nii.gz has values that stand for nothing")
    for image in (results.probability, results.variance):
        array = sitk.GetArrayViewFromImage(image)
        if array.dtype != np.float32 or not math.isfinite(array.min()) or not math.isfinite(array.max()):
            raise ValueError("its maps have values that are not finite numbers")


def _write_volumes(folder: Path, prediction: Prediction, card: ModelCard) -> None:
    _write_nifti(prediction.segmentation, folder / "segmentation.nii.gz")
    for kind, image in (("probability", prediction.probability), ("variance", prediction.variance)):
        paths = _per_class(folder, kind, [label.name for label in card.labels])
        for index, path in enumerate(paths):
            _write_nifti(sitk.VectorIndexSelectionCast(image, index) if len(paths) > 1 else image, path)


def _write_review(
    path: Path, image: sitk.Image, prediction: Prediction, regions: Regions, card: ModelCard, info: dict[str, Any]
) -> None:
    """The report of a case that nobody has reviewed yet."""
    predicted = sitk.GetArrayViewFromImage(prediction.segmentation)
    values = [label.value for label in card.labels]
    probability, variance = (
        dict(zip(values, components(each), strict=True)) for each in (prediction.probability, prediction.variance)
    )
    review = Review(predicted, regions, grid_of(image))
    case = ReviewedCase(image, review, card.labels, probability, variance, info)
    write_html(path, build_report(case, corrected=predicted), case, corrected=predicted, table="regions.csv")


def _per_class(folder: Path, kind: str, names: list[str]) -> list[Path]:
    """One file for one organ; with several organs one for each, in the order of the labels."""
    if len(names) == 1:
        return [folder / f"{kind}.nii.gz"]
    return [folder / f"{kind}_{name}.nii.gz" for name in label_file_names(names)]


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
        with path.open("rb") as file:
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
            "name": printable(Path(source).name) if source else None,
            "sha256": sha256,
            "path": printable(str(absolute(source))) if source else None,
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
