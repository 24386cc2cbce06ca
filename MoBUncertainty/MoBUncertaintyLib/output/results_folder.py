"""The results folder: written whole or not at all, and read again.

Everything is written to a hidden folder beside the target, which then takes the target's name. Volumes are NIfTI in the
CT's geometry; positions in `regions.csv` are RAS mm.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MoBUncertaintyLib.errors import ImageError, OutputError, reason_of
from MoBUncertaintyLib.files.integrity import make_manifest, seal
from MoBUncertaintyLib.files.names import label_file_names, printable
from MoBUncertaintyLib.files.publishing import absolute, sweep
from MoBUncertaintyLib.geometry import LPS_TO_RAS, Grid
from MoBUncertaintyLib.images.grid import grid_of
from MoBUncertaintyLib.images.nifti import write_nifti
from MoBUncertaintyLib.images.reader import read_volume, volume_stem
from MoBUncertaintyLib.model.card import Label, overlap
from MoBUncertaintyLib.output.dicom.objects import DicomFormat, write_objects
from MoBUncertaintyLib.output.folders import FolderInProgress, FolderKind
from MoBUncertaintyLib.output.pages.review_page import write_review_page
from MoBUncertaintyLib.output.pages.templates import check_template
from MoBUncertaintyLib.output.parts import Parts
from MoBUncertaintyLib.output.pictures.overlay import draw_overlay
from MoBUncertaintyLib.output.report import ReviewedCase
from MoBUncertaintyLib.output.results_record import (
    RECORD,
    SCHEMA,
    SCHEMA_VERSION,
    read_click_settings,
    read_labels,
    read_record,
    read_table,
)
from MoBUncertaintyLib.output.scene_file import write_scene_file
from MoBUncertaintyLib.prediction import Prediction
from MoBUncertaintyLib.regions.region import Regions, write_csv
from MoBUncertaintyLib.review.review import Review


@dataclass(frozen=True)
class Results:
    """A results folder, read.

    Attributes:
        prediction: Its provenance is all of `prediction.json`.
        region_map: The number of each voxel's doubtful region; uint16 (z, y, x).
        table: Rows of `regions.csv`: rank, number, `location` and so on; numbers are numbers.
    """

    prediction: Prediction
    region_map: np.ndarray
    table: list[dict[str, int | float | str]]


MAPS = ("probability", "variance")

FOLDER = FolderKind(
    noun="results", one="results", earlier="earlier results", main="segmentation.nii.gz", record=RECORD, schema=SCHEMA
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
    *,
    source: str | Path | None = None,
    name: str | None = None,
    sha256: str | None = None,
    series: str | None = None,
    channels: Sequence[dict[str, str]] = (),
    scene: bool = True,
    formats: Sequence[DicomFormat] = (),
    dicom_files: Sequence[str | Path] = (),
    overwrite: bool = False,
    warnings: Sequence[str] = (),
    volumes: Future[dict[str, Path]] | None = None,
    parts: Parts | None = None,
    more: Callable[[Path], None] | None = None,
) -> list[str]:
    """Write a results folder.

    Args:
        folder: To be made; missing parents are made too. Or what `FOLDER.reserve` gave for it.
        image: The CT.
        prediction: Of that CT.
        regions: Of that prediction.
        source: The file or DICOM folder the CT was read from, to name it and find it again.
        name: What the case is called; None: as the source.
        sha256: Of what was read there; see `images.digest`.
        series: Series instance UID, where the folder has several.
        channels: `name`, `path` and `sha256` of the images of the model's other input channels.
        scene: Write `scene.mrb` too.
        formats: DICOM objects to write too.
        dicom_files: The CT's DICOM files, for these.
        overwrite: Replace an older results folder.
        warnings: What was noticed before, for `prediction.json`.
        volumes: `write_volumes`, if it has already begun for the folder that `FOLDER.reserve` gave.
        parts: Told which parts could not be made.
        more: Writes more files to the folder that it is called with.

    Returns:
        What could not be written and why, one sentence each; also in `prediction.json`.

    Raises:
        OutputError: The folder cannot be written; nothing of it is left, and older results are as they were.
    """
    check_template()
    start = time.monotonic()
    reserve = nullcontext(folder) if isinstance(folder, FolderInProgress) else FOLDER.reserve(folder, overwrite)
    name = printable(name or Path(source or "").name)
    # Threads below look at the voxels, and none runs a filter on the image. SimpleITK's view first copies what is
    # shared, and another thread's view would then be of freed memory; from here on nothing is shared.
    image.MakeUnique()
    with reserve as place, place.writing() as partial, ThreadPoolExecutor(3) as beside:
        volumes = volumes or beside.submit(write_volumes, partial, prediction)
        described = prediction.annotated(
            describe(prediction, regions, source, name, sha256, series, channels),
            warnings=[*warnings, *prediction.warnings],
        )
        shown = (partial / "scene.mrb", image, described, regions, volume_stem(name) or "Image", volumes.result)
        drawn = beside.submit(write_scene_file, *shown) if scene else None
        picture = beside.submit(draw_overlay, partial / "overlay.png", image, prediction, regions, name)
        write_nifti(partial / "regions.nii.gz", regions.whole_map(), prediction.grid)
        write_csv(regions, partial / "regions.csv")
        parts = parts or Parts(partial)
        if drawn:
            with parts.part("The scene", "scene.mrb"):
                drawn.result()
        case = ReviewedCase(image, Review(described, regions))
        write_objects(formats, parts, case, dicom_files)
        with parts.part("The picture", "overlay.png"):
            picture.result()
        known, said = len(parts.problems), parts.sentences
        described.warnings.extend(said)
        with parts.part("The review page", "review.html"):
            write_review_page(partial / "review.html", case)
        described.warnings.extend(parts.problems[known:])
        volumes.result()
        if more:
            more(partial)
        record = described.provenance | {"warnings": described.warnings}
        record["timings_s"]["write"] = round(time.monotonic() - start, 3)
        record = seal(json.loads(json.dumps(record, default=str)) | {"files": make_manifest(partial)})
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
    return parts.sentences + place.warnings


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
        record = read_record(folder)
        labels = read_labels(record["labels"])
        table = read_table(folder / "regions.csv")
        size = record["input"]["size"]
        segmentation, grid = _read_labels(folder / "segmentation.nii.gz", size, [label.value for label in labels])
        region_map, _ = _read_labels(folder / "regions.nii.gz", size, [int(row["number"]) for row in table])
        p, v = ([_read_map(path, size) for path in _map_files(folder, kind, labels)] for kind in MAPS)
    except (OSError, ValueError, ImageError) as error:
        raise OutputError(f"The results in {folder} are damaged ({reason_of(error)}); predict again.") from error
    seconds, clicks = record.get("timings_s", {}), read_click_settings(record)
    prediction = Prediction(
        segmentation, p, v, grid, labels, record, record["warnings"], seconds, clicks, overlapping=overlap(labels)
    )
    return Results(prediction, region_map, table)


def _read_labels(path: Path, size: list[int], values: list[int]) -> tuple[np.ndarray, Grid]:
    image = _read_nifti(path, size)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind != "u" or array.max() > max(values, default=0):
        raise ValueError(f"{path.name} has values that stand for nothing")
    return array, grid_of(image)


def _read_map(path: Path, size: list[int]) -> np.ndarray:
    array = sitk.GetArrayFromImage(_read_nifti(path, size))
    if array.dtype != np.float32 or not math.isfinite(array.min()) or not math.isfinite(array.max()):
        raise ValueError("its maps have values that are not finite numbers")
    return array


def write_volumes(folder: Path, prediction: Prediction) -> dict[str, Path]:
    """Write segmentation, probability and variance of a prediction to a folder.

    Returns:
        The files of the maps, by names such as `variance_1`: that of the label 1.

    Raises:
        OSError: They cannot be written.
    """
    write_nifti(folder / "segmentation.nii.gz", prediction.segmentation, prediction.grid)
    files = {}
    for kind in MAPS:
        paths = _map_files(folder, kind, prediction.labels)
        for path, label, each in zip(paths, prediction.labels, getattr(prediction, kind), strict=True):
            write_nifti(path, each, prediction.grid)
            files[f"{kind}_{label.value}"] = path
    return files


def _map_files(folder: Path, kind: str, labels: Sequence[Label]) -> list[Path]:
    """Name one file for one label; of several, one for each in their order."""
    if len(labels) == 1:
        return [folder / f"{kind}.nii.gz"]
    return [folder / f"{kind}_{name}.nii.gz" for name in label_file_names([label.name for label in labels])]


def _read_nifti(path: Path, size: list[int]) -> sitk.Image:
    image = read_volume(path)
    if list(image.GetSize()) != size:
        raise ValueError("its volumes differ in size")
    return image


def describe(
    prediction: Prediction,
    regions: Regions,
    source: str | Path | None = None,
    name: str = "",
    sha256: str | None = None,
    series: str | None = None,
    channels: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Describe what came in, what was done with it and what came out: `prediction.json` but for the warnings."""
    stated, grid, bounds = prediction.stated_volumes(), prediction.grid, prediction.volume_bounds
    errors = [each.error_ml for each in stated.values()]
    error = prediction.expected_error_mm3 / 1000 if len(errors) > 1 else sum(errors)
    intervals = {name: each.to_dict() for name, each in (bounds.intervals(stated) if bounds else {}).items()}
    return prediction.provenance | {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            "name": name or None,
            "sha256": sha256,
            "path": printable(str(absolute(source))) if source else None,
            "series": series,
            **({"channels": list(channels)} if channels else {}),
            "size": prediction.shape[::-1],
            "spacing_mm": grid.spacing[::-1].tolist(),
            "origin_lps_mm": (LPS_TO_RAS * grid.origin).tolist(),
            "direction": (LPS_TO_RAS[:, None] * grid.rotation[:, ::-1]).ravel().tolist(),
        },
        "labels": [
            asdict(label)
            | {"volume_ml": round(stated[label.name].ml, 3)}
            | {"expected_error_ml": round(stated[label.name].error_ml, 4)}
            | ({"interval_ml": intervals[label.name]} if label.name in intervals else {})
            for label in prediction.labels
        ],
        "expected_error_ml": round(error, 4),
        "regions": {
            "count": len(regions.ranked),
            "expected_error_mm3": round(sum(region.expected_error_mm3 for region in regions.ranked), 1),
            "settings": asdict(regions.settings),
            **({"coverage": asdict(regions.coverage)} if regions.coverage else {}),
        },
        "click_settings": asdict(prediction.click_settings),
        "timings_s": {stage: round(seconds, 3) for stage, seconds in prediction.timings.items()},
    }
